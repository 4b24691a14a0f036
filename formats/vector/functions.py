"""Elementary functions to any precision on Python integers, so that tables are the same on every machine.

A number x is the integer x * 2**precision. Results carry guard bits and are rounded to nearest at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import lru_cache

GUARD = 64


def nearest(value: int, places: int) -> int:
    """Return value / 2**places, rounded half up."""
    return value << -places if places <= 0 else (value + (1 << (places - 1))) >> places


def ratio(value: Fraction, precision: int) -> int:
    """Return the integer nearest to value * 2**precision.

    >>> ratio(Fraction(1, 3), 8)
    85
    """
    scaled = value * (1 << precision) if precision >= 0 else value / (1 << -precision)
    return (2 * scaled.numerator + scaled.denominator) // (2 * scaled.denominator)


def _series(x: int, precision: int) -> int:
    """exp(x) for |x| <= 1 by Taylor's series on x / 2**12, squared twelve times."""
    work = precision + 40
    reduced = nearest(x << 40, 12)
    total = term = 1 << work
    n = 0
    while term:
        n += 1
        term = (term * reduced >> work) // n if term * reduced >= 0 else -((-term * reduced >> work) // n)
        total += term
    for _ in range(12):
        total = total * total >> work
    return nearest(total, 40)


@lru_cache(maxsize=32)
def ln2(precision: int) -> int:
    """Return ln 2 = 2 atanh(1/3)."""
    return log(Fraction(2), precision)


@lru_cache(maxsize=256)
def log(value: Fraction, precision: int) -> int:
    """Return the natural logarithm of a positive number: the power of two apart, 2 atanh((m - 1) / (m + 1)).

    >>> log(Fraction(10), 20) / 2**20
    2.302584648132324
    """
    work = precision + GUARD
    power = value.numerator.bit_length() - value.denominator.bit_length()
    mantissa = value / Fraction(2) ** power
    if mantissa > Fraction(3, 2):
        power, mantissa = power + 1, mantissa / 2
    total = _atanh2((mantissa - 1) / (mantissa + 1), work)
    if power:
        total += power * _atanh2(Fraction(1, 3), work)
    return nearest(total, GUARD)


def _atanh2(value: Fraction, work: int) -> int:
    z = ratio(value, work)
    square, term, total, n = z * z >> work, z, 0, 1
    while abs(term) > 1:
        total += term // n
        term = term * square >> work
        n += 2
    return 2 * total


def exp(x: Fraction, precision: int) -> int:
    """Return exp(x): 2**n times the series of what is left.

    >>> exp(Fraction(1), 40) / 2**40
    2.718281828459112
    """
    n = round(float(x) / math.log(2)) if abs(x) < 1 << 20 else 0
    work = precision + GUARD + max(n, 0)
    rest = ratio(x, work) - n * ln2(work)
    return nearest(_series(rest, work), GUARD + max(n, 0) - n)


def half_power(x: Fraction, precision: int) -> int:
    """Return 2**-x."""
    work = precision + GUARD
    return nearest(exp(Fraction(-ratio(x, work) * ln2(work), 1 << 2 * work), work), GUARD)


def reciprocal(x: Fraction, precision: int) -> int:
    """Return 1 / (1 + x)."""
    return ratio(1 / (1 + x), precision)


def reciprocal_root(x: Fraction, precision: int) -> int:
    """Return 1 / sqrt(m), m running from 1 to 4 as x runs from 0 to 1: 1 + 2x below one half, then 4x."""
    m = 1 + 2 * x if x < Fraction(1, 2) else 4 * x
    return nearest(math.isqrt((m.denominator << 2 * (precision + GUARD)) // m.numerator), GUARD)


def logistic_tail(x: Fraction, precision: int) -> int:
    """Return 1 / (1 + exp(x)), what SiLU's gate lacks to 1 at x."""
    if x > precision + 2:  # less than exp(-x), that less than 2**-(precision + 2)
        return 0
    work = precision + GUARD
    return nearest((1 << 2 * work) // ((1 << work) + exp(x, work)), GUARD)


def normal_tail(x: Fraction, precision: int) -> int:
    """Return 1 - Phi(x) for x >= 0, what GELU's gate lacks to 1: half of erfc(x / sqrt 2), by erf's Taylor series."""
    if x * x > 2 * (precision + 2):  # the tail is less than exp(-x*x/2), that less than 2**-(precision + 2)
        return 0
    # Terms of the alternating series reach exp(x*x/2), which costs as many bits more.
    work = precision + GUARD + math.ceil(float(x * x) * 1.5) + 8
    square = ratio(x * x / 2, work)
    term, total, n = ratio(x, work), 0, 0
    while term:
        total += term // (2 * n + 1)
        n += 1
        term = -(term * square >> work) // n
    root = math.isqrt(2 * pi(2 * work))  # sqrt(2 pi) * 2**work
    return nearest((1 << (work - 1)) - (total << work) // root, work - precision)


def tanh_gelu_tail(x: Fraction, precision: int) -> int:
    """Return 1 - (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x**3))) / 2 (Hendrycks and Gimpel 2016, arXiv:1606.08415)."""
    work = precision + GUARD
    inner = 2 * (x + Fraction(44715, 1_000_000) * x**3)
    root = math.isqrt((2 << 4 * work) // pi(2 * work))
    return logistic_tail(inner * Fraction(root, 1 << work), precision)


@lru_cache(maxsize=64)
def pi(precision: int) -> int:
    """Return pi by Machin's formula, 16 atan(1/5) - 4 atan(1/239)."""
    work = precision + GUARD

    def atan_inverse(n: int) -> int:
        term = (1 << work) // n
        total, k, sign = 0, 1, 1
        while term:
            total += sign * (term // k)
            term //= n * n
            k, sign = k + 2, -sign
        return total

    return nearest(16 * atan_inverse(5) - 4 * atan_inverse(239), GUARD)


@lru_cache(maxsize=32)
def log2e(precision: int) -> int:
    """Return the base-2 logarithm of e."""
    work = precision + GUARD
    return nearest((1 << 2 * work) // ln2(work), GUARD)


def rotations(angle: int, precision: int, count: int) -> Iterator[tuple[int, int]]:
    """Yield cosine and sine of 0, 1, ... count - 1 times an angle, by repeated complex products.

    Args:
        angle: radians, 0 to 2. The error grows by less than 64 units of 2**-precision per step.
    """
    cosine, sine = _turn(angle, precision)
    x, y = 1 << precision, 0
    for _ in range(count):
        yield x, y
        x, y = (x * cosine - y * sine) >> precision, (x * sine + y * cosine) >> precision


def _turn(angle: int, precision: int) -> tuple[int, int]:
    square = angle * angle >> precision
    cosine, sine, even, odd, n = 0, 0, 1 << precision, angle, 0
    while even or odd:
        cosine, sine = cosine + even, sine + odd
        even = -(even * square >> precision) // ((n + 1) * (n + 2))
        odd = -(odd * square >> precision) // ((n + 2) * (n + 3))
        n += 2
    return cosine, sine


FUNCTIONS: dict[str, Callable[[Fraction, int], int]] = {
    "half_power": half_power,
    "reciprocal": reciprocal,
    "reciprocal_root": reciprocal_root,
    "logistic_tail": logistic_tail,
    "normal_tail": normal_tail,
    "tanh_gelu_tail": tanh_gelu_tail,
}
