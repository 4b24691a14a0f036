"""Tangent formats against the quantizer's formula in float64, away from its decision points."""

# Lists stand for arrays and strings for enumerations; numpy's stubs do not know float32 of a list.
# pyright: reportArgumentType=false, reportIndexIssue=false
from __future__ import annotations

import math

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import TanFormat, get_format
from macloom.formats.elements.tan import Sides


def formula(x: np.ndarray, n: int, a: float, sides: Sides) -> tuple[np.ndarray, np.ndarray]:
    """Return q before rounding, and the value of each rounded and clipped q."""
    if sides is Sides.ONE:
        position = n * np.tan(a * x) / math.tan(a)
        q = np.clip(np.rint(position), 0, n)
        return position, np.arctan(q * math.tan(a) / n) / a
    position = n * (np.tan(a * (2 * x - 1)) / math.tan(a) + 1) / 2
    q = np.clip(np.rint(position), 0, n)
    return position, (1 + np.arctan((2 * q / n - 1) * math.tan(a)) / a) / 2


@pytest.mark.parametrize("width, a", [(4, 1.0), (4, 0.3), (6, 1.3), (8, 1.5), (2, 1.0)])
@pytest.mark.parametrize("sides", list(Sides))
def test_values_follow_the_formula(width: int, a: float, sides: Sides) -> None:
    element = TanFormat(width=width, a=a, sides=sides)
    x = np.random.default_rng(width).random(4000).astype(np.float32)
    position, values = formula(x.astype(np.float64), (1 << width) - 1, a, sides)
    clear = np.abs(position - np.floor(position) - 0.5) > 1e-6
    np.testing.assert_allclose(element.quantize(x)[clear], values[clear], rtol=1e-6, atol=1e-9)


def test_levels_of_four_bits() -> None:
    levels = TanFormat(width=4).values
    np.testing.assert_allclose(levels[:4], [0, 0.1035, 0.2047, 0.302], atol=5e-4)
    np.testing.assert_allclose(levels[-3:], [0.9332, 0.9682, 1], atol=5e-5)
    assert levels[0] == 0
    assert levels[-1] == 1
    gaps = np.diff(levels)
    assert np.all(np.diff(gaps) < 0)
    assert gaps[-1] < 1 / 15 < gaps[0]


def test_two_sides_are_dense_at_both_ends_and_symmetric() -> None:
    levels = TanFormat(width=4, sides=Sides.TWO).values
    np.testing.assert_allclose(levels + levels[::-1], 1, atol=1e-15)
    gaps = np.diff(levels)
    assert gaps[0] < 1 / 15
    assert gaps[-1] < 1 / 15
    assert gaps[7] == gaps.max()


@pytest.mark.parametrize("sides", list(Sides))
def test_a_small_parameter_is_uniform(sides: Sides) -> None:
    np.testing.assert_allclose(TanFormat(width=4, a=2.0**-10, sides=sides).values, np.arange(16) / 15, atol=1e-6)


def test_scale_and_options() -> None:
    x = np.float32([[0.0, 0.5, 2.0]])
    fmt = get_format("tan4:sides=two,a=0.5")
    assert fmt.element == TanFormat(width=4, a=0.5, sides=Sides.TWO)
    assert float(fmt.calibrate(x)) == 2.0
    assert fmt.quantize(x)[0, 2] == 2.0
    assert get_format("tan4:table=int8").operand.significand_bits == 8


@pytest.mark.parametrize("build, message", [
    (lambda: TanFormat(width=0), "tan.width: must be an integer from 1 to 8, not 0"),
    (lambda: TanFormat(width=4, a=1.6), "tan.a: must be a number from 2**-10 to pi / 2 - 2**-10, not 1.6"),
    (lambda: TanFormat(width=4, a=0.0), "tan.a: must be a number from 2**-10"),
    (lambda: TanFormat(width=4, sides="three"), "tan.sides: unknown name 'three'"),
    (lambda: get_format("tan4:a=x"), "format option a: must be a number, not 'x'"),
    (lambda: get_format("tan4").encode(np.float32([-1, 1])), "stores no negative values, but the tensor holds -1"),
])  # fmt: skip
def test_bad_parameters(build, message: str) -> None:
    with pytest.raises(MacloomError) as failure:
        build()
    assert message in str(failure.value)
