"""Timelines and counters: every busy cycle and every bit once, within the machine's time, bandwidth and capacity."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from macloom.arch import Dram, Sram
from macloom.sim import OpResult, OutlierPath, Result, simulate
from macloom.sim import course as course_module
from macloom.sim import timeline as module
from macloom.sim.account import account_of, busy_cycles
from macloom.sim.course import joined, laid_out, standing_for
from macloom.sim.event import every_tile, representatives
from macloom.sim.timeline import BANDWIDTH, INTERVALS
from macloom.sim.verify import random_machine
from macloom.workloads import load_workload
from macloom.workloads.ops import Gemm, Vector, VectorKind, Workload

SIDE = OutlierPath(fraction=0.03, lanes=2)


def random_result(seed: int, **options: Any) -> Result:
    """Return a few operations on a machine with everything that costs time."""
    rng = np.random.default_rng(seed)
    machine = random_machine(rng)
    sizes = [int(x) for x in rng.integers(1, 60, 5)]
    ops = (
        Gemm(name="first", m=sizes[0], n=sizes[1], k=sizes[2], batch=1 + seed % 3, repeat=2),
        Vector(name="act", kind=VectorKind.SOFTMAX, rows=sizes[3], width=sizes[4], repeat=2),
        Gemm(name="second", m=sizes[3], n=sizes[0], k=sizes[4], repeat=2),
        Gemm(name="third", m=3, n=70, k=90),
    )
    workload = Workload(name="random", phase="prefill", ops=ops, parameters=1, kv_elements=0, tokens=1)
    return simulate(workload, machine, ("int8", "mxfp4", "ovp4")[seed % 3], **options)


def once(op: OpResult) -> dict[str, int]:
    """Return the busy cycles of each unit in one occurrence of an operation."""
    array = op.compute_cycles + op.port_stall_cycles + op.side_stall_cycles if op.unit == "array" else 0
    busy = {"array": array, "dram": op.dram_busy_cycles, "vector": op.vector_busy_cycles}
    return {unit: cycles // op.repeat for unit, cycles in busy.items()}


def check_timeline(result: Result) -> None:
    """Raise unless no unit does two things at once, and every busy cycle of an occurrence is there."""
    end: dict[str, int] = defaultdict(int)
    drawn: dict[tuple[str, str], int] = defaultdict(int)
    for event in result.timeline():
        assert event.duration > 0
        assert event.start >= end[event.unit], event
        end[event.unit] = event.start + event.duration
        drawn[event.name, event.unit] += event.duration
    assert max(end.values()) <= sum(-(-op.cycles // op.repeat) for op in result.ops)
    for op in result.ops:
        name = op.name if op.repeat == 1 else f"{op.name} (x {op.repeat})"
        assert {unit: drawn[name, unit] for unit in ("array", "dram", "vector")} == once(op)


def check_counters(result: Result) -> None:
    """Raise unless the bandwidth adds up to the traffic, below the channel's, and nothing holds more than it can."""
    counters, clock = result.counters(), result.accelerator.clock_hz
    for steps in counters.values():
        assert all(a[0] < b[0] for a, b in pairwise(steps))
        assert all(a[1] != b[1] for a, b in pairwise(steps))
        assert all(math.isfinite(value) and value >= 0 for _, value in steps)
        assert steps[-1][1] == 0
    moved = sum(value / clock * (b - a) for (a, value), (b, _) in pairwise(counters[BANDWIDTH]))
    assert moved == pytest.approx(sum(op.dram_bits // op.repeat for op in result.ops))
    peak = result.accelerator.dram.bandwidth_bits_per_s * (1 + 1e-9)
    assert max(value for _, value in counters[BANDWIDTH]) <= peak
    buffers = result.accelerator.buffers
    sizes = {"buffer A": buffers.operand_a, "buffer B": buffers.operand_b, "output buffer": buffers.output}
    for name, sram in sizes.items():
        most = max(value for _, value in counters[f"{name}, bytes in use"])
        assert 0 < most <= sram.size_bits / 8


@pytest.mark.parametrize("seed", range(30))
def test_nothing_overlaps_nothing_is_lost_and_nothing_overflows(seed: int) -> None:
    result = random_result(seed, prefetch=bool(seed % 2))
    check_timeline(result)
    check_counters(result)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("options", [{}, {"prefetch": True}, {"fidelity": "analytic"}, {"side": SIDE}])
def test_models_have_honest_timelines(phase: str, options: dict[str, Any]) -> None:
    sequence, context = (40, None) if phase == "prefill" else (None, 40)
    workload = load_workload("tiny", phase=phase, sequence=sequence, context=context)
    result = simulate(workload, "olive-sa", "ovp4", **options)
    check_timeline(result)
    check_counters(result)


def test_products_of_billions_on_the_vector_unit_are_drawn() -> None:
    result = simulate(load_workload("opt-6.7b", sequence=2048, head_tokens="all"), "olive-sa", "ovp4")
    assert {op.name for op in result.ops if op.unit == "vector" and op.macs} == {"lm_head"}
    check_timeline(result)
    check_counters(result)


@pytest.mark.parametrize("seed", range(12))
def test_the_course_of_a_walk_takes_the_cycles_of_the_event_rung(seed: int) -> None:
    for op in random_result(seed).ops:
        assert op.course is not None
        layout = laid_out(op.course)
        trailing = once(op)["array"] - int(layout.array.sum()) if op.unit == "array" else 0
        assert layout.cycles.sum() + trailing == op.cycles // op.repeat
        assert layout.dram.sum() == op.dram_busy_cycles // op.repeat
        assert (np.maximum(layout.array, np.maximum(layout.vector, layout.dram)) <= layout.cycles).all()


def test_tiles_that_stand_for_others_take_what_each_of_them_takes(machine: Any) -> None:
    from macloom.arch import Dataflow
    from macloom.sim import map_gemm
    from macloom.sim.resident import NOT_RESIDENT
    from macloom.sim.tiling import Tiling
    from macloom.sim.walk import loop_steps
    from macloom.workloads import load_recipe

    chip = machine()
    op = Gemm(name="p", m=35, n=27, k=44)
    for flow in Dataflow:
        mapping = map_gemm(op, chip, load_recipe("int8"), flow, tiling=Tiling(m=4, n=4, k=12, order="nkm"))
        trips = list(loop_steps(mapping.problem, mapping.tiling).values())
        few, every = representatives(trips)[0], every_tile(trips)[0]
        kept, all_of_them = (account_of(mapping, NOT_RESIDENT, places) for places in (few, every))
        kind = standing_for(trips, every)
        for name in ("a", "b", "sums"):
            assert np.array_equal(kept.loads[name][kind], all_of_them.loads[name])
        busy = [busy_cycles(mapping, chip, account, None).array for account in (kept, all_of_them)]
        assert np.array_equal(busy[0][kind], busy[1])


def test_many_steps_are_joined_and_lose_nothing() -> None:
    op = max(random_result(3).ops, key=lambda op: op.course.steps if op.course else 0)
    assert op.course is not None
    fine = laid_out(op.course)
    coarse = joined(fine, 4)
    assert 3 <= len(coarse.cycles) <= 6 < len(fine.cycles)
    for name in ("cycles", "array", "vector", "dram", "bits"):
        assert getattr(coarse, name).sum() == getattr(fine, name).sum()
    assert coarse.held["output"].max() == fine.held["output"].max()


def test_an_operation_is_cut_to_intervals(machine: Any) -> None:
    ops = (Gemm(name="long", m=400, n=400, k=64),)
    workload = Workload(name="any", phase="prefill", ops=ops, parameters=1, kv_elements=0, tokens=1)
    events = [e for e in simulate(workload, machine(buffer_bits=1 << 15), "int8").timeline() if e.unit == "dram"]
    assert INTERVALS <= len(events) <= INTERVALS + 2


def test_a_double_buffer_holds_a_tile_and_the_next(machine: Any) -> None:
    ops = (Gemm(name="one", m=4, n=4, k=32), Gemm(name="many", m=512, n=8, k=32))
    for double in (True, False):
        chip = machine(buffer_bits=1 << 12, double_buffered=double)
        for op in ops:
            workload = Workload(name="any", phase="prefill", ops=(op,), parameters=1, kv_elements=0, tokens=1)
            result = simulate(workload, chip, "int8")
            (row,) = result.ops
            assert row.course is not None
            tile = row.course.tiles.held["operand_a"].max() / 8
            most = max(value for _, value in result.counters()["buffer A, bytes in use"])
            assert most == (2 * tile if double and op.name == "many" else tile)


def test_shared_memory_holds_what_residency_keeps(machine: Any, workload: Workload) -> None:
    chip = machine()
    chip = replace(chip, buffers=replace(chip.buffers, shared=Sram(size_bits=1 << 16, bandwidth_bits_per_cycle=512)))
    result = simulate(load_workload("tiny", sequence=4), chip, "int8", residency=True)
    steps = result.counters()["shared buffer, bytes in use"]
    assert 0 < max(value for _, value in steps) <= (1 << 16) / 8
    assert max(op.shared_held_bits for op in result.ops) == 8 * max(value for _, value in steps)
    check_timeline(result)


def test_without_traffic_there_is_no_bandwidth(machine: Any) -> None:
    chip = replace(machine(), dram=Dram(kind="hbm2", bandwidth_bits_per_s=1e9))
    workload = Workload(
        name="any", phase="prefill", ops=(Gemm(name="p", m=4, n=4, k=4),), parameters=1, kv_elements=0, tokens=1
    )
    bandwidth = simulate(workload, chip, "int8").counters()[BANDWIDTH]
    # One bit per cycle: the channel works from the first load to the last store, but for the array's own time.
    assert {value for _, value in bandwidth} == {0.0, 1e9}


# -- mutants ---------------------------------------------------------------------------------------


def _lost_tail(real: Any) -> Any:
    def laid(course: Any) -> Any:
        layout = real(course)
        return replace(layout, bits=np.append(layout.bits[:-1], 0), dram=np.append(layout.dram[:-1], 0))

    return laid


def _greedy(real: Any) -> Any:
    def laid(course: Any) -> Any:
        layout = real(course)
        return replace(layout, held={name: 2 * bits for name, bits in layout.held.items()})

    return laid


def _stall_twice(real: Any) -> Any:
    def laid(course: Any) -> Any:
        layout = real(course)
        return replace(layout, cycles=layout.cycles + (layout.dram > layout.array) * (layout.dram - layout.array))

    return laid


@pytest.mark.parametrize("mutant", [_lost_tail, _greedy, _stall_twice])
def test_wrong_courses_are_caught(monkeypatch: pytest.MonkeyPatch, mutant: Any) -> None:
    monkeypatch.setattr(module, "laid_out", mutant(course_module.laid_out))

    def check_many() -> None:
        for seed in range(30):
            result = random_result(seed)
            check_timeline(result)
            check_counters(result)

    with pytest.raises(AssertionError):
        check_many()
