"""Laws that hold whatever a machine has, feature by feature, and mutants of the simulator that break each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from macloom.arch import Accelerator, Dram, Sram
from macloom.formats import get_format
from macloom.sim import ImpossibleResult, OutlierPath, Result, mapping_of, simulate
from macloom.sim import account as account_module
from macloom.sim import event as event_module
from macloom.sim import gemm_cost as cost_module
from macloom.sim import memory as memory_module
from macloom.sim import prefetch as prefetch_module
from macloom.sim import systolic as systolic_module
from macloom.sim import tiling as tiling_module
from macloom.sim.cycle import run
from macloom.sim.resident import Resident
from macloom.sim.verify import random_machine
from macloom.workloads.ops import Gemm, Vector, VectorKind, Workload

SEEDS = range(6)
SIDE = OutlierPath(fraction=0.2, lanes=1)


def workload_of(seed: int) -> Workload:
    """Return two layers: a product, an activation, a product that reads it."""
    m, n, k = (int(x) for x in np.random.default_rng((seed, 1)).integers(2, 40, 3))
    ops = (
        Gemm(name="up", m=m, n=n, k=k, repeat=2, batch=1 + seed % 2),
        Vector(name="act", kind=VectorKind.SILU, rows=m, width=n, repeat=2, reads=(("up",),)),
        Gemm(name="down", m=m, n=k, k=n, repeat=2, reads=("act",)),
    )
    return Workload(name="laws", phase="prefill", ops=ops, parameters=1, kv_elements=0, tokens=1)


def plain_machine(seed: int) -> Accelerator:
    """Return a random machine with one array and a channel of pure bandwidth."""
    machine = random_machine(np.random.default_rng(seed))
    dram = Dram(kind="hbm2", bandwidth_bits_per_s=machine.dram.bandwidth_bits_per_s)
    return replace(machine, array=replace(machine.array, count=1), dram=dram)


def several_arrays(seed: int) -> Accelerator:
    machine = plain_machine(seed)
    return replace(machine, array=replace(machine.array, count=2 + seed % 2))


def real_channel(seed: int) -> Accelerator:
    machine = plain_machine(seed)
    rows = {"burst_bits": 64, "page_bits": 128, "banks": 2, "activate_s": 2e-8, "latency_s": 1e-8, "channels": 2}
    return replace(machine, dram=replace(machine.dram, **rows))


def double_buffers(seed: int) -> Accelerator:
    machine = plain_machine(seed)
    buffers = {
        name: replace(getattr(machine.buffers, name), double_buffered=True, size_bits=1 << 15) for name in _SRAMS
    }
    return replace(machine, buffers=replace(machine.buffers, **buffers))


def shared_memory(seed: int) -> Accelerator:
    machine = plain_machine(seed)
    shared = Sram(size_bits=1 << 17, bandwidth_bits_per_cycle=64)
    return replace(machine, buffers=replace(machine.buffers, shared=shared))


_SRAMS = ("operand_a", "operand_b", "output")
# Every feature: its machine and the options of `simulate` that it takes.
FEATURES: dict[str, tuple[Callable[[int], Accelerator], dict[str, Any]]] = {
    "dense": (plain_machine, {}),
    "several arrays": (several_arrays, {}),
    "side path": (plain_machine, {"side": SIDE}),
    "DRAM channel": (real_channel, {}),
    "prefetch": (double_buffers, {"prefetch": True}),
    "residency": (shared_memory, {"residency": True}),
}


def results(feature: str, seed: int, **change: Any) -> tuple[Result, Workload, Accelerator]:
    make, options = FEATURES[feature]
    workload, machine = workload_of(seed), change.pop("machine", None) or make(seed)
    return simulate(workload, machine, "int8", **{**options, **change}), workload, machine


# -- the laws --------------------------------------------------------------------------------------


def parts_add_up(feature: str, seed: int) -> None:
    result, _, _ = results(feature, seed)
    for op in result.ops:
        causes = ("a", "b", "sum", "out", "spill", "port", "side")
        assert op.cycles == op.compute_cycles + op.stall_cycles + op.vector_cycles
        assert op.compute_cycles == op.fill_cycles + op.steady_cycles + op.drain_cycles
        assert op.stall_cycles == sum(getattr(op, f"{cause}_stall_cycles") for cause in causes)
        assert op.energy.total_j == pytest.approx(sum(op.energy.parts.values()), rel=1e-12)
        assert op.spill_bits % 2 == 0
        assert op.dram_bits >= op.compulsory_dram_bits
    assert result.cycles == sum(op.cycles for op in result.ops)
    assert result.macs == sum(op.macs for op in workload_of(seed).gemms)


def event_is_cycle(feature: str, seed: int) -> None:
    event, cycle = (results(feature, seed, fidelity=f)[0] for f in ("event", "cycle"))
    assert event.ops == cycle.ops


def the_array_takes_what_the_machine_takes(feature: str, seed: int) -> None:
    """With room for everything the array's cycles are those that a whole product takes on the stepped array."""
    _, _, machine = results(feature, seed)
    roomy = {name: replace(getattr(machine.buffers, name), size_bits=1 << 24) for name in _SRAMS}
    machine = replace(machine, buffers=replace(machine.buffers, **roomy))
    result, workload, _ = results(feature, seed, machine=machine)
    fmt, rng = get_format("int8"), np.random.default_rng(0)
    for op, row in zip(workload.ops, result.ops, strict=True):
        if isinstance(op, Gemm) and op.batch == 1:
            a, b = (fmt.encode(rng.standard_normal((size, op.k)).astype(np.float32)) for size in (op.m, op.n))
            pe = replace(machine.array.pe, accumulator="float")
            assert row.compute_cycles == op.repeat * run(a, b, replace(machine.array, pe=pe)).cycles


def more_is_never_worse(feature: str, seed: int) -> None:
    result, _, machine = results(feature, seed)
    mapping = mapping_of(result)
    fast = replace(machine, dram=replace(machine.dram, bandwidth_bits_per_s=2 * machine.dram.bandwidth_bits_per_s))
    assert results(feature, seed, machine=fast, mapping=mapping)[0].cycles <= result.cycles
    for name in _SRAMS:
        sram = getattr(machine.buffers, name)
        large = replace(machine.buffers, **{name: replace(sram, size_bits=2 * sram.size_bits)})
        assert results(feature, seed, machine=replace(machine, buffers=large))[0].dram_bits <= result.dram_bits
    more = replace(machine, array=replace(machine.array, count=2 * machine.array.count))
    many = results(feature, seed, machine=more, mapping=mapping)[0]
    assert many.dram_bits == result.dram_bits
    for one, two in zip(result.ops, many.ops, strict=True):
        assert two.steady_cycles <= one.steady_cycles <= 2 * two.steady_cycles


def features_give_and_take(feature: str, seed: int) -> None:
    """What only one feature promises: nothing comes from nowhere."""
    result, _, machine = results(feature, seed)
    if feature == "side path":
        free = simulate(workload_of(seed), machine, "int8")
        wide = results(feature, seed, side=replace(SIDE, lanes=64))[0]
        assert free.cycles <= wide.cycles <= result.cycles
        assert free.dram_bits == result.dram_bits
        slow = results(feature, seed, side=replace(SIDE, fraction=1.0))[0]
        assert result.cycles <= slow.cycles
    if feature == "prefetch":
        late = simulate(workload_of(seed), machine, "int8")
        idle = max(op.idle_tail_cycles for op in late.ops)
        for before, after in zip(late.ops, result.ops, strict=True):
            assert after.prefetched_cycles == before.cycles - after.cycles
            assert after.prefetched_cycles <= after.repeat * min(after.first_b_cycles, idle)
        assert late.dram_bits == result.dram_bits
    if feature == "residency":
        far = simulate(workload_of(seed), machine, "int8")
        rows = {before.name: (before, after) for before, after in zip(far.ops, result.ops, strict=True)}
        for maker, reader in (("up", "act"), ("act", "down")):
            (written, kept), (read, near) = rows[maker], rows[reader]
            if kept.dram_write_bits < written.dram_write_bits:  # what was not written cannot be read
                assert near.dram_read_bits < read.dram_read_bits
        for before, after in rows.values():
            assert after.compulsory_dram_bits + after.resident_bits == before.compulsory_dram_bits
        assert max(op.resident_bits for op in result.ops) > 0
        assert machine.buffers.shared is not None
        assert max(op.shared_held_bits for op in result.ops) <= machine.buffers.shared.size_bits


LAWS = (
    parts_add_up,
    event_is_cycle,
    the_array_takes_what_the_machine_takes,
    more_is_never_worse,
    features_give_and_take,
)


@pytest.mark.parametrize("feature", list(FEATURES))
@pytest.mark.parametrize("law", LAWS)
def test_laws_hold(feature: str, law: Callable[[str, int], None]) -> None:
    for seed in SEEDS:
        law(feature, seed)


# -- the mutants -----------------------------------------------------------------------------------


def _off_by_one_fill(patch: pytest.MonkeyPatch) -> None:
    def late(*args: Any, **options: Any) -> Any:
        fold = systolic_module.fold_timing(*args, **options)
        return replace(fold, fill=fold.fill + 1, interval=fold.interval + 1)

    patch.setattr(tiling_module, "fold_timing", late)


def _lost_drain(patch: pytest.MonkeyPatch) -> None:
    def short(*args: Any, **options: Any) -> Any:
        return replace(systolic_module.fold_timing(*args, **options), drain=0)

    patch.setattr(cost_module, "fold_timing", short)


def _stall_counted_twice(patch: pytest.MonkeyPatch) -> None:
    def twice(*args: Any, **options: Any) -> Any:
        walk = event_module.walk_time(*args, **options)
        return replace(walk, cycles=walk.cycles + walk.memory_stall)

    patch.setattr(cost_module, "walk_time", twice)


def _fold_lost_between_arrays(patch: pytest.MonkeyPatch) -> None:
    def fewer(problem: Any, cut: Any) -> Any:
        return np.maximum(cut.total // problem.arrays, 1)

    patch.setattr(tiling_module, "_in_turn", fewer)


def _side_path_in_line(patch: pytest.MonkeyPatch) -> None:
    def in_line(*args: Any) -> Any:
        busy = account_module.busy_cycles(*args)
        return replace(busy, array=busy.array + busy.with_ports)

    patch.setattr(cost_module, "busy_cycles", in_line)


def _rows_for_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(memory_module.Channel, "_waits", lambda self, bits: np.zeros(bits.shape))


def _prefetched_twice(patch: pytest.MonkeyPatch) -> None:
    def doubled(ops: Any) -> Any:
        return [{i: 2 * times for i, times in before.items()} for before in real(ops)]

    real = prefetch_module.predecessors
    patch.setattr(prefetch_module, "predecessors", doubled)


def _kept_and_read_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Resident, "a", property(lambda self: False))


MUTANTS: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], None]]] = {
    "off-by-one fill": ("dense", _off_by_one_fill),
    "lost drain": ("dense", _lost_drain),
    "stall counted twice": ("dense", _stall_counted_twice),
    "off-by-one fill on several arrays": ("several arrays", _off_by_one_fill),
    "fold lost between arrays": ("several arrays", _fold_lost_between_arrays),
    "side path in line with the array": ("side path", _side_path_in_line),
    "stall counted twice beside a side path": ("side path", _stall_counted_twice),
    "rows activated in no time": ("DRAM channel", _rows_for_nothing),
    "stall counted twice on a channel": ("DRAM channel", _stall_counted_twice),
    "cycles prefetched twice": ("prefetch", _prefetched_twice),
    "tensor kept and read again": ("residency", _kept_and_read_again),
}


@pytest.fixture
def unremembered() -> Iterator[None]:
    """Forget what products cost before and after a mutant."""
    from macloom.sim.simulate import _price

    _price.cache_clear()
    yield
    _price.cache_clear()


@pytest.mark.parametrize("name", list(MUTANTS))
@pytest.mark.usefixtures("unremembered")
def test_mutants_break_a_law(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    feature, mutate = MUTANTS[name]
    mutate(monkeypatch)

    def every_law() -> None:
        for law in LAWS:
            for seed in SEEDS:
                law(feature, seed)

    with pytest.raises((AssertionError, ImpossibleResult)):  # `simulate` looks at the laws of physics itself
        every_law()
