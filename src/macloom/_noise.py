"""The measure of quantization noise that every room uses."""

from __future__ import annotations

import math


def sqnr_db(signal: float, noise: float) -> float:
    """Return 10 log10(signal / noise) of two sums of squares: infinite without noise, -infinite without signal.

    >>> sqnr_db(100.0, 1.0), sqnr_db(1.0, 0.0), sqnr_db(0.0, 1.0)
    (20.0, inf, -inf)
    """
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf
