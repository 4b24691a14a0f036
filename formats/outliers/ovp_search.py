"""Scale search for outlier-victim pairs, as the released code does it (Guo et al., OliVe, ISCA 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from macloom.formats.arrays import rows_of
from macloom.formats.scales import Grain, Granularity, store_scale

if TYPE_CHECKING:
    from macloom.formats.outliers.ovp import Ovp

# clevercool/ANT-Quantization@bc84067, run_glue.sh: low=75, up=250, step 2.
PERCENTS = range(75, 250, 2)
SIGMAS = 3
FLOAT32_MAX = float(np.finfo(np.float32).max)


def search_scales(fmt: Ovp, x: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the scales of `x` and the squared error of the whole tensor under them.

    Per granule, alpha = (75, 77, ..., 249) % of the larger end of mean +- 3 sigma lands on the largest
    normal value; the smallest of the best is kept.

    Raises:
        MacloomError: `x` holds NaN or infinities, or its shape does not suit the granularity.
    """
    fmt.granularity.absolute_maximum(x, fmt.name)  # refuses what is not finite
    shape = fmt.granularity.scale_shape(x.shape, fmt.name)
    fmt.check_scales(np.ones(shape, np.float32), x.shape)
    plain, granules = granule_rows(x, fmt.granularity, fmt.name)
    start = three_sigma(plain)
    best = np.full(len(granules), np.inf)
    scale = np.ones(len(granules), np.float32)
    for percent in PERCENTS:
        alpha = np.minimum(start * (percent / 100), FLOAT32_MAX).astype(np.float32)
        unstored = np.minimum(alpha / np.float32(fmt.normal.max_value), fmt.largest_scale)
        candidate = store_scale(unstored, fmt.scale_format)
        error = fmt.squared_errors(granules, candidate)
        better = (error < best) & (start > 0)
        best, scale = np.where(better, error, best), np.where(better, candidate, scale).astype(np.float32)
    return scale.reshape(shape), float(best[start > 0].sum())


def three_sigma(granules: np.ndarray) -> np.ndarray:
    """Return the larger magnitude of mean +- 3 sigma (unbiased) of each row, float64."""
    mean = granules.mean(axis=1, dtype=np.float64)
    sigma = granules.std(axis=1, ddof=1 if granules.shape[1] > 1 else 0, dtype=np.float64)
    return np.maximum(np.abs(mean + SIGMAS * sigma), np.abs(mean - SIGMAS * sigma))


def granule_rows(x: np.ndarray, granularity: Granularity, name: str) -> tuple[np.ndarray, np.ndarray]:
    """View the elements that share a scale as rows: as they are, and padded so that pairs stay in their row."""
    match granularity.grain:
        case Grain.GROUP:
            rows = x.reshape(-1, granularity.block(x.shape[-1] if x.ndim else 1, name))
            return rows, rows
        case Grain.TENSOR:
            first, granules = rows_of(x), 1
        case Grain.AXIS:
            assert granularity.axis is not None
            first, granules = np.moveaxis(x, granularity.axis, 0), x.shape[granularity.axis]
        case _:
            return rows_of(x), rows_of(x)
    plain = np.ascontiguousarray(first).reshape(granules, -1)
    if first.shape[-1] % 2 == 0:
        return plain, plain
    padding = [(0, 0)] * (first.ndim - 1) + [(0, 1)]
    return plain, np.pad(first, padding).reshape(granules, -1)
