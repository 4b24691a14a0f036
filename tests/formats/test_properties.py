"""Properties of tensor formats on whatever hypothesis finds: shapes, bit patterns, scales."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from macloom.formats import ExactAccumulator, Rounding, encode_reference, gemm, get_format
from macloom.formats.catalog import FLOATS

SETTINGS = settings(derandomize=True, deadline=None, max_examples=30)
FORMATS = (
    "fp16", "bf16", "fp8_e4m3", "fp8_e5m2:token", "fp6_e3m2:axis=0", "int4:group=4,scale=fp32", "int8:token", "int3",
    "flint4:token", "mxfp4", "mxfp8_e5m2:block=8", "mxint8:rule=rceil", "nvfp4:block=4", "bfp4:block=4", "ovp4",
    "ovp4:normal=flint4,token", "ovp8:group=4,scale=fp32",
)  # fmt: skip


@st.composite
def tensors(draw: st.DrawFn, multiple: int = 4) -> np.ndarray:
    """Draw a small matrix of any finite float32 bit patterns, or of values near each other."""
    rows, groups = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    size = rows * groups * multiple
    if draw(st.booleans()):
        pattern = st.integers(0, 0xFFFFFFFF).filter(lambda p: p & 0x7F800000 != 0x7F800000)
        values = np.array(draw(st.lists(pattern, min_size=size, max_size=size)), np.uint32).view(np.float32)
    else:
        exponent = draw(st.integers(-100, 100))
        near = st.floats(-8, 8, width=32)
        values = np.ldexp(np.array(draw(st.lists(near, min_size=size, max_size=size)), np.float32), exponent)
    return values.reshape(rows, groups * multiple)


@pytest.mark.parametrize("text", FORMATS)
@SETTINGS
@given(x=tensors())
def test_quantize_is_encode_then_decode_and_is_total(text: str, x: np.ndarray) -> None:
    fmt = get_format(text)
    encoded = fmt.encode(x)
    decoded = encoded.decode()
    assert np.all(np.isfinite(decoded)) or text == "bf16"
    assert np.array_equal(fmt.quantize(x).view(np.uint32), decoded.view(np.uint32))
    again = fmt.from_packed(encoded.codes, encoded.scales, encoded.shape, float(encoded.outer))
    assert np.array_equal(again.decode().view(np.uint32), decoded.view(np.uint32))
    assert np.all((decoded == 0) | (np.sign(decoded) == np.sign(x)))


@pytest.mark.parametrize("text", [t for t in FORMATS if not t.startswith(("fp16", "bf16"))])
@SETTINGS
@given(x=tensors(), k=st.integers(-6, 6))
def test_scaling_by_a_power_of_two_commutes(text: str, x: np.ndarray, k: int) -> None:
    fmt = get_format(text)
    largest = float(np.abs(x).max())
    if not 2.0**-80 < largest < 2.0**80:
        x = np.zeros_like(x) if not largest else np.ldexp(x, -int(np.frexp(largest)[1]))
    x = np.where(np.abs(x) < 2.0**-20 * np.abs(x).max(), np.float32(0), x)  # no scale nears the smallest one
    factor = np.float32(2.0**k)
    assert np.array_equal(fmt.quantize(x * factor), fmt.quantize(x) * factor)


@pytest.mark.parametrize("text", FORMATS)
@SETTINGS
@given(x=tensors())
def test_fixed_scale_makes_quantize_idempotent(text: str, x: np.ndarray) -> None:
    fmt = get_format(text)
    scale = fmt.calibrate(x)
    once = fmt.quantize(x, scale=scale)
    assert np.array_equal(fmt.quantize(once, scale=scale), once)


@pytest.mark.parametrize("name", ["fp8_e4m3", "fp6_e2m3", "fp4_e2m1", "fp8_e5m2fnuz"])
@pytest.mark.parametrize("rounding", [Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY, Rounding.TO_ODD])
@SETTINGS
@given(x=st.lists(st.floats(allow_nan=False), min_size=1, max_size=20))
def test_element_encoder_equals_its_reference(name: str, rounding: Rounding, x: list[float]) -> None:
    element = FLOATS[name]
    assert element.encode(np.array(x), rounding).tolist() == [encode_reference(element, v, rounding) for v in x]


@pytest.mark.parametrize(
    "names", [("mxfp4", "mxfp8_e4m3:block=8"), ("int4:group=4", "nvfp4:block=4"), ("ovp4", "int8")]
)
@SETTINGS
@given(data=st.data())
def test_exact_products_are_near_the_products_of_decoded_values(names: tuple[str, str], data: st.DataObject) -> None:
    depth, scale = 4 * data.draw(st.integers(1, 5)), data.draw(st.integers(-10, 10))
    near = st.floats(-8, 8, width=32)
    m, n = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    x, y = (np.array(data.draw(st.lists(near, min_size=r * depth, max_size=r * depth)), np.float32) for r in (m, n))
    a = get_format(names[0]).encode(np.ldexp(x, scale).reshape(m, depth))
    b = get_format(names[1]).encode(y.reshape(n, depth))
    got = gemm(a, b, ExactAccumulator()).astype(np.float64)
    left, right = a.decode().astype(np.float64), b.decode().astype(np.float64)
    size = np.abs(left) @ np.abs(right).T
    assert np.all(np.abs(got - left @ right.T) <= 2.0**-20 * size + 2.0**-140)
