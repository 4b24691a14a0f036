"""Products of operands whose scales change along K; see `macloom.formats.kernels.accumulate_segments`."""

from __future__ import annotations

import numpy as np


def segmented_float32(a, b, segment, unit, double):
    """Return sum over segments of float32(exact inner sum * unit) * scale_a * scale_b, in ascending order.

    The caller has proven that every inner sum is exact in float32 (or float64 for `double`), in any order.
    """
    dtype = np.float64 if double else np.float32
    left = np.ascontiguousarray(a.units, dtype).reshape(-1, *a.units.shape[-2:])
    right = np.ascontiguousarray(b.units, dtype).reshape(left.shape[0], -1, left.shape[2])
    a_scales = np.asarray(a.scales).reshape(left.shape[0], left.shape[1], -1)
    b_scales = np.asarray(b.scales).reshape(left.shape[0], right.shape[1], -1)
    out = np.zeros((left.shape[0], left.shape[1], right.shape[1]), np.float32)
    with np.errstate(all="ignore"):
        for k in range(0, left.shape[2], segment):
            part = slice(k, k + segment)
            sums = np.matmul(left[:, :, part], np.swapaxes(right[:, :, part], 1, 2))
            scaled = (sums.astype(np.float64) * unit).astype(np.float32) * a_scales[:, :, k // a.block, None]
            out += scaled * b_scales[:, None, :, k // b.block]
    return out.reshape(*a.units.shape[:-1], right.shape[1])


def has_byte_products():
    """Say whether this processor multiplies bytes into int32, and the loop that does so gives exact sums here."""
    return False
