"""Which tensors between operations stay on chip: made, kept in the shared memory, read for the last time."""

from __future__ import annotations

from dataclasses import dataclass

from macloom.arch import Accelerator
from macloom.errors import MacloomError
from macloom.sim.mapping import RecipeLike
from macloom.sim.resident import Resident
from macloom.sim.vector import KIND_COSTS
from macloom.workloads.ops import Gemm, Op, Role, Workload


@dataclass(frozen=True, kw_only=True)
class _Tensor:
    """The result of one operation: its bits, and the places of the list in which it has to be kept."""

    maker: int
    bits: int
    readers: tuple[int, ...]
    live: frozenset[int]


def inputs_of(op: Op) -> tuple[tuple[str, ...], ...]:
    """Return for each input the operations of whose results it is one."""
    if isinstance(op, Gemm):
        return (op.reads,) if op.reads else ()
    return op.reads


def result_bits(op: Op, recipe: RecipeLike) -> int:
    """Return the stored bits of the result of one occurrence of an operation, as the operation itself stores it."""
    if isinstance(op, Gemm):
        batch, m = op.batch // op.b_sharing, op.m * op.b_sharing
        return batch * recipe.format_for(op.out, op.name).storage_bits((m, op.n))
    return recipe.format_for(KIND_COSTS[op.kind].result, op.name).storage_bits((op.rows, op.width))


def resident_tensors(workload: Workload, accelerator: Accelerator, recipe: RecipeLike) -> list[Resident]:
    """Return for each operation which of its tensors stay in `arch.buffers.shared`.

    Results are taken in the order in which they are made; one stays if it fits beside all that are kept at
    any time between its making and its last reading. Results that nobody is known to read, and those of the
    roles kv (the cache outlives the operation), go to DRAM. An input that has different makers in the
    first layer and in others is on chip only if all of them are.

    Raises:
        MacloomError: the accelerator has no shared memory.
    """
    shared = accelerator.buffers.shared
    if shared is None:
        raise MacloomError(
            "residency: needs a memory between operations; give the accelerator arch.buffers.shared, or leave it out"
        )
    ops = workload.ops
    used = [0] * len(ops)
    kept: set[int] = set()
    tensors = _tensors(ops, recipe)
    for tensor in tensors:
        if tensor.readers and all(used[i] + tensor.bits <= shared.size_bits for i in tensor.live):
            kept.add(tensor.maker)
            for i in tensor.live:
                used[i] += tensor.bits
    kept = _consistent(ops, kept)
    place = {op.name: i for i, op in enumerate(ops)}
    return [
        Resident(
            inputs=sum(bool(makers) and all(place.get(name) in kept for name in makers) for makers in inputs_of(op)),
            out=i in kept,
            held_bits=sum(tensor.bits for tensor in tensors if tensor.maker in kept and i in tensor.live),
        )
        for i, op in enumerate(ops)
    ]


def _consistent(ops: tuple[Op, ...], kept: set[int]) -> set[int]:
    """Drop tensors that an input with another maker in DRAM makes useless, until nothing changes."""
    place = {op.name: i for i, op in enumerate(ops)}
    while True:
        useless = {
            place[name]
            for op in ops
            for makers in inputs_of(op)
            if not all(place.get(name) in kept for name in makers)
            for name in makers
            if place.get(name) in kept
        }
        if not useless:
            return kept
        kept = kept - useless


def _tensors(ops: tuple[Op, ...], recipe: RecipeLike) -> list[_Tensor]:
    found = []
    for maker, op in enumerate(ops):
        readers = tuple(i for i, other in enumerate(ops) if any(op.name in makers for makers in inputs_of(other)))
        if isinstance(op, Gemm) and op.out is Role.KV:
            readers = ()
        live = set(range(maker, maker + 1))
        for reader in readers:
            if reader > maker:
                live |= set(range(maker, reader + 1))
            else:  # in the next layer: to the end of this block of layers and from its start
                block = [i for i, other in enumerate(ops) if other.repeat == op.repeat]
                live |= {i for i in block if i >= maker or i <= reader}
        found.append(_Tensor(maker=maker, bits=result_bits(op, recipe), readers=readers, live=frozenset(live)))
    return found
