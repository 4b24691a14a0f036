"""Blocks of operands for the encoders of block formats."""

from __future__ import annotations

import numpy as np

from macloom.formats.elements.minifloat import FloatFormat
from macloom.rtl.formats.source import finite_count, finite_patterns, values_of


def blocks(
    size: int, source: FloatFormat, count: int, seed: int, within: tuple[float, float] | None = None
) -> dict[str, np.ndarray]:
    """Return blocks of finite values of many magnitudes, with zeros, subnormals and neighbours of powers of two.

    Args:
        within: the largest magnitude of most blocks lies in this range; anywhere unless given.
    """
    rng = np.random.default_rng(seed)
    finite = finite_count(source)
    base = rng.integers(0, finite, (count, 1))
    if within is not None:
        every = finite_patterns(source, np.arange(finite))
        patterns = every[every < 1 << (source.bits - 1)]
        low, high = np.searchsorted(source.values[patterns], within)
        chosen = rng.integers(low, max(high, low + 1), (count, 1)) % len(patterns)
        base = np.where(rng.random((count, 1)) < 0.8, chosen, base)
    near = source.mantissa_bits + 3
    spread = rng.integers(-(1 << near), (1 << near) + 1, (count, size))
    codes = finite_patterns(source, np.clip(base + spread * (rng.random((count, 1)) < 0.7), 0, finite - 1))
    anywhere = finite_patterns(source, rng.integers(0, finite, (count, size)))
    codes = np.where(rng.random((count, size)) < (0.1 if within is None else 0.002), anywhere, codes)
    codes = np.where(rng.random((count, size)) < 0.1, 0, codes)
    powers = (codes >> source.mantissa_bits << source.mantissa_bits) + rng.integers(-2, 3, (count, size))
    codes = np.where((rng.random((count, 1)) < 0.3) & (codes > 4), powers, codes)
    codes = np.where(np.isfinite(values_of(source, codes & ((1 << source.bits) - 1))), codes, 0)
    if within is not None:
        codes = np.where(rng.random((count, size)) < 0.4, codes ^ (1 << (source.bits - 1)), codes)
    codes[0] = 0
    return {f"x{i}": codes[:, i].astype(np.int64) & ((1 << source.bits) - 1) for i in range(size)}
