"""Prefetch across operations: the first weights of a product arrive while the operation before still works."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from macloom.arch import Accelerator
from macloom.sim.energy import with_leakage
from macloom.sim.result import OpResult
from macloom.workloads.ops import Gemm, Op, Role


def predecessors(ops: Sequence[Op]) -> list[dict[int, int]]:
    """Return for each operation which ones come right before its occurrences, and how often.

    Neighbours with the same number of repeats are the layers of a model, which run one after another as a whole.

    >>> from macloom.workloads.ops import Vector, VectorKind
    >>> def op(name, repeat=1):
    ...     return Vector(name=name, kind=VectorKind.ADD, rows=1, width=1, repeat=repeat)
    >>> predecessors([op("embed"), op("up", 3), op("down", 3), op("head")])
    [{}, {0: 1, 2: 2}, {1: 3}, {2: 1}]
    """
    found: list[dict[int, int]] = []
    start = 0
    for i, op in enumerate(ops):
        if i and ops[i - 1].repeat != op.repeat:
            start = i
        if i > start:
            found.append({i - 1: op.repeat})
            continue
        end = i
        while end + 1 < len(ops) and ops[end + 1].repeat == op.repeat:
            end += 1
        before = {i - 1: 1} if i else {}
        if op.repeat > 1:
            before[end] = before.get(end, 0) + op.repeat - 1
        found.append(before)
    return found


def with_prefetch(ops: Sequence[Op], results: Sequence[OpResult], accelerator: Accelerator) -> tuple[OpResult, ...]:
    """Return results in which idle cycles of the DRAM at the end of one operation load the next one's first weights.

    From the start of an operation's last tile on, the other half of operand B's buffer is free. The channel uses what
    it has left there, at most, so that the operation itself takes no longer. Only weights are known
    that early; activations and keys may be results of the operation that is still running.
    """
    if not accelerator.buffers.operand_b.double_buffered:
        return tuple(results)
    found = []
    for op, result, before in zip(ops, results, predecessors(ops), strict=True):
        saved = 0
        if isinstance(op, Gemm) and op.b is Role.WEIGHT:
            saved = sum(times * min(result.first_b_cycles, results[i].idle_tail_cycles) for i, times in before.items())
        found.append(
            replace(
                result,
                cycles=result.cycles - saved,
                stall_cycles=result.stall_cycles - saved,
                b_stall_cycles=result.b_stall_cycles - saved,
                prefetched_cycles=saved,
                energy=with_leakage(result.energy, accelerator, result.cycles - saved),
            )
            if saved
            else result
        )
    return tuple(found)
