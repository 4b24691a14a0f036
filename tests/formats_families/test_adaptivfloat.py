"""AdaptivFloat against both definitions written out with exact fractions."""

# Lists stand for arrays and strings for enumerations; numpy's stubs do not know float32 of a list.
# pyright: reportArgumentType=false, reportIndexIssue=false
from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import AdaptivFloat, AdaptivScaled, get_format
from macloom.formats.elements.adaptivfloat import Definition

Around = Callable[[np.ndarray], np.ndarray]


def rounded(x: Fraction, e: int, m: int) -> Fraction:
    """x in [2**e, 2**(e+1)) to m mantissa bits, ties to the even mantissa."""
    step = Fraction(2) ** (e - m)
    return round(x / step) * step


def exponent(x: Fraction) -> int:
    return int(np.frexp(float(x))[1]) - 1


def paper(x: float, largest: float, n: int, e: int) -> float:
    """Algorithm 1, as in the datasheet: bias from the largest magnitude, half-way rounding to 0 or the smallest."""
    m, e_max = n - e - 1, exponent(Fraction(largest))
    bias = e_max - (2**e - 1)
    smallest = Fraction(2) ** bias * (1 + Fraction(1, 2**m))
    greatest = Fraction(2) ** e_max * (2 - Fraction(1, 2**m))
    a = abs(Fraction(x))
    if a < smallest / 2:
        value = Fraction(0)
    elif a < smallest:
        value = smallest
    else:
        value = greatest if a > greatest else min(rounded(a, exponent(a), m), greatest)
    return float(np.copysign(float(value), x)) if value else 0.0


def reference(x: float, largest: float, n: int, e: int) -> float:
    """The released adaptivfloat.py in exact arithmetic."""
    m = n - 1 - e
    bias = 2 ** (e - 1) - 1 - exponent(Fraction(largest))
    low, high = -(2 ** (e - 1)) + 2 - bias, 2 ** (e - 1) - 1 - bias
    a = abs(Fraction(x))
    if a < Fraction(2) ** low:
        return 0.0
    value = min(rounded(a, exponent(a), m), Fraction(2) ** high * (2 - Fraction(1, 2**m)))
    return float(np.copysign(float(value), x))


@pytest.mark.parametrize("n, e", [(8, 4), (8, 3), (6, 3), (4, 2), (5, 2)])
@pytest.mark.parametrize("largest", [3.7, 1.0, 0.013, 1000.0])
@pytest.mark.parametrize("definition, oracle", [("paper", paper), ("reference", reference)])
def test_tensors_are_as_the_definition_says(
    n: int, e: int, largest: float, definition: str, oracle, float32_around: Around
) -> None:
    element = AdaptivFloat(width=n, exponent_bits=e, definition=Definition(definition))
    fmt = AdaptivScaled(name="t", element=element)
    scale = fmt.calibrate(np.float32([largest]))
    points = element.encodable[0] * float(scale)
    x = float32_around(np.concatenate((points, (points[1:] + points[:-1]) / 2)))[: 10 * len(points)]
    x = np.append(np.clip(x, -np.float32(largest), np.float32(largest)), np.float32(largest))
    expected = np.array([oracle(float(v), float(np.float32(largest)), n, e) for v in x], np.float32)
    np.testing.assert_array_equal(fmt.quantize(x), expected)


def test_the_example_of_four_bits() -> None:
    fmt = AdaptivScaled(name="t", element=AdaptivFloat(width=4, exponent_bits=2))
    x = np.float32([2.6, -1.3, 0.4, 0.2, -0.11, 3.7])
    assert float(fmt.calibrate(x)) == 0.25
    assert fmt.quantize(x).tolist() == [3, -1.5, 0.375, 0.375, 0, 3]


def test_reference_uses_fewer_exponents() -> None:
    positive = [AdaptivFloat(width=8, exponent_bits=4, definition=d).encodable[0] for d in Definition]
    binades = [len({int(np.frexp(v)[1]) for v in values if v > 0}) for values in positive]
    assert binades == [16, 14]


def test_scaling_the_data_by_two_scales_the_result() -> None:
    fmt = get_format("adaptivfloat8:channel")
    x = np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32)
    np.testing.assert_array_equal(fmt.quantize(x * 8), fmt.quantize(x) * 8)
    assert fmt.storage_bits((5, 64)) == 5 * 64 * 8 + 5 * 8
    zeros = np.zeros((2, 4), np.float32)
    assert np.all(fmt.quantize(zeros) == 0)


def test_extreme_magnitudes_stay_finite() -> None:
    fmt = get_format("adaptivfloat8")
    for magnitude in (3.4e38, 1e-45, 1e-38):
        x = np.float32([magnitude, -magnitude])
        assert np.all(np.isfinite(fmt.quantize(x)))
        assert np.all(np.isfinite(fmt.quantize(x, clip=2.0)))
    with pytest.raises(MacloomError, match="clip: must be positive and finite, not -1"):
        fmt.calibrate(np.float32([1]), clip=-1)


@pytest.mark.parametrize("build, message", [
    (lambda: AdaptivFloat(width=8, exponent_bits=0), "adaptivfloat.exponent_bits: must be an integer from 1 to 6"),
    (lambda: AdaptivFloat(width=8, exponent_bits=1, definition="reference"), "must be an integer from 2 to 6, not 1"),
    (lambda: AdaptivFloat(width=4, exponent_bits=3), "adaptivfloat.width: must be an integer from 5 (a sign, the"),
    (lambda: AdaptivFloat(width=8, exponent_bits=4, definition="code"), "adaptivfloat.definition: unknown name 'code'"),
    (lambda: get_format("adaptivfloat8").encode(np.float32([1.0]), scale=np.float32(0.3)), "stores scales as e8m0"),
    (lambda: get_format("adaptivfloat8:definition=x"), "format option definition: unknown name 'x'"),
])  # fmt: skip
def test_bad_parameters(build, message: str) -> None:
    with pytest.raises(MacloomError) as failure:
        build()
    assert message in str(failure.value)
