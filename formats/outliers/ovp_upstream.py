"""Outlier-victim pairs as the code released with OliVe computes them: fake quantization only.

Source: clevercool/ANT-Quantization@bc84067, olive_quantization/antquant/quant_modules.py and
quant_kernel.cu. The code works where the normal maximum is 32; grids here are in integer units, which
are a power of two smaller, so that every float32 operation gives the same digits. Differences from
the default mode:

- pairs run over the whole flattened tensor; they straddle rows, and an odd length wraps around;
- of two outliers in a pair the left one stays, whatever its magnitude;
- ties go to the later grid entry: upwards, and from a normal to an outlier value;
- a value farther than 102400 (where the normal maximum is 32) from every grid value becomes 0;
- NaN and infinities give NaN;
- data without negative values are calibrated to unsigned grids, which use every code;
- 8-bit outliers are E2M5, unsigned ones of 4 bits E2M2.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.arrays import as_float32, output_for
from macloom.formats.element import ElementFormat, OperandClass
from macloom.formats.elements.flint import Flint
from macloom.formats.elements.integer import IntFormat
from macloom.formats.outliers.ovp_search import PERCENTS, granule_rows, three_sigma
from macloom.formats.scales import Grain, Granularity
from macloom.formats.tensor import Encoded, Operand, TensorFormat

NORMAL_MAXIMUM = 32.0
FARTHEST = 102400.0  # quant_kernel.cu: initial value of the best distance
OUTLIER_EXPONENT_BITS = 2  # quant_modules.py:157, for every width


class Kind(StrEnum):
    INT = "int"
    FLINT = "flint"


class Signed(StrEnum):
    """AUTO takes unsigned grids for calibration data without negative values, as activations do there."""

    AUTO = "auto"
    YES = "yes"


@dataclass(frozen=True)
class UpstreamGrid:
    """Values in integer units; `step` is the size of a unit where the normal maximum is 32 (28 for int4).

    Attributes:
        union: normal and outlier values, ascending, float32.
        rank: position of each in the code's list, normals before outliers.
        largest_normal: in units.
        outlier_floor: magnitudes above it are outliers, in units.
    """

    union: np.ndarray
    rank: np.ndarray
    step: float
    largest_normal: float
    outlier_floor: float


def normal_element(kind: Kind, bits: int, signed: bool) -> ElementFormat:
    """Return the normal type; integers are symmetric."""
    return Flint(width=bits, signed=signed) if kind is Kind.FLINT else IntFormat(width=bits, signed=signed)


@lru_cache(maxsize=32)
def upstream_grid(kind: Kind, bits: int, signed: bool) -> UpstreamGrid:
    """Return the grid of one normal type with its outliers."""
    normals = normal_element(kind, bits, signed).encodable[0]
    magnitude_bits = bits - 1 if signed else bits
    step = NORMAL_MAXIMUM / (normals[-1] if kind is Kind.FLINT else 2.0**magnitude_bits)
    mantissa_bits = magnitude_bits - OUTLIER_EXPONENT_BITS
    fractions = 1 + np.arange(1 << mantissa_bits) / (1 << mantissa_bits)
    outliers = (NORMAL_MAXIMUM * np.ldexp(fractions, np.arange(1 << OUTLIER_EXPONENT_BITS)[:, None])).reshape(-1)[1:]
    if signed:
        outliers = np.sort(np.concatenate((-outliers, outliers)))
    listed = np.concatenate((normals, outliers / step))
    order = np.argsort(listed, kind="stable")
    return UpstreamGrid(listed[order].astype(np.float32), order, step, float(normals[-1]), NORMAL_MAXIMUM / step)


def snap(scaled: np.ndarray, grid: UpstreamGrid) -> np.ndarray:
    """Return the grid value nearest to each element, in units: what the kernel's linear scan finds."""
    union, rank = grid.union, grid.rank
    high = np.clip(np.searchsorted(union, scaled), 0, len(union) - 1)
    low = np.maximum(high - 1, 0)
    with np.errstate(invalid="ignore"):
        below, above = np.abs(scaled - union[low]), np.abs(scaled - union[high])
        later = (above < below) | ((above == below) & (rank[high] > rank[low]))
        distance = np.where(later, above, below)
        within = distance <= np.float32(FARTHEST / grid.step)
    return np.where(within, np.where(later, union[high], union[low]), np.float32(0))


def drop_victims(values: np.ndarray, grid: UpstreamGrid) -> np.ndarray:
    """Zero the neighbour of every outlier of a flat array of grid values, the left outlier of two staying."""
    mask = np.abs(values) > np.float32(grid.outlier_floor)
    odd = np.arange(len(values)) % 2 == 1
    victim_odd = np.roll(mask, 1) & odd
    victim_even = np.roll(mask & ~victim_odd, -1) & ~odd
    return np.where(victim_odd | victim_even, np.float32(0), values)


@dataclass(frozen=True, kw_only=True)
class OvpUpstream(TensorFormat):
    """Outlier-victim pairs as the released code computes them; see the module for the differences.

    `calibrate` returns (..., 3): the scale (the value of one integer unit), the number of the chosen
    normal type and whether the grids are signed, the same for every granule.

    >>> import numpy as np
    >>> from macloom.formats import get_format
    >>> fmt = get_format("ovp4:mode=upstream")
    >>> fmt.quantize(np.float32([-1.5, 9.5, 24, 50]), scale=np.float32([1, 0, 1]))
    array([ 0., 12., 24.,  0.], dtype=float32)
    """

    name: str
    width: int
    kinds: tuple[Kind, ...] = (Kind.INT,)
    signed: Signed = Signed.AUTO
    granularity: Granularity = Granularity(grain=Grain.TENSOR)

    def __post_init__(self) -> None:
        if self.width > 6 and self.kinds != (Kind.INT,):
            raise MacloomError(f"ovp: the released code has {Kind.INT.value!r} alone at {self.width} bits")
        if self.granularity.grain is Grain.GROUP:
            raise MacloomError("ovp: mode=upstream takes a scale per tensor, row or axis, not per group")

    @property
    def element(self) -> ElementFormat:  # type: ignore[override]
        return normal_element(self.kinds[0], self.width, True)

    @property
    def static_scale(self) -> bool:
        return self.granularity.grain is Grain.TENSOR

    @property
    def largest_value(self) -> float:
        return max(float(upstream_grid(kind, self.width, True).union[-1]) for kind in self.kinds)

    @property
    def stores(self) -> bool:
        return False

    @property
    def operand(self) -> OperandClass:
        raise self._no_codes("operand")

    def scale_bits(self, shape: tuple[int, ...]) -> int:
        raise self._no_codes("storage")

    def calibrate(self, x: Any, clip: float | None = None) -> np.ndarray:
        """Search alpha and the normal type; squared errors are in float64.

        With `clip`, alpha is that share of each granule's largest magnitude.
        """
        x = as_float32(x)
        largest = self.granularity.absolute_maximum(x, self.name)
        signed = self.signed is Signed.YES or bool(x.min() < 0)
        plain, _ = granule_rows(x, self.granularity, self.name)
        start = largest.reshape(-1) * clip if clip is not None else three_sigma(plain)
        percents = [100] if clip is not None else PERCENTS
        found = [self._best(x, upstream_grid(kind, self.width, signed), start, percents) for kind in self.kinds]
        chosen = int(np.argmin([error for _, error in found]))
        units = found[chosen][0].reshape(self.granularity.scale_shape(x.shape, self.name))
        return np.stack((units, np.full_like(units, chosen), np.full_like(units, float(signed))), axis=-1)

    def _best(self, x: np.ndarray, grid: UpstreamGrid, start: np.ndarray, percents: Any) -> tuple[np.ndarray, float]:
        """Return the scale of each granule with the least mean squared error, and the sum of those means."""
        best, units = np.full(len(start), np.inf), np.ones(len(start), np.float32)
        for percent in percents:
            candidate = (start * (percent / 100)).astype(np.float32) / np.float32(grid.largest_normal)
            candidate = np.where(candidate > 0, candidate, np.float32(1)).astype(np.float32)
            error = np.square(self._fake(x, candidate, grid).astype(np.float64) - x)
            means = granule_rows(error, self.granularity, self.name)[0].mean(axis=1)
            better = means < best
            best, units = np.where(better, means, best), np.where(better, candidate, units).astype(np.float32)
        return units, float(best.sum())

    def _spread(self, units: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        scales = self.granularity.row_scales(units, shape or (1,), self.name)
        length = shape[-1] if shape else 1
        return np.repeat(scales, length // scales.shape[1], axis=1).reshape(shape)

    def _fake(self, x: np.ndarray, units: np.ndarray, grid: UpstreamGrid) -> np.ndarray:
        spread = self._spread(units.reshape(self.granularity.scale_shape(x.shape, self.name)), x.shape)
        with np.errstate(invalid="ignore"):
            scaled = x / spread
            values = drop_victims(snap(scaled, grid).reshape(-1), grid).reshape(x.shape)
            return ((values - scaled) + scaled) * spread  # straight-through form, quant_modules.py:323

    def _parts(self, scale: np.ndarray) -> tuple[np.ndarray, UpstreamGrid]:
        rest = scale[..., 1:].reshape(-1, 2) if scale.ndim and scale.shape[-1] == 3 else np.empty((0, 2))
        if not len(rest) or np.any(rest != rest[0]) or rest[0, 0] not in range(len(self.kinds)):
            raise MacloomError(
                f"scale: format {self.name!r} takes (scale, number of the normal type, signed) on a last axis of 3, "
                f"as calibrate returns them, not shape {scale.shape}"
            )
        kind = self.kinds[int(rest[0, 0])]
        return scale[..., 0].copy(), upstream_grid(kind, self.width, bool(rest[0, 1]))

    def units(self, x: Any, scale: Any) -> np.ndarray:
        """Return the values before scaling, victims zeroed, where the normal maximum is 32 (28 for int4)."""
        array, (units, grid) = as_float32(x), self._parts(np.asarray(scale, np.float32))
        with np.errstate(invalid="ignore"):
            scaled = array / self._spread(units, array.shape)
        return (drop_victims(snap(scaled, grid).reshape(-1), grid) * np.float32(grid.step)).reshape(array.shape)

    def encode(
        self, x: Any, scale: Any = None, clip: float | None = None, rng: np.random.Generator | None = None
    ) -> Encoded:
        raise self._no_codes("encode")

    def _no_codes(self, what: str) -> MacloomError:
        return MacloomError(
            f"format {self.name!r}: has no {what}, the released code quantizes without bit patterns (unsigned grids "
            "leave no identifier, pairs straddle rows); use quantize, or drop mode=upstream"
        )

    def _encode(self, x: np.ndarray, scale: np.ndarray, clip: float) -> tuple[np.ndarray, np.ndarray, np.float32]:
        raise self._no_codes("encode")

    def _quantize(self, x: np.ndarray, scale: np.ndarray, clip: float, out: Any, template: Any) -> np.ndarray:
        units, grid = self._parts(scale)
        result = output_for(template, out, x.shape)
        result[...] = self._fake(x, units, grid)
        return result

    def decode(self, encoded: Encoded) -> np.ndarray:
        raise self._no_codes("decode")

    def operand_of(self, encoded: Encoded) -> Operand:
        raise self._no_codes("operand")
