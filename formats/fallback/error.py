"""How far quantized rows are from the rows themselves; see `macloom.formats.kernels.error`."""

from __future__ import annotations

import numpy as np


def squared_errors(start, stop, x, quantized, weights, out):
    """Write the sum of ((quantized - x) * weight)**2 of each row, in float64 and in ascending order."""
    for r in range(start, stop):
        difference = (quantized[r].astype(np.float64) - x[r]) * weights
        # numpy's sum adds pairwise; the running sum adds in order, as the compiled loop does.
        out[r] = np.add.accumulate(difference * difference)[-1] if len(difference) else 0.0
