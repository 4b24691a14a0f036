"""Scaled formats whose scale is a statistic of the magnitudes rather than the largest one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.arrays import as_float32, check_finite, clip_share
from macloom.formats.element import ElementFormat
from macloom.formats.grammar import Builder, Options, as_choice, choice_option, granularity_option, stored_scale_option
from macloom.formats.scales import Grain, Granularity, ScaleStorage, store_scale
from macloom.formats.tensor import TensorFormat
from macloom.formats.tensors.scaled import Scaled


class Statistic(StrEnum):
    """What of a granule's magnitudes lands on the element value 1.

    ABSMAX is different: the largest magnitude lands on the largest value. LOWER_MEDIAN takes the lower
    of the two middle values of an even number, as torch.median does; MEDIAN their mean.
    """

    ABSMAX = "absmax"
    RMS = "rms"
    MEAN = "mean"
    MEDIAN = "median"
    LOWER_MEDIAN = "lower_median"


def granules(x: np.ndarray, granularity: Granularity, name: str) -> np.ndarray:
    """Return the elements of every granule on the last axis, the granules in the order of the scales."""
    shape = x.shape or (1,)
    match granularity.grain:
        case Grain.NONE | Grain.TENSOR:
            return x.reshape(-1)
        case Grain.ROW:
            return x.reshape(shape)
        case Grain.GROUP:
            size = granularity.block(shape[-1], name)
            return x.reshape(*shape[:-1], shape[-1] // size, size)
        case Grain.AXIS:
            (count,) = granularity.scale_shape(shape, name)
            assert granularity.axis is not None
            return np.moveaxis(x, granularity.axis, 0).reshape(count, -1)


def measure(magnitudes: np.ndarray, statistic: Statistic) -> np.ndarray:
    """Return a statistic of magnitudes (..., elements), computed in float64, as float32 (...)."""
    match statistic:
        case Statistic.ABSMAX:
            result = magnitudes.max(axis=-1)
        case Statistic.RMS:
            result = np.sqrt(np.square(magnitudes, dtype=np.float64).mean(axis=-1))
        case Statistic.MEAN:
            result = magnitudes.mean(axis=-1, dtype=np.float64)
        case Statistic.MEDIAN:
            result = np.median(magnitudes.astype(np.float64), axis=-1)
        case Statistic.LOWER_MEDIAN:
            middle = (magnitudes.shape[-1] - 1) // 2
            result = np.partition(magnitudes, middle, axis=-1)[..., middle]
    return np.asarray(result, np.float32)


@dataclass(frozen=True, kw_only=True)
class StatisticScaled(Scaled):
    """A scaled format whose default scale is a statistic of each granule's magnitudes.

    `clip` multiplies that scale. `floor` is the smallest scale; a granule whose scale would be zero
    takes 1 where there is no floor.

    >>> import numpy as np
    >>> from macloom.formats import IntFormat
    >>> fmt = StatisticScaled(name="t", element=IntFormat(width=2), statistic=Statistic.MEAN)
    >>> float(fmt.calibrate(np.float32([1, -2, 6])))
    3.0
    """

    element: ElementFormat
    statistic: Statistic
    floor: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "statistic", as_choice("statistic", self.statistic, Statistic))
        if not 0 <= self.floor < np.inf:
            raise MacloomError(f"floor: must be a finite number of at least 0, not {self.floor!r}")

    @property
    def static_scale(self) -> bool:
        """A statistic other than the largest magnitude needs the tensor itself, not its extremes."""
        return super().static_scale and (self.statistic is Statistic.ABSMAX or self.granularity.grain is Grain.NONE)

    def calibrate(self, x: Any, clip: float | None = None) -> np.ndarray:
        if self.statistic is Statistic.ABSMAX or self.granularity.grain is Grain.NONE:
            return super().calibrate(x, clip)
        array = as_float32(x)
        if self.element.min_value >= 0 and float(array.min()) < 0:
            raise MacloomError(f"format {self.name!r}: stores no negative values, but the tensor holds {array.min():g}")
        magnitudes = np.abs(granules(array, self.granularity, self.name))
        check_finite(magnitudes.max(axis=-1), self.name)
        scale = measure(magnitudes, self.statistic) * clip_share(clip)
        scale = np.clip(scale, np.float32(self.floor), self._largest_scale())
        if isinstance(self.scale_format, ScaleStorage) and self.scale_format.grouped:
            return store_scale(scale, self.scale_format)
        return np.asarray(np.where(scale > 0, store_scale(scale, self.scale_format), np.float32(1)), np.float32)


def statistic_scaled(element: ElementFormat, *allowed: Statistic, floor: float = 0.0) -> Builder:
    """Return the builder of scaled tensors whose option `rule` takes one of the `allowed` statistics."""

    def build(name: str, options: Options) -> TensorFormat:
        granularity = granularity_option(options, Grain.TENSOR)
        return StatisticScaled(
            name=name,
            element=element,
            granularity=granularity,
            scale_format=stored_scale_option(options, granularity),
            statistic=choice_option(options, "rule", *allowed),
            floor=floor,
        )

    return build
