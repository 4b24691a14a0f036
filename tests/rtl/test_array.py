"""Arrays in RTL: every value that of `macloom.gemm`, every cycle that of the simulator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import macloom
from macloom.arch import Dataflow
from macloom.errors import MacloomError
from macloom.formats import get_format, list_formats
from macloom.formats.accumulator import BlockAccumulator, FloatAccumulator, IntegerAccumulator, get_accumulator
from macloom.formats.elements.integer import IntFormat
from macloom.formats.requantize import Activation, Requantize, Scheme, requantized_gemm
from macloom.formats.tensor import Encoded, TensorFormat
from macloom.rtl import verilator
from macloom.rtl.array import output_stationary
from macloom.rtl.array.design import ArrayDesign
from macloom.rtl.array.run import ArraySimulation, array_unit
from macloom.rtl.catalog import UNITS, Shape, build
from macloom.rtl.emit import emit
from macloom.rtl.export import verilog
from macloom.rtl.floats import register_of
from macloom.rtl.simulation import check_exhaustively, mismatches, run_unit, some_inputs
from macloom.sim.systolic import array_cycles, product_cycles

CASES = [
    ("int4", "int4", 3, 2, "os", "int32"),
    ("int4", "int4", 3, 2, "ws", "int32"),
    ("ovp4", "ovp4", 4, 3, "os", "int32"),
    ("ovp4", "ovp4", 4, 3, "ws", "int20:saturate,every=mac"),
    ("int4", "int8", 4, 4, "os", "int13:saturate,every=mac"),
    ("int8", "int4", 4, 4, "ws", "int13:wrap"),
    ("ovp4", "int4", 2, 5, "ws", "int32"),
    ("ovp4", "ovp4", 3, 2, "ws", "int32"),
    ("int8", "ovp8", 1, 2, "ws", "int50"),
    ("fp8_e4m3", "fp4_e2m1", 1, 1, "os", "int40"),
    ("flint4", "flint4", 2, 6, "os", "int24"),
    ("pot4", "int8", 5, 3, "ws", "int32"),
    ("ternary", "int8", 3, 4, "os", "int24"),
]


def design(a: str, b: str, rows: int, cols: int, dataflow: str, accumulator: str) -> ArrayDesign:
    register = get_accumulator(accumulator)
    assert isinstance(register, IntegerAccumulator)
    return ArrayDesign(
        a=get_format(a), b=get_format(b), rows=rows, cols=cols, dataflow=Dataflow(dataflow), accumulator=register
    )


def matrices(array: ArrayDesign, m: int, n: int, k: int, rng: np.random.Generator) -> tuple[Encoded, Encoded]:
    def encoded(fmt: TensorFormat, lines: int) -> Encoded:
        x = rng.standard_normal((lines, k)) * np.where(rng.random((lines, k)) < 0.1, 12.0, 1.0)
        return fmt.encode(x.astype(np.float32))

    return encoded(array.a, m), encoded(array.b, n)


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(map(str, c)))
def test_tiled_products_equal_gemm_and_take_the_cycles_of_the_simulator(case):
    array = design(*case)
    simulation = ArraySimulation(array)
    rng = np.random.default_rng(sum(map(ord, str(case))))
    sizes = [(1, 1, 1), (array.rows, array.cols, array.rows), (array.rows + 1, 2 * array.cols + 1, array.rows + 3)]
    sizes += [tuple(int(s) for s in rng.integers(1, 14, 3)) for _ in range(3)]
    for m, n, k in sizes:
        a, b = matrices(array, m, n, k, rng)
        run = simulation.run(a, b)
        expected = macloom.gemm(a, b, array.accumulator)
        np.testing.assert_array_equal(run.product, expected)
        assert run.cycles == array_cycles(array.dataflow, m, n, k, array.rows, array.cols).total


BLOCKS = [
    ("mxfp4", "mxfp4", "os", "int32"),
    ("mxfp8_e4m3:block=8", "mxfp4:block=16", "ws", "int48"),
    ("nvfp4", "nvfp4", "ws", "int32"),
    ("bfp4", "bfp4", "os", "int8:saturate,every=mac"),
    ("int4:group=8", "int4:group=4", "os", "int24"),
    ("int8", "mxint8:block=6", "ws", "int32"),
    ("ovp4:group=10", "ovp4", "ws", "int32"),
    ("ovp4:group=10", "int4", "os", "int32"),
]


@pytest.mark.parametrize("case", BLOCKS, ids=lambda c: "-".join(map(str, c)))
def test_products_of_block_formats_equal_gemm_and_take_the_cycles_of_the_simulator(case):
    a_name, b_name, dataflow, accumulator = case
    array = design(a_name, b_name, 3, 2, dataflow, accumulator)
    simulation, block = ArraySimulation(array), array.scale_block
    assert block is not None
    rng = np.random.default_rng(sum(map(ord, str(case))))
    for m, n, k in ((4, 3, 80), (2, 5, 40), (1, 1, 3)):
        a, b = matrices(array, m, n, k, rng)
        run = simulation.run(a, b)
        np.testing.assert_array_equal(run.product, macloom.gemm(a, b, array.accumulator))
        assert run.segment == min(block, k)
        assert run.parts.shape == (-(-k // run.segment), m, n)
        assert run.cycles == product_cycles(array.dataflow, m, n, k, 3, 2, segment=run.segment).total
        if k > run.segment:
            with pytest.raises(
                MacloomError, match=f"has sums for each of {len(run.parts)} segments of K; take `parts`"
            ):
                _ = run.sums
    assert array.facts["scale_block"] == block
    assert f"in runs of at most {block}, whose sums are scaled" in str(array.facts["scales"])


SCALED = [
    ("mxfp4", "mxfp4", "os", "block:fp32"),
    ("mxfp8_e4m3:block=8", "mxfp4:block=16", "ws", "block:bf16"),
    ("nvfp4", "nvfp4", "ws", "block:fp32"),
    ("bfp4", "bfp4", "os", "block:e8m10:toward_zero"),
]


@pytest.mark.parametrize("case", SCALED, ids=lambda c: "-".join(map(str, c)))
def test_arrays_that_scale_blocks_at_the_border_equal_gemm_and_take_the_cycles_of_the_simulator(case):
    """All of a tiled product of block formats in hardware: products, scales, and the sums of blocks."""
    a_name, b_name, dataflow, name = case
    accumulator = get_accumulator(name)
    assert isinstance(accumulator, BlockAccumulator)
    plain = design(a_name, b_name, 2, 2, dataflow, "int48")
    array = replace(plain, outer=register_of(accumulator.outer))
    simulation = ArraySimulation(array)
    rng = np.random.default_rng(sum(map(ord, str(case))))
    for m, n, k in ((3, 3, 80), (1, 5, 40), (1, 1, 3)):
        a, b = matrices(array, m, n, k, rng)
        run = simulation.run(a, b)
        np.testing.assert_array_equal(run.product, macloom.gemm(a, b, accumulator))
        assert run.cycles == product_cycles(array.dataflow, m, n, k, 2, 2, segment=run.segment).total
    assert str(array.facts["scales"]).startswith("applied at the border, a run of at most")
    inputs = some_inputs(simulation.unit, 80)
    out = run_unit(simulation.unit, inputs)
    assert not len(mismatches(simulation.unit, inputs, out))
    # Another column's total is noticed.
    out["total1"] = out["total0"]
    assert len(mismatches(simulation.unit, inputs, out))
    assert array.module == f"{plain.module}_{array.outer.name if array.outer else None}"


def test_what_scales_no_blocks_at_the_border_is_refused():
    register = register_of(FloatAccumulator())
    with pytest.raises(MacloomError, match="'block:...' is for formats with block scales, not 'int8'"):
        replace(design("mxfp4", "int8", 2, 2, "os", "int32"), outer=register)
    layer = Requantize.from_scale(0.02, IntFormat(width=8))
    with pytest.raises(MacloomError, match="output encoders for integers or a float register for blocks, not both"):
        replace(design("mxfp4", "mxfp4", 2, 2, "os", "int32"), outer=register, epilogue=layer)
    for name in ("block:fp32,size=4", "block:fp32,order=descending"):
        with pytest.raises(MacloomError, match="arrays add whole blocks in ascending order, not as 'block:fp32,"):
            build(get_format("mxfp4"), "array", Shape(rows=2, cols=2, accumulator=get_accumulator(name)))
    unit = build(get_format("mxfp4"), "array", Shape(rows=2, cols=2, accumulator=get_accumulator("block:bf16")))
    assert unit.module == "mxfp4_os_array_2x2_e8m7"


def test_summing_all_of_k_without_the_scales_of_blocks_is_noticed():
    """What the array did before: one run over all of K, whose sum no single scale makes right."""
    array = design("mxfp4", "mxfp4", 2, 2, "os", "int32")
    a, b = matrices(array, 3, 3, 64, np.random.default_rng(5))
    run = ArraySimulation(array).run(a, b)
    scales = a.operand().scales[:, :1] * b.operand().scales[:, 0]
    whole = np.ldexp(run.parts.sum(axis=0).astype(np.float64), array.mac.unit_exponent) * scales
    assert not np.array_equal(whole.astype(np.float32), macloom.gemm(a, b, "int32"))


@pytest.mark.parametrize("dataflow", ["os", "ws"])
@pytest.mark.parametrize("name", ["int2", "int4", "ternary"])
def test_products_of_every_pair_of_stored_codes_equal_gemm(name, dataflow):
    """Those that no encoder writes, too, such as -2 of int2, which other tools store."""
    array = design(name, name, 2, 2, dataflow, "int24")
    fmt = get_format(name)
    codes = np.flatnonzero(np.isfinite(fmt.element.values)).astype(np.uint8)
    grid = np.repeat(codes, len(codes)), np.tile(codes, len(codes))
    one = fmt.encode(np.ones((2, len(grid[0])), np.float32))
    a, b = (replace(one, elements=np.stack((row, row[::-1]))) for row in grid)
    np.testing.assert_array_equal(ArraySimulation(array).run(a, b).product, macloom.gemm(a, b, "int24"))


@pytest.mark.parametrize("dataflow", ["os", "ws"])
def test_formats_without_blocks_say_that_one_scale_is_left(dataflow):
    facts = design("int4", "int8", 2, 2, dataflow, "int32").facts
    assert facts["scale_block"] is None
    assert str(facts["scales"]).startswith("not applied; the scales of a row of A and a row of B multiply")
    assert (facts["code_bits"], facts["code_bits_b"], facts["exponent_offset"]) == (4, 8, 0)


@pytest.mark.slow
@pytest.mark.parametrize("dataflow", ["os", "ws"])
def test_an_array_of_16_by_16_equals_gemm(dataflow):
    array = design("int4", "int4", 16, 16, dataflow, "int24")
    rng = np.random.default_rng(3)
    simulation = ArraySimulation(array)
    for m, n, k in ((16, 16, 16), (33, 20, 40)):
        a, b = matrices(array, m, n, k, rng)
        run = simulation.run(a, b)
        np.testing.assert_array_equal(run.product, macloom.gemm(a, b, "int24"))
        assert run.cycles == array_cycles(array.dataflow, m, n, k, 16, 16).total


@pytest.mark.parametrize("rows", [2, 3])
@pytest.mark.parametrize("dataflow", ["os", "ws"])
def test_the_ports_over_time_equal_the_schedule(dataflow, rows):
    unit = array_unit(design("ovp4", "ovp4", rows, 3, dataflow, "int32"))
    assert ("odd" in {port.name for port in unit.inputs}) == (dataflow == "ws" and rows == 3)
    _, wrong = check_exhaustively(unit, count=2000)
    assert not len(wrong)


@pytest.mark.parametrize("dataflow", ["os", "ws"])
@pytest.mark.parametrize("empty", ["depth", "row_folds", "col_folds"])
def test_an_empty_product_is_done_at_once_and_the_next_one_runs(dataflow, empty):
    unit = array_unit(design("int4", "int4", 2, 2, dataflow, "int32"))
    sizes = {"depth": 3, "row_folds": 1, "col_folds": 2}
    steps = 60
    inputs = {port.name: np.zeros(steps, np.int64) for port in unit.inputs}
    inputs["start"][[0, 1]] = 1
    for name, value in sizes.items():
        inputs[name][:2] = 0 if name == empty else value, value
    out = run_unit(unit, inputs)
    assert out["busy"][:3].tolist() == [0, 0, 1]
    assert out["done"][:3].tolist() == [0, 1, 0]
    assert out["busy"].sum() == 2 * (3 + 2 * 2 + 2 - 2)
    assert out["done"].sum() == 2
    assert not len(mismatches(unit, inputs, out))


def test_every_format_of_the_catalog_that_offers_an_array_has_vectors_that_it_meets(tmp_path):
    """One-sided formats, too, and every code that an element may have."""
    seen, offered = set(), 0
    for name in list_formats():
        try:
            unit = UNITS.get("array").build(get_format(name), Shape(rows=2, cols=2))
        except MacloomError:
            continue
        offered += 1
        element = get_format(name).element
        if (kind := (unit.facts["code_bits"], element)) in seen:
            continue
        seen.add(kind)
        files = emit(unit, tmp_path / name, vectors=40)
        assert len(files[f"{unit.module}_vectors.hex"].read_text().splitlines()) >= 40
        inputs = some_inputs(unit, 30)
        assert not len(mismatches(unit, inputs, run_unit(unit, inputs))), name
    assert offered > 50
    assert len(seen) > 25


@pytest.mark.skipif(not verilator.available(), reason="verilator, g++, make or perl is missing")
def test_verilator_runs_whole_products_alike_and_rejects_a_mutant():
    good = [
        array_unit(design("ovp4", "ovp4", 2, 3, "os", "int32")),
        array_unit(design("int4", "int4", 2, 2, "ws", "int16")),
        array_unit(design("ovp4", "int4", 3, 1, "ws", "int16")),
        array_unit(replace(design("mxfp4", "mxfp4", 1, 1, "os", "int24"), outer=register_of(FloatAccumulator()))),
    ]
    late = array_unit(design("int4", "int4", 3, 2, "os", "int16"))
    mutant = replace(late, circuit=array_unit(design("int4", "int4", 3, 2, "os", "int8")).circuit, outputs=late.outputs)
    assert all(verilator.lint(verilog(unit)) == [] for unit in good)
    verdicts = verilator.cross_simulate(good, count=1500)
    assert {v.split()[0] for v in verdicts.values()} == {"PASS"}
    with pytest.raises(MacloomError, match="its circuit makes"):
        verilog(mutant)


def test_an_array_that_drains_a_cycle_early_is_noticed(monkeypatch):
    monkeypatch.setattr(output_stationary, "overhead", lambda d: 2 * d.rows + d.cols - 3)
    array = design("int4", "int4", 3, 2, "os", "int24")
    a, b = matrices(array, 4, 3, 5, np.random.default_rng(0))
    run = ArraySimulation(array).run(a, b)
    assert run.cycles != array_cycles(Dataflow.OS, 4, 3, 5, 3, 2).total
    assert not np.array_equal(run.product, macloom.gemm(a, b, "int24"))


def test_designs_that_cannot_be_are_refused():
    with pytest.raises(MacloomError, match="rtl.rows: must be a positive integer, not 0"):
        design("int4", "int4", 0, 2, "os", "int32")
    with pytest.raises(
        MacloomError, match="must be 'os' or 'ws', not 'is'; input-stationary is 'ws' with A and B swapped"
    ):
        design("int4", "int4", 2, 2, "is", "int32")
    with pytest.raises(
        MacloomError, match="rtl.rows: must give at most 4096 elements, not 100000 x 8; cut the product"
    ):
        design("int4", "int4", 100000, 8, "os", "int32")
    array = design("int4", "int4", 2, 2, "os", "int32")
    a, b = matrices(design("int8", "int8", 2, 2, "os", "int32"), 2, 2, 2, np.random.default_rng(0))
    simulation = ArraySimulation(array)
    with pytest.raises(MacloomError, match="rtl array: is for int4 and int4, not int8 and int8"):
        simulation.run(a, b)
    a, b = (
        get_format("int4").encode(np.ones((2, 4), np.float32)),
        get_format("int4").encode(np.ones((2, 5), np.float32)),
    )
    with pytest.raises(
        MacloomError, match=r"needs shapes \(..., M, K\) and \(..., N, K\), not \(2, 4\) .* and \(2, 5\)"
    ):
        simulation.run(a, b)
    c = get_format("int4").encode(np.ones((2, 2, 4), np.float32))
    with pytest.raises(MacloomError, match=r"multiplies matrices with elements, not \(2, 2, 4\) and \(2, 2, 4\)"):
        simulation.run(c, c)


def test_codes_that_are_no_numbers_and_segments_that_cut_pairs_are_refused():
    fmt = get_format("fp8_e4m3")
    a = fmt.encode(np.array([[1, 2], [3, 4]], np.float32))
    bad = replace(a, elements=np.array([[0x38, 0x7F], [0x40, 0xFF]], np.uint8))
    with pytest.raises(
        MacloomError, match="rtl array: 2 codes of 'fp8_e4m3' are NaN or infinite, which the elements take"
    ):
        ArraySimulation(design("fp8_e4m3", "fp8_e4m3", 1, 1, "os", "int45")).run(a, bad)
    array = design("ovp4", "int4:group=3", 1, 1, "os", "int32")
    with pytest.raises(MacloomError, match="segments of K must hold whole pairs, and scales change every 3"):
        ArraySimulation(array).run(*matrices(array, 1, 1, 6, np.random.default_rng(0)))
    layer = Requantize.from_scale(0.02, IntFormat(width=8))
    array = replace(design("int8:group=2", "int8:group=2", 1, 1, "os", "int32"), epilogue=layer)
    with pytest.raises(MacloomError, match="output encoders take whole sums, and scales change every 2"):
        ArraySimulation(array).run(*matrices(array, 1, 1, 6, np.random.default_rng(0)))


@pytest.mark.parametrize("dataflow", ["os", "ws"])
@pytest.mark.parametrize("scheme", list(Scheme))
def test_encoded_outputs_of_tiled_products_equal_requantized_gemm(dataflow, scheme):
    rng = np.random.default_rng(6)
    n, output = 7, IntFormat(width=8)
    scales = np.exp(rng.uniform(-7, -2, n))
    channels = Requantize.from_scale(
        scales, output, scheme=scheme, zero_point=-5, bias=tuple(int(b) for b in rng.integers(-900, 900, n))
    )
    array = replace(design("int8", "int8", 2, 3, dataflow, "int32"), epilogue=channels)
    simulation = ArraySimulation(array)
    for m, k in ((1, 1), (5, 6)):
        a, b = matrices(array, m, n, k, rng)
        run = simulation.run(a, b)
        np.testing.assert_array_equal(run.codes, requantized_gemm(a, b, channels))
        assert run.cycles == array_cycles(array.dataflow, m, n, k, 2, 3).total
    assert array.module == f"int8_{dataflow}_array_2x3_to_int8"


def test_the_ports_of_an_array_with_output_encoders_equal_the_schedule():
    layer = Requantize.from_scale(0.02, IntFormat(width=4), activation=Activation.RELU)
    array = replace(design("ovp4", "int4", 2, 2, "os", "int24"), epilogue=layer)
    unit = array_unit(array)
    _, wrong = check_exhaustively(unit, count=400)
    assert not len(wrong)
    other = array_unit(replace(array, epilogue=replace(layer, scheme=Scheme.FLOOR)))
    inputs = some_inputs(unit, 400)
    assert len(mismatches(unit, inputs, run_unit(other, inputs)))


def test_input_stationary_products_are_weight_stationary_ones_of_swapped_operands():
    array = design("int8", "int4", 2, 3, "ws", "int24")
    rng = np.random.default_rng(2)
    for m, n, k in ((4, 5, 7), (1, 3, 2)):
        a, b = matrices(array, n, m, k, rng)
        run = ArraySimulation(array).run(a, b)  # the product's A, here B, stays in the array
        real = np.ldexp(run.sums.T.astype(np.float64), array.mac.unit_exponent).astype(np.float32)
        scaled = real * b.operand().scales * a.operand().scales.T  # the product's A first
        np.testing.assert_array_equal(scaled, macloom.gemm(b, a, array.accumulator))
        assert run.cycles == array_cycles(Dataflow.IS, m, n, k, 2, 3).total


def test_output_encoders_refuse_what_they_cannot_take():
    layer = Requantize.from_scale(np.array([0.02, 0.03]), IntFormat(width=8))
    with pytest.raises(MacloomError, match="output encoders take sums of up to 32 bits, not 40"):
        replace(design("int8", "int8", 2, 2, "os", "int40"), epilogue=layer)
    array = replace(design("int8", "int8", 2, 2, "os", "int32"), epilogue=layer)
    with pytest.raises(MacloomError, match="the epilogue has 2 output channels, and the product 3"):
        ArraySimulation(array).run(*matrices(array, 2, 3, 2, np.random.default_rng(0)))
