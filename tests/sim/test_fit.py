"""Which formats fit which elements, in how many slices, with or without decoders; and what the refusals say."""

from __future__ import annotations

import re

import pytest

from macloom.arch import Array, ProcessingElement, load_accelerator
from macloom.errors import MacloomError
from macloom.formats import get_format
from macloom.sim import UnsupportedFormat
from macloom.sim.fit import OperandFit, fit_operand, fit_product

INT8 = Array(rows=4, cols=4, pe=ProcessingElement(significand_bits=8))
INT8_DECODERS = Array(rows=4, cols=4, pe=ProcessingElement(significand_bits=8), border_decoders=True)
OLIVE = load_accelerator("olive-sa").array
FP16 = load_accelerator("fp16-sa").array


@pytest.mark.parametrize(
    "name, array, slices, exponent, decoded",
    [
        ("int8", INT8, 1, False, False),
        ("int4:group=128", INT8, 1, False, False),
        ("fp4_e2m1", INT8_DECODERS, 1, False, True),  # halves of -6 .. 6 are integers of 5 bits
        ("ovp4", INT8_DECODERS, 1, False, True),  # -96 .. 96 is an integer of 8 bits
        ("int4", OLIVE, 1, False, False),
        ("ovp4", OLIVE, 1, True, True),
        ("int8", OLIVE, 2, False, False),
        ("ovp8", OLIVE, 2, True, True),
        ("fp8_e4m3", OLIVE, 2, True, True),
        ("fp16", FP16, 1, True, False),  # the element's own operand
        ("int8", FP16, 1, True, False),
        ("mxfp4", FP16, 1, True, True),
        ("fp8_e5m2", FP16, 1, True, True),
    ],
)
def test_fit_operand(name, array, slices, exponent, decoded):
    assert fit_operand(get_format(name), array) == OperandFit(slices=slices, exponent=exponent, decoded=decoded)


@pytest.mark.parametrize(
    "name, array, reason",
    [
        ("ovp4", INT8, "its 4-bit codes are not operands and the array has no border decoders"),
        (
            "fp16",
            INT8,
            "it needs exponents of 5 bits, the PEs have no exponent path, and as a plain integer it needs 41 bits, "
            "the PEs multiply 8 bits",
        ),
        ("fp16", OLIVE, "it needs significands of 12 bits, the PEs multiply 8 bits in 2 fused slices"),
        (
            "bf16",
            FP16,
            "it needs exponents of 8 bits, the PEs have an exponent path of 5 bits, and as a plain integer it needs "
            "262 bits, the PEs multiply 12 bits",
        ),
        ("uint8", INT8, "it needs significands of 9 bits, the PEs multiply 8 bits"),
    ],
)
def test_reasons(name, array, reason):
    assert fit_operand(get_format(name), array) == reason


def test_a_product_may_mix_formats():
    fit = fit_product("q_proj", get_format("int8"), get_format("int4"), "olive-sa", OLIVE)
    assert (fit.a.slices, fit.b.slices, fit.pes_per_mac, fit.exponent) == (2, 1, 2, True)
    fit = fit_product("q_proj", get_format("int4"), get_format("int4"), "olive-sa", OLIVE)
    assert (fit.pes_per_mac, fit.exponent) == (1, False)


def test_refusal_names_the_operation_and_where_it_would_run():
    message = (
        "accelerator 'olive-sa': must be able to multiply 'fp16', operand B of 'q_proj': it needs significands of 12 "
        "bits, the PEs multiply 8 bits in 2 fused slices; run it on fp16-sa, or choose another format"
    )
    with pytest.raises(UnsupportedFormat, match=re.escape(message)) as caught:
        fit_product("q_proj", get_format("int4"), get_format("fp16"), "olive-sa", OLIVE)
    assert isinstance(caught.value, MacloomError)


def test_refusal_where_no_preset_helps():
    message = "choose another format (macloom list formats) or wider PEs (arch.array.pe)"
    with pytest.raises(UnsupportedFormat, match=re.escape(message)):
        fit_product("q_proj", get_format("bf16"), get_format("bf16"), "fp16-sa", FP16)


def test_integer_accumulators_must_hold_the_largest_product():
    message = (
        "the product of the largest values of A and B, in units of the smallest steps, needs at least 36 bits, the "
        "accumulators hold 32; run it on fp16-sa"
    )
    fmt = get_format("mxfp8_e4m3")
    with pytest.raises(UnsupportedFormat, match=re.escape(message)):
        fit_product("q_proj", fmt, fmt, "olive-sa", OLIVE)
    # 448 / 2**-9 squared really does not fit; the largest abfloat of ovp8, 2**15 squared, does.
    assert (448 * 2**9) ** 2 >= 2**31 > (2**15) ** 2
    ovp8 = get_format("ovp8")
    assert fit_product("q_proj", ovp8, ovp8, "olive-sa", OLIVE).pes_per_mac == 4
