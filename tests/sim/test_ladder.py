"""The rungs against one another: analytic, event and cycle on random machines, and laws that hold on all of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from macloom.arch import (
    Accelerator,
    Array,
    Buffers,
    Dataflow,
    Dram,
    ProcessingElement,
    Sram,
    VectorUnit,
    load_accelerator,
    load_memory,
    load_technology,
)
from macloom.errors import MacloomError
from macloom.sim import (
    MappingChoice,
    MappingTable,
    OpResult,
    OutlierPath,
    Tiling,
    check_physical,
    load_mapping,
    map_gemm,
    mapping_of,
    simulate,
)
from macloom.sim.account import account_of
from macloom.sim.cycle.memory import piece_cycles
from macloom.sim.cycle.walk import stepped_costs
from macloom.sim.event import CAUSES, LOADS, STORES, TileCosts, tail_split, walk_time
from macloom.sim.gemm_cost import gemm_result
from macloom.sim.memory import Channel
from macloom.sim.resident import NOT_RESIDENT
from macloom.workloads.models import load_workload
from macloom.workloads.ops import Gemm, Role, Vector, VectorKind, Workload
from macloom.workloads.recipe import load_recipe

SETTINGS = settings(max_examples=40, deadline=None, derandomize=True)


def one(draw: st.DataObject, low: int, high: int) -> int:
    return draw.draw(st.integers(low, high))


def any_dram(draw: st.DataObject) -> Dram:
    """A channel of pure bandwidth, or one whose bursts, rows, banks and refresh all matter."""
    plain = Dram(kind="hbm2", bandwidth_bits_per_s=one(draw, 8, 200) * 1e9)
    if draw.draw(st.booleans()):
        return plain
    return replace(
        plain,
        channels=one(draw, 1, 3),
        burst_bits=64,
        page_bits=64 * one(draw, 1, 8),
        banks=one(draw, 1, 4),
        activate_s=one(draw, 0, 30) * 1e-9,
        latency_s=one(draw, 0, 20) * 1e-9,
        refresh_interval_s=4e-6,
        refresh_s=one(draw, 0, 5) * 1e-7,
    )


def any_machine(draw: st.DataObject) -> Accelerator:
    def sram() -> Sram:
        return Sram(
            size_bits=one(draw, 3, 11) << 11,
            bandwidth_bits_per_cycle=one(draw, 16, 200),
            double_buffered=draw.draw(st.booleans()),
            banks=one(draw, 1, 3),
            ports=one(draw, 1, 2),
        )

    return Accelerator(
        name="any",
        clock_hz=1e9,
        array=Array(
            rows=one(draw, 1, 6),
            cols=one(draw, 1, 6),
            dataflow=draw.draw(st.sampled_from(list(Dataflow))),
            shadow_registers=draw.draw(st.booleans()),
            border_decoders=True,
            decoder_latency=one(draw, 0, 3),
            count=one(draw, 1, 3),
            pe=ProcessingElement(significand_bits=8, exponent_bits=5, block_scaling=draw.draw(st.booleans())),
        ),
        buffers=Buffers(operand_a=sram(), operand_b=sram(), output=sram()),
        dram=any_dram(draw),
        vector=VectorUnit(lanes=one(draw, 1, 30)),
        technology=load_technology("45nm"),
    )


def any_product(draw: st.DataObject) -> tuple[Workload, str]:
    fmt = draw.draw(st.sampled_from(["int8", "mxfp4", "ovp4", "int8:group=8"]))
    m, n, k = (one(draw, 1, 40) for _ in range(3))
    k = 8 * (1 + k % 5) if "group" in fmt else k
    return work(Gemm(name="product", m=m, n=n, k=k, batch=one(draw, 1, 3), repeat=2)), fmt


def work(*ops: Gemm | Vector) -> Workload:
    return Workload(name="any", phase="prefill", ops=ops, parameters=1, kv_elements=0, tokens=1)


def dynamic(op: OpResult) -> dict[str, float]:
    """Return the energy of an operation by component, without what leaks while time passes."""
    return {part: joules for part, joules in op.energy.parts.items() if part != "leakage_j"}


@SETTINGS
@given(st.data())
def test_event_equals_cycle_on_random_machines(data):
    machine, (workload, fmt) = any_machine(data), any_product(data)
    event, cycle = (simulate(workload, machine, fmt, fidelity=f) for f in ("event", "cycle"))
    assert event.ops == cycle.ops
    assert (event.fidelity, cycle.fidelity) == ("event", "cycle")


@SETTINGS
@given(st.data())
def test_analytic_bounds_event_and_equals_it_without_waits(data):
    machine, (workload, fmt) = any_machine(data), any_product(data)
    bound, event = (simulate(workload, machine, fmt, fidelity=f).ops[0] for f in ("analytic", "event"))
    assert bound.cycles <= event.cycles
    assert (bound.dram_bits, bound.mapping) == (event.dram_bits, event.mapping)
    assert dynamic(bound) == dynamic(event)
    free = replace(machine, dram=Dram(kind="hbm2", bandwidth_bits_per_s=1e30), vector=VectorUnit(lanes=1 << 40))
    bound, event = (simulate(workload, free, fmt, fidelity=f).ops[0] for f in ("analytic", "event"))
    waits = event.stall_cycles - event.port_stall_cycles + event.vector_cycles
    # A transfer and an operation take a whole cycle however fast their unit is: at most one per step.
    assert bound.cycles <= event.cycles <= bound.cycles + waits


def test_analytic_equals_event_where_nothing_waits(machine):
    fast = machine(dram_bits_per_cycle=1 << 40, lanes=1 << 40, shadow_registers=True)
    bound, event = (
        simulate(work(Gemm(name="x", m=9, n=13, k=21)), fast, "int8", fidelity=f) for f in ("analytic", "event")
    )
    ends = event.ops[0].stall_cycles + event.ops[0].vector_cycles  # one cycle to load, one to store or finish
    assert event.cycles == bound.cycles + ends
    assert ends <= 2


@SETTINGS
@given(st.data())
def test_more_bandwidth_is_never_slower(data):
    machine, (workload, fmt) = any_machine(data), any_product(data)
    faster = replace(machine, dram=replace(machine.dram, bandwidth_bits_per_s=2 * machine.dram.bandwidth_bits_per_s))
    slow = simulate(workload, machine, fmt)
    mapping = mapping_of(slow)
    assert simulate(workload, faster, fmt, mapping=mapping).cycles <= slow.cycles
    # The default objective is traffic, which does not look at the bandwidth: the mapping stays as it is.
    assert simulate(workload, faster, fmt).ops[0].mapping == slow.ops[0].mapping


@SETTINGS
@given(st.data())
def test_larger_buffers_never_move_more(data):
    machine, (workload, fmt) = any_machine(data), any_product(data)
    buffers = machine.buffers
    name = data.draw(st.sampled_from(["operand_a", "operand_b", "output"]))
    sram = getattr(buffers, name)
    larger = replace(machine, buffers=replace(buffers, **{name: replace(sram, size_bits=2 * sram.size_bits)}))
    assert simulate(workload, larger, fmt).dram_bits <= simulate(workload, machine, fmt).dram_bits


@SETTINGS
@given(st.data())
def test_nothing_is_lost(data):
    machine, (workload, fmt) = any_machine(data), any_product(data)
    op = simulate(workload, machine, fmt, residency=False).ops[0]
    # What is written beyond results is read back: partial sums.
    assert op.spill_bits % 2 == 0
    results = op.dram_write_bits - op.spill_bits // 2
    operands = op.dram_read_bits - op.spill_bits // 2
    assert op.compulsory_dram_bits <= results + operands
    assert op.cycles == op.compute_cycles + op.stall_cycles + op.vector_cycles
    assert op.energy.total_j == pytest.approx(sum(op.energy.parts.values()), rel=1e-12)


def test_sums_that_come_back_and_leave_again_pass_the_port_twice(machine):
    op = Gemm(name="x", m=8, n=8, k=48)
    tiling = Tiling(m=4, n=4, k=16, order="kmn")
    mapping = map_gemm(op, machine(), load_recipe("int8"), tiling=tiling)
    account = account_of(mapping, NOT_RESIDENT, np.arange(12))
    sums, codes = 16 * 32, 16 * 16
    assert account.transfer_bits[2].tolist() == [sums] * 4 + [2 * sums] * 4 + [sums + codes] * 4
    result = gemm_result(mapping, machine())
    assert result.spill_bits == 16 * sums
    table = MappingTable(ops={"x": MappingChoice(dataflow=Dataflow.OS, tiling=tiling)})
    event, cycle = (simulate(work(op), machine(), "int8", mapping=table, fidelity=f) for f in ("event", "cycle"))
    assert event.ops == cycle.ops == (result,)


@SETTINGS
@given(st.data())
def test_channel_equals_the_burst_machine(data):
    channel = Channel(dram=any_dram(data), clock_hz=1e9)
    bits = data.draw(st.lists(st.integers(0, 9000), min_size=1, max_size=4))
    assert [int(c) for c in channel.pieces(bits)] == piece_cycles(channel, bits)


@pytest.mark.parametrize("name", ["ddr4-3200", "lpddr5-6400", "hbm2e", "hbm3"])
def test_presets_equal_the_burst_machine_and_stream_at_their_rate(name):
    channel = Channel(dram=load_memory(name).dram, clock_hz=1e9)
    for bits in (1, 512, 100_000, 3_000_001):
        assert [int(c) for c in channel.pieces([bits, 77])] == piece_cycles(channel, [bits, 77])
    long = 1 << 36
    assert long / int(channel.cycles(long)) == pytest.approx(channel.dram.streaming_bits_per_s / 1e9, rel=1e-4)


def test_rows_and_bursts_by_hand():
    # 2 channels, bursts of 64 bits, rows of 4 bursts: 1000 bits are 16 bursts, 8 and 8, 2 rows each.
    dram = Dram(
        kind="hbm2",
        bandwidth_bits_per_s=64e9,
        channels=2,
        burst_bits=64,
        page_bits=256,
        activate_s=10e-9,
        latency_s=5e-9,
    )
    channel = Channel(dram=dram, clock_hz=1e9)
    assert (int(channel.bursts(1000)), int(channel.row_misses(1000))) == (16, 4)
    # One bank: latency 5, two activations of 10 and 8 bursts of 2 cycles.
    assert int(channel.cycles(1000)) == 5 + 2 * 10 + 16
    # Two banks: the second activation passes beside the data of the first row, 8 cycles of its 10.
    assert int(Channel(dram=replace(dram, banks=2), clock_hz=1e9).cycles(1000)) == 5 + 10 + 16
    closed = replace(dram, refresh_interval_s=4e-6, refresh_s=1e-6)
    assert int(Channel(dram=closed, clock_hz=1e9).cycles(1000)) == -(-41 * 4 // 3)


def random_tiles(rng, trips):
    """Costs by piece that depend on which coordinates are first or last, as those of tiles do."""
    table = rng.integers(0, 30, (2 + len(CAUSES), 3 ** len(trips)))

    def costs_at(indices):
        kind, rest = np.zeros(len(indices), np.int64), np.asarray(indices)
        for trip in reversed(trips):
            coordinate, rest = rest % trip, rest // trip
            kind = kind * 3 + np.where(coordinate == 0, 0, np.where(coordinate == trip - 1, 2, 1))
        array, vector, *pieces = table[:, kind]
        by_cause = dict(zip(CAUSES, pieces, strict=True))
        loads, stores = ({c: by_cause[c] for c in names} for names in (LOADS, STORES))
        return TileCosts(
            load=np.sum([*loads.values()], axis=0),
            array=array,
            vector=vector,
            store=np.sum([*stores.values()], axis=0),
            loads=loads,
            stores=stores,
        )

    return costs_at


def stepped(costs, **options):
    loads, stores = (np.stack([costs.piece(c) for c in names], axis=1) for names in (LOADS, STORES))
    return stepped_costs(loads, stores, costs.array, costs.vector, **options)


@pytest.mark.parametrize("overlap_stores", [True, False])
@pytest.mark.parametrize("overlap_loads", [True, False])
def test_walk_equals_the_clock_by_clock_machine(overlap_loads, overlap_stores):
    rng = np.random.default_rng(5)
    for _ in range(80):
        trips = rng.integers(1, 9, 3).tolist()
        options = {"count": int(rng.integers(1, 4)), "overlap_loads": overlap_loads, "overlap_stores": overlap_stores}
        costs_at = random_tiles(rng, trips)
        walk = walk_time(trips, costs_at, **options)
        assert walk == stepped(costs_at(np.arange(int(np.prod(trips)))), **options)
        assert walk == walk_time(trips, costs_at, every=True, **options)
        assert sum(walk.stalls.values()) == walk.memory_stall
        assert walk.cycles == walk.array + walk.memory_stall + walk.vector_wait


MUTANTS = {
    "stall counted twice": lambda walk: walk.cycles + walk.memory_stall,
    "first load forgotten": lambda walk: walk.cycles - walk.first_load,
    "loads and stores on channels of their own": lambda walk: walk.cycles - min(walk.stalls["out"], walk.stalls["a"]),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_machine_refutes_wrong_walks(mutant):
    rng = np.random.default_rng(6)
    trips = [3, 4, 2]
    costs_at = random_tiles(rng, trips)
    walk = walk_time(trips, costs_at)
    assert stepped(costs_at(np.arange(24))).cycles == walk.cycles != MUTANTS[mutant](walk)


def test_stalls_fall_on_what_comes_last():
    pieces = [("out", np.array(4)), ("a", np.array(9)), ("b", np.array(3))]
    assert {c: int(n) for c, n in tail_split(np.array(7), pieces).items()} == {"b": 3, "a": 4, "out": 0}


def test_several_arrays_share_the_folds(machine):
    product = work(Gemm(name="x", m=16, n=16, k=50))
    rates = {"dram_bits_per_cycle": 1 << 20, "lanes": 1 << 20}
    alone, four = (simulate(product, machine(count=count, **rates), "int8").ops[0] for count in (1, 4))
    assert four.compute_cycles * 4 == alone.compute_cycles
    assert four.macs == alone.macs
    with pytest.raises(MacloomError, match=r"arch\.array\.count: must be a positive integer, not 0"):
        machine(count=0)


def test_decoders_delay_a_product_once(machine):
    pe = {"significand_bits": 4, "exponent_bits": 4}
    product = work(Gemm(name="x", m=8, n=8, k=32))
    cycles = [
        simulate(product, machine(pe=pe, border_decoders=True, decoder_latency=late), "ovp4").cycles for late in (0, 3)
    ]
    assert cycles[1] == cycles[0] + 3
    with pytest.raises(MacloomError, match="decoder_latency: must be 0 without border_decoders"):
        machine(decoder_latency=2)


@pytest.mark.parametrize("dataflow", list(Dataflow))
def test_a_short_first_segment_lets_the_array_start_early_only_in_os(machine, dataflow):
    # K in segments of 8 on 12 rows with shadow registers: streams shorter than what has to shift.
    wide = machine(
        rows=12, cols=3, shadow_registers=True, dataflow=dataflow, dram_bits_per_cycle=1 << 30, lanes=1 << 30
    )
    product = work(Gemm(name="x", m=5, n=7, k=24))
    event, cycle = (simulate(product, wide, "int8:group=8", fidelity=f) for f in ("event", "cycle"))
    assert event.ops == cycle.ops


def test_outliers_on_a_side_path_stall_the_array(machine):
    product = work(Gemm(name="x", m=32, n=32, k=64))
    plain = simulate(product, machine(), "int8")
    none = simulate(product, machine(), "int8", side=OutlierPath(fraction=0.0, lanes=1))
    assert none.ops == plain.ops
    few, many = (
        simulate(product, machine(), "int8", side=OutlierPath(fraction=f, lanes=4, operand="a")) for f in (0.3, 0.9)
    )
    assert plain.cycles < few.cycles < many.cycles
    assert few.ops[0].side_stall_cycles > 0
    assert few.ops == simulate(product, machine(), "int8", side=OutlierPath(fraction=0.3, lanes=4, operand="a")).ops
    cycle = simulate(product, machine(), "int8", side=OutlierPath(fraction=0.3, lanes=4, operand="a"), fidelity="cycle")
    assert few.ops == cycle.ops


def test_a_side_path_may_be_any_function(machine):
    product = work(Gemm(name="x", m=32, n=32, k=64))
    fixed = simulate(product, machine(), "int8", side=lambda mapping, tiles: np.full(len(tiles.m), 100_000))
    trips = fixed.ops[0].mapping
    tiles = -(-32 // trips["tile_m"]) * -(-32 // trips["tile_n"]) * -(-64 // trips["tile_k"])
    assert fixed.cycles > tiles * 100_000


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fraction": 1.5, "lanes": 1}, "side.fraction: must be a number from 0 to 1, not 1.5"),
        ({"fraction": 0.5, "lanes": 0}, "side.lanes: must be a positive integer, not 0"),
        ({"fraction": 0.5, "lanes": 1, "operand": "c"}, "side.operand: must be 'a' or 'b', not 'c'"),
    ],
)
def test_bad_side_paths(fields, message):
    with pytest.raises(MacloomError, match=message):
        OutlierPath(**fields)


def test_banks_and_ports_separate_transfers_from_the_array():
    one = Sram(size_bits=1024, bandwidth_bits_per_cycle=64)
    assert (one.array_bits_per_cycle, one.transfer_bits_per_cycle, one.port_bits) == (64, None, 64)
    banked = replace(one, banks=4)
    assert (banked.array_bits_per_cycle, banked.transfer_bits_per_cycle) == (128, 128)
    single = replace(banked, double_buffered=False)
    assert (single.array_bits_per_cycle, single.transfer_bits_per_cycle) == (256, None)
    dual = replace(one, ports=2)
    assert (dual.array_bits_per_cycle, dual.transfer_bits_per_cycle) == (64, 64)


def test_a_second_port_never_costs_time(machine):
    product = work(Gemm(name="x", m=24, n=24, k=24))
    slow = machine(port_bits=20, dram_bits_per_cycle=256)
    buffers = {name: replace(sram, ports=2) for name, sram in slow.buffers.present.items()}
    fast = replace(slow, buffers=Buffers(**buffers))
    one_port, two_ports = (simulate(product, m, "int8").ops[0] for m in (slow, fast))
    assert two_ports.cycles < one_port.cycles
    assert two_ports.port_stall_cycles < one_port.port_stall_cycles


@pytest.mark.parametrize("limit", ["MOST_UPDATES", "MOST_CLOCKS", "MOST_BURSTS"])
def test_long_products_are_not_stepped(monkeypatch, machine, limit):
    monkeypatch.setattr(f"macloom.sim.cycle.walk.{limit}", 10)
    bursts = replace(machine(), dram=Dram(kind="hbm2", bandwidth_bits_per_s=1e9, burst_bits=8))
    product = work(Gemm(name={"MOST_UPDATES": "x", "MOST_CLOCKS": "y"}.get(limit, "z"), m=50, n=50, k=50 + len(limit)))
    with pytest.raises(MacloomError, match=r"that are stepped; choose fidelity='event'"):
        simulate(product, bursts, "int8", fidelity="cycle")


def test_unknown_fidelity(workload):
    with pytest.raises(MacloomError, match="fidelity: unknown name 'cycel'; did you mean 'cycle'"):
        simulate(workload, "int8-sa", "int8", fidelity="cycel")


def test_workloads_step_to_the_same_numbers():
    event, cycle = (simulate("tiny", "olive-sa", "ovp4", fidelity=f) for f in ("event", "cycle"))
    assert event.ops == cycle.ops
    check_physical(cycle)


# -- across operations -----------------------------------------------------------------------------


def test_prefetch_uses_idle_cycles_and_moves_nothing_else(machine):
    ops = (
        Gemm(name="up", m=64, n=16, k=16, repeat=3),
        Vector(name="act", kind=VectorKind.SILU, rows=64, width=16, repeat=3),
        Gemm(name="down", m=64, n=16, k=16, repeat=3),
        Gemm(name="scores", m=8, n=8, k=16, b=Role.KV, repeat=3),
    )
    plain, early = (simulate(work(*ops), machine(lanes=1), "int8", prefetch=p) for p in (False, True))
    assert early.dram_bits == plain.dram_bits
    assert [dynamic(op) for op in early.ops] == [dynamic(op) for op in plain.ops]
    for name, before in {"up": "scores", "down": "act"}.items():
        a, b = (next(op for op in r.ops if op.name == name) for r in (plain, early))
        source = next(op for op in plain.ops if op.name == before)
        times = 2 if name == "up" else 3  # nothing comes before the first occurrence of the first
        saved = times * min(a.first_b_cycles, source.idle_tail_cycles)
        assert (b.prefetched_cycles, a.cycles - b.cycles) == (saved, saved)
        assert saved > 0
    assert next(op for op in early.ops if op.name == "scores").prefetched_cycles == 0  # keys are not known yet


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_prefetched_work_overlaps_nothing_on_the_timeline(phase):
    sizes = {"prefill": (64, None), "decode": (None, 64)}[phase]
    workload = load_workload("opt-6.7b", phase=phase, sequence=sizes[0], context=sizes[1])
    result = simulate(workload, "olive-sa", "ovp4", prefetch=True)
    assert any(op.prefetched_cycles for op in result.ops)
    ends: dict[str, int] = {}
    for event in result.timeline():
        assert event.start >= ends.get(event.unit, 0), event
        ends[event.unit] = event.start + event.duration


def test_resident_tensors_save_their_traffic_and_nothing_else():
    base = load_accelerator("olive-sa")
    shared = Sram(size_bits=1 << 26, bandwidth_bits_per_cycle=4096)
    roomy = replace(base, buffers=replace(base.buffers, shared=shared))
    plain, kept = (simulate("tiny", roomy, "ovp4", residency=r) for r in (False, True))
    saved = sum(op.resident_bits for op in kept.ops)
    assert plain.dram_bits - kept.dram_bits >= saved > 0
    assert kept.cycles <= plain.cycles
    for before, after in zip(plain.ops, kept.ops, strict=True):
        assert after.compulsory_dram_bits + after.resident_bits == before.compulsory_dram_bits
    # Weights and the KV cache always move.
    assert all(op.dram_read_bits > 0 for op in kept.ops if op.kind == "gemm")
    cycle = simulate("tiny", roomy, "ovp4", residency=True, fidelity="cycle")
    assert cycle.ops == kept.ops


def test_residency_needs_room_and_a_memory():
    base = load_accelerator("olive-sa")
    with pytest.raises(MacloomError, match=r"residency: needs a memory between operations; give the accelerator arch"):
        simulate("tiny", base, "ovp4", residency=True)
    small = replace(base, buffers=replace(base.buffers, shared=Sram(size_bits=64, bandwidth_bits_per_cycle=64)))
    assert simulate("tiny", small, "ovp4", residency=True).ops == simulate("tiny", small, "ovp4").ops


# -- mappings --------------------------------------------------------------------------------------

OBJECTIVES = {
    "traffic": lambda r: r.dram_bits,
    "cycles": lambda r: r.cycles,
    "energy": lambda r: r.energy_j,
    "edp": lambda r: r.energy_j * r.cycles,
}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_best_dataflow_is_no_worse_than_any(workload, machine, objective):
    score = OBJECTIVES[objective]
    only = replace(workload, ops=(workload.gemms[0],))
    accelerator = machine(buffer_bits=4096, rows=3, cols=5)
    best = simulate(only, accelerator, "int8", "best", objective=objective)
    for dataflow in Dataflow:
        one = simulate(only, accelerator, "int8", dataflow, objective=objective)
        assert score(best) <= score(one) * (1 + 1e-12)
        assert score(one) <= score(simulate(only, accelerator, "int8", dataflow)) * (1 + 1e-12)
    assert best.ops == simulate(only, accelerator, "int8", "best", objective=objective).ops


@pytest.mark.parametrize("suffix", ["toml", "json"])
def test_saved_mappings_give_the_same_result(tmp_path, workload, machine, suffix):
    accelerator = machine(buffer_bits=4096)
    best = simulate(workload, accelerator, "int8", "best", objective="edp")
    path = mapping_of(best).save(tmp_path / f"mapping.{suffix}")
    assert load_mapping(path) == mapping_of(best)
    assert simulate(workload, accelerator, "int8", objective="edp", mapping=path).ops == best.ops


GOOD = '[ops."up_proj"]\ndataflow = "os"\ntile_m = 4\ntile_n = 4\ntile_k = 32\nloop_order = "mnk"\n'


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("tile_m = 4", "tile_m = 0", "mapping.ops.up_proj.tile_m: must be a positive integer, not 0"),
        ("tile_m = 4", "tile_m = 99", "mapping.ops.up_proj.tile_m: must be an integer from 1 to 6, not 99"),
        ("tile_m = 4", "", "mapping.ops.up_proj.tile_m: missing"),
        ("tile_m", "tile_x", "mapping.ops.up_proj: unknown name 'tile_x'"),
        ('"os"', '"xs"', "mapping.ops.up_proj.dataflow: unknown name 'xs'"),
        ('"mnk"', '"mmk"', "mapping.ops.up_proj.loop_order: unknown name 'mmk'; did you mean"),
        ("up_proj", "up_prj", "mapping.ops: unknown name 'up_prj'; did you mean 'up_proj'"),
        ("tile_n = 4", "tile_n = 48", "take a smaller tile"),
        ("[ops", "[op", "must hold one table 'ops'"),
        ("= 4", "= = 4", "must be valid TOML"),
    ],
)
def test_bad_mappings(tmp_path, workload, machine, old, new, message):
    path = tmp_path / "mapping.toml"
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(MacloomError, match=message.replace(".", r"\.")):
        simulate(workload, machine(buffer_bits=(1 << 16, 4096, 1 << 16)), "int8", mapping=path)


def test_missing_mapping_files_and_suffixes(tmp_path, workload, machine):
    with pytest.raises(MacloomError, match="no such file; a mapping is a .toml or .json file"):
        load_mapping(tmp_path / "none.toml")
    with pytest.raises(MacloomError, match="mapping: must be saved to a .toml or .json file"):
        mapping_of(simulate(workload, machine(), "int8")).save(tmp_path / "mapping.txt")
    assert not list(tmp_path.iterdir())
