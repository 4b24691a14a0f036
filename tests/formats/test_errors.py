"""Bad input: one clear message each, and never a silent wrap."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import (
    AbFloat,
    Block,
    Flint,
    FloatFormat,
    Grain,
    Granularity,
    IntFormat,
    Overflow,
    format_entry,
    get_format,
    set_threads,
)
from macloom.formats.catalog import FLOATS
from macloom.formats.elements.minifloat import FP32
from macloom.formats.grid import encode_with_table
from macloom.formats.policy import Rounding

ONES = np.ones((2, 32), np.float32)


@pytest.mark.parametrize(
    "text, message",
    [
        ("mxpf4", r"format: unknown name 'mxpf4'; did you mean 'mxfp4'.*\(macloom list formats\)"),
        ("", r"format: unknown name ''; known are "),
        ("int4:grup=128", r"format 'int4', option: unknown name 'grup'; did you mean 'group'.*\(macloom show int4\)"),
        ("mxfp4:token", r"format 'mxfp4', option: unknown name 'token'; "),
        ("fp32:tensor", r"format 'fp32', option: unknown name 'tensor'"),
        ("nvfp4:rule=floor", r"format 'nvfp4', option: unknown name 'rule'"),
        ("int4:group", r"format 'int4', option group: must be written group=VALUE, not 'group'"),
        ("int4:group=", r"format 'int4', option group: must be written group=VALUE, not 'group='"),
        ("int4:token=3", r"format 'int4', option token: must be written token, not 'token=3'"),
        ("int4:group=8,group=9", r"format 'int4', option group: is given twice"),
        ("int4:group=x", r"format option group: must be an integer, not 'x'"),
        ("int4:group=0", r"granularity.size: must be a positive integer, not 0"),
        ("int4:group=-8", r"granularity.size: must be a positive integer, not -8"),
        ("int4:axis=1.5", r"format option axis: must be an integer, not '1.5'"),
        ("int4:group=8,token", r"format options: name one granularity, not group and token"),
        ("int4:tensor,axis=0", r"format options: name one granularity, not tensor and axis"),
        ("int4:scale=fp61", r"format option scale: unknown name 'fp61'; did you mean .*'fp16'"),
        ("mxfp4:block=0", r"block.size: must be a positive integer, not 0"),
        ("mxfp4:block=many", r"format option block: must be an integer, not 'many'"),
        ("mxfp4:rule=flor", r"format option rule: unknown name 'flor'; did you mean 'floor'"),
        ("ovp4:normal=int8", r"format option normal: unknown name 'int8'; did you mean 'int4'"),
        ("ovp4:group=3", r"ovp.group: must be even, so that pairs share a scale, not 3"),
    ],
)
def test_bad_format_strings(text: str, message: str) -> None:
    with pytest.raises(MacloomError, match=message):
        get_format(text)


@pytest.mark.parametrize("thing", [4, None, ["int4"], b"int4"])
def test_format_must_be_a_string(thing: Any) -> None:
    with pytest.raises(MacloomError, match=r"format: must be a string such as 'int4:group=128', not "):
        get_format(thing)


def test_format_entry_suggests_too() -> None:
    assert "int4" in format_entry("ovp4:normal=flint4").summary
    with pytest.raises(MacloomError, match="did you mean 'int4'"):
        format_entry("in4:token")


def test_white_space_and_order_do_not_matter() -> None:
    assert get_format(" int4 : group = 128 , scale=bf16").name == "int4:group=128,scale=bf16"
    assert get_format("int4:").name == "int4"


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: IntFormat(width=1), r"int.width: must be an integer from 2 to 16, not 1"),
        (lambda: IntFormat(width=4.0), r"int.width: must be an integer from 2 to 16, not 4.0"),  # type: ignore[arg-type]
        (lambda: IntFormat(width=8, fraction_bits=-1), r"int.fraction_bits: must be an integer from 0 to 64, not -1"),
        (
            lambda: FloatFormat(label="x", exponent_bits=0, mantissa_bits=3),
            r"float.exponent_bits: must be from 1 to 8, not 0",
        ),
        (
            lambda: FloatFormat(label="x", exponent_bits=3, mantissa_bits=24),
            r"float.mantissa_bits: must be from 0 to 23, not 24",
        ),
        (
            lambda: FloatFormat(label="x", exponent_bits=8, mantissa_bits=10),
            r"float 'x': must have at most 16 bits or be float32 \(E8M23\), not 19",
        ),
        (
            lambda: AbFloat(exponent_bits=0, mantissa_bits=3, bias=0),
            r"abfloat: must have at least 1 exponent bit and 16 bits in all, not E0M3",
        ),
        (
            lambda: AbFloat(exponent_bits=8, mantissa_bits=8, bias=0),
            r"abfloat: must have at least 1 exponent bit and 16 bits in all, not E8M8",
        ),
        (lambda: AbFloat(exponent_bits=2, mantissa_bits=1, bias=-1), r"abfloat.bias: must not be negative, not -1"),
        (lambda: Flint(width=9), r"flint.width: must be an integer from 3 to 8, not 9"),
        (lambda: Granularity(grain=Grain.ROW, size=4), r"granularity.size: belongs to 'group' alone, not to 'row'"),
        (lambda: Granularity(grain=Grain.GROUP), r"granularity.size: belongs to 'group' alone, not to 'group'"),
        (
            lambda: Granularity(grain=Grain.TENSOR, axis=0),
            r"granularity.axis: belongs to 'axis' alone, not to 'tensor'",
        ),
        (
            lambda: Block(name="x", element=FLOATS["fp4_e2m1"], size=-3),
            r"block.size: must be a positive integer, not -3",
        ),
        (lambda: set_threads(0), r"threads: must be a positive integer, not 0"),
    ],
)
def test_bad_records(make: Callable[[], object], message: str) -> None:
    with pytest.raises(MacloomError, match=message):
        make()


@pytest.mark.parametrize(
    "text, x, message",
    [
        ("int8", [1, math.nan], r"format 'int8': the tensor holds NaN; clean it or choose a format that stores it"),
        ("int8", [1, -math.inf], r"format 'int8': the tensor holds infinity; clean it or choose"),
        ("mxfp4", [math.inf, math.nan], r"format 'mxfp4': the tensor holds NaN"),
        ("nvfp4", [math.inf], r"format 'nvfp4': the tensor holds infinity"),
        ("ovp4", [math.nan], r"format 'ovp4': the tensor holds NaN"),
        ("fp16", [math.inf], r"format 'fp16': the tensor holds infinity"),
        ("fp32", [math.nan], r"format 'fp32': the tensor holds NaN"),
        ("int8", [1e300], r"format 'int8': the tensor holds infinity"),
        ("int8", [], r"tensor: must hold at least one element, not shape \(0,\)"),
        ("int8", [[], []], r"tensor: must hold at least one element, not shape \(2, 0\)"),
        ("int8", ["a"], r"tensor: must hold real numbers, not <U1"),
        ("int8", [1j], r"tensor: must hold real numbers, not complex128"),
        ("uint4", [1, -2.5], r"format 'uint4': stores no negative values, but the tensor holds -2.5"),
        ("int4:axis=2", [[1.0]], r"format 'int4:axis=2': a tensor of shape \(1, 1\) has no axis 2"),
        ("int4:axis=0", 1.0, r"format 'int4:axis=0': a tensor of shape \(\) has no axis 0"),
        (
            "int4:group=24",
            [[1.0] * 100],
            r"format 'int4:group=24': group size 24 does not divide the last axis of 100 elements; "
            r"group sizes that do: 2, 4, 5, 10, 20, 25, 50, 100",
        ),
    ],
)
def test_bad_tensors(text: str, x: Any, message: str) -> None:
    fmt = get_format(text)
    for call in (fmt.encode, fmt.quantize):
        with pytest.raises(MacloomError, match=message):
            call(np.array(x))


@pytest.mark.parametrize(
    "text, scale, message",
    [
        ("int8", [1.0, 2.0], r"scale: must have shape \(\) for a tensor of \(2, 32\), not \(2,\)"),
        ("int8:token", 1.0, r"scale: must have shape \(2,\) for a tensor of \(2, 32\), not \(\)"),
        ("int8:group=16", [1.0, 2.0], r"scale: must have shape \(2, 2\) for a tensor of \(2, 32\), not \(2,\)"),
        ("int8", 0.0, r"scale: must be positive and finite, not 0.0"),
        ("int8", -1.0, r"scale: must be positive and finite, not -1.0"),
        ("int8:token", [1.0, math.nan], r"scale: must be positive and finite, not nan"),
        ("ovp4", math.inf, r"scale: must be positive and finite, not inf"),
        ("mxfp4", 1.0, r"scale: must have shape \(2, 1\) for a tensor of \(2, 32\), not \(\)"),
        ("mxfp4", [[1.0], [3.0]], r"scale: format 'mxfp4' stores powers of two from 2\*\*-127 to 2\*\*127 only"),
        ("mxfp4", [[1.0], [2.0**-130]], r"scale: format 'mxfp4' stores powers of two from"),
        ("mxfp4", [[1.0], [-2.0]], r"scale: format 'mxfp4' stores powers of two from"),
        ("nvfp4", [1.0, 2.0], r"scale: format 'nvfp4' takes the one scale of the tensor, not shape \(2,\)"),
        ("nvfp4", 0.0, r"scale: must be finite and at least 2\*\*-120, not 0.0"),
        ("nvfp4", math.nan, r"scale: must be finite and at least 2\*\*-120, not nan"),
        ("int8", [], r"scale: must hold at least one element, not shape \(0,\)"),
    ],
)
def test_bad_scales(text: str, scale: Any, message: str) -> None:
    fmt = get_format(text)
    for call in (fmt.encode, fmt.quantize):
        with pytest.raises(MacloomError, match=message):
            call(ONES, scale=np.array(scale, np.float32))


@pytest.mark.parametrize("text", ["int8", "mxfp4", "nvfp4", "ovp4", "fp16"])
@pytest.mark.parametrize("clip", [0.0, -0.5, math.nan, math.inf])
def test_bad_clips(text: str, clip: float) -> None:
    fmt = get_format(text)
    with pytest.raises(MacloomError, match=r"clip: must be positive and finite, not "):
        fmt.encode(ONES, clip=clip)
    with pytest.raises(MacloomError, match=r"clip: must be positive and finite, not "):
        fmt.quantize(ONES, clip=clip)


@pytest.mark.parametrize("text", ["int8", "mxfp4", "ovp4", "nvfp4", "fp32"])
def test_bad_outputs(text: str) -> None:
    fmt = get_format(text)
    with pytest.raises(MacloomError, match=r"out: must be float32 of shape \(2, 32\), not float64 of shape \(2, 32\)"):
        fmt.quantize(ONES, out=np.empty((2, 32)))
    with pytest.raises(MacloomError, match=r"out: must be float32 of shape \(2, 32\), not float32 of shape \(32, 2\)"):
        fmt.quantize(ONES, out=np.empty((32, 2), np.float32))
    with pytest.raises(MacloomError, match=r"out: must be float32 of shape \(2, 32\), not list of shape \?"):
        fmt.quantize(ONES, out=[1.0])
    with pytest.raises(MacloomError, match=r"out: must be contiguous and writable; pass a fresh array"):
        fmt.quantize(ONES, out=np.empty((32, 2), np.float32).T)


def test_bad_torch_outputs() -> None:
    import torch

    fmt, x = get_format("int8"), torch.ones(2, 32)
    with pytest.raises(MacloomError, match=r"out: must be float32 of shape \(2, 32\), not float64 of shape \(2, 32\)"):
        fmt.quantize(x, out=torch.empty(2, 32, dtype=torch.float64))
    with pytest.raises(MacloomError, match=r"out: must be contiguous and writable; pass a fresh array"):
        fmt.quantize(x, out=torch.empty(32, 2).T)


def test_codes_out_of_range_and_of_the_wrong_shape() -> None:
    with pytest.raises(MacloomError, match=r"format 'int4': code 16 is not in \[0, 16\)"):
        IntFormat(width=4).decode(np.array([3, 16]))
    with pytest.raises(MacloomError, match=r"format 'int4': code -1 is not in \[0, 16\)"):
        IntFormat(width=4).decode(np.array([-1]))
    with pytest.raises(MacloomError, match=r"format 'int4': codes must be integers, not <U1"):
        IntFormat(width=4).decode("7")
    with pytest.raises(MacloomError, match=r"format 'int12': bytes hold no codes of 12 bits; pass an integer array"):
        IntFormat(width=12).decode(b"ab")
    for codes in (b"\x03\x0f", bytearray(b"\x03\x0f"), [3, 15]):
        np.testing.assert_array_equal(IntFormat(width=4).decode(codes), np.array([3, -1], np.float32))
    with pytest.raises(MacloomError, match=r"codes: must have shape \(2, 16\) for a tensor of \(2, 32\), not \(2, 15"):
        get_format("int4").from_packed(np.zeros((2, 15), np.uint8), np.array(1.0), (2, 32))


def test_stored_scales_of_the_wrong_shape_or_type() -> None:
    fmt = get_format("mxfp4")
    codes = np.zeros((2, 16), np.uint8)
    for scales in (np.zeros((1, 1), np.uint8), np.zeros((2, 2), np.uint8), np.ones((2, 1), np.float32)):
        with pytest.raises(MacloomError, match=r"scales: must be unsigned codes of shape \(2, 1\) for a tensor"):
            fmt.from_packed(codes, scales, (2, 32)).decode()
    with pytest.raises(MacloomError, match=r"scale: must have shape \(2,\) for a tensor of \(2, 32\), not \(3,\)"):
        get_format("int4:token").from_packed(codes, np.ones(3, np.float32), (2, 32)).decode()


def test_element_policies_that_a_format_cannot_serve() -> None:
    e4m3, e2m1 = FLOATS["fp8_e4m3"], FLOATS["fp4_e2m1"]
    with pytest.raises(MacloomError, match=r"overflow: format 'fp8_e4m3' has no infinity; use 'saturate' or 'to_nan'"):
        e4m3.encode(np.array([1e9]), overflow=Overflow.TO_INF)
    with pytest.raises(MacloomError, match=r"overflow: format 'fp4_e2m1' has no NaN; use 'saturate'"):
        e2m1.encode(np.array([1e9]), overflow=Overflow.TO_NAN)
    with pytest.raises(MacloomError, match=r"format 'fp4_e2m1': the input holds NaN, which the format cannot store"):
        e2m1.encode(np.array([math.nan]))
    with pytest.raises(ValueError, match="toward_one"):
        e2m1.encode(np.array([1.0]), rounding="toward_one")  # type: ignore[arg-type]


def test_float32_has_no_table() -> None:
    with pytest.raises(MacloomError, match=r"format 'fp32': has no value table, 32 bits are more than 16"):
        _ = FP32.values
    with pytest.raises(MacloomError, match=r"format 'fp32': element codes wider than 16 bits are not encoded by table"):
        encode_with_table(FP32, np.ones(1), Rounding.NEAREST_EVEN, Overflow.SATURATE)
