"""BiScaled-FxP: scales and codes from the definition, exact integer products."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import BiScaled, SparseStore, gemm, get_format


def f32(values: object) -> np.ndarray:
    return np.asarray(values, np.float32)


def exponent(magnitude: float, largest: int) -> int:
    """The smallest e with magnitude <= largest * 2**e, by trying."""
    return next(e for e in range(-126, 128) if Fraction(magnitude) <= largest * Fraction(2) ** e)


def nearest(v: Fraction, scale: Fraction) -> Fraction:
    return Fraction(max(-31, min(31, round(v / scale)))) * scale


@pytest.mark.parametrize(("share", "shift"), [(0.03, 8), (0.2, 3), (0.0, 8), (0.5, 1)])
def test_scales_and_values_by_definition(share, shift, heavy):
    x = heavy((12, 50))
    fmt = get_format(f"biscaled6:share={share},shift={shift}")
    ordered = np.sort(np.abs(x).reshape(-1))
    coarse = exponent(float(ordered[-1]), 31)
    fine = max(exponent(float(ordered[len(ordered) - 1 - math.floor(share * len(ordered))]), 31), coarse - shift)
    encoded = fmt.encode(x)
    assert encoded.scales.tolist() == [2.0**fine, 2.0**coarse]
    got, outliers = encoded.decode(), 0
    for v, q in zip(x.reshape(-1), got.reshape(-1), strict=True):
        exact = Fraction(float(v))
        near, far = (nearest(exact, Fraction(2) ** e) for e in (fine, coarse))
        is_coarse = abs(exact) > 31 * Fraction(2) ** fine and abs(far - exact) < abs(near - exact)
        outliers += is_coarse
        assert Fraction(float(q)) == (far if is_coarse else near)
    assert encoded.side is not None
    chunks, places = 12 * 4, outliers
    assert encoded.bits == 12 * 8 * math.ceil(50 * 6 / 8) + 16 + 8 * (math.ceil(chunks * 5 / 8) + math.ceil(places / 2))
    assert outliers <= math.floor(share * x.size) or fine == coarse - shift


def test_an_element_just_beyond_the_fine_range_stays_fine():
    fmt = get_format("biscaled6")
    scale = f32([1, 64])
    assert fmt.quantize(f32([31.4, 31.6, 40, 47.4, 47.6, -60]), scale=scale).tolist() == [
        31,
        31,
        31,
        31,
        64,
        -64,
    ]


def test_products_are_exact_integers(heavy):
    x, y = heavy((5, 64)), heavy((4, 64), 1)
    a, b = get_format("biscaled6").encode(x), get_format("int8:token").encode(y)
    operand = a.operand()
    assert operand.sparse is None
    assert np.abs(operand.units).max() <= a.format.max_unit == 31 << 8
    np.testing.assert_array_equal(operand.units * operand.scales, a.decode())
    integers = operand.units.astype(np.int64) @ b.operand().units.astype(np.int64).T
    want = integers.astype(np.float32) * operand.scales * b.operand().scales.T
    np.testing.assert_array_equal(gemm(a, b), want)


def test_all_zero_and_single_elements():
    fmt = get_format("biscaled6")
    assert fmt.calibrate(np.zeros(5)).tolist() == [1, 1]
    assert fmt.quantize(np.float32(62.0)) == 62
    assert fmt.encode(np.float32(62.0)).scales.tolist() == [2, 2]
    assert fmt.quantize(f32([0] * 99 + [500])).tolist()[-1] == 512  # mostly zeros: one scale


def test_operand_for_the_hardware():
    operand = get_format("biscaled6:shift=3").operand
    assert (operand.significand_bits, operand.exponent_bits, operand.integer_bits) == (6, 2, 9)


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ([1.0], r"scale: must be the fine and the coarse scale, not shape \(1,\)"),
        ([1.0, 3.0], r"scale: must be two powers of two, not \[1.0, 3.0\]"),
        ([0.0, 1.0], "scale: must be two powers of two"),
        ([2.0, 1.0], r"scale: the coarse one must be 1 to 256 times the fine one, not 0\.5"),
        ([1.0, 512.0], "scale: the coarse one must be 1 to 256 times the fine one, not 512"),
    ],
)
def test_scales_are_checked(scale, message, heavy):
    with pytest.raises(MacloomError, match=message):
        get_format("biscaled6").encode(heavy((4, 8)), scale=np.float32(scale))


def test_wrong_records_are_refused():
    with pytest.raises(MacloomError, match=r"biscaled\.width: must be an integer from 2 to 8, not 9"):
        BiScaled(name="t", width=9)
    with pytest.raises(MacloomError, match=r"biscaled\.share: must be from 0 to below 1, not 2"):
        BiScaled(name="t", share=2)
    with pytest.raises(MacloomError, match=r"biscaled\.store: must store positions only"):
        BiScaled(name="t", store=SparseStore())
