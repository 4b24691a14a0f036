"""The compiled loop over design points."""

# pyright: reportIndexIssue=false
from __future__ import annotations

from macloom._numba import njit


@njit(cache=True)
def total_cycles(kind, m, n, k, rows, cols, shadow, shift_out, out):
    """Put `macloom.sim.systolic.array_cycles` of each point in `out`; `kind` is 0 for OS, 1 for WS, 2 for IS."""
    for i in range(len(out)):
        r, c = rows[i], cols[i]
        if kind[i] == 0:
            across, down, stream = m[i], n[i], k[i]
            shifts = r * shift_out
            ends = r + c - 2 + shifts
        else:
            across, down, stream = (k[i], n[i], m[i]) if kind[i] == 1 else (k[i], m[i], n[i])
            shifts = r
            ends = 2 * r + c - 2
        folds = ((across + r - 1) // r) * ((down + c - 1) // c)
        alone = ends + stream
        out[i] = (folds - 1) * (max(stream, shifts) if shadow else alone) + alone
