"""Operands and sums for comparisons, random and on the edge, and equality of bits."""

from __future__ import annotations

import numpy as np

from macloom.formats import get_format
from macloom.formats.elements.minifloat import FloatFormat
from macloom.formats.tensor import Encoded

MODES = ("normal", "spread", "bands", "finite", "zeros", "tiny", "cancel", "bits")


def codes(rng: np.random.Generator, name: str, shape: tuple[int, int], mode: str) -> np.ndarray:
    """Return codes of an element format: normal data, a wide spread of exponents, one for
    each 32 columns, any finite value, half of them
    zeros of both signs, subnormals, pairs that cancel, or any bits."""
    element = get_format(name).element
    assert isinstance(element, FloatFormat)
    dtype = np.uint8 if element.bits <= 8 else np.uint16 if element.bits <= 16 else np.uint32
    sign = dtype(1 << (element.bits - 1))
    if mode in ("normal", "spread", "bands", "cancel"):
        x = rng.standard_normal(shape)
        if mode == "spread":
            x *= 2.0 ** rng.integers(-9, 9, shape)
        if mode == "bands":
            x *= np.repeat(2.0 ** rng.integers(-7, 8, (shape[0], -(-shape[1] // 32))), 32, axis=1)[:, : shape[1]]
        x = np.clip(x * min(1.0, element.max_value / 8), -element.max_value, element.max_value).astype(np.float32)
        codes = x.view(np.uint32) if element.bits > 16 else element.encode(x)
        if mode == "cancel":
            half = shape[1] // 2
            codes[:, half : 2 * half] = codes[:, :half] ^ (sign * rng.integers(0, 2, (shape[0], 1)).astype(dtype))
        return codes.astype(dtype)
    codes = rng.integers(0, 1 << element.bits, shape, dtype=np.uint64).astype(dtype)
    if mode == "tiny":
        t = element.mantissa_bits
        codes = rng.integers(0, 4 << t, shape).astype(dtype) | (sign * rng.integers(0, 2, shape).astype(dtype))
    if mode == "zeros":
        codes = np.where(rng.random(shape) < 0.5, codes & sign, codes)
    return codes if mode == "bits" else np.where(np.isfinite(values(name, codes)), codes, codes & sign)


def values(name: str, codes: np.ndarray) -> np.ndarray:
    """Return the float32 values of codes."""
    if codes.dtype == np.uint32:
        return codes.view(np.float32)
    with np.errstate(all="ignore"):
        return get_format(name).element.values[codes].astype(np.float32)


def encoded(name: str, codes: np.ndarray, scales: np.ndarray | None = None) -> Encoded:
    """Return codes as an encoded tensor, with scales of one unless there are others."""
    return Encoded(get_format(name), codes.shape, codes, np.ones((), np.float32) if scales is None else scales)


def sums(rng: np.random.Generator, half: bool, shape: tuple[int, int], mode: str) -> np.ndarray:
    """Return sums so far: float32, exact in half precision if that is the register."""
    return (
        values("fp16", codes(rng, "fp16", shape, mode)) if half else (codes(rng, "fp32", shape, mode).view(np.float32))
    )


def equal(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Return where two float32 arrays have the same bits, all NaN counting as the same."""
    return (ours.view(np.uint32) == theirs.view(np.uint32)) | (np.isnan(ours) & np.isnan(theirs))
