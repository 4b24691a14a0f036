"""Encoding by thresholds: one sorted grid per element format, rounding and overflow policy.

`encode_with_table` is the general vectorised encoder (all formats to 16 bits). `lookup_table` turns
the same thresholds into a direct-mapped table over the leading bits of a float32, for the kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.element import ElementFormat, check_overflow_policy
from macloom.formats.policy import Overflow, Rounding
from macloom.formats.reference import prefer_upper_on_tie

# Widest direct-mapped table: sign, 8 exponent bits, 10 mantissa bits and a sticky bit.
MAX_LOOKUP_MANTISSA_BITS = 10


@dataclass(frozen=True)
class Grid:
    """Ascending thresholds and the code of each interval: x takes codes[number of thresholds <= x]."""

    thresholds: np.ndarray
    codes: np.ndarray


def _above(value: float) -> float:
    """The smallest float64 above `value`, so that `value` itself stays below the threshold."""
    return float(np.nextafter(value, np.inf))


@lru_cache(maxsize=256)
def grid_of(element: ElementFormat, rounding: Rounding, overflow: Overflow) -> Grid:
    """Build the grid of an element format; zeros are resolved by the caller (signed zero)."""
    check_overflow_policy(element, overflow)
    values, codes = element.encodable
    if overflow is not Overflow.SATURATE and element.overflow_value is not None:
        past = element.overflow_value
        values, codes = np.append(values, past), np.append(codes, codes[-1] + 1)
        if values[0] < 0:
            values, codes = np.insert(values, 0, -past), np.insert(codes, 0, codes[0] + 1)
    lower, upper = values[:-1], values[1:]
    middle = (lower + upper) / 2
    match rounding:
        case Rounding.TOWARD_ZERO:
            thresholds = np.where(lower >= 0, upper, [_above(v) for v in lower])
        case Rounding.TO_ODD:
            thresholds = np.where(codes[1:] % 2 == 1, [_above(v) for v in lower], upper)
        case Rounding.NEAREST_AWAY:
            thresholds = np.where(lower >= 0, middle, [_above(v) for v in middle])
        case Rounding.NEAREST_EVEN:
            neighbours = zip(lower, upper, codes[:-1].tolist(), codes[1:].tolist(), strict=True)
            up = [prefer_upper_on_tie(*pair) for pair in neighbours]
            thresholds = np.where(up, middle, [_above(v) for v in middle])
    thresholds = np.where((lower < 0) & (upper > 0), middle, thresholds)  # a format without zero
    if overflow is not Overflow.SATURATE and element.overflow_value is not None:
        specials = {
            Overflow.TO_INF: [int(np.flatnonzero(element.values == s)[0]) for s in (-np.inf, np.inf)]
            if element.infinity else None,
            Overflow.TO_NAN: [element.nan_code] * 2,
        }[overflow]  # fmt: skip
        assert specials is not None
        codes[-1] = specials[1]
        codes[0] = specials[0] if values[0] < 0 else codes[0]
    return Grid(thresholds, codes.astype(element.code_dtype))


def encode_with_table(element: ElementFormat, x: np.ndarray, rounding: Rounding, overflow: Overflow) -> np.ndarray:
    """Return the codes of `x`; the general vectorised form of `reference.encode_reference`."""
    if element.bits > 16:
        raise MacloomError(f"format {element.name!r}: element codes wider than 16 bits are not encoded by table")
    x = np.asarray(x, np.float64)
    grid = grid_of(element, rounding, overflow)
    nan = np.isnan(x)
    codes = grid.codes[np.searchsorted(grid.thresholds, x, side="right")]
    if element.negative_zero_code is not None:
        zero = element.encodable[1][np.searchsorted(element.encodable[0], 0.0)]
        codes = np.where((codes == zero) & np.signbit(x), element.code_dtype(element.negative_zero_code), codes)
    if nan.any():
        if element.nan_code is None:
            raise MacloomError(f"format {element.name!r}: the input holds NaN, which the format cannot store")
        codes = np.where(nan, element.code_dtype(element.nan_code), codes)
    return codes


@dataclass(frozen=True)
class Lookup:
    """A direct-mapped encoder: entry (bits(x) >> shift) << 1 | (any bit below set)."""

    shift: int
    codes: np.ndarray
    values: np.ndarray


def _mantissa_bits_needed(values: np.ndarray) -> int:
    bits = np.asarray(values, np.float32).view(np.uint32)
    used = int(np.bitwise_or.reduce(bits & 0x7FFFFF)) if len(bits) else 0
    return 0 if used == 0 else 23 - ((used & -used).bit_length() - 1)


def lookup_of_thresholds(breakpoints: np.ndarray, encode: object, dtype: type) -> tuple[int, np.ndarray] | None:
    """Tabulate `encode` (float64 array -> codes), constant between the float32 `breakpoints`.

    Returns (shift, table), or None where the breakpoints need more mantissa bits than the widest table.
    """
    exact = np.asarray(breakpoints, np.float32)
    if not np.array_equal(exact.astype(np.float64), breakpoints):
        return None
    mantissa_bits = _mantissa_bits_needed(exact)
    if mantissa_bits > MAX_LOOKUP_MANTISSA_BITS:
        return None
    shift = 23 - mantissa_bits
    cells = np.arange(1 << (9 + mantissa_bits), dtype=np.uint32) << np.uint32(shift)
    table = np.empty((len(cells), 2), dtype)
    for sticky in (0, 1):
        patterns = (cells | np.uint32(sticky)).view(np.float32)
        finite = np.isfinite(patterns)
        safe = np.where(finite, patterns, np.copysign(np.float32(3.4e38), patterns))
        table[:, sticky] = encode(safe.astype(np.float64))  # type: ignore[operator]
    return shift, table.reshape(-1)


@lru_cache(maxsize=128)
def lookup_table(element: ElementFormat, rounding: Rounding = Rounding.NEAREST_EVEN) -> Lookup | None:
    """Return the saturating lookup encoder of an element format of at most 8 bits, if one fits.

    It is exact because every threshold is a float32 whose mantissa fits the index: all values of a
    cell, the cell's own edge apart, lie between two thresholds.
    """
    if element.bits > 8:
        return None
    values, _ = element.encodable
    breakpoints = np.concatenate((values, (values[:-1] + values[1:]) / 2))
    made = lookup_of_thresholds(
        breakpoints, lambda x: encode_with_table(element, x, rounding, Overflow.SATURATE), element.code_dtype
    )
    if made is None:
        return None
    shift, codes = made
    return Lookup(shift, codes, element.values[codes].astype(np.float32))
