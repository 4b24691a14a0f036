"""Decoders and encoders in gates, against the records that define the formats, on every input."""

from __future__ import annotations

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import get_format, list_formats
from macloom.formats.element import ElementFormat
from macloom.formats.elements.decoded import DecodedFormat
from macloom.formats.elements.integer import IntFormat
from macloom.formats.elements.minifloat import BF16, FP16, FP32, FloatFormat, Specials
from macloom.formats.outliers.ovp import Ovp
from macloom.formats.policy import Overflow, Rounding
from macloom.formats.scales import E8M0
from macloom.rtl.catalog import build
from macloom.rtl.formats.decoder import decoder
from macloom.rtl.formats.encoder import encoder
from macloom.rtl.formats.pair_decoder import pair_decoder
from macloom.rtl.formats.source import Conversion, changes, code_table
from macloom.rtl.simulation import all_inputs, check_exhaustively, mismatches, run_unit, some_inputs

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


WRAPPED = [IntFormat(width=4), IntFormat(width=8, signed=False), IntFormat(width=6, fraction_bits=3, symmetric=False)]
INTEGERS = [IntFormat(width=12, fraction_bits=4), IntFormat(width=11, signed=False)]
INTEGERS += [IntFormat(width=9, fraction_bits=12)]


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("source", [*INTEGERS, FP16, get_format("fp8_e4m3").element], ids=label)
@pytest.mark.parametrize("element", WRAPPED, ids=label)
def test_encoders_of_integers_that_wrap_equal_the_record_on_all_inputs(element, source, rounding):
    unit = encoder(element, source, rounding, Overflow.WRAP)
    tried, wrong = check_exhaustively(unit)
    assert tried == 1 << source.bits
    assert not len(wrong)
    assert unit.facts["overflow"] == "wrap"


def test_wrapping_keeps_the_low_bits_and_an_encoder_that_saturates_is_noticed():
    source, element = IntFormat(width=16), IntFormat(width=8)
    unit = encoder(element, source, None, Overflow.WRAP)
    inputs = {"x": np.array([300, -300, 127, 128, -32768])}
    assert run_unit(unit, inputs)["code"].tolist() == [44, 212, 127, 128, 0]
    assert mismatches(unit, inputs, run_unit(encoder(element, source), inputs)).tolist() == [0, 1, 3, 4]


SMALL = [IntFormat(width=9, fraction_bits=6), FloatFormat(label="s", exponent_bits=4, mantissa_bits=3), E8M0]
SMALL += [FloatFormat(label="s", exponent_bits=5, mantissa_bits=2, specials=Specials.IEEE)]


@pytest.mark.parametrize("source", SMALL, ids=label)
@pytest.mark.parametrize("name", ["int4", "uint4", "fp4_e2m1", "fp8_e5m2", "fp8_e4m3fnuz", "posit8_1", "hif8", "pot4"])
def test_every_rounding_with_every_overflow_on_all_inputs_of_small_sources(name, source):
    element, met = get_format(name).element, 0
    for overflow in Overflow:
        for rounding in ROUNDINGS:
            if overflow is Overflow.WRAP and not isinstance(element, IntFormat):
                continue
            if overflow is Overflow.TO_INF and not element.infinity:
                continue
            if overflow is Overflow.TO_NAN and element.nan_code is None:
                continue
            unit, met = encoder(element, source, rounding, overflow), met + 1
            assert not len(check_exhaustively(unit)[1]), (overflow, rounding)
    assert met >= len(ROUNDINGS)


@pytest.mark.parametrize("mantissa, exponent", [(0, 4), (1, 2), (3, 4), (7, 8), (10, 5), (2, 6)])
@pytest.mark.parametrize("specials", list(Specials))
def test_any_float_decodes_and_encodes_in_gates(mantissa, exponent, specials):
    element = FloatFormat(label="f", exponent_bits=exponent, mantissa_bits=mantissa, specials=specials)
    for unit in (decoder(element), encoder(element, FP16)):
        _, wrong = check_exhaustively(unit)
        assert not len(wrong), unit.module


@pytest.mark.parametrize("element", elements(8), ids=label)
def test_encoders_from_float32_equal_the_record_about_every_point_at_which_a_code_changes(element):
    tried, wrong = check_exhaustively(encoder(element, FP32))
    points = sum(len(starts) for starts, _ in changes(Conversion(element=element, source=FP32)))
    assert tried > 3 * points
    assert not len(wrong)


@pytest.mark.parametrize("name", ["fp16", "bf16", "int16", "posit16_1"])
def test_wide_encoders_from_float32_equal_the_record_about_points_at_which_a_code_changes(name):
    element = IntFormat(width=16) if name == "int16" else get_format(name).element
    if name == "posit16_1":  # its search has a constant for every change
        assert len(changes(Conversion(element=element, source=FP32))[0][0]) == (1 << 15) + 1
        return
    _, wrong = check_exhaustively(encoder(element, FP32))
    assert not len(wrong)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("name", ["int4", "fp8_e5m2", "posit8_2", "nf4"])
def test_encoders_from_float32_follow_every_rounding_and_overflow(name, rounding):
    element = get_format(name).element
    for overflow in Overflow:
        if overflow is Overflow.SATURATE or (overflow is Overflow.WRAP and isinstance(element, IntFormat)) or (
            element.infinity and overflow is not Overflow.WRAP
        ):  # fmt: skip
            assert not len(check_exhaustively(encoder(element, FP32, rounding, overflow))[1])


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("name", ["fp8_e4m3", "posit8_1", "tan4", "binary", "int5", "hif8"])
def test_points_found_by_bisection_are_those_of_all_bfloat16_codes(name, rounding):
    conversion = Conversion(element=get_format(name).element, source=BF16, rounding=rounding)
    codes, defined = code_table(conversion)
    for sign, (starts, found) in enumerate(changes(conversion)):
        half = slice(sign << 15, (sign + 1) << 15)
        listed = codes[half][defined[half]]
        spread = np.repeat(found, np.diff(np.append(starts, 1 << 15)))[defined[half]]
        np.testing.assert_array_equal(spread, listed)


def test_a_float32_encoder_that_rounds_ties_otherwise_is_noticed():
    element = get_format("fp8_e4m3").element
    unit, other = (encoder(element, FP32, r) for r in (Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY))
    inputs = some_inputs(unit, 4000)
    wrong = mismatches(unit, inputs, run_unit(other, inputs))
    assert len(wrong) >= 120  # every second of 126 ties, of both signs


@pytest.mark.parametrize("name", ["mxfp4", "nvfp4", "int8:group=32,scale=fp16", "affine4:group=32,scale=bf16"])
def test_decoders_of_scales_give_the_value_of_every_code(name):
    unit = build(get_format(name), "scale-decoder")
    scale = {"e8m0": E8M0, "fp16": FP16, "bf16": BF16}.get(unit.facts["format"], get_format("fp8_e4m3").element)
    inputs = all_inputs(unit)
    out = run_unit(unit, inputs)
    made = np.ldexp(out["significand"].astype(float), out["exponent"] + unit.facts["exponent_offset"])
    finite = np.isfinite(scale.values)
    np.testing.assert_array_equal(made[finite], scale.values[finite])
    np.testing.assert_array_equal(out["nan"] == 1, np.isnan(scale.values))


def test_stored_scales_of_a_block_format_decode_to_what_multiplies_its_elements():
    fmt = get_format("mxfp4")
    encoded = fmt.encode(np.random.default_rng(2).standard_normal((4, 96)).astype(np.float32))
    unit = build(fmt, "scale-decoder")
    out = run_unit(unit, {"code": encoded.scales.astype(np.int64).ravel()})
    made = np.ldexp(out["significand"].astype(float), out["exponent"] + unit.facts["exponent_offset"])
    np.testing.assert_array_equal(made.reshape(encoded.scales.shape), encoded.operand().scales)


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
    with pytest.raises(MacloomError, match="codes have at most 16 bits, and so have inputs but fp32; take fp32, fp16"):
        encoder(get_format("fp32").element, FP16)
    with pytest.raises(MacloomError, match="do not draw random numbers"):
        encoder(get_format("int4").element, FP16, Rounding.STOCHASTIC)
