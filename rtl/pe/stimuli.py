"""Codes that bring dot-product units to their corners, where random ones would not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from macloom.formats.element import MAX_TABLE_BITS, ElementFormat
from macloom.formats.elements.minifloat import FloatFormat


def scaled_blocks(
    sides: Sequence[tuple[ElementFormat, FloatFormat]], size: int, count: int, seed: int, special: float
) -> dict[str, np.ndarray]:
    """Return blocks of codes `a0`, ..., `b0`, ... and scales `scale_a`, `scale_b` (int64).

    Elements are of any kind, small, the largest, sparse, or cancel; scales near each other or at the ends of their
    range. A share of the ports given by `special` gets any code, numbers or not.

    Args:
        sides: element format and format of the scale, of A and of B.
    """
    rng = np.random.default_rng(seed)
    made: dict[str, np.ndarray] = {}
    kind = rng.integers(0, 5, count)
    for name, (element, scale) in zip("ab", sides, strict=True):
        values, codes = element.encodable
        order = codes[np.argsort(np.abs(values), kind="stable")]
        last = len(order) - 1
        for i in range(size):
            anything = order[rng.integers(0, len(order), count)]
            small = order[rng.integers(0, max(len(order) // 3, 1), count)]
            big = order[last - rng.integers(0, 2, count)]
            sparse = np.where(rng.random(count) < 0.2, anything, order[0])
            made[f"{name}{i}"] = np.choose(kind, [anything, anything, small, big, sparse]).astype(np.int64)
        scales = np.flatnonzero(np.isfinite(scale.values) & ~np.signbit(scale.values))
        anywhere = rng.integers(0, len(scales), count)
        near = np.clip(len(scales) // 2 + rng.integers(-6, 7, count), 0, len(scales) - 1)
        ends = rng.choice([0, 1, len(scales) - 2, len(scales) - 1], count)
        made[f"scale_{name}"] = scales[
            np.choose(rng.integers(0, 6, count), [anywhere, anywhere, near, near, near, ends])
        ]
    half, cancels = size // 2, rng.random(count) < 0.1
    for i in range(half):
        for name, (element, _) in zip("ab", sides, strict=True):
            values = element.values[made[f"{name}{i}"]]
            opposite = element.encode(-values if name == "a" else values).astype(np.int64)
            made[f"{name}{i + half}"] = np.where(cancels, opposite, made[f"{name}{i + half}"])
    for name, (element, scale) in zip("ab", sides, strict=True):
        for port, bits in (*((f"{name}{i}", element.bits) for i in range(size)), (f"scale_{name}", scale.bits)):
            anything = rng.integers(0, 1 << bits, count)
            made[port] = np.where(rng.random(count) < special / size, anything, made[port])
    return made


def float_blocks(
    elements: Sequence[FloatFormat],
    scales: Sequence[tuple[Sequence[str], FloatFormat]],
    block: int,
    count: int,
    seed: int,
    special: float,
) -> dict[str, np.ndarray]:
    """Return blocks of codes `a0`, ..., `b0`, ... and scales (int64).

    Exponents are near each other, spread over all that there are, or of subnormals; some blocks cancel or are nearly
    all zeros. A share of the blocks given by `special` may hold infinities and NaN.

    Args:
        scales: names of the ports and format of the scales, of each side; none where there are no scales.
    """
    rng = np.random.default_rng(seed)
    made: dict[str, np.ndarray] = {}
    kind, odd = rng.integers(0, 5, count), rng.random(count) < special
    zeros = np.where(rng.random(count) < 0.1, 0.9, 0.05)
    for name, element in zip("ab", elements, strict=True):
        t, e = element.mantissa_bits, element.exponent_bits
        top = (1 << e) - 1
        base = rng.integers(0, top + 1, count)
        for i in range(block):
            near = np.clip(base + rng.integers(-2, 3, count), 0, top)
            wide = np.clip(base + rng.integers(-top // 2, top // 2 + 1, count), 0, top)
            field = np.choose(kind, [near, near, wide, rng.integers(0, top + 1, count), rng.integers(0, 2, count)])
            fraction = np.where(rng.random(count) < 0.2, 0, rng.integers(0, 1 << t, count))
            sign = rng.integers(0, 2, count) << (t + e)
            code = np.where(rng.random(count) < zeros, sign, sign | field << t | fraction)
            made[f"{name}{i}"] = np.where(np.isfinite(values_at(element, code)) | odd, code, sign | (1 << t))
    cancels, half = rng.random(count) < 0.15, block // 2
    for i in range(half):
        for name, element in zip("ab", elements, strict=True):
            flip = (1 << (element.bits - 1)) if name == "a" else 0
            made[f"{name}{i + half}"] = np.where(cancels, made[f"{name}{i}"] ^ flip, made[f"{name}{i + half}"])
    shared = rng.integers(-9, 10, count)
    for ports, scale in scales:
        codes = np.flatnonzero(~np.signbit(scale.values))  # NaN, too, which is the last
        for port in ports:
            anywhere = rng.integers(0, len(codes) - 1, count)
            near = len(codes) // 2 + shared + rng.integers(-2, 3, count)
            made[port] = codes[np.where(rng.random(count) < 0.7, near, anywhere)]
            odd = rng.random(count) < special / (4 * len(ports))
            made[port] = np.where(odd, rng.integers(0, 1 << scale.bits, count), made[port])
    return made


def values_at(element: FloatFormat, codes: np.ndarray) -> np.ndarray:
    """Return the values of codes, of float32 too, which has no table."""
    if element.bits > MAX_TABLE_BITS:
        return codes.astype(np.uint32).view(np.float32)
    return element.values[codes]
