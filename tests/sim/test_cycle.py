"""The machine that steps every register: values against gemm, cycles against closed forms, compiled against plain."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from macloom.arch import Array, Dataflow, ProcessingElement
from macloom.errors import MacloomError
from macloom.formats import gemm, get_format
from macloom.formats.accumulator import default_accumulator
from macloom.sim import UnsupportedFormat, product_cycles
from macloom.sim.cycle import run
from macloom.sim.cycle.marks import HAZARD
from macloom.sim.cycle.os_kernel import os_machine
from macloom.sim.cycle.program import os_program, pieces_of, ws_program
from macloom.sim.cycle.semantics import rounded
from macloom.sim.cycle.ws_kernel import ws_machine
from macloom.sim.mapping import segment_length

WIDE = ProcessingElement(significand_bits=12, exponent_bits=6, accumulator="float")  # type: ignore[arg-type]
FORMATS = ["int8", "fp16", "mxfp4", "mxfp8", "nvfp4", "ovp4", "int4:group=8", "mxint8"]
REGISTERS = [
    "int32",
    "int17:saturate",
    "int18:saturate,every=mac",
    "int17:saturate,every=5",
    "int18:wrap",
    "exact",
    "fp32",
]


def operands(fmt, m, n, k, seed=0):
    rng = np.random.default_rng(seed)
    record = get_format(fmt)
    return tuple(record.encode(rng.standard_normal((rows, k)).astype(np.float32)) for rows in (m, n))


def expected_cycles(a, b, array, dataflow):
    k = a.shape[1]
    segment = None if array.pe.block_scaling else segment_length((a.format.block, b.format.block), k)
    return product_cycles(
        dataflow,
        a.shape[0],
        b.shape[0],
        k,
        array.rows,
        array.cols,
        shadow_registers=array.shadow_registers,
        segment=segment,
        arrays=array.count,
    ).total


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    fmt=st.sampled_from(FORMATS),
    dataflow=st.sampled_from(list(Dataflow)),
    shadow=st.booleans(),
    scaling=st.booleans(),
    rows=st.integers(1, 6),
    cols=st.integers(1, 6),
    m=st.integers(1, 20),
    n=st.integers(1, 20),
    k=st.integers(1, 70),
    count=st.integers(1, 3),
)
def test_random_products_equal_gemm_and_the_closed_form(
    fmt, dataflow, shadow, scaling, rows, cols, m, n, k, count
):  # fmt: skip
    k = 8 * (1 + k // 9) if "group" in fmt else k
    a, b = operands(fmt, m, n, k, seed=m * n + k)
    pe = replace(WIDE, block_scaling=scaling)
    array = Array(
        rows=rows, cols=cols, dataflow=dataflow, shadow_registers=shadow, border_decoders=True, pe=pe, count=count
    )
    done = run(a, b, array)
    assert np.array_equal(done.values, gemm(a, b))
    assert done.cycles == expected_cycles(a, b, array, dataflow)
    assert (done.dataflow, done.accumulator) == (dataflow, default_accumulator(a.format, b.format).name)


@pytest.mark.parametrize("dataflow", list(Dataflow))
@pytest.mark.parametrize("size", [(1, 1, 1, 1, 1), (1, 1, 9, 1, 1), (4, 4, 1, 2, 2), (5, 3, 1, 1, 4), (3, 8, 4, 3, 4)])
def test_smallest_and_exactly_filled_arrays_equal_gemm(dataflow, size):
    m, n, k, rows, cols = size
    a, b = operands("int8", m, n, k)
    for shadow in (False, True):
        array = Array(rows=rows, cols=cols, shadow_registers=shadow, pe=WIDE)
        done = run(a, b, array, dataflow=dataflow)
        assert np.array_equal(done.values, gemm(a, b))
        assert done.cycles == expected_cycles(a, b, array, dataflow)


@pytest.mark.parametrize("register", REGISTERS)
@pytest.mark.parametrize("fmt", ["int8", "mxfp4", "int4:group=8", "affine8:group=8"])
def test_registers_equal_gemm_in_every_dataflow(fmt, register):
    # Sums grow in ascending order of K in all of them: WS and IS read partial sums back at the top of a column.
    a, b = operands(fmt, 7, 5, 48, seed=3)
    if register.startswith(("int17", "int18")) and fmt.startswith("affine"):
        register = register.replace("int17", "int19").replace("int18", "int19")
    for dataflow, shadow, scaling in product(Dataflow, (False, True), (False, True)):
        pe = replace(WIDE, significand_bits=24, block_scaling=scaling)
        array = Array(rows=3, cols=4, shadow_registers=shadow, border_decoders=True, pe=pe)
        assert np.array_equal(run(a, b, array, register, dataflow).values, gemm(a, b, register)), (dataflow, scaling)


@pytest.mark.parametrize("register", REGISTERS)
def test_compiled_machine_equals_the_plain_one(register):
    for seed, (dataflow, shadow, scaling) in enumerate(product(Dataflow, (False, True), (False, True))):
        a, b = operands("int8:group=8", 4, 5, 24, seed)
        pe = replace(WIDE, block_scaling=scaling)
        array = Array(rows=3, cols=2, shadow_registers=shadow, pe=pe, count=1 + seed % 3)
        fast, slow = (run(a, b, array, register, dataflow, plain=plain) for plain in (False, True))
        assert np.array_equal(fast.values, slow.values)
        assert fast.cycles == slow.cycles


@pytest.mark.parametrize("register", ["e5m10", "e8m7", "e5m10:toward_zero", "e4m3:saturate"])
def test_registers_without_a_compiled_form_run_on_the_plain_machine(register):
    for fmt in ("int4", "mxfp4", "fp16"):
        a, b = operands(fmt, 4, 3, 12)
        for dataflow in Dataflow:
            done = run(a, b, Array(rows=2, cols=2, pe=WIDE, border_decoders=True), register, dataflow)
            assert np.array_equal(done.values, gemm(a, b, register)), (fmt, dataflow)


def test_saturation_after_each_product_depends_on_order_and_the_machine_keeps_it():
    fmt = get_format("int8")
    a = fmt.encode(np.array([[127] * 20 + [-127] * 20], np.float32))
    b = fmt.encode(np.array([[127] * 40], np.float32))
    each, end = (gemm(a, b, f"int16:saturate{suffix}") for suffix in (",every=mac", ""))
    assert (each != end).all()
    for dataflow in Dataflow:
        array = Array(rows=4, cols=4, pe=WIDE)
        assert run(a, b, array, "int16:saturate,every=mac", dataflow).values == each
        assert run(a, b, array, "int16:saturate", dataflow).values == end


def test_fused_elements_take_half_the_rows_and_columns():
    a, b = operands("int8", 6, 6, 10)
    pe = ProcessingElement(significand_bits=4, fusable=True)
    fused = run(a, b, Array(rows=8, cols=8, pe=pe))
    whole = run(a, b, Array(rows=4, cols=4, pe=ProcessingElement(significand_bits=8)))
    assert (fused.rows, fused.cols, fused.cycles) == (4, 4, whole.cycles)
    assert np.array_equal(fused.values, gemm(a, b))


def test_four_fused_elements_multiply_like_one_of_twice_the_width():
    x, y = np.meshgrid(np.arange(-128, 128), np.arange(-128, 128))
    (xh, xl), (yh, yl) = ((v >> 4, v & 15) for v in (x, y))
    assert np.array_equal(((xh * yh) << 8) + ((xh * yl + xl * yh) << 4) + xl * yl, x * y)


def test_decoders_add_their_latency_once():
    a, b = operands("ovp4", 9, 9, 12)
    plain = Array(rows=3, cols=3, pe=WIDE, border_decoders=True)
    late = replace(plain, decoder_latency=5)
    assert run(a, b, late).cycles == run(a, b, plain).cycles + 5
    a, b = operands("int8", 9, 9, 12)  # operands as they are pass no decoder
    assert run(a, b, late).cycles == run(a, b, plain).cycles


def test_exact_sums_that_no_float64_holds_are_rounded_once():
    a, b = operands("fp16", 3, 3, 64)
    for dataflow in Dataflow:
        done = run(a, b, Array(rows=2, cols=2, pe=WIDE, border_decoders=True), "exact", dataflow)
        assert np.array_equal(done.values, gemm(a, b, "exact"))


def test_integers_round_to_float32_like_fractions():
    rng = np.random.default_rng(0)
    for bits in range(1, 100):
        value = int.from_bytes(rng.bytes(13)) >> (104 - bits)
        for total in (value, -value, (1 << bits) + 1, 3 << bits):
            nearest = [np.float32(float(total >> s << s)) for s in (max(total.bit_length() - 60, 0),)]
            error = abs(int(rounded(total)) - total)
            step = 1 << max(abs(total).bit_length() - 24, 0)
            assert 2 * error <= step
            assert abs(int(nearest[0]) - int(rounded(total))) <= step


def test_many_threads_give_what_one_gives(monkeypatch):
    a, b = operands("int8", 40, 50, 60)
    for dataflow, shadow in product(Dataflow, (False, True)):
        array = Array(rows=4, cols=4, dataflow=dataflow, shadow_registers=shadow, pe=WIDE)
        alone = run(a, b, array)
        with monkeypatch.context() as patch:
            patch.setattr("macloom.sim.cycle.machine.thread_count", lambda: 3)
            patch.setattr("macloom.sim.cycle.machine.SMALLEST_SHARE", 1)
            shared = run(a, b, array)
        assert np.array_equal(alone.values, shared.values)
        assert alone.cycles == shared.cycles


def machine_cycles(dataflow, starts, size, a, b):
    """Run a compiled machine on a program with these starts; return cycles, and whether the values are right."""
    rows, cols = size
    m, n, k = len(a), len(b), a.shape[1]
    zero, no_scales = np.int32(0), np.ones((max(m, n), 1), np.float32)
    common = (rows, cols, True, False, zero, zero, False, np.float32(1), no_scales, no_scales)
    if dataflow is Dataflow.OS:
        plan = os_program(m, n, k, rows, cols, segment=None, chunk=None, scaled=False)
        out = np.zeros((len(plan.folds), rows, cols))
        cycles = os_machine(a, np.ascontiguousarray(b.T), plan.folds, starts(plan), plan.marks, *common, out)
        got = np.zeros((m, n))
        for fold, block in zip(plan.folds, out, strict=True):
            target = got[fold[0] : fold[0] + rows, fold[1] : fold[1] + cols]
            target[...] = block[: target.shape[0], : target.shape[1]]
    else:
        plan = ws_program(m, n, k, rows, cols, segment=None, chunk=None, scaled=False)
        sums, running = np.zeros((1, m, n), np.int32), np.zeros((m, n), np.float32)
        cycles = ws_machine(
            a, np.ascontiguousarray(b.T), plan.folds, starts(plan), plan.marks, *common, False, sums, running
        )
        got = sums[0]
    return cycles, np.array_equal(got, a @ b.T)


@pytest.mark.parametrize("dataflow", [Dataflow.OS, Dataflow.WS])
@pytest.mark.parametrize("k, m", [(3, 8), (9, 12)])
def test_folds_that_start_a_cycle_too_early_are_caught(dataflow, k, m):
    rng = np.random.default_rng(1)
    a, b = (rng.integers(1, 50, (rows, k)).astype(np.int32) for rows in (m, 9))
    assert machine_cycles(dataflow, lambda plan: plan.starts, (4, 3), a, b)[1]
    early = lambda plan: np.maximum(plan.starts - np.arange(len(plan.starts)), 0)  # noqa: E731
    cycles, right = machine_cycles(dataflow, early, (4, 3), a, b)
    assert cycles == HAZARD or not right


MUTANTS = {
    "fill off by one": lambda total, fold, rows: total + 1,
    "drain lost": lambda total, fold, rows: total - rows,
    "fold lost": lambda total, fold, rows: total - fold,
}


@pytest.mark.parametrize("mutant", MUTANTS)
@pytest.mark.parametrize("dataflow", list(Dataflow))
def test_the_machine_refutes_wrong_closed_forms(dataflow, mutant):
    a, b = operands("int8", 9, 7, 11)
    array = Array(rows=4, cols=3, pe=WIDE)
    right = expected_cycles(a, b, array, dataflow)
    fold = product_cycles(dataflow, 1, 1, 1, 4, 3).total
    assert run(a, b, array, dataflow=dataflow).cycles == right != MUTANTS[mutant](right, fold, 4)


def test_pieces_cover_k():
    assert pieces_of(70, 32) == [(0, 32), (32, 64), (64, 70)]
    assert pieces_of(5, None) == [(0, 5)]


@pytest.mark.parametrize("dataflow", list(Dataflow))
def test_speed_is_hundreds_of_millions_of_updates_per_second(dataflow):
    # docs/simulator.md has the measured rates, 0.5 to 2.5e9; this only guards against losing vector code.
    a, b = operands("int8", 128, 128, 512)
    array = Array(rows=64, cols=64, dataflow=dataflow, pe=WIDE)
    run(a, b, array)
    rates = []
    for _ in range(3):
        start = time.process_time()
        done = run(a, b, array)
        rates.append(done.updates / (time.process_time() - start))
    assert max(rates) > 1e8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataflow": "oss"}, "dataflow: unknown name 'oss'; did you mean 'os'"),
        ({"accumulator": "int44x"}, "accumulator"),
        ({"accumulator": "int9:error"}, "narrower than products"),
        ({"accumulator": "block:bf16"}, "has no step form; a single processing element does not hold it"),
        ({"accumulator": "e5m10:order=descending"}, "cycle: an array adds products in ascending order of K"),
    ],
)
def test_bad_arguments(change, message):
    a, b = operands("int8", 2, 2, 4)
    with pytest.raises(MacloomError, match=message):
        run(a, b, Array(rows=2, cols=2, pe=WIDE), **change)


def test_shapes_that_do_not_fit():
    a, b = operands("int8", 2, 2, 4)
    other = operands("int8", 2, 2, 5)[1]
    with pytest.raises(MacloomError, match=r"cycle: needs shapes \(M, K\) and \(N, K\), not \(2, 4\) and \(2, 5\)"):
        run(a, other, Array(rows=2, cols=2, pe=WIDE))
    with pytest.raises(UnsupportedFormat, match="significands of 8 bits, the PEs multiply 4 bits"):
        run(a, b, Array(rows=2, cols=2, pe=ProcessingElement(significand_bits=4)))


def test_an_accumulator_that_refuses_overflow():
    fmt = get_format("int8")
    a = fmt.encode(np.full((1, 40), 127, np.float32))
    with pytest.raises(MacloomError, match="1 of 1 sums overflow the 16-bit accumulator; widen it"):
        run(a, a, Array(rows=2, cols=2, pe=WIDE), "int16:error")


def test_the_plain_machine_refuses_large_products():
    a, b = operands("int8", 64, 64, 512)
    with pytest.raises(MacloomError, match="is stepped in plain Python here, and this product takes about"):
        run(a, b, Array(rows=32, cols=32, pe=WIDE), plain=True)
