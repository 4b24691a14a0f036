"""Encoding by thresholds: one sorted grid per element format, rounding and overflow policy.

`encode_with_table` is the general vectorised encoder (all formats to 16 bits). `lookup_table` turns
the same thresholds into a direct-mapped table over the leading bits of a float32, for the kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.arrays import NonFiniteError
from macloom.formats.element import ElementFormat, check_overflow_policy, prefer_upper_on_tie
from macloom.formats.policy import Overflow, Rounding

# Widest direct-mapped table: sign, 8 exponent bits, 10 mantissa bits and a sticky bit.
MAX_LOOKUP_MANTISSA_BITS = 10


@dataclass(frozen=True)
class Grid:
    """Ascending thresholds and the code of each interval: x takes codes[number of thresholds <= x]."""

    thresholds: np.ndarray
    codes: np.ndarray


def _at_least(point: Fraction) -> float:
    """The smallest float64 that is not below `point`."""
    value = float(point)
    return float(np.nextafter(value, np.inf)) if Fraction(value) < point else value


def _decisions(element: ElementFormat, values: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for every pair of neighbours the smallest float64 not below, and above, the decision point."""
    lower, upper = values[:-1], values[1:]
    total = lower + upper
    # The rounding error of the sum (Knuth, TAOCP 4.2.2, theorem B) tells which halves are not exact.
    error = (lower - (total - (total - lower))) + (upper - (total - lower))
    at, between = total / 2, np.zeros(len(total), bool)
    for n, (a, b) in enumerate(pairwise(codes.tolist())):
        point = element.decision(a, b)
        if point is None and error[n]:
            point = (Fraction(lower[n]) + Fraction(upper[n])) / 2
        if point is not None:
            at[n] = point if isinstance(point, float) else _at_least(Fraction(point))
            between[n] = float(at[n]) > point
    return at, np.where(between, at, np.nextafter(at, np.inf))


@lru_cache(maxsize=256)
def grid_of(element: ElementFormat, rounding: Rounding, overflow: Overflow) -> Grid:
    """Build the grid of an element format; zeros are resolved by the caller (signed zero)."""
    check_overflow_policy(element, overflow)
    values, codes = element.encodable
    at, after = _decisions(element, values, codes)
    up = [element.tie_goes_up(*pair) for pair in pairwise(codes.tolist())]
    if overflow is not Overflow.SATURATE and element.overflow_value is not None:
        past = element.overflow_value
        middle = (values[-1] + past) / 2
        up.append(codes[-1] % 2 == 1)
        at, after = np.append(at, middle), np.append(after, np.nextafter(middle, np.inf))
        values, codes = np.append(values, past), np.append(codes, codes[-1] + 1)
        if values[0] < 0:
            up.insert(0, codes[0] % 2 == 0)
            at, after = np.insert(at, 0, -middle), np.insert(after, 0, np.nextafter(-middle, np.inf))
            values, codes = np.insert(values, 0, -past), np.insert(codes, 0, codes[0] + 1)
    lower, upper = values[:-1], values[1:]
    above = np.nextafter(lower, np.inf)  # lower itself stays below this threshold
    match rounding:
        case Rounding.TOWARD_ZERO:
            thresholds = np.where(lower >= 0, upper, above)
        case Rounding.TO_ODD:
            pairs = zip(pairwise(values.tolist()), pairwise(codes.tolist()), strict=True)
            even_above = [prefer_upper_on_tie(*v, *c) for v, c in pairs]
            thresholds = np.where(even_above, upper, above)
        case Rounding.NEAREST_AWAY:
            thresholds = np.where(lower >= 0, at, after)
        case Rounding.NEAREST_EVEN:
            thresholds = np.where(up, at, after)
        case Rounding.STOCHASTIC:
            raise MacloomError("rounding: 'stochastic' has no thresholds; encode with rng=")
    thresholds = np.clip(thresholds, above, upper)  # a representable value keeps its code
    thresholds = np.where((lower < 0) & (upper > 0), at, thresholds)  # a format without zero
    if overflow is not Overflow.SATURATE and element.overflow_value is not None:
        specials = {
            Overflow.TO_INF: [int(np.argmax(element.values == s)) for s in (-np.inf, np.inf)]
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
    with np.errstate(invalid="ignore"):  # signalling NaN become quiet
        x = np.asarray(x, np.float64)
    grid = grid_of(element, rounding, overflow)
    nan = np.isnan(x)
    codes = grid.codes[np.searchsorted(grid.thresholds, x, side="right")]
    if element.negative_zero_code is not None:
        zero = element.encodable[1][np.searchsorted(element.encodable[0], 0.0)]
        codes = np.where((codes == zero) & np.signbit(x), element.code_dtype(element.negative_zero_code), codes)
    if nan.any():
        if element.nan_code is None:
            raise NonFiniteError(f"format {element.name!r}: the input holds NaN, which the format cannot store")
        codes = np.where(nan, element.code_dtype(element.nan_code), codes)
    return codes


@dataclass(frozen=True)
class Lookup:
    """A direct-mapped encoder: entry cell << 1 | later of the cell bits(x) >> shift of the leading bits of x.

    `later` is whether any bit below is set or, with `limits`, whether bits(x) reaches the cell's limit.
    """

    shift: int
    codes: np.ndarray
    values: np.ndarray
    limits: np.ndarray | None = None

    @cached_property
    def wide_codes(self) -> np.ndarray:
        """The codes as uint32, which vectors can gather."""
        return self.codes.astype(np.uint32)


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


def _last_bits(threshold: float) -> int:
    """Return the last float32 bit pattern, in ascending magnitude, on zero's side of a threshold."""
    with np.errstate(over="ignore"):
        nearest = np.float32(abs(threshold))
    bits = int(nearest.view(np.uint32))
    if threshold > 0:  # x takes the upper code from the threshold on
        return bits - 1 if float(nearest) >= threshold else bits
    return 0x80000000 + (bits if float(nearest) <= -threshold else bits - 1)


def bounded_lookup(
    thresholds: np.ndarray, encode: Callable[[np.ndarray], np.ndarray]
) -> tuple[int, np.ndarray, np.ndarray] | None:
    """Tabulate `encode` (float64 array -> codes), constant between `thresholds` which may lie anywhere.

    Returns (shift, codes, limits): a cell holds at most one threshold within, whose exact bit pattern
    is the cell's limit. None where two thresholds are closer than the cells of the widest table.
    """
    firsts = np.unique(np.array([_last_bits(t) + 1 for t in thresholds.tolist()], np.uint32))
    for mantissa_bits in range(MAX_LOOKUP_MANTISSA_BITS + 1):
        shift = 23 - mantissa_bits
        inner = firsts[(firsts & np.uint32((1 << shift) - 1)) != 0]
        if len(np.unique(inner >> np.uint32(shift))) == len(inner):
            break
    else:
        return None
    cells = np.arange(1 << (9 + mantissa_bits), dtype=np.uint32) << np.uint32(shift)
    limits = np.full(len(cells), 0xFF800000, np.uint32)  # that of -infinity, which no number reaches
    limits[inner >> np.uint32(shift)] = inner
    edges = np.stack((cells, cells | np.uint32((1 << shift) - 1)), axis=1).view(np.float32)
    safe = np.where(np.isfinite(edges), edges, np.copysign(np.finfo(np.float32).max, edges))
    return shift, encode(safe.astype(np.float64)).reshape(-1), limits


@lru_cache(maxsize=128)
def lookup_table(element: ElementFormat, rounding: Rounding | None = None) -> Lookup | None:
    """Return the saturating lookup encoder of an element format of at most 8 bits, if one fits.

    Where every threshold is a float32 whose mantissa fits the index, all values of a cell, the cell's
    own edge apart, lie between two thresholds; elsewhere cells have limits. Both are exact.
    """
    if element.bits > 8:
        return None
    rounding = rounding or element.default_rounding

    def encode(x: np.ndarray) -> np.ndarray:
        return encode_with_table(element, x, rounding, Overflow.SATURATE)

    values, _ = element.encodable
    thresholds = grid_of(element, rounding, Overflow.SATURATE).thresholds
    breakpoints = np.concatenate((values, (values[:-1] + values[1:]) / 2))
    made = None
    if np.all(np.isin(thresholds, breakpoints) | np.isin(np.nextafter(thresholds, -np.inf), breakpoints)):
        made = lookup_of_thresholds(breakpoints, encode, element.code_dtype)
    if made is not None:
        shift, codes = made
        return Lookup(shift, codes, element.values[codes].astype(np.float32))
    bounded = bounded_lookup(thresholds, encode)
    if bounded is None:
        return None
    shift, codes, limits = bounded
    return Lookup(shift, codes, element.values[codes].astype(np.float32), limits)
