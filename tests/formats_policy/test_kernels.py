"""The kernels' short cuts against the plain way: one pass against two, packed bytes against numpy's."""

from __future__ import annotations

import numpy as np
import pytest

from macloom.formats import Policy, Rounding, get_format, set_threads
from macloom.formats.elements.minifloat import FloatFormat
from macloom.formats.packing import pack, unpack
from macloom.formats.rounders import encode_rows, steps_of

DYNAMIC = (
    *("mxfp4", "mxfp8", "mxfp8_e5m2", "mxfp6", "mxfp6_e2m3", "mxint8", "bfp4", "bfp8"),
    *("mxfp4:rule=even", "mxfp4:rule=ceil", "mxfp4:rule=rceil", "mxint8:rule=even", "mxint8:rule=ceil"),
    *("int4:group=32", "int4:row", "int8:token", "int8:group=32,scale=fp32", "fp8_e4m3:group=32"),
    *("fp8_e4m3:row,scale=bf16", "flint4:row", "int4:group=32,scale=e4m3", "fp16:row"),
)


def bits(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).view(np.uint32)


def wide_data(shape: tuple[int, ...], scale: float) -> np.ndarray:
    """Blocks of all magnitudes around a scale, the first ones zero."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal(shape) * scale * np.exp2(rng.integers(-12, 12, (*shape[:-1], 1)))
    x = np.clip(x, -3e38, 3e38).astype(np.float32)
    x.reshape(-1)[:40] = 0
    return x


@pytest.mark.parametrize("text", DYNAMIC)
@pytest.mark.parametrize("scale", [1.0, 1e-38, 1e-42, 1e-20, 1e30, 3e38])
def test_one_pass_equals_calibrating_first(text: str, scale: float) -> None:
    fmt = get_format(text)
    for shape in ((3, 256), (2, 2, 64), *([(2, 77)] if "group" not in text else [])):
        x = wide_data(shape, scale)
        for clip in (None, 0.7):
            given = fmt.calibrate(x, clip)
            two, one = fmt.encode(x, scale=given, clip=clip), fmt.encode(x, clip=clip)
            assert np.array_equal(one.elements, two.elements)
            assert np.array_equal(one.scales, two.scales)
            assert (one.scales.dtype, one.scales.shape, one.outer) == (two.scales.dtype, two.scales.shape, two.outer)
            values = fmt.quantize(x, clip=clip)
            assert np.array_equal(bits(values), bits(fmt.quantize(x, scale=given, clip=clip)))
            assert np.array_equal(bits(values), bits(one.decode()))
            assert fmt.quantize(x, clip=clip, out=x) is x
            assert np.array_equal(bits(x), bits(values))
            x = wide_data(shape, scale)


def test_nvfp4_in_one_pass_equals_its_definition() -> None:
    """Block scales from float32 arithmetic and E4M3 rounding, elements divided by the product of both scales."""
    fmt = get_format("nvfp4")
    e4m3, e2m1 = get_format("fp8_e4m3").element, get_format("fp4_e2m1").element
    for scale in (1.0, 1e-30, 1e30):
        x = wide_data((6, 64), scale)
        outer = fmt.calibrate(x)
        blocks = x.reshape(6, 4, 16)
        wanted = np.abs(blocks).max(axis=2) / np.float32(6) / outer
        inner = e4m3.quantize(np.clip(wanted, np.float32(2.0**-6), np.float32(448)))
        both = (inner * outer)[:, :, None]
        want = (e2m1.quantize(blocks / both) * both).reshape(x.shape)
        assert np.array_equal(bits(fmt.quantize(x)), bits(want))
        encoded = fmt.encode(x)
        assert np.array_equal(bits(encoded.decode()), bits(want))
        assert np.array_equal(e4m3.decode(encoded.scales), inner)


@pytest.mark.parametrize("text", ["mxfp4", "int4:group=128", "fp8_e4m3:none,rounding=to_odd", "posit8_1", "flint4"])
def test_threads_do_not_change_results(text: str) -> None:
    x = wide_data((300, 1024), 1.0)
    fmt = get_format(text)
    try:
        set_threads(1)
        values, elements = fmt.quantize(x), fmt.encode(x).elements
        set_threads(2)
        assert np.array_equal(bits(fmt.quantize(x)), bits(values))
        assert np.array_equal(fmt.encode(x).elements, elements)
    finally:
        set_threads(None)


@pytest.mark.parametrize("width", range(1, 9))
@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 64, 77])
def test_packed_codes_are_a_stream_of_bits(width: int, length: int) -> None:
    codes = np.random.default_rng(width).integers(0, 1 << width, (5, length)).astype(np.uint8)
    stream = (codes[:, :, None] >> np.arange(width, dtype=np.uint8)) & 1
    packed = pack(codes, width)
    assert np.array_equal(packed, np.packbits(stream.reshape(5, -1), axis=1, bitorder="little"))
    assert np.array_equal(unpack(packed, width, length), codes)


def test_nibbles_take_either_order() -> None:
    codes = np.arange(15, dtype=np.uint8)[None]
    high = pack(codes, 4, first_high=True)
    assert high[0, :2].tolist() == [0x01, 0x23]
    assert high[0, -1] == 0xE0
    assert np.array_equal(unpack(high, 4, 15, first_high=True), codes)


@pytest.mark.parametrize("exponent_bits", range(1, 9))
@pytest.mark.parametrize("mantissa_bits", [0, 1, 2, 3, 7])
def test_any_small_float_rounds_alike_by_kernel_and_by_table(exponent_bits: int, mantissa_bits: int) -> None:
    element = FloatFormat(label="t", exponent_bits=exponent_bits, mantissa_bits=mantissa_bits)
    if element.max_value > 3e38:
        return  # with no code for infinity, values end beyond float32
    assert steps_of(element) is not None
    rng = np.random.default_rng(0)
    x = rng.integers(0, 1 << 32, (4, 2000), dtype=np.uint32).view(np.float32)
    x = np.where(np.isfinite(x), x, np.float32(1))
    near = np.ldexp(rng.standard_normal((4, 2000)), rng.integers(-2 - (1 << exponent_bits) // 2, 4, (4, 2000)))
    for data in (x, near.astype(np.float32)):
        for rounding in (r for r in Rounding if r is not Rounding.STOCHASTIC):
            one = np.ones((4, 1), np.float32)
            got = encode_rows(element, data, one, 2000, "t", Policy(rounding=rounding))
            assert np.array_equal(got, element.encode(data, rounding))
