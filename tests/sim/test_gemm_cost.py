"""Products on small machines, worked out by hand; and laws that hold on all of them."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from macloom.arch import (
    Dataflow,
    add_energy_j,
    decoder_energy_j,
    dram_energy_j_per_bit,
    load_accelerator,
    shift_energy_j,
    sram_energy_j_per_bit,
)
from macloom.errors import MacloomError
from macloom.sim import Objective, Tiling, UnsupportedFormat, map_gemm, simulate
from macloom.sim.gemm_cost import gemm_result
from macloom.sim.systolic import array_cycles
from macloom.workloads.ops import Gemm, Role, Vector, VectorKind, Workload
from macloom.workloads.recipe import load_recipe

PRODUCT = Gemm(name="q_proj", m=8, n=8, k=16)


def run(op, machine, recipe="int8", dataflow=None, **options):
    return gemm_result(map_gemm(op, machine, load_recipe(recipe), dataflow, **options), machine)


def test_one_product_by_hand(machine):
    op = run(PRODUCT, machine())
    # Scales of int8 are one fp32 per tensor. Outputs are fp16.
    a_bits = b_bits = 8 * 16 * 8 + 32
    out_bits = 8 * 8 * 16
    assert op.compulsory_dram_bits == op.dram_bits == a_bits + b_bits + out_bits
    assert (op.dram_read_bits, op.dram_write_bits) == (a_bits + b_bits, out_bits)
    # All of A stays; B comes in two tiles of 4 rows. Each: 2 folds of 16 + 2 * 4 + 4 - 2 cycles.
    assert (op.mapping["tile_m"], op.mapping["tile_n"], op.mapping["tile_k"]) == (8, 4, 16)
    assert (op.fill_cycles, op.steady_cycles, op.drain_cycles) == (4 * 6, 4 * 16, 4 * 4)
    assert op.compute_cycles == 4 * 26
    # First load: 1056 + 528 bits at 64 per cycle. The end stores 8 x 4 fp16 in 8 cycles while the vector
    # unit works on 32 sums: per sum two scales, one rounding, so 96 operations on 8 lanes: 12 cycles.
    assert op.first_load_cycles == 25
    assert op.vector_operations == 2 * 96
    assert op.cycles == 25 + 52 + 52 + 12
    assert (op.stall_cycles, op.vector_cycles) == (25, 12)
    assert (op.dram_busy_cycles, op.vector_busy_cycles) == (25 + 9 + 2 * 8, 24)
    assert op.bound == "compute"


def test_energy_of_one_product_by_hand(machine):
    accelerator = machine()
    technology = accelerator.technology
    op = run(PRODUCT, accelerator)
    # 45 nm: int8 multiply 0.2 pJ and int32 add 0.1 pJ; fp16 multiply 1.1 pJ and add 0.4 pJ.
    assert op.energy.mac_j == pytest.approx(8 * 8 * 16 * 0.3e-12)
    assert op.energy.vector_j == pytest.approx(64 * (2 * 1.1e-12 + 0.4e-12))
    assert op.energy.decoder_j == 0
    assert op.energy.dram_j == pytest.approx(op.dram_bits * dram_energy_j_per_bit(technology, "hbm2").value)
    # A and B: filled once, read once per fold of the other. Codes: written by the vector unit, read by DRAM.
    operands = 2 * (1056 + 2 * 1056)
    outputs = 64 * 2 * 16
    assert op.sram_bits == operands + outputs
    assert op.energy.sram_j == pytest.approx(op.sram_bits * sram_energy_j_per_bit(technology, 1 << 20).value)
    assert op.energy.kinds == {
        "mac_j": "published",
        "sram_j": "scaled",
        "dram_j": "published",
        "vector_j": "published",
        "leakage_j": "published",
    }
    # CACTI, 209 nW per bit of three buffers of 1 Mbit, and 16 elements of 687.6 um2 at 33.38 nW/um2; 1 GHz.
    watts = 3 * (1 << 20) * 209e-9 + 16 * 687.6 * 33.38e-9
    assert op.energy.leakage_j == pytest.approx(op.cycles * 1e-9 * watts)


def test_segments_by_hand(machine):
    # int8 in groups of 8: two segments, each with its own pair of scales.
    op = run(PRODUCT, machine(), "int8:group=8")
    assert op.mapping["segment"] == 8
    # Twice as many folds, each 8 + 10 cycles.
    assert op.compute_cycles == 2 * 4 * 18
    # Per output and segment two multiplies, and one add but for the first; then one rounding.
    assert op.vector_operations == 64 * (2 * 2 + 1 + 1)
    # Running sums: one write and one read; codes written and read.
    operands = 2 * 3 * (8 * 16 * 8 + 16 * run_scale_bits())
    assert op.sram_bits == operands + 64 * (2 * 32 + 2 * 16)


def run_scale_bits():
    fmt = load_recipe("int8:group=8").weight
    return fmt.scale_bits((1, 8))


def test_elements_that_scale_blocks_stream_k_uncut(machine):
    plain = run(PRODUCT, machine(), "int8")
    op = run(PRODUCT, machine(pe={"significand_bits": 8, "block_scaling": True}), "int8:group=8")
    assert op.mapping["segment"] == 16
    assert op.compute_cycles == plain.compute_cycles
    assert op.vector_operations == 64  # rounding alone
    # One float multiply and one float add of 32 bits per output and block: 3.7 + 0.9 pJ.
    assert op.energy.mac_j - plain.energy.mac_j == pytest.approx(64 * 2 * 4.6e-12)


def test_batches_that_share_keys_are_stacked(machine):
    grouped = Gemm(name="scores", m=3, n=8, k=16, b=Role.KV, batch=8, b_sharing=4)
    op = run(grouped, machine())
    assert op.mapping["batch"] == 2
    stacked = run(Gemm(name="scores", m=12, n=8, k=16, b=Role.KV, batch=2), machine())
    assert (op.cycles, op.dram_bits, op.energy) == (stacked.cycles, stacked.dram_bits, stacked.energy)
    apart = run(Gemm(name="scores", m=3, n=8, k=16, b=Role.KV, batch=8), machine())
    assert op.dram_bits < apart.dram_bits
    assert op.macs == apart.macs


def test_repeats_multiply_everything_but_the_first_load(machine):
    once, thrice = run(PRODUCT, machine()), run(replace(PRODUCT, repeat=3), machine())
    for name in ("macs", "cycles", "compute_cycles", "stall_cycles", "dram_bits", "sram_bits", "vector_operations"):
        assert getattr(thrice, name) == 3 * getattr(once, name), name
    assert thrice.energy.total_j == pytest.approx(3 * once.energy.total_j)
    assert thrice.first_load_cycles == once.first_load_cycles


@pytest.mark.parametrize("shadow", [False, True])
@pytest.mark.parametrize("dataflow", list(Dataflow))
def test_array_cycles_are_the_closed_form_where_tiles_do_not_cut_streams(machine, dataflow, shadow):
    rng = np.random.default_rng(5)
    accelerator = machine(shadow_registers=shadow, rows=3, cols=5)
    for _ in range(10):
        m, n, k = rng.integers(1, 40, 3).tolist()
        batch = int(rng.integers(1, 4))
        op = run(Gemm(name="x", m=m, n=n, k=k, batch=batch), accelerator, dataflow=dataflow)
        tile = {Dataflow.OS: "tile_k", Dataflow.WS: "tile_m", Dataflow.IS: "tile_n"}[dataflow]
        if op.mapping[tile] < {"tile_k": k, "tile_m": m, "tile_n": n}[tile]:
            continue
        one = array_cycles(dataflow, m, n, k, 3, 5, shadow_registers=shadow)
        if shadow:  # all batches in one stream
            per_fold = max(one.steady // one.folds, 3)
            assert op.compute_cycles == one.total + (batch - 1) * one.folds * per_fold
        else:
            assert op.compute_cycles == batch * one.total
        assert op.steady_cycles == batch * one.steady


def test_fused_elements_halve_the_array(machine):
    four = {"significand_bits": 4, "fusable": True}
    op = run(PRODUCT, machine(rows=8, cols=8, pe=four), "int8")
    eight = run(PRODUCT, machine(rows=4, cols=4), "int8")
    assert (op.pes_per_mac, op.compute_cycles, op.cycles) == (4, eight.compute_cycles, eight.cycles)
    # Mixed widths: A in two slices takes two rows, B one column.
    recipe = replace(load_recipe("int8"), weight=load_recipe("int4").weight)
    mapping = map_gemm(PRODUCT, machine(rows=8, cols=8, pe=four), recipe)
    assert (mapping.pes_per_mac, mapping.problem.rows, mapping.problem.cols) == (2, 4, 8)
    mapping = map_gemm(PRODUCT, machine(rows=8, cols=8, pe=four), recipe, Dataflow.IS)
    assert (mapping.problem.rows, mapping.problem.cols) == (8, 4)


def test_energy_of_exponents_slices_and_decoders_without_gate_counts(machine, monkeypatch):
    monkeypatch.setattr("macloom.sim.energy.row_of", lambda fmt, unit="mac": None)
    pe = {"significand_bits": 4, "exponent_bits": 4, "fusable": True}
    accelerator = machine(rows=8, cols=8, pe=pe, border_decoders=True)
    technology = accelerator.technology
    # 4 x 4 multiply: a quarter of int8's; add of 5-bit exponents; shift of 8 bits by up to 31; accumulate.
    element = 0.05e-12 + add_energy_j(technology, 5).value + shift_energy_j(technology, 8, 32).value
    op = run(PRODUCT, accelerator, "ovp4")
    assert op.energy.mac_j == pytest.approx(1024 * (element + 0.1e-12))
    assert op.energy.decoder_j == pytest.approx((128 + 128) / 2 * decoder_energy_j(technology, 8, 2).value)
    op = run(PRODUCT, accelerator, "ovp8")
    joined = 3 * add_energy_j(technology, 16).value
    assert op.energy.mac_j == pytest.approx(1024 * (4 * element + joined + 0.1e-12))
    op = run(PRODUCT, accelerator, "int4")
    assert op.energy.mac_j == pytest.approx(1024 * (0.05e-12 + 0.1e-12))
    assert op.energy.decoder_j == 0


def test_float_elements_always_work_at_their_own_width(machine):
    pe = {"significand_bits": 12, "exponent_bits": 5, "accumulator": "float"}
    for recipe in ("fp16", "int4"):
        op = run(PRODUCT, machine(pe=pe), recipe)
        assert op.energy.mac_j == pytest.approx(1024 * (1.1e-12 + 0.9e-12))


def test_decode_is_bound_by_a_slow_memory_and_by_nothing_else(machine, with_dram):
    decode = Gemm(name="up_proj", m=1, n=256, k=256)
    slow = machine(dram_bits_per_cycle=8)
    op = run(decode, slow)
    assert op.bound == "memory"
    assert op.dram_bits == op.compulsory_dram_bits
    assert op.cycles >= op.dram_bits / 8
    assert op.stall_cycles > op.compute_cycles
    # Half the bits in almost half the time.
    assert run(decode, slow, "int4").cycles < 0.6 * op.cycles
    assert run(decode, with_dram(slow, 1e6)).bound == "compute"


def test_more_bandwidth_is_never_slower(machine, with_dram):
    rng = np.random.default_rng(6)
    for _ in range(12):
        m, n, k = rng.integers(1, 60, 3).tolist()
        op = Gemm(name="x", m=m, n=n, k=k, batch=int(rng.integers(1, 3)))
        accelerator = machine(buffer_bits=8192, dataflow=list(Dataflow)[int(rng.integers(3))])
        cycles = [run(op, with_dram(accelerator, bandwidth)).cycles for bandwidth in (1, 3, 17, 64, 1000)]
        assert cycles == sorted(cycles, reverse=True)


def every_place(trips):
    total = math.prod(trips)
    return np.arange(total), np.ones(total, np.int64)


def test_representative_tiles_stand_for_all(machine, monkeypatch):
    rng = np.random.default_rng(8)
    cases = []
    for _ in range(15):
        m, n, k = rng.integers(1, 120, 3).tolist()
        op = Gemm(name="x", m=m, n=n, k=k, batch=int(rng.integers(1, 3)))
        accelerator = machine(
            buffer_bits=int(rng.integers(2048, 6000)), port_bits=64, dataflow=list(Dataflow)[int(rng.integers(3))]
        )
        cases.append((op, accelerator, "mxint8" if rng.integers(2) else "int8"))
    few = [run(*case) for case in cases]
    monkeypatch.setattr("macloom.sim.event.representatives", every_place)
    monkeypatch.setattr("macloom.sim.gemm_cost.representatives", every_place)
    assert [run(*case) for case in cases] == few
    assert (
        max(
            math.prod(-(-getattr(o, a) // r.mapping[f"tile_{a}"]) for a in "mnk")
            for (o, *_), r in zip(cases, few, strict=True)
        )
        > 125
    )


def test_narrow_ports_slow_the_array(machine):
    wide, narrow = run(PRODUCT, machine()), run(PRODUCT, machine(port_bits=(16, 1 << 20, 1 << 20)))
    # A is read at 4 bytes per cycle by the array alone; 3168 bits in all at 16 per cycle.
    assert narrow.compute_cycles == wide.compute_cycles
    assert narrow.compute_cycles + narrow.port_stall_cycles == 3168 // 16
    assert narrow.cycles > wide.cycles


def test_single_buffers_are_slower(machine):
    double = run(PRODUCT, machine(buffer_bits=4096))
    for single in ((False, True, True), (True, False, True), (True, True, False)):
        # Twice the size, so that the usable part stays.
        sizes = tuple(4096 if d else 2048 for d in single)
        op = run(PRODUCT, machine(buffer_bits=sizes, double_buffered=single))
        assert op.cycles > double.cycles
        assert op.dram_bits == double.dram_bits


def test_partial_sums_that_leave_are_written_and_read_back(machine):
    accelerator = machine()
    mapping = map_gemm(PRODUCT, accelerator, load_recipe("int8"))
    # K outermost: every 4 x 4 tile of sums leaves after half of K and comes back.
    op = gemm_result(replace(mapping, tiling=Tiling(m=4, n=4, k=8, order="kmn")), accelerator)
    spilled = 64 * 32
    assert op.dram_read_bits == 1056 + 2 * 1056 + spilled  # B comes again for the second rows of A
    assert op.dram_write_bits == 64 * 16 + spilled
    assert op.energy.dram_j == pytest.approx(op.dram_bits * 3.9e-12)
    # A and B: filled, and 8 tiles of 4 x 8 elements of 8.25 bits read. Sums: written and read for the two
    # halves of K, and once more each on the way to DRAM and back. Codes written and read.
    assert op.sram_bits == (1056 + 2112) + (2112 + 2112) + 4 * spilled + 2 * 64 * 16
    assert op.compute_cycles == 8 * (8 + 10)
    assert op.dram_busy_cycles >= op.dram_bits / 64
    best = gemm_result(mapping, accelerator)
    assert (best.dram_bits, best.cycles) < (op.dram_bits, op.cycles)


def test_products_on_the_vector_unit(machine):
    op = run(PRODUCT, machine(), "fp16", on_vector_unit=True)
    assert (op.unit, op.bound, op.compute_cycles, op.pes_per_mac) == ("vector", "vector", 0, 1)
    assert op.mapping["dataflow"] == "lanes"
    # A multiply and an add per MAC, and one rounding per output.
    assert op.vector_operations == 2 * 1024 + 64
    assert op.vector_busy_cycles == 2048 // 8 + 64 // 8
    assert op.energy.vector_j == pytest.approx(1024 * 1.5e-12 + 64 * 0.4e-12)
    assert op.energy.mac_j == 0


def test_products_that_the_vector_unit_refuses(machine):
    message = (
        "accelerator 'test': its array cannot multiply 'fp16' by 'fp16' of 'q_proj'; to compute it instead, "
        "arch.vector.bits must be at least 16, not 8"
    )
    with pytest.raises(UnsupportedFormat, match=re.escape(message)):
        run(PRODUCT, machine(vector_bits=8), "fp16", on_vector_unit=True)
    message = (
        "accelerator 'test': its array cannot multiply 'int8:group=8' by 'int8:group=8' of 'q_proj', and the vector "
        "unit multiplies no format whose scale changes within a row; choose another format for this operation"
    )
    with pytest.raises(UnsupportedFormat, match=re.escape(message)):
        run(PRODUCT, machine(), "int8:group=8", on_vector_unit=True)


@pytest.mark.parametrize("fidelity", ["analytic", "event", "cycle"])
def test_what_64_bits_do_not_count_is_refused(machine, fidelity):
    size = 1 << 19
    for op, what in (
        (
            Gemm(name="huge", m=size, n=size, k=size),
            f"gemm 'huge': must have at most {1 << 56} products, not {1 << 57}; cut it",
        ),
        (Vector(name="long", kind=VectorKind.ADD, rows=1 << 40, width=1 << 20), "vector 'long': must have at most"),
    ):
        workload = Workload(name="any", phase="prefill", ops=(op,), parameters=1, kv_elements=0, tokens=1)
        with pytest.raises(MacloomError, match=what):
            simulate(workload, machine(), "int8", fidelity=fidelity)


def test_time_objective_is_not_slower_on_a_preset():
    op = Gemm(name="q_proj", m=512, n=512, k=1024)
    accelerator = load_accelerator("olive-sa")
    times = [run(op, accelerator, "int4", objective=o).cycles for o in (Objective.TRAFFIC, Objective.TIME)]
    assert times[1] <= times[0] * 1.02
