"""Elementary functions on integers: Python's decimal module is the oracle to 50 digits, math.erfc beyond it."""

from __future__ import annotations

import math
from decimal import Decimal, getcontext, localcontext
from fractions import Fraction

import pytest

from macloom.formats.vector import functions as f

ARGUMENTS = [Fraction(0), Fraction(1, 3), Fraction(5, 7), Fraction(1), Fraction(31, 8), Fraction(16)]
PRECISION = 150


def decimal(x: Fraction) -> Decimal:
    return Decimal(x.numerator) / Decimal(x.denominator)


def close(got: int, want: Decimal) -> bool:
    """Whether an integer in units of 2**-150 is the nearest one, or next to it where decimal cannot tell."""
    return abs(Decimal(got) - want * 2**PRECISION) < Decimal("0.51")


@pytest.mark.parametrize("x", ARGUMENTS)
def test_exponentials_and_roots_equal_decimal(x: Fraction) -> None:
    with localcontext() as context:
        context.prec = 90
        d = decimal(x)
        assert close(f.exp(x, PRECISION) if x < 2 else f.exp(-x, PRECISION), (d if x < 2 else -d).exp())
        assert close(f.half_power(x, PRECISION), (-d * Decimal(2).ln()).exp())
        assert close(f.reciprocal(x, PRECISION), 1 / (1 + d))
        assert close(f.logistic_tail(x, PRECISION), 1 / (1 + d.exp()))
        assert close(f.log(1 + 7 * x, PRECISION), (1 + 7 * d).ln())
        if x < 1:
            m = 1 + 2 * d if x < Fraction(1, 2) else 4 * d
            assert close(f.reciprocal_root(x, PRECISION), 1 / m.sqrt())


def test_constants_equal_published_digits() -> None:
    # OEIS A000796, A002162, A007525.
    with localcontext() as context:
        context.prec = 60
        published = {
            f.pi: "3.1415926535897932384626433832795028841971693993751",
            f.ln2: "0.69314718055994530941723212145817656807550013436026",
            f.log2e: "1.4426950408889634073599246810018921374266459541530",
        }
        for function, digits in published.items():
            assert close(function(PRECISION), Decimal(digits))
    assert getcontext().prec != 60


@pytest.mark.parametrize("x", [Fraction(k, 16) for k in range(0, 160, 7)])
def test_normal_tail_equals_erfc(x: Fraction) -> None:
    want = 0.5 * math.erfc(float(x) / math.sqrt(2))
    assert f.normal_tail(x, PRECISION) / 2**PRECISION == pytest.approx(want, rel=1e-13)
    # 1 - Phi(x) is less than half a step: nothing is lost by not summing the series.
    assert f.normal_tail(Fraction(60), PRECISION) == 0


@pytest.mark.parametrize("x", [Fraction(k, 8) for k in range(0, 64, 5)])
def test_tanh_gelu_tail_equals_its_formula(x: Fraction) -> None:
    y = math.sqrt(2 / math.pi) * (float(x) + 0.044715 * float(x) ** 3)
    assert f.tanh_gelu_tail(x, 100) / 2**100 == pytest.approx(1 / (1 + math.exp(2 * y)), rel=1e-12)


def test_rotations_equal_cosine_and_sine() -> None:
    angle = f.ratio(Fraction(7, 10), 128)
    for n, (c, s) in enumerate(f.rotations(angle, 128, 2000)):
        assert c / 2**128 == pytest.approx(math.cos(n * 0.7), abs=2e-12)
        assert s / 2**128 == pytest.approx(math.sin(n * 0.7), abs=2e-12)
        assert abs(c * c + s * s - (1 << 256)) < 128 * (n + 1) << 128  # the error that the docstring promises


def test_precision_does_not_change_the_leading_digits() -> None:
    for function in f.FUNCTIONS.values():
        long, short = function(Fraction(3, 7), 120), function(Fraction(3, 7), 30)
        assert abs(f.nearest(long, 90) - short) <= 1
