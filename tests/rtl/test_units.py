"""Block encoders, the Hadamard transform, fused multipliers and the requantizer in gates."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import get_format
from macloom.formats.elements.minifloat import BF16, FP16
from macloom.formats.policy import Rounding
from macloom.formats.tensors.block import Block
from macloom.rtl import verilator
from macloom.rtl.export import verilog
from macloom.rtl.formats.block_encoder import block_encoder
from macloom.rtl.formats.hadamard import hadamard
from macloom.rtl.pe.fused import fused_multiplier
from macloom.rtl.requantizer import ROUNDINGS, requantizer
from macloom.rtl.simulation import check_exhaustively, mismatches, run_unit, some_inputs
from macloom.rtl.unit import Unit

BLOCKS = [
    *("mxfp4:block=3", "mxfp4:block=3,rule=ceil", "mxfp4:block=3,rule=even", "mxfp8_e4m3:block=3,rule=even"),
    *("mxfp8_e5m2:block=3", "mxfp6_e3m2:block=3,rule=ceil", "mxint8:block=3", "bfp4:block=3", "bfp8:block=3"),
]


def encoder_of(name: str, source=BF16) -> Unit:
    fmt = get_format(name)
    assert isinstance(fmt, Block)
    return block_encoder(fmt, source)


@pytest.mark.parametrize("source", [BF16, FP16], ids=lambda s: s.name)
@pytest.mark.parametrize("name", BLOCKS)
def test_block_encoders_equal_the_format(name, source):
    _, wrong = check_exhaustively(encoder_of(name, source), count=4000)
    assert not len(wrong)


def test_a_whole_mx_block_equals_the_format():
    _, wrong = check_exhaustively(encoder_of("mxfp4:block=16"), count=1000)
    assert not len(wrong)


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


@pytest.mark.skipif(not verilator.available(), reason="verilator, g++, make or perl is missing")
def test_verilator_agrees_on_every_unit_and_rejects_a_mutant():
    good = [encoder_of("mxfp4:block=3"), hadamard(8, 8), fused_multiplier(), requantizer()]
    nearest, cut = requantizer(module="mutant"), requantizer(rounding=Rounding.TOWARD_ZERO)
    mutant = replace(nearest, circuit=cut.circuit)
    assert all(verilator.lint(verilog(unit)) == [] for unit in good)
    verdicts = verilator.cross_simulate([*good, mutant])
    assert {m: v.split()[0] for m, v in verdicts.items()} == {u.module: "PASS" for u in good} | {"mutant": "FAIL"}


def test_units_that_cannot_be_say_why():
    with pytest.raises(MacloomError, match="format 'nvfp4' has no block encoder: blocks with a power-of-two scale"):
        encoder_of("nvfp4")
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
