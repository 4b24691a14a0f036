"""Granularities: which elements of a tensor share a scale, and how that scale is stored."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from macloom.errors import MacloomError, require_positive_integer
from macloom.formats.arrays import check_finite, rows_of
from macloom.formats.elements.minifloat import FloatFormat, Specials
from macloom.formats.threads import run_rows

SMALLEST_SCALE = np.float32(2.0**-126)
E8M0 = FloatFormat(label="e8m0", exponent_bits=8, mantissa_bits=0, signed=False, zero=False, specials=Specials.FN)
E4M3 = FloatFormat(label="fp8_e4m3", exponent_bits=4, mantissa_bits=3, specials=Specials.FN)


class Grain(StrEnum):
    """NONE: no scale at all. TENSOR: one. ROW: one per row of the last axis (a token, or an output
    channel of a weight). GROUP: one per `size` elements of a row. AXIS: one per index of an axis."""

    NONE = "none"
    TENSOR = "tensor"
    ROW = "row"
    GROUP = "group"
    AXIS = "axis"


@dataclass(frozen=True, kw_only=True)
class Granularity:
    """Which elements share a scale.

    Attributes:
        grain: see `Grain`.
        size: group size for GROUP.
        axis: the axis whose every index has its own scale, for AXIS.
    """

    grain: Grain
    size: int | None = None
    axis: int | None = None

    def __post_init__(self) -> None:
        if (self.grain is Grain.GROUP) != (self.size is not None):
            raise MacloomError(f"granularity.size: belongs to 'group' alone, not to {self.grain.value!r}")
        if (self.grain is Grain.AXIS) != (self.axis is not None):
            raise MacloomError(f"granularity.axis: belongs to 'axis' alone, not to {self.grain.value!r}")
        if self.size is not None:
            require_positive_integer("granularity.size", self.size)

    def block(self, length: int, name: str) -> int:
        """Return how many elements along a row of `length` share a scale.

        A row that is shorter than a group is one group.

        Raises:
            MacloomError: the group size does not divide the row.
        """
        if self.size is None or length <= self.size:
            return length
        if length % self.size:
            divisors = [d for d in range(1, length + 1) if length % d == 0]
            raise MacloomError(
                f"format {name!r}: group size {self.size} does not divide the last axis of {length} elements; "
                f"group sizes that do: {', '.join(map(str, divisors[-8:]))}"
            )
        return self.size

    def scale_shape(self, shape: tuple[int, ...], name: str) -> tuple[int, ...]:
        """Return the shape of the scales of a tensor."""
        match self.grain:
            case Grain.NONE | Grain.TENSOR:
                return ()
            case Grain.ROW:
                return shape[:-1]
            case Grain.GROUP:
                length = shape[-1] if shape else 1
                return (*shape[:-1], length // self.block(length, name))
            case Grain.AXIS:
                return (shape[self._axis(shape, name)],)

    def by_row(self, axes: int) -> bool:
        """Return whether scales of a tensor of so many axes have its first axis, or serve all of it."""
        if self.grain is Grain.AXIS:
            assert self.axis is not None
            return self.axis % axes == 0
        return self.grain in (Grain.ROW, Grain.GROUP)

    def _axis(self, shape: tuple[int, ...], name: str) -> int:
        assert self.axis is not None
        if not -len(shape) <= self.axis < len(shape):
            raise MacloomError(f"format {name!r}: a tensor of shape {shape} has no axis {self.axis}")
        return self.axis % len(shape)

    def absolute_maximum(self, x: np.ndarray, name: str) -> np.ndarray:
        """Return the largest magnitude of every set of elements that shares a scale.

        Raises:
            MacloomError: `x` holds NaN or infinities.
        """
        from macloom.formats.kernels.lookup import absmax

        rows = rows_of(x)
        block = self.block(rows.shape[1], name)
        out = np.empty((rows.shape[0], rows.shape[1] // block), np.float32)
        run_rows(absmax, rows.shape[0], x.size, rows, block, out)
        check_finite(out, name)
        match self.grain:
            case Grain.NONE | Grain.TENSOR:
                return out.max()
            case Grain.AXIS:
                axis = self._axis(x.shape, name)
                if axis == x.ndim - 1:
                    return np.abs(rows).max(axis=0)
                return out.reshape(x.shape[:-1]).max(axis=tuple(i for i in range(x.ndim - 1) if i != axis))
            case _:
                return out.reshape(self.scale_shape(x.shape, name))

    def row_scales(self, scale: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
        """Spread scales over rows x segments, as the kernels take them.

        Raises:
            MacloomError: the scales do not fit the tensor.
        """
        expected = self.scale_shape(shape, name)
        if scale.shape != expected:
            raise MacloomError(f"scale: must have shape {expected} for a tensor of {shape}, not {scale.shape}")
        if not np.all(scale > 0) or not np.all(np.isfinite(scale)):
            bad = scale[~((scale > 0) & np.isfinite(scale))].flat[0]
            raise MacloomError(f"scale: must be positive and finite, not {float(bad)}")
        if self.grain is Grain.AXIS:
            axis = self._axis(shape, name)
            view = scale.reshape([-1 if i == axis else 1 for i in range(len(shape))])
            spread = np.broadcast_to(view, shape if axis == len(shape) - 1 else (*shape[:-1], 1))
            return np.ascontiguousarray(rows_of(spread))
        rows = math.prod(shape[:-1])
        segments = shape[-1] // self.block(shape[-1], name) if shape else 1
        return np.ascontiguousarray(np.broadcast_to(scale.reshape(-1, segments if scale.ndim else 1), (rows, segments)))


class ScaleStorage(ABC):
    """How the scales of a tensor are stored where one scale is not a float by itself.

    Attributes:
        name: the value of the format option `scale`.
        grouped: whether it needs several scales in a row, so that only `group=` takes it.
        by_row: whether what a row's scales are stored as depends on that row alone.
    """

    name: str
    grouped = False
    by_row = True

    @abstractmethod
    def store(self, scale: np.ndarray) -> np.ndarray:
        """Return what the stored form of non-negative scales reads back as: float32, positive, the same shape."""

    @abstractmethod
    def total_bits(self, shape: tuple[int, ...]) -> int:
        """Return the stored bits of scales of this shape."""


ScaleFormat = FloatFormat | ScaleStorage


def scale_storage_bits(shape: tuple[int, ...], stored: ScaleFormat) -> int:
    """Return the stored bits of scales of `shape`."""
    return stored.total_bits(shape) if isinstance(stored, ScaleStorage) else math.prod(shape) * stored.bits


def store_scale(scale: np.ndarray, stored: ScaleFormat) -> np.ndarray:
    """Round positive scales to the form they are stored in; never to zero, never above its range."""
    scale = np.maximum(np.asarray(scale, np.float32), SMALLEST_SCALE)
    if isinstance(stored, ScaleStorage):
        return stored.store(scale)
    if stored.bits > 16:
        return scale
    smallest = max(
        float(np.nextafter(np.float32(0), np.float32(1))), float(stored.encodable[0][stored.encodable[0] > 0][0])
    )
    return np.maximum(stored.quantize(scale), np.float32(smallest))


def require_stored(scale: np.ndarray, stored: ScaleFormat, name: str) -> None:
    """Raise where given scales are not what their storage holds, so that stored bits and values agree.

    Scales that share their storage with others (`ScaleStorage.grouped`) are taken as they come. What is not
    positive and finite is left to `Granularity.row_scales`.

    Raises:
        MacloomError: a scale would be rounded; the message has the nearest that would not.
    """
    exact = stored.grouped if isinstance(stored, ScaleStorage) else stored.bits > 16
    if exact or not np.all(scale > 0) or not np.all(np.isfinite(scale)):
        return
    if isinstance(stored, ScaleStorage):
        held = np.asarray(stored.store(scale))
    else:
        from macloom.formats.rounders import quantize_rows

        rows = np.ascontiguousarray(scale, np.float32).reshape(1, -1)
        held = np.empty_like(rows)
        quantize_rows(stored, rows, np.ones((1, 1), np.float32), rows.shape[1], held, name)
    wrong = np.flatnonzero(held.reshape(-1) != scale.reshape(-1))
    if len(wrong):
        came, near = float(scale.flat[wrong[0]]), float(held.flat[wrong[0]])
        raise MacloomError(
            f"scale: format {name!r} stores scales as {stored.name}, which does not hold {came:.9g}; "
            f"the nearest is {near:.9g}"
        )
