"""Scales at every granularity against arithmetic written out; how they are stored; what calibration does."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from macloom.formats import IntFormat, Scaled, get_format
from macloom.formats.elements.minifloat import BF16, FP16, FP32
from macloom.formats.scales import Grain, Granularity, store_scale

X = np.random.default_rng(0).normal(size=(3, 4, 32)).astype(np.float32)


@pytest.mark.parametrize(
    "text, axes, shape",
    [
        ("int8", None, ()),
        ("int8:tensor", None, ()),
        ("int8:token", 2, (3, 4)),
        ("int8:channel", 2, (3, 4)),
        ("int8:row", 2, (3, 4)),
        ("int8:axis=0", (1, 2), (3,)),
        ("int8:axis=1", (0, 2), (4,)),
        ("int8:axis=2", (0, 1), (32,)),
        ("int8:axis=-1", (0, 1), (32,)),
        ("int8:axis=-3", (1, 2), (3,)),
    ],
)
def test_absmax_scales_equal_numpy(text: str, axes: int | tuple[int, ...] | None, shape: tuple[int, ...]) -> None:
    fmt = get_format(text)
    scale = fmt.calibrate(X)
    want = np.abs(X).max(axis=axes) / np.float32(127)
    np.testing.assert_array_equal(scale, want)
    assert np.shape(scale) == shape
    spread = want if axes is None else np.expand_dims(want, axes)
    np.testing.assert_array_equal(fmt.quantize(X), np.clip(np.rint(X / spread), -127, 127) * spread)
    np.testing.assert_array_equal(fmt.encode(X).decode(), fmt.quantize(X))


@pytest.mark.parametrize("stored, cast", [("fp16", np.float16), ("bf16", ml_dtypes.bfloat16), ("fp32", np.float32)])
@pytest.mark.parametrize("size", [8, 16, 32])
def test_group_scales_are_rounded_to_their_stored_format(stored: str, cast: type, size: int) -> None:
    fmt = get_format(f"int4:group={size},scale={stored}")
    largest = np.abs(X.reshape(3, 4, -1, size)).max(axis=-1)
    want = (largest / np.float32(7)).astype(cast).astype(np.float32)
    np.testing.assert_array_equal(fmt.calibrate(X), want)
    spread = np.repeat(want, size, axis=-1)
    np.testing.assert_array_equal(fmt.quantize(X), np.clip(np.rint(X / spread), -7, 7) * spread)


def test_groups_store_half_precision_scales_unless_told() -> None:
    assert get_format("int4:group=32") == Scaled(
        name="int4:group=32",
        element=IntFormat(width=4),
        granularity=Granularity(grain=Grain.GROUP, size=32),
        scale_format=FP16,
    )
    assert get_format("int4:token") != get_format("int4:token,scale=fp16")


def test_a_row_shorter_than_a_group_is_one_group() -> None:
    fmt = get_format("int4:group=128,scale=fp32")
    x = X[0]
    np.testing.assert_array_equal(fmt.quantize(x), get_format("int4:token").quantize(x))
    assert fmt.storage_bits((4, 32)) == 4 * (128 + 32)


def test_group_as_long_as_the_row_equals_per_row() -> None:
    x = X[1]
    whole = get_format("int5:group=32,scale=fp32").quantize(x)
    np.testing.assert_array_equal(whole, get_format("int5:token").quantize(x))


def test_granules_of_zeros_have_scale_one() -> None:
    x = X[0].copy()
    x[1] = 0
    assert get_format("int8:token").calibrate(x)[1] == 1
    assert get_format("int8").calibrate(np.zeros((2, 3))) == 1


def test_stored_scales_are_positive_and_finite() -> None:
    wide = np.array([0, 1e-45, 1e-30, 1e-8, 1, 1e10, 3e38], np.float32)
    for stored in (FP16, BF16, FP32):
        scales = store_scale(wide, stored)
        assert np.all(scales > 0)
        assert np.all(np.isfinite(scales))
    assert store_scale(wide, FP16)[[0, -1]].tolist() == [2.0**-24, 65504]


@pytest.mark.parametrize("text", ["int8", "int6:token", "fp8_e4m3:group=32,scale=bf16", "fp4_e2m1", "uint8"])
def test_the_largest_float32_stays_finite(text: str) -> None:
    top = np.finfo(np.float32).max
    x = np.full((2, 32), top, np.float32)
    fmt = get_format(text)
    q = fmt.quantize(x)
    assert np.all(np.isfinite(q))
    assert np.all(q >= top * 0.98)


@pytest.mark.parametrize("text", ["int4", "int4:token", "fp8_e4m3:group=32", "mxfp4", "nvfp4"])
def test_a_smaller_clip_saturates_the_largest_and_refines_the_rest(text: str) -> None:
    fmt = get_format(text)
    full, half = fmt.quantize(X, clip=1.0), fmt.quantize(X, clip=0.5)
    assert np.abs(half).max() < np.abs(full).max()
    if text not in ("int4", "int4:token", "mxfp4"):
        return  # the step of a float follows the value
    small = np.abs(X) < 0.4 * np.abs(X).max(axis=-1, keepdims=True)
    assert np.abs(half - X)[small].mean() < np.abs(full - X)[small].mean()


def test_static_scales_serve_other_tensors() -> None:
    for text, static in {"int8": True, "fp16": True, "ovp4": True, "int8:token": False, "mxfp4": False}.items():
        assert get_format(text).static_scale is static, text
    fmt = get_format("int8")
    scale = fmt.calibrate(X)
    np.testing.assert_array_equal(
        fmt.quantize(X[0] * 2, scale=scale), np.clip(np.rint(X[0] * 2 / scale), -127, 127) * scale
    )


def test_unsigned_formats_take_what_is_not_negative() -> None:
    x = np.abs(X)
    scale = x.max() / np.float32(255)
    np.testing.assert_array_equal(get_format("uint8").quantize(x), np.clip(np.rint(x / scale), 0, 255) * scale)
    fixed = get_format("uint8").quantize(np.array([-3.0, 2.0], np.float32), scale=np.float32(1))
    assert fixed.tolist() == [0, 2]  # under a given scale negative values saturate
