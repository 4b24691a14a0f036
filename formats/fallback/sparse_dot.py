"""Products of a few exact outliers with a dense matrix; see `macloom.formats.kernels.sparse_dot`."""

from __future__ import annotations

import numpy as np


def sparse_float32(pointers, columns, values, other):
    """Return sparse rows times a dense matrix, added in float32 one product after the other."""
    out = np.zeros((len(other), (len(pointers) - 1) // len(other), other.shape[1]), np.float32)
    rows = out.shape[1]
    with np.errstate(all="ignore"):
        for index in range(len(pointers) - 1):
            batch, m = divmod(index, rows)
            for j in range(pointers[index], pointers[index + 1]):
                out[batch, m] += values[j] * other[batch, :, columns[j]]
    return out
