"""Exact comparison of vector units with the scalar reference: what tests of kernels and of gates share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from macloom.formats.vector import Pair
from macloom.formats.vector.verify import lane_values, pairs

__all__ = ["lane_values", "mismatches", "pairs"]


def mismatches(got: Any, want: Iterable[Pair]) -> int:
    """Count the float32 results whose bits differ from the reference's numbers; -0 is no result of a vector unit.

    >>> mismatches(np.float32([0.5, -0.0]), [Pair(-1, 1), Pair(0, 0)])
    1
    """
    result = np.asarray(got).reshape(-1)
    assert result.dtype == np.float32
    exact = np.array([float(v.fraction) for v in want]).astype(np.float32)
    return int((result.view(np.uint32) != exact.view(np.uint32)).sum())
