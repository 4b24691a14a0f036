"""Scale search for outlier-victim pairs, as the released code does it (Guo et al., OliVe, ISCA 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from macloom.formats.arrays import rows_of
from macloom.formats.scales import Grain, Granularity, store_scale
from macloom.formats.threads import run_rows, thread_count

if TYPE_CHECKING:
    from macloom.formats.outliers.ovp import Ovp

# clevercool/ANT-Quantization@bc84067, run_glue.sh: low=75, up=250, step 2.
PERCENTS = range(75, 250, 2)
SHARES = np.array(PERCENTS) / 100
BATCH = 1 << 13  # granules whose candidates are held at a time
SIGMAS = 3
LIKELY, SAMPLE = 10, 1 << 14  # a candidate to begin with, and elements that tell a better one
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
    scale, errors = np.ones(len(granules), np.float32), np.empty(len(granules))
    for first in range(0, len(granules), BATCH):
        part = slice(first, first + BATCH)
        alphas = np.minimum(start[part, None] * SHARES, FLOAT32_MAX).astype(np.float32)
        unstored = np.minimum(alphas / np.float32(fmt.normal.max_value), fmt.largest_scale)
        candidates = np.ascontiguousarray(store_scale(unstored, fmt.scale_format))
        found, errors[part] = _best_of(fmt, granules[part], candidates)
        good = (found >= 0) & (start[part] > 0)
        scale[part] = np.where(good, candidates[np.arange(len(found)), found], np.float32(1))
        errors[part][~good] = np.inf
    return scale.reshape(shape), float(errors[start > 0].sum())


def _best_of(fmt: Ovp, rows: np.ndarray, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of the first scale of least squared error for each row (-1: all infinite), and that error."""
    from macloom.formats.kernels import pair_search

    kernels: Any = pair_search
    count = candidates.shape[1]
    sums = np.zeros(candidates.shape)
    found, errors = np.empty(len(rows), np.int64), np.empty(len(rows))
    arguments = fmt.value_arguments
    if not fmt.screens:
        pass  # every sum is taken in order
    elif len(rows) >= thread_count():
        run_rows(kernels.screen, len(rows), rows.size * count, rows, candidates, LIKELY, np.inf, *arguments, sums)
    else:
        for r in range(len(rows)):
            row, own, into = rows[r : r + 1], candidates[r : r + 1], sums[r : r + 1]
            kernels.screen(0, 1, np.ascontiguousarray(row[:, :SAMPLE]), own, LIKELY, np.inf, *arguments, into)
            likely = int(np.argmin(into))
            kernels.screen_scales(likely, likely + 1, row, own, np.inf, *arguments, into)
            bound = float(into[0, likely])
            run_rows(kernels.screen_scales, count, row.size * count, row, own, bound, *arguments, into)
    run_rows(kernels.settle, len(rows), rows.size * 8, rows, candidates, sums, *fmt.error_arguments, found, errors)
    return found, errors


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
