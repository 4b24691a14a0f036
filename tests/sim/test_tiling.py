"""Tiles and loop orders against plain loops over tiles and plain loops over candidates."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from macloom.arch import Dataflow
from macloom.errors import MacloomError
from macloom.sim.gemm_cost import phases
from macloom.sim.systolic import array_cycles, buffer_accesses, product_cycles
from macloom.sim.tile_search import Objective, best_tiling
from macloom.sim.tiling import ORDERS, TileProblem, Tiling, room_needed, tile_work, traffic
from macloom.sim.walk import loop_steps, visited_tiles

PROBLEM = TileProblem(
    dataflow=Dataflow.OS,
    m=40,
    n=28,
    k=50,
    a_bits=40 * 50 * 8,
    b_bits=28 * 50 * 4,
    out_bits=40 * 28 * 16,
    sum_bits=32,
    rows=4,
    cols=4,
    shadow_registers=False,
    segment=None,
    room_bits=(4096, 4096, 4096),
    port_bits=(1 << 20, 1 << 20, 1 << 20),
    dram_bits_per_cycle=64.0,
)


def plain_traffic(problem, tiling):
    """Walk over the tiles one by one, remembering what is on chip; return the bits of A, B, out and spills."""
    steps = {axis: math.ceil(getattr(problem, axis) / getattr(tiling, axis)) for axis in "mnk"}

    def length(axis, index):
        return min(getattr(tiling, axis), getattr(problem, axis) - index * getattr(tiling, axis))

    a = b = out = written = read = 0.0
    held: dict[str, tuple[int, int] | None] = {"a": None, "b": None, "sums": None}
    done: dict[tuple[int, int], int] = {}

    def evict():
        nonlocal written
        sums = held["sums"]
        if sums is not None and done[sums] < steps["k"]:
            m, n = sums
            written += length("m", m) * length("n", n) * problem.sum_bits

    for place in itertools.product(*(range(steps[axis]) for axis in tiling.order)):
        at = dict(zip(tiling.order, place, strict=True))
        m, n, k = (length(axis, at[axis]) for axis in "mnk")
        if held["a"] != (at["m"], at["k"]):
            held["a"], a = (at["m"], at["k"]), a + m * k * problem.a_density
        if held["b"] != (at["n"], at["k"]):
            held["b"], b = (at["n"], at["k"]), b + n * k * problem.b_density
        sums = (at["m"], at["n"])
        if held["sums"] != sums:
            evict()
            held["sums"] = sums
            if done.get(sums, 0):
                read += m * n * problem.sum_bits
        done[sums] = done.get(sums, 0) + 1
        if done[sums] == steps["k"]:
            out += m * n * problem.out_density
    return [round(x) for x in (a, b, out, written, read)]


def random_tilings(count, seed):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        m, n, k = rng.integers(1, [PROBLEM.m + 1, PROBLEM.n + 1, PROBLEM.k + 1]).tolist()
        yield Tiling(m=m, n=n, k=k, order=ORDERS[int(rng.integers(6))])


def test_traffic_equals_a_plain_walk():
    for tiling in random_tilings(150, seed=1):
        moved = traffic(PROBLEM, tiling.m, tiling.n, tiling.k, tiling.order)
        closed = (moved.a_bits, moved.b_bits, moved.out_bits, moved.spill_write_bits, moved.spill_read_bits)
        assert [int(x) for x in closed] == plain_traffic(PROBLEM, tiling), tiling
        assert int(moved.total_bits) == sum(plain_traffic(PROBLEM, tiling))


def test_visited_tiles_move_what_traffic_counts():
    for tiling in random_tilings(60, seed=2):
        total = math.prod(loop_steps(PROBLEM, tiling).values())
        tiles = visited_tiles(PROBLEM, tiling, np.arange(total))
        moved = traffic(PROBLEM, tiling.m, tiling.n, tiling.k, tiling.order)
        outputs = tiles.m * tiles.n
        assert (tiles.m * tiles.n * tiles.k).sum() == PROBLEM.m * PROBLEM.n * PROBLEM.k
        assert (tiles.m * tiles.k * tiles.loads_a).sum() * 8 == moved.a_bits
        assert (tiles.n * tiles.k * tiles.loads_b).sum() * 4 == moved.b_bits
        assert (outputs * tiles.finishes).sum() == PROBLEM.m * PROBLEM.n
        assert (outputs * tiles.spills).sum() * 32 == moved.spill_write_bits
        assert (outputs * tiles.reloads).sum() * 32 == moved.spill_read_bits


def doublings(granule, size):
    return sorted({x for f in (1, 3) for i in range(20) if (x := f * granule * 2**i) < size} | {size})


@pytest.mark.parametrize("room", [(2048, 1024, 2048), (4096, 4096, 1024), (16384, 2048, 65536)])
def test_best_tiling_has_the_least_traffic_of_all_candidates(room):
    problem = replace(PROBLEM, room_bits=room)
    least = math.inf
    for m, n, k in itertools.product(doublings(4, 40), doublings(4, 28), doublings(4, 50)):
        sums = 32 * (m * n if k < 50 else min(m, 4) * min(n, 4))
        if m * k * 8 <= room[0] and n * k * 4 <= room[1] and sums <= room[2]:
            for order in ORDERS:
                least = min(least, sum(plain_traffic(problem, Tiling(m=m, n=n, k=k, order=order))))
    best = best_tiling(problem)
    assert sum(plain_traffic(problem, best)) == least
    assert all(need <= has for need, has in zip(room_needed(problem, best.m, best.n, best.k), room, strict=True))


@pytest.mark.parametrize("dataflow", list(Dataflow))
def test_larger_buffers_never_add_traffic(dataflow):
    rng = np.random.default_rng(4)
    for _ in range(20):
        room = rng.integers(1300, 20000, 3)
        more = room + rng.integers(0, 8000, 3)
        bits = []
        for r in (room, more):
            problem = replace(PROBLEM, room_bits=tuple(r.tolist()), dataflow=dataflow, sum_bits=16)
            t = best_tiling(problem)
            bits.append(int(traffic(problem, t.m, t.n, t.k, t.order).total_bits))
        assert bits[1] <= bits[0]


def test_roomy_buffers_move_each_tensor_once_and_start_early():
    problem = replace(PROBLEM, room_bits=(1 << 20,) * 3)
    best = best_tiling(problem)
    moved = traffic(problem, best.m, best.n, best.k, best.order)
    assert int(moved.total_bits) == problem.a_bits + problem.b_bits + problem.out_bits
    # All of B stays; rows of A follow one fold at a time, so that the array starts after the first.
    assert best == Tiling(m=4, n=28, k=50, order="mnk")


def plain_cost(problem, tiling):
    """Cycles of array and DRAM, and bits, of a tiling; ports are wide here."""
    steps = {axis: range(math.ceil(getattr(problem, axis) / getattr(tiling, axis))) for axis in "mnk"}
    cycles = 0
    for at in itertools.product(*steps.values()):
        m, n, k = (
            min(getattr(tiling, axis), getattr(problem, axis) - i * getattr(tiling, axis))
            for axis, i in zip("mnk", at, strict=True)
        )
        cycles += array_cycles(problem.dataflow, m, n, k, problem.rows, problem.cols).total
    bits = sum(plain_traffic(problem, tiling))
    return max(cycles, math.ceil(bits / problem.dram_bits_per_cycle)), bits


@pytest.mark.parametrize("dataflow", list(Dataflow))
def test_objectives_rank_what_they_say(dataflow):
    for bandwidth in (1.0, 16.0, 4096.0):
        for room in ((2048, 2048, 2048), (4096, 8192, 1024)):
            problem = replace(PROBLEM, room_bits=room, dram_bits_per_cycle=bandwidth, dataflow=dataflow)
            fast, lean = (plain_cost(problem, best_tiling(problem, o)) for o in (Objective.TIME, Objective.TRAFFIC))
            assert fast[0] <= lean[0]
            assert lean[1] <= fast[1]


@pytest.mark.parametrize("dataflow", list(Dataflow))
def test_work_on_one_tile_is_the_closed_form(dataflow):
    problem = replace(PROBLEM, dataflow=dataflow)
    work = tile_work(problem, 40, 28, 50)
    cycles = array_cycles(dataflow, 40, 28, 50, 4, 4)
    accesses = buffer_accesses(dataflow, 40, 28, 50, 4, 4)
    assert (work.folds, work.cycles, work.steady) == (cycles.folds, cycles.total, cycles.steady)
    assert (work.a_elements, work.b_elements) == (accesses.a_reads, accesses.b_reads)
    assert work.sums == accesses.out_writes + accesses.out_reads


def test_segments_cut_the_stream_by_hand():
    # OS, 4 x 4 outputs, K = 20 in segments of 8, 8 and 4: three folds of 8 + 10, 8 + 10 and 4 + 10 cycles.
    problem = replace(PROBLEM, segment=8)
    work = tile_work(problem, 4, 4, 20)
    assert (work.folds, work.steady, work.cycles) == (3, 20, 50)
    # Three writes of the running sum, two reads; a tile that continues reads before its first segment, too.
    assert work.sums == 5 * 16
    assert tile_work(problem, 4, 4, 20, continues=True).sums == 6 * 16
    # WS: a segment of 8 takes two folds of 4 rows, which exchange one partial sum.
    work = tile_work(replace(problem, dataflow=Dataflow.WS), 4, 4, 8)
    assert (work.folds, work.sums) == (2, 16 * (2 + 1))


@pytest.mark.parametrize(
    "buffer, room, need", [("operand_a", (63, 4096, 4096), 128), ("output", (4096, 4096, 500), 512)]
)
def test_buffers_too_small(buffer, room, need):
    message = (
        f"arch.buffers.{buffer}: must have room for {need} bits in its usable part, the smallest tile of a product "
        f"(4 x 4 x 4), not {room[0] if buffer == 'operand_a' else room[2]}"
    )
    with pytest.raises(MacloomError, match=re.escape(message)):
        best_tiling(replace(PROBLEM, room_bits=room))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    dataflow=st.sampled_from(list(Dataflow)),
    m=st.integers(1, 60),
    n=st.integers(1, 60),
    k=st.integers(1, 60),
    arrays=st.integers(1, 4),
    shadow=st.booleans(),
    segment=st.sampled_from([None, 8, 7]),
)
def test_work_and_phases_of_one_tile_are_those_of_the_product(dataflow, m, n, k, arrays, shadow, segment):
    segment = None if segment is not None and segment >= k else segment
    problem = replace(
        PROBLEM, dataflow=dataflow, m=m, n=n, k=k, arrays=arrays, shadow_registers=shadow, segment=segment
    )
    work = tile_work(problem, m, n, k)
    fill, steady, drain, trailing = phases(problem, Tiling(m=m, n=n, k=k, order="mnk"), work, 3)
    whole = product_cycles(
        dataflow, m, n, k, 4, 4, shadow_registers=shadow, segment=segment, decoder_latency=3, arrays=arrays
    )
    assert (fill, steady, drain) == (whole.fill, whole.steady, whole.drain)
    assert work.cycles + trailing == whole.total
