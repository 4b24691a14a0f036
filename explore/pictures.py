"""Where formats put the values of a real tensor: its histogram, and the magnitudes that each format used."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from macloom._noise import sqnr_db
from macloom.explore.records import Strip, ValuePicture
from macloom.explore.result import finite
from macloom.formats import TensorFormat

# A strip is some 700 pixels wide: magnitudes closer than this ratio cannot be told apart in it.
TICKS_PER_DECADE = 90
DECADES = 5
BINS_PER_DECADE = 12


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantizer:
    """A format as one operand of an evaluation used it: with a calibrated scale, or a clip ratio."""

    label: str
    format: TensorFormat
    scale: np.ndarray | None = None
    clip: float | None = None

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.format.quantize(x, scale=self.scale, clip=self.clip)


def value_picture(
    x: np.ndarray, quantizers: Iterable[Quantizer], *, model: str, tensor: str, role: str
) -> ValuePicture:
    """Quantize `x` with each quantizer and record where its values went.

    The histogram covers the largest magnitude and five decades below it; values of zero are in none
    of its bins. Magnitudes that no plot could separate are thinned, `Strip.distinct` counts them all.

    >>> from macloom.formats import get_format
    >>> x = np.linspace(-3, 3, 1000, dtype=np.float32)
    >>> int4 = Quantizer(label="int4", format=get_format("int4"))
    >>> value_picture(x, [int4], model="none", tensor="x", role="activation").strips[0].distinct
    7
    """
    magnitude = np.abs(np.asarray(x, np.float64)).ravel()
    top = math.ceil(math.log10(max(float(magnitude.max(initial=0.0)), 1e-30)) * BINS_PER_DECADE) / BINS_PER_DECADE
    edges = 10.0 ** (top - DECADES + np.arange(DECADES * BINS_PER_DECADE + 1) / BINS_PER_DECADE)
    # Rounding may leave the largest value a hair beyond the last edge.
    counts, _ = np.histogram(np.minimum(magnitude, edges[-1]), bins=edges)
    strips = tuple(_strip(q.label, x, q(np.ascontiguousarray(x, np.float32)), edges[0]) for q in quantizers)
    return ValuePicture(
        model=model,
        tensor=tensor,
        role=role,
        elements=int(magnitude.size),
        edges=tuple(float(f"{e:.6g}") for e in edges),
        counts=tuple(int(c) for c in counts),
        strips=strips,
    )


def _strip(label: str, x: Any, quantized: np.ndarray, low: float) -> Strip:
    exact, used = np.asarray(x, np.float64).ravel(), np.asarray(quantized, np.float64).ravel()
    magnitudes = np.unique(np.abs(used))
    magnitudes = magnitudes[magnitudes > 0]
    shown = magnitudes[magnitudes >= low]
    ticks = np.unique(np.round(np.log10(shown) * TICKS_PER_DECADE), return_index=True)[1]
    nonzero = np.count_nonzero(exact)
    noise, signal = float(np.square(used - exact).sum()), float(np.square(exact).sum())
    return Strip(
        format=label,
        magnitudes=tuple(float(f"{m:.6g}") for m in shown[ticks]),
        distinct=int(magnitudes.size),
        zeroed=float(np.count_nonzero((exact != 0) & (used == 0)) / nonzero) if nonzero else 0.0,
        sqnr_db=finite(sqnr_db(signal, noise)),
    )
