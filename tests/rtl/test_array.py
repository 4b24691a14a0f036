"""Arrays in RTL: every value that of `macloom.gemm`, every cycle that of the simulator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import macloom
from macloom.arch import Dataflow
from macloom.errors import MacloomError
from macloom.formats import get_format
from macloom.formats.accumulator import IntegerAccumulator, get_accumulator
from macloom.formats.elements.integer import IntFormat
from macloom.formats.requantize import Activation, Requantize, Scheme, requantized_gemm
from macloom.formats.tensor import Encoded, TensorFormat
from macloom.rtl import verilator
from macloom.rtl.array import output_stationary
from macloom.rtl.array.design import ArrayDesign
from macloom.rtl.array.run import ArraySimulation, array_unit
from macloom.rtl.export import verilog
from macloom.rtl.simulation import check_exhaustively, mismatches, run_unit, some_inputs
from macloom.sim.systolic import array_cycles

CASES = [
    ("int4", "int4", 3, 2, "os", "int32"),
    ("int4", "int4", 3, 2, "ws", "int32"),
    ("ovp4", "ovp4", 4, 3, "os", "int32"),
    ("ovp4", "ovp4", 4, 3, "ws", "int20:saturate,every=mac"),
    ("int4", "int8", 4, 4, "os", "int13:saturate,every=mac"),
    ("int8", "int4", 4, 4, "ws", "int13:wrap"),
    ("ovp4", "int4", 2, 5, "ws", "int32"),
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


def scaled(array: ArrayDesign, sums: np.ndarray, a: Encoded, b: Encoded) -> np.ndarray:
    """Apply the scales to the registers as the arithmetic room does: to float32, then A's, then B's."""
    left, right = a.operand(), b.operand()
    real = np.ldexp(sums.astype(np.float64), array.mac.unit_exponent).astype(np.float32)
    return (real * left.scales.reshape(-1, 1)) * right.scales.reshape(1, -1)


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
        np.testing.assert_array_equal(scaled(array, run.sums, a, b), expected)
        assert run.cycles == array_cycles(array.dataflow, m, n, k, array.rows, array.cols).total


@pytest.mark.slow
@pytest.mark.parametrize("dataflow", ["os", "ws"])
def test_an_array_of_16_by_16_equals_gemm(dataflow):
    array = design("int4", "int4", 16, 16, dataflow, "int24")
    rng = np.random.default_rng(3)
    simulation = ArraySimulation(array)
    for m, n, k in ((16, 16, 16), (33, 20, 40)):
        a, b = matrices(array, m, n, k, rng)
        run = simulation.run(a, b)
        np.testing.assert_array_equal(scaled(array, run.sums, a, b), macloom.gemm(a, b, "int24"))
        assert run.cycles == array_cycles(array.dataflow, m, n, k, 16, 16).total


@pytest.mark.parametrize("dataflow", ["os", "ws"])
def test_the_ports_over_time_equal_the_schedule(dataflow):
    _, wrong = check_exhaustively(array_unit(design("ovp4", "ovp4", 2, 3, dataflow, "int32")), count=3000)
    assert not len(wrong)


@pytest.mark.skipif(not verilator.available(), reason="verilator, g++, make or perl is missing")
def test_verilator_runs_whole_products_alike_and_rejects_a_mutant():
    good = [
        array_unit(design("ovp4", "ovp4", 2, 3, "os", "int32")),
        array_unit(design("int4", "int4", 2, 2, "ws", "int16")),
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
    assert not np.array_equal(scaled(array, run.sums, a, b), macloom.gemm(a, b, "int24"))


def test_designs_that_cannot_be_are_refused():
    with pytest.raises(MacloomError, match="rtl.rows: must be a positive integer, not 0"):
        design("int4", "int4", 0, 2, "os", "int32")
    with pytest.raises(
        MacloomError, match="must be 'os' or 'ws', not 'is'; input-stationary is 'ws' with A and B swapped"
    ):
        design("int4", "int4", 2, 2, "is", "int32")
    with pytest.raises(MacloomError, match="rtl.rows: must be even, so that a pair lies in one fold of K, not 3"):
        design("ovp4", "ovp4", 3, 2, "ws", "int32")
    array = design("int4", "int4", 2, 2, "os", "int32")
    a, b = matrices(design("int8", "int8", 2, 2, "os", "int32"), 2, 2, 2, np.random.default_rng(0))
    with pytest.raises(MacloomError, match="rtl array: is for int4 and int4, not int8 and int8"):
        ArraySimulation(array).run(a, b)


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
        np.testing.assert_array_equal(scaled(array, run.sums.T, b, a), macloom.gemm(b, a, array.accumulator))
        assert run.cycles == array_cycles(Dataflow.IS, m, n, k, 2, 3).total


def test_output_encoders_refuse_what_they_cannot_take():
    layer = Requantize.from_scale(np.array([0.02, 0.03]), IntFormat(width=8))
    with pytest.raises(MacloomError, match="output encoders take sums of up to 32 bits, not 40"):
        replace(design("int8", "int8", 2, 2, "os", "int40"), epilogue=layer)
    array = replace(design("int8", "int8", 2, 2, "os", "int32"), epilogue=layer)
    with pytest.raises(MacloomError, match="the epilogue has 2 output channels, and the product 3"):
        ArraySimulation(array).run(*matrices(array, 2, 3, 2, np.random.default_rng(0)))
