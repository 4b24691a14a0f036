"""Codes to integer units, at the speed of memory."""

from __future__ import annotations

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.arrays import rows_of
from macloom.formats.threads import run_rows


def look_up(table: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return table[codes] as float32; numpy's own `take` widens every code to 64 bits first.

    Args:
        table: float32, one entry per code.
        codes: uint8 or uint16 of any shape.

    Raises:
        MacloomError: a code is beyond the table.

    >>> look_up(np.array([0, 1, -1], np.float32), np.array([[2, 1]], np.uint8))
    array([[-1.,  1.]], dtype=float32)
    """
    from macloom.formats.kernels.lookup import decode_codes

    rows = np.ascontiguousarray(rows_of(codes))
    units, worst = np.empty(rows.shape, np.float32), np.empty(len(rows), np.uint32)
    ones = np.ones((len(rows), 1), np.float32)
    run_rows(decode_codes, len(rows), rows.size, rows, ones, max(rows.shape[1], 1), table, units, worst)
    if worst.size and int(worst.max()) >= len(table):
        raise MacloomError(f"codes: must be in [0, {len(table)}), not {int(worst.max())}")
    return units.reshape(codes.shape)
