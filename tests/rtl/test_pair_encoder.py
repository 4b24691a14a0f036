"""The encoder of outlier-victim pairs in gates, against the format's own `encode`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyrtl
import pytest

from macloom.errors import MacloomError
from macloom.formats import get_format
from macloom.formats.elements.integer import IntFormat
from macloom.formats.elements.minifloat import BF16, FP16, FP32
from macloom.formats.outliers.ovp import Ovp
from macloom.rtl.formats.pair_decoder import pair_decoder
from macloom.rtl.formats.pair_encoder import pair_encoder
from macloom.rtl.simulation import check_exhaustively, mismatches, run_unit, some_inputs
from macloom.rtl.unit import Unit

FIXED = IntFormat(width=16, fraction_bits=4, symmetric=False)
UNSIGNED = IntFormat(width=10, signed=False, fraction_bits=1)
NAMES = ["ovp4", "ovp4:normal=flint4", "ovp8", "ovp4:assign=threshold", "ovp8:normal=int8,assign=threshold"]


def encoder_of(name: str, source: object = FP16) -> Unit:
    fmt = get_format(name)
    assert isinstance(fmt, Ovp)
    return pair_encoder(fmt, source)  # type: ignore[arg-type]


@pytest.mark.parametrize("source", [FP16, BF16, FP32, FIXED, UNSIGNED], ids=lambda s: s.name)
@pytest.mark.parametrize("name", NAMES)
def test_pairs_equal_those_of_the_format(name, source):
    _, wrong = check_exhaustively(encoder_of(name, source), count=6000)
    assert not len(wrong)


@pytest.mark.parametrize("name", ["ovp4", "ovp4:normal=flint4", "ovp8"])
def test_every_operand_beside_a_victim_and_beside_outliers_equals_the_format(name):
    fmt, unit = get_format(name), encoder_of(name)
    assert isinstance(fmt, Ovp)
    positive = fmt.outlier.encodable[0][fmt.outlier.encodable[0] > 0]
    others = FP16.encode(np.array([0.0, 1.0, -positive[0], positive[len(positive) // 2], min(positive[-1], 65504.0)]))
    every = np.tile(np.arange(1 << 16), 2 * len(others))
    other = np.repeat(np.tile(others.astype(np.int64), 2), 1 << 16)
    first = np.arange(len(every)) < len(every) // 2
    inputs = {"x0": np.where(first, every, other), "x1": np.where(first, other, every)}
    assert not len(mismatches(unit, inputs, run_unit(unit, inputs)))


def test_a_decoded_pair_is_the_quantized_pair():
    fmt = get_format("ovp4")
    assert isinstance(fmt, Ovp)
    inputs = some_inputs(encoder_of("ovp4"), 3000)
    x = np.stack([FP16.values[inputs[n]] for n in ("x0", "x1")], axis=-1).astype(np.float32)
    finite = np.isfinite(x).all(axis=-1)
    inputs, x = {n: v[finite] for n, v in inputs.items()}, x[finite]
    pairs = run_unit(encoder_of("ovp4"), inputs)["pair"]
    out = run_unit(pair_decoder(fmt), {"pair": pairs})
    made = [np.ldexp(out[f"significand{k}"].astype(float), out[f"exponent{k}"]) for k in (0, 1)]
    np.testing.assert_array_equal(np.stack(made, axis=-1), fmt.quantize(x, scale=np.float32(1)))


def test_infinities_saturate_and_beat_any_number():
    inf, largest = 0x7C00, 0x7BFF
    inputs = {"x0": np.array([largest, inf, inf | 0x8000, inf]), "x1": np.array([inf, largest, inf, 0])}
    # The victim's 8 beside the largest outlier, 7 or, negative, 15.
    assert run_unit(encoder_of("ovp4"), inputs)["pair"].tolist() == [0x87, 0x78, 0xF8, 0x78]


def test_an_encoder_that_prefers_the_right_outlier_is_noticed():
    unit = encoder_of("ovp4")

    def swapped(inputs):
        made = unit.circuit({"x0": inputs["x1"], "x1": inputs["x0"]})["pair"]
        return {"pair": pyrtl.concat(made[:4], made[4:])}

    inputs = some_inputs(unit, 6000)
    wrong = mismatches(unit, inputs, run_unit(replace(unit, circuit=swapped), inputs))
    assert len(wrong)
    magnitudes = [np.abs(FP16.values[inputs[n][wrong]]) for n in ("x0", "x1")]
    np.testing.assert_array_equal(magnitudes[0], magnitudes[1])  # nothing but ties differ


def test_joint_assignment_has_no_encoder():
    with pytest.raises(MacloomError, match="assign=joint weighs the errors of both elements; take assign=nearest"):
        encoder_of("ovp4:assign=joint")
