"""Dot products whose order no linear algebra library promises; see `macloom.formats.kernels.dot`."""

from __future__ import annotations

import numpy as np


def sequential_float32(left, right):
    """Return products (..., M, N) added in float32 one after the other, in ascending order of K."""
    a = np.asarray(left, np.float32).reshape(-1, *left.shape[-2:])
    b = np.asarray(right, np.float32).reshape(-1, *right.shape[-2:])
    out = np.zeros((a.shape[0], a.shape[1], b.shape[1]), np.float32)
    with np.errstate(all="ignore"):
        for k in range(a.shape[2]):
            out += a[:, :, k, None] * b[:, None, :, k]
    return out.reshape(*left.shape[:-1], right.shape[-2])
