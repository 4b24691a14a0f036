"""Block encoders, the Hadamard transform, fused multipliers and the requantizer in gates."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import get_accumulator, get_format
from macloom.formats.elements.integer import IntFormat
from macloom.formats.elements.minifloat import BF16, FP16, FP32
from macloom.formats.policy import Overflow, Rounding
from macloom.formats.requantize import Requantize, Scheme, requantize_reference
from macloom.formats.tensors.block import Block
from macloom.rtl import verilator
from macloom.rtl.catalog import Shape, build
from macloom.rtl.epilogue import output_encoder
from macloom.rtl.export import verilog
from macloom.rtl.float_units import rounder
from macloom.rtl.formats.block_encoder import block_encoder
from macloom.rtl.formats.encoder import encoder
from macloom.rtl.formats.hadamard import hadamard
from macloom.rtl.formats.scaled_encoder import scaled_encoder
from macloom.rtl.pe.fused import fused_multiplier
from macloom.rtl.requantizer import ROUNDINGS, requantizer
from macloom.rtl.simulation import check_exhaustively, mismatches, run_unit, some_inputs
from macloom.rtl.unit import Unit

INT8 = IntFormat(width=8)
BLOCKS = [
    *("mxfp4:block=3", "mxfp4:block=3,rule=ceil", "mxfp4:block=3,rule=even", "mxfp8_e4m3:block=3,rule=even"),
    *("mxfp8_e5m2:block=3", "mxfp6_e3m2:block=3,rule=ceil", "mxint8:block=3", "bfp4:block=3", "bfp8:block=3"),
]


def encoder_of(name: str, source=BF16) -> Unit:
    fmt = get_format(name)
    assert isinstance(fmt, Block)
    return block_encoder(fmt, source)


def float_scaled(name: str, source=BF16) -> Unit:
    fmt = get_format(name)
    assert isinstance(fmt, Block)
    return scaled_encoder(fmt, source)


@pytest.mark.parametrize("source", [BF16, FP16, FP32], ids=lambda s: s.name)
@pytest.mark.parametrize("name", BLOCKS)
def test_block_encoders_equal_the_format(name, source):
    _, wrong = check_exhaustively(encoder_of(name, source), count=4000)
    assert not len(wrong)


def test_a_whole_mx_block_equals_the_format():
    _, wrong = check_exhaustively(encoder_of("mxfp4:block=16"), count=1000)
    assert not len(wrong)


@pytest.mark.parametrize("source", [BF16, FP16], ids=lambda s: s.name)
@pytest.mark.parametrize("name", ["nvfp4", "nvfp4:block=3"])
def test_encoders_of_blocks_with_float_scales_equal_the_format(name, source):
    _, wrong = check_exhaustively(float_scaled(name, source), count=4000)
    assert not len(wrong)


@pytest.mark.parametrize("source", [BF16, FP16], ids=lambda s: s.name)
def test_every_operand_under_many_float_scales_equals_the_format(source):
    unit = float_scaled("nvfp4:block=2", source)
    largest = np.flatnonzero(np.isfinite(source.values[: 1 << 15]))
    codes = unit.model({"x0": largest, "x1": np.zeros(len(largest), np.int64)})["scale"]
    first = largest[np.unique(codes, return_index=True)[1]]
    assert len(first) == 119  # all scales
    first, every = first[::11], np.arange(1 << 16)
    inputs = {"x0": np.repeat(first, len(every)), "x1": np.tile(every, len(first))}
    assert not len(mismatches(unit, inputs, run_unit(unit, inputs)))


def test_a_float_scale_that_is_one_code_off_is_noticed():
    unit, other = float_scaled("nvfp4:block=3"), encoder_of("mxfp4:block=3")
    inputs = some_inputs(unit, 2000)
    made = run_unit(unit, inputs)
    assert not len(mismatches(unit, inputs, made))
    assert len(mismatches(unit, inputs, run_unit(other, inputs)))


def test_a_block_encoder_with_another_rule_is_noticed():
    floor, ceil = (encoder_of(f"mxfp4:block=3,rule={rule}") for rule in ("floor", "ceil"))
    inputs = some_inputs(floor, 4000)
    assert len(mismatches(floor, inputs, run_unit(ceil, inputs)))


@pytest.mark.parametrize("size, width", [(2, 8), (4, 4), (8, 12), (32, 8)])
def test_the_transform_equals_the_hadamard_matrix_and_inverts_itself(size, width):
    unit = hadamard(size, width)
    inputs = some_inputs(unit, 1000)
    outputs = run_unit(unit, inputs)
    assert not len(mismatches(unit, inputs, outputs))
    y = np.stack([outputs[f"y{i}"] for i in range(size)])
    signs = np.array([[(-1) ** (i & j).bit_count() for j in range(size)] for i in range(size)])
    np.testing.assert_array_equal(signs @ y, size * np.stack([inputs[f"x{i}"] for i in range(size)]))


@pytest.mark.parametrize("half", [2, 3, 4])
def test_four_narrow_multipliers_are_one_wide_one(half):
    _, wrong = check_exhaustively(fused_multiplier(half))
    assert not len(wrong)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_the_requantizer_equals_exact_fractions(rounding):
    unit = requantizer(rounding=rounding)
    inputs = some_inputs(unit, 4000)
    # Ties and small results are rare among random operands.
    rng = np.random.default_rng(1)
    small = np.arange(4000) % 2 == 0
    inputs["sum"] = np.where(small, rng.integers(-600, 600, 4000), inputs["sum"])
    inputs["multiplier"] = np.where(small, rng.integers(0, 8, 4000), inputs["multiplier"])
    inputs["shift"] = np.where(small, rng.integers(0, 6, 4000), inputs["shift"])
    codes = run_unit(unit, inputs)["code"]
    assert not len(mismatches(unit, inputs, {"code": codes}))
    for total, multiplier, shift, code in zip(
        *(inputs[n].tolist() for n in ("sum", "multiplier", "shift")), codes, strict=True
    ):
        exact = abs(Fraction(total * multiplier, 1 << shift))
        floor, rest = exact // 1, exact % 1
        up = {
            Rounding.NEAREST_EVEN: rest > Fraction(1, 2) or (rest == Fraction(1, 2) and floor % 2 == 1),
            Rounding.NEAREST_AWAY: rest >= Fraction(1, 2),
            Rounding.TOWARD_ZERO: False,
        }[rounding]
        assert code == (max(-128, -(floor + up)) if total < 0 else min(127, floor + up))


@pytest.mark.parametrize("scheme", list(Scheme))
def test_output_encoders_equal_the_reference_of_requantization(scheme):
    layer = Requantize.from_scale(0.01, IntFormat(width=8), scheme=scheme, zero_point=7, least=-100)
    unit = output_encoder(layer)
    inputs = some_inputs(unit, 3000)
    codes = run_unit(unit, inputs)["code"]
    assert not len(mismatches(unit, inputs, {"code": codes}))
    legal = unit.cares(inputs)["code"] if unit.cares else np.ones(3000, bool)
    for total, multiplier, shift, bias, code, known in zip(
        *(inputs[n].tolist() for n in ("sum", "multiplier", "shift", "bias")), codes.tolist(), legal, strict=True
    ):
        one = replace(layer, multiplier=multiplier, shift=shift, bias=bias) if known else None
        assert one is None or code == requantize_reference(total, one)
    other = output_encoder(replace(layer, scheme=Scheme.FLOOR if scheme is Scheme.EVEN else Scheme.EVEN))
    assert len(mismatches(unit, inputs, run_unit(other, inputs)))


@pytest.mark.skipif(not verilator.available(), reason="verilator, g++, make or perl is missing")
def test_verilator_agrees_on_every_unit_and_rejects_a_mutant():
    good = [encoder_of("mxfp4:block=3"), hadamard(8, 8), fused_multiplier(), requantizer()]
    layer = Requantize.from_scale(0.01, IntFormat(width=8))
    good += [float_scaled("nvfp4:block=3"), output_encoder(layer), build(get_format("ovp4"), "encoder")]
    good += [build(get_format(name), "decoder") for name in ("kmeans:bits=2", "dgq4", "biscaled6")]
    good += [encoder(get_format(name).element, FP32) for name in ("fp8_e4m3", "posit8_1")]
    good += [build(get_format("mxfp4"), "scale-decoder"), encoder(INT8, FP32, None, Overflow.WRAP)]
    good += [build(get_format("fp8_e5m2"), "pe"), rounder(78, -32), *dot_units()]
    pairs = {
        "mutant": (requantizer(), requantizer(rounding=Rounding.TOWARD_ZERO)),
        "mutant_scale": (float_scaled("nvfp4:block=3"), encoder_of("mxfp4:block=3")),
        "mutant_float32": (encoder(INT8, FP32), encoder(INT8, FP32, Rounding.NEAREST_AWAY)),
        "mutant_wrap": (encoder(INT8, FP32, None, Overflow.WRAP), encoder(INT8, FP32)),
        "mutant_layer": (output_encoder(layer), output_encoder(replace(layer, scheme=Scheme.FLOOR))),
        "mutant_pair": (good[6], build(get_format("ovp4:assign=threshold"), "encoder")),
        "mutant_core": (good[-1], build(get_format("fp8_e4m3"), "tensor-dot", Shape(accumulator=CUT))),
    }
    mutants = [replace(unit, module=name, circuit=other.circuit) for name, (unit, other) in pairs.items()]
    assert all(verilator.lint(verilog(unit)) == [] for unit in good)
    verdicts = {m: v.split()[0] for m, v in verilator.cross_simulate([*good, *mutants], count=1500).items()}
    assert verdicts == {u.module: "PASS" for u in good} | dict.fromkeys(pairs, "FAIL")


CUT = get_accumulator("tc:hopper-fp8,block=2,k=2,fraction=11")


def dot_units() -> list[Unit]:
    core = get_accumulator("tc:hopper-fp8,block=2,k=2")
    return [
        build(get_format("mxfp4:block=2"), "block-dot"),
        build(get_format("fp8_e4m3"), "tensor-dot", Shape(accumulator=core)),
    ]


def test_units_that_cannot_be_say_why():
    with pytest.raises(MacloomError, match="format 'nvfp4' has no block encoder: blocks with a power-of-two scale"):
        encoder_of("nvfp4")
    with pytest.raises(MacloomError, match="blocks of signed floats with an E4M3 scale that divides them have one"):
        float_scaled("mxfp4")
    with pytest.raises(MacloomError, match="no block encoder from fp32: its points are tried for every operand"):
        float_scaled("nvfp4", FP32)
    with pytest.raises(MacloomError, match="rtl.size: must be a power of two from 2 on, not 6"):
        hadamard(6, 8)
    with pytest.raises(MacloomError, match="rtl.width: must be from 1 to 61 bits for 4 values, not 62"):
        hadamard(4, 62)
    with pytest.raises(MacloomError, match="rtl.half: must be from 2 to 8 bits, not 1"):
        fused_multiplier(1)
    with pytest.raises(MacloomError, match="rtl.rounding: must be one of nearest_even"):
        requantizer(rounding=Rounding.TO_ODD)
    with pytest.raises(MacloomError, match="at most 62 bits together, not 80"):
        requantizer(sum_bits=48, multiplier_bits=32)
