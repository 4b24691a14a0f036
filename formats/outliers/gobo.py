"""GOBO (Zadeh et al., MICRO 2020): weights as indices into a few centroids, Gaussian outliers in float32."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.arrays import as_float32, check_finite
from macloom.formats.elements.minifloat import FP32
from macloom.formats.families import SPARSE
from macloom.formats.grammar import CATALOG, Builder, Entry, Options, choice_option, integer_option
from macloom.formats.outliers.cluster import cluster_rows, least_absolute_error
from macloom.formats.outliers.sparse import Layout, SparseStore, to_float32
from macloom.formats.outliers.sparse_options import float_option, fraction_option, number_option
from macloom.formats.outliers.tables import TableSparse
from macloom.formats.tensor import TensorFormat


class Fit(StrEnum):
    """How centroids are found. L1: GOBO's iteration. KMEANS: the least squared error."""

    L1 = "l1"
    KMEANS = "kmeans"


class Density(StrEnum):
    """Whose density the threshold is compared with: the fitted Gaussian's, or the standard normal one of
    (x - mean) / deviation, which does not depend on the unit of the weights."""

    FITTED = "fitted"
    STANDARD = "standard"


@dataclass(frozen=True, kw_only=True)
class Gobo(TableSparse):
    """One table per tensor; outliers are the elements whose log density under a Gaussian fit is below a threshold.

    The Gaussian has the tensor's mean and (population) deviation. What is from the paper's abstract: the
    fit, 3-bit indices into 8 float32 centroids, outliers in float32 (about 0.1 % of BERT's weights).
    What is a reconstruction, and therefore an option: the threshold of -4 (natural logarithm), the
    iteration (equally populated bins, then means of the nearest values while the sum of absolute errors
    falls), and the 32-bit coordinate of an outlier. No code was released, so there is no upstream mode.
    `table=fp16` stores centroids in half precision, for arrays that multiply nothing wider.

    With `density=fitted` the threshold has the unit of the weights: a tensor of deviation above 21.8 has
    no inliers at -4, which is an error.

    >>> import numpy as np
    >>> from macloom.formats import get_format
    >>> encoded = get_format("gobo3").encode(np.float32([0.1, -0.1] * 500 + [1.5]))
    >>> encoded.side["positions"], encoded.decode()[-1]
    (array([1000], dtype=uint32), np.float32(1.5))
    """

    threshold: float = -4.0
    density: Density = Density.FITTED
    fit: Fit = Fit.L1

    def radius(self, deviation: float) -> float:
        """Return the distance from the mean beyond which an element is an outlier."""
        spread = deviation if self.density is Density.FITTED else 1.0
        return deviation * math.sqrt(max(0.0, 2 * (self.peak(spread) - self.threshold)))

    @staticmethod
    def peak(deviation: float) -> float:
        """Return the largest log density of a Gaussian."""
        return -0.5 * math.log(2 * math.pi) - math.log(deviation)

    def calibrate(self, x: Any, clip: float | None = None) -> np.ndarray:
        """Return the centroids, ascending, and the bounds of inliers (2**width + 2)."""
        flat = as_float32(x).reshape(-1)
        check_finite(np.abs(flat), self.name)
        wide = flat.astype(np.float64)
        mean, deviation = float(wide.mean()), float(wide.std())
        if flat.min() == flat.max():
            lower, upper = float(flat.min()), float(flat.max())
        else:
            radius = self.radius(deviation)
            lower, upper = (float(bound) for bound in to_float32(np.array([mean - radius, mean + radius])))
        inside = flat[(flat >= lower) & (flat <= upper)]
        if not len(inside):
            raise MacloomError(
                f"format {self.name!r}: no element's log density reaches the threshold {self.threshold:g}, a Gaussian "
                f"of deviation {deviation:g} has {self.peak(deviation):.3g} at most; lower it or use density=standard"
            )
        if self.fit is Fit.L1:
            centroids, _ = least_absolute_error(inside, self.entries)
        else:
            centroids = cluster_rows(inside[None], self.entries)[0]
        return self.table_and_bounds(centroids[None], lower, upper, flat.shape, clip)


def gobo(width: int) -> Builder:
    """Return the builder of GOBO formats with indices of `width` bits unless the option `bits` says otherwise."""

    def build(name: str, options: Options) -> TensorFormat:
        return Gobo(
            name=name,
            width=integer_option(options, "bits", width),
            entry=float_option(options, "table", FP32),
            store=SparseStore(
                layout=choice_option(options, "layout", Layout.COORDINATE, Layout.CSR, Layout.CHUNK),
                value=FP32,
                chunk=integer_option(options, "chunk", 16),
            ),
            rate=fraction_option(options, "rate", 0.001),
            threshold=number_option(options, "threshold", -4.0),
            density=choice_option(options, "density", Density.FITTED, Density.STANDARD),
            fit=choice_option(options, "fit", Fit.L1, Fit.KMEANS),
        )

    return build


for _width in (3, 4):
    CATALOG.add(
        f"gobo{_width}",
        Entry(
            family=SPARSE,
            summary=f"{_width}-bit indices into {1 << _width} float32 centroids, Gaussian outliers in float32",
            source="Zadeh et al., GOBO, MICRO 2020; threshold, iteration and coordinates are a reconstruction",
            build=gobo(_width),
            keys=("bits", "threshold", "density", "fit", "table", "layout", "chunk", "rate"),
        ),
    )
