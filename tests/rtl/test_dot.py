"""Dot units of blocks and float registers in gates, against `macloom.gemm` and the definitions in fractions."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

import macloom
from macloom.errors import MacloomError
from macloom.formats import get_accumulator, get_format
from macloom.formats.accumulator import BlockAccumulator
from macloom.formats.accumulators.reference import nearest_float32
from macloom.formats.tensors.block import Block
from macloom.rtl.float_units import adder, rounder, sums_of_all_lengths, to_float32
from macloom.rtl.floats import FP32_REGISTER, FloatRegister, register_of
from macloom.rtl.pe.block_dot import BlockDot, block_dot, block_dot_step
from macloom.rtl.pe.products import dot_products, scaled
from macloom.rtl.simulation import check_exhaustively, mismatches, run_unit, some_inputs


def register(text: str) -> FloatRegister:
    return register_of(get_accumulator(text))  # type: ignore[arg-type]


def block_design(a: str, accumulator: str, b: str | None = None) -> BlockDot:
    left, right, chosen = get_format(a), get_format(b or a), get_accumulator(accumulator)
    assert isinstance(left, Block)
    assert isinstance(right, Block)
    assert isinstance(chosen, BlockAccumulator)
    return BlockDot(a=left, b=right, accumulator=chosen)


# -- float arithmetic -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["fp32", "bf16", "fp16", "e4m3", "e4m3:saturate", "e3m2:to_odd", "e2m1:toward_zero", "e8m7:nearest_away"]
)
def test_adders_equal_the_registers_of_the_arithmetic_room(text):
    tried, wrong = check_exhaustively(adder(register(text)), count=5000)
    assert tried >= min(5000, 1 << 2 * register(text).bits)
    assert not len(wrong)


def test_adders_equal_numpy_on_all_kinds_of_float32():
    unit = adder(FP32_REGISTER)
    inputs = some_inputs(unit, 5000, seed=7)
    a, b = (inputs[n].astype(np.uint32).view(np.float32) for n in "ab")
    with np.errstate(all="ignore"):
        expected = a + b
    made = run_unit(unit, inputs)["y"].astype(np.uint32).view(np.float32)
    np.testing.assert_array_equal(made, expected)
    np.testing.assert_array_equal(np.signbit(made), np.signbit(expected) & ~np.isnan(expected))


@pytest.mark.parametrize("text", ["fp32", "bf16", "e5m10", "e4m3", "e2m1"])
def test_codes_of_registers_are_those_of_their_values(text):
    shape = register(text)
    codes = np.arange(1 << min(shape.bits, 16))
    values = shape.values_of(codes)
    known = ~np.isnan(values)
    np.testing.assert_array_equal(shape.codes_of(values)[known], codes[known])


@pytest.mark.parametrize("bits, unit_exponent", [(20, -3), (24, 0), (25, 0), (78, -32), (200, -160)])
def test_rounders_equal_fractions_rounded_once(bits, unit_exponent):
    sums = sums_of_all_lengths(bits, 600, seed=3)
    expected = [float(nearest_float32(Fraction(int(s)) * Fraction(2) ** unit_exponent)) for s in sums.tolist()]
    np.testing.assert_array_equal(to_float32(sums, unit_exponent), np.array(expected, np.float32))
    unit = rounder(bits, unit_exponent)
    codes = run_unit(unit, {"sum": sums})["y"]
    assert not len(mismatches(unit, {"sum": sums}, {"y": codes}))


def test_an_adder_with_another_rounding_is_noticed():
    unit = adder(register("e4m3"))
    other = adder(register("e4m3:nearest_away"))
    inputs = some_inputs(unit, 3000)
    assert len(mismatches(unit, inputs, run_unit(other, inputs)))


# -- blocks ---------------------------------------------------------------------------------------------------------

BLOCKS = [
    ("mxfp4:block=4", "block:fp32"),
    ("mxfp4:block=4", "block:bf16"),
    ("mxfp6_e2m3:block=2", "block:fp16"),
    ("mxfp6_e3m2:block=4", "block:fp32,inner=int20"),
    ("mxfp8_e4m3:block=2", "block:fp32"),
    ("mxfp8_e5m2:block=2", "block:fp32"),
    ("mxfp8_e5m2:block=2", "block:e8m10:toward_zero"),
    ("mxint8:block=4", "block:fp32,inner=int16:saturate"),
    ("bfp8:block=2", "block:e4m3:saturate"),
    ("nvfp4", "block:fp32,size=4"),
    ("nvfp4", "block:bf16,size=4"),
]


@pytest.mark.parametrize("name, accumulator", BLOCKS, ids=lambda x: str(x))
def test_one_step_of_a_block_equals_the_register_of_the_accumulator(name, accumulator):
    _, wrong = check_exhaustively(block_dot_step(block_design(name, accumulator)), count=350)
    assert not len(wrong)


PRODUCTS = [
    ("mxfp4:block=4", "mxfp8_e4m3:block=4", "block:fp32"),
    ("mxfp8_e5m2:block=2", "mxfp8_e5m2:block=2", "block:fp32"),
    ("mxint8:block=4", "mxint8:block=4", "block:bf16,order=descending"),
    ("bfp8:block=4", "mxfp6_e3m2:block=4", "block:fp16"),
    ("nvfp4", "nvfp4", "block:fp32"),
    ("nvfp4", "nvfp4", "block:bf16,size=8"),
]


def spread(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    x = rng.standard_normal(shape) * np.exp2(rng.integers(-5, 6, shape))
    x[:, shape[1] // 2 :] *= -1.0
    return x.astype(np.float32)


@pytest.mark.parametrize("a, b, accumulator", PRODUCTS)
def test_products_of_matrices_in_blocks_equal_gemm(a, b, accumulator):
    design, rng = block_design(a, accumulator, b), np.random.default_rng(5)
    left, right = design.a.encode(spread(rng, (3, 50))), design.b.encode(spread(rng, (4, 50)))
    run = dot_products(design, left, right)
    expected = macloom.gemm(left, right, accumulator)
    np.testing.assert_array_equal(scaled(design, run, left, right), expected)
    assert run.cycles == 12 * -(-50 // design.size)


def test_a_running_block_unit_equals_its_model():
    unit = block_dot(block_design("mxfp4:block=2", "block:fp32"))
    inputs = some_inputs(unit, 300)
    assert not len(mismatches(unit, inputs, run_unit(unit, inputs)))


def test_a_block_unit_that_rounds_ties_another_way_is_noticed():
    design = block_design("mxfp4:block=2", "block:bf16")
    unit = block_dot_step(design)
    other = block_dot_step(replace(design, accumulator=get_accumulator("block:e8m7:nearest_away")))
    inputs = some_inputs(unit, 400)
    assert len(mismatches(unit, inputs, run_unit(other, inputs)))


# -- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: block_design("mxfp4", "block:fp32", "nvfp4"), "have blocks of 32 and 16 elements"),
        (lambda: block_design("mxfp4", "block:fp32,size=12"), "must divide blocks of 32 elements, not 12"),
        (lambda: block_design("mxfp4", "block:fp32,inner=int20:saturate,every=mac"), "a tree of adders wraps, or satu"),
        (lambda: FloatRegister(exponent_bits=9, mantissa_bits=3), "a float register has 2 to 8 exponent bits"),
    ],
)
def test_units_that_cannot_be_say_why(make, message):
    with pytest.raises(MacloomError, match=message):
        make()


def test_matrices_of_another_format_are_refused():
    design = block_design("mxfp4:block=4", "block:fp32")
    x = get_format("mxfp8_e4m3:block=4").encode(np.ones((2, 4), np.float32))
    with pytest.raises(MacloomError, match="rtl dot unit: is for mxfp4:block=4 and mxfp4:block=4, not"):
        dot_products(design, x, x)
