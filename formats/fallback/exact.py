"""Sums of float32 products that are rounded once; see `macloom.formats.kernels.exact`."""

from __future__ import annotations

from fractions import Fraction

import numpy as np


def rounded_sums(left, right, unit):
    """Return the sums over K of products times `unit`, each rounded once to float32 (nearest even).

    float64 sums are rounded where both ends of the interval of their error bound round alike (Higham 2002,
    4.2, with the rows' norms bounding the sum of the magnitudes); the others are summed as fractions.
    """
    a, b = left.astype(np.float64), right.astype(np.float64)
    total = np.matmul(a, b.T)
    norms = [np.sqrt(np.einsum("ij,ij->i", x, x)) * (1 + 1e-9) for x in (a, b)]
    error = norms[0][:, None] * ((a.shape[1] + 4) * 2.0**-53 * (1 + 1e-9)) * norms[1]
    with np.errstate(all="ignore"):
        low, out = ((total - error) * unit).astype(np.float32), ((total + error) * unit).astype(np.float32)
    for m, n in zip(*np.nonzero(low != out), strict=True):
        pairs = zip(left[m].tolist(), right[n].tolist(), strict=True)
        out[m, n] = _nearest(sum((Fraction(x) * Fraction(y) for x, y in pairs), Fraction(0)) * Fraction(unit))
    return out


def _nearest(value: Fraction) -> np.float32:
    """Return the float32 nearest to an exact value, ties to even.

    >>> _nearest(Fraction(1) + Fraction(1, 2**24)), _nearest(Fraction(1) + Fraction(3, 2**24))
    (np.float32(1.0), np.float32(1.0000002))
    """
    magnitude = abs(value)
    if magnitude == 0:
        return np.float32(0)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    exponent -= magnitude < Fraction(2) ** exponent
    step = Fraction(2) ** max(exponent - 23, -149)
    rounded = round(magnitude / step) * step  # of a Fraction: half to even
    if rounded >= Fraction(2) ** 128:
        return np.float32(np.inf if value > 0 else -np.inf)
    return np.float32(float(rounded) if value > 0 else -float(rounded))
