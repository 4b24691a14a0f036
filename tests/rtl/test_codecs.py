"""Decoders and encoders in gates, against the records that define the formats, on every input."""

from __future__ import annotations

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import get_format, list_formats
from macloom.formats.element import ElementFormat
from macloom.formats.elements.decoded import DecodedFormat
from macloom.formats.elements.integer import IntFormat
from macloom.formats.elements.minifloat import BF16, FP16, FloatFormat, Specials
from macloom.formats.outliers.ovp import Ovp
from macloom.formats.policy import Overflow, Rounding
from macloom.rtl.formats.decoder import decoder
from macloom.rtl.formats.encoder import encoder
from macloom.rtl.formats.pair_decoder import pair_decoder
from macloom.rtl.simulation import all_inputs, check_exhaustively, mismatches, run_unit

FIXED = IntFormat(width=16, fraction_bits=4, symmetric=False)
OVP = ["ovp4", "ovp4:normal=flint4", "ovp8"]


def elements(limit: int = 16) -> list[ElementFormat]:
    """Every element format of the catalog, once, in the order of its names."""
    found: dict[ElementFormat, None] = {}
    for name in list_formats():
        element = get_format(name).element
        if element is not None and element.bits <= limit:
            found.setdefault(element)
    return list(found)


def label(element: ElementFormat) -> str:
    return f"{type(element).__name__}-{element.name}"


@pytest.mark.parametrize("element", elements(), ids=label)
def test_every_code_decodes_to_the_value_of_the_record(element):
    unit = decoder(element)
    inputs = all_inputs(unit)
    outputs = run_unit(unit, inputs)
    values = element.operand_values if isinstance(element, DecodedFormat) else element.values
    decoded = np.ldexp(outputs["significand"].astype(float), outputs["exponent"] + unit.facts["exponent_offset"])
    finite = np.isfinite(values)
    np.testing.assert_array_equal(decoded[finite], values[finite])
    assert not outputs["significand"][np.isnan(values)].any()
    if element.nan_code is not None:
        assert outputs["nan"][element.nan_code]
    if element.infinity:
        np.testing.assert_array_equal(outputs["infinity"], np.isinf(element.values))


@pytest.mark.parametrize("element", elements(), ids=label)
def test_every_decoder_equals_its_model(element):
    _, wrong = check_exhaustively(decoder(element))
    assert not len(wrong)


@pytest.mark.parametrize("name", OVP)
def test_every_stored_pair_decodes_to_the_values_of_decode_pairs(name):
    fmt = get_format(name)
    assert isinstance(fmt, Ovp)
    unit = pair_decoder(fmt)
    inputs = all_inputs(unit)
    outputs = run_unit(unit, inputs)
    for slot, expected in enumerate(fmt.decode_pairs(inputs["pair"])):
        made = np.ldexp(outputs[f"significand{slot}"].astype(float), outputs[f"exponent{slot}"])
        np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize("source", [FP16, FIXED], ids=lambda s: s.name)
@pytest.mark.parametrize("element", elements(8), ids=label)
def test_every_encoder_equals_the_record_on_all_inputs(element, source):
    tried, wrong = check_exhaustively(encoder(element, source))
    assert tried == 1 << 16
    assert not len(wrong)


WIDE = [e for e in elements() if e.bits > 8 and isinstance(e, FloatFormat | IntFormat)]


@pytest.mark.parametrize("element", WIDE, ids=label)
def test_wide_encoders_equal_the_record_on_all_bfloat16_inputs(element):
    _, wrong = check_exhaustively(encoder(element, BF16))
    assert not len(wrong)


ROUNDINGS = [r for r in Rounding if r is not Rounding.STOCHASTIC]
POLICY_FORMATS = ["int4", "uint4", "fp8_e4m3", "fp8_e5m2", "fp8_e4m3fnuz", "fp4_e2m1", "flint4", "posit8_2", "nf4"]


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("name", POLICY_FORMATS)
def test_encoders_follow_every_rounding_on_all_inputs(name, rounding):
    _, wrong = check_exhaustively(encoder(get_format(name).element, FP16, rounding))
    assert not len(wrong)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize(
    "name, overflow",
    [("fp8_e4m3", Overflow.TO_NAN), ("fp8_e5m2", Overflow.TO_INF), ("fp8_e5m2", Overflow.TO_NAN),
     ("fp8_e5m2fnuz", Overflow.TO_NAN), ("hif8", Overflow.TO_INF)],
)  # fmt: skip
def test_encoders_follow_every_overflow_on_all_inputs(name, overflow, rounding):
    _, wrong = check_exhaustively(encoder(get_format(name).element, FP16, rounding, overflow))
    assert not len(wrong)


@pytest.mark.parametrize("mantissa, exponent", [(0, 4), (1, 2), (3, 4), (7, 8), (10, 5), (2, 6)])
@pytest.mark.parametrize("specials", list(Specials))
def test_any_float_decodes_and_encodes_in_gates(mantissa, exponent, specials):
    element = FloatFormat(label="f", exponent_bits=exponent, mantissa_bits=mantissa, specials=specials)
    for unit in (decoder(element), encoder(element, FP16)):
        _, wrong = check_exhaustively(unit)
        assert not len(wrong), unit.module


def test_one_wrong_code_of_the_record_is_noticed():
    element = get_format("fp8_e4m3").element
    unit = decoder(element)
    inputs = all_inputs(unit)
    outputs = run_unit(unit, inputs)
    outputs["significand"][0x3A] ^= 1
    assert mismatches(unit, inputs, outputs).tolist() == [0x3A]


def test_units_that_do_not_exist_say_why():
    with pytest.raises(MacloomError, match="format 'fp32' has 32-bit codes; units exist up to 16 bits"):
        decoder(get_format("fp32").element)
    with pytest.raises(MacloomError, match="inputs and codes have at most 16 bits; take fp16, bf16"):
        encoder(get_format("fp32").element, FP16)
    with pytest.raises(MacloomError, match="do not draw random numbers"):
        encoder(get_format("int4").element, FP16, Rounding.STOCHASTIC)
