"""Tables and grids by which the kernels round outlier-victim pairs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.element import ElementFormat
from macloom.formats.elements.abfloat import AbFloat
from macloom.formats.elements.integer import IntFormat
from macloom.formats.grid import grid_of, lookup_of_thresholds
from macloom.formats.policy import Overflow, Rounding

OUTLIER_FLAG = 1 << 16


@dataclass(frozen=True)
class PairTable:
    """The nearest normal and the nearest outlier code of every float32, by its leading bits.

    Attributes:
        shift: bits that do not belong to the index (all of them count as one sticky bit).
        entries: uint32: normal code, outlier code << 8, and 1 << 16 where the element is an outlier.
        normals, outliers: float32 value of each code.
        values: both, the outliers from index 256 on.
    """

    shift: int
    entries: np.ndarray
    normals: np.ndarray
    outliers: np.ndarray
    values: np.ndarray


def midpoint(normal: ElementFormat, outlier: ElementFormat) -> float:
    """Return the magnitude halfway between the largest normal and the smallest outlier value."""
    outliers = outlier.encodable[0]
    return (normal.max_value + float(outliers[outliers > 0].min())) / 2


@lru_cache(maxsize=32)
def pair_table(normal: ElementFormat, outlier: ElementFormat, boundary: float) -> PairTable:
    """Tabulate both grids; magnitudes above `boundary` are outliers.

    Raises:
        MacloomError: a grid or the boundary needs more leading bits than the widest table has.
    """
    grids = [grid_of(e, Rounding.NEAREST_EVEN, Overflow.SATURATE) for e in (normal, outlier)]

    def encode(x: np.ndarray) -> np.ndarray:
        inside, beyond = (g.codes[np.searchsorted(g.thresholds, x, side="right")].astype(np.uint32) for g in grids)
        return inside | (beyond << np.uint32(8)) | np.where(np.abs(x) > boundary, np.uint32(OUTLIER_FLAG), np.uint32(0))

    values = [e.encodable[0] for e in (normal, outlier)]
    breakpoints = np.concatenate([*values, *((v[:-1] + v[1:]) / 2 for v in values), [-boundary, boundary]])
    made = lookup_of_thresholds(breakpoints, encode, np.uint32)
    if made is None:
        raise MacloomError(
            f"ovp: no pair table for {normal.name} with {outlier.name} and boundary {boundary:g}; "
            "they need more than 11 significant bits"
        )
    shift, entries = made
    normals, outliers = normal.values.astype(np.float32), outlier.values.astype(np.float32)
    both = np.zeros(512, np.float32)
    both[: len(normals)], both[256 : 256 + len(outliers)] = normals, outliers
    return PairTable(shift, entries, normals, outliers, both)


@lru_cache(maxsize=32)
def whole_pair(normal: ElementFormat, outlier: ElementFormat) -> tuple[tuple[Any, ...], tuple[Any, ...]] | None:
    """Return both grids as `whole_pair_codes` takes them, None unless normal values are integers."""
    if not isinstance(normal, IntFormat) or normal.fraction_bits or not normal.signed:
        return None
    if not isinstance(outlier, AbFloat) or outlier.mantissa_bits == 0:
        return None
    mantissa_bits, values = outlier.mantissa_bits, outlier.encodable[0]
    low, high = np.float32(values[values > 0].min()), np.float32(values.max())
    # The exponent field of the abfloat's first binade, above the mantissa bits.
    base = (outlier.bias + mantissa_bits + 127) << mantissa_bits
    whole = np.float32(normal.min_value), np.float32(normal.max_value), (1 << normal.bits) - 1
    return whole, (23 - mantissa_bits, low, high, base, 32 - outlier.bits, 1 << (outlier.bits - 1))
