"""Dynamic fixed point against exact fractions and Python integers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import DynamicFixedPoint, FloatFormat, Granularity, IntFormat, Rounding, gemm, get_format
from macloom.formats.scales import Grain
from macloom.formats.tensors.dfp import Dynamic, add, down_convert, multiply, safe_chain, shift_right


def exponent_of(x: np.ndarray, p: int) -> int:
    largest = Fraction(float(np.abs(x).max()))
    e = largest.numerator.bit_length() - largest.denominator.bit_length()
    return (e if Fraction(2) ** e <= largest else e - 1) - (p - 2)


@pytest.mark.parametrize("p", [8, 12, 16])
def test_integers_and_exponent_by_definition(p: int) -> None:
    fmt = get_format(f"dfp{p}")
    for seed in range(4):
        x = (np.random.default_rng(seed).normal(size=(5, 9)) * 10.0 ** (seed - 2)).astype(np.float32)
        e = exponent_of(x, p)
        encoded = fmt.encode(x)
        assert Fraction(float(encoded.scales)) == Fraction(2) ** e
        top = (1 << (p - 1)) - 1
        for v, units, value in zip(x.flat, encoded.operand().units.flat, encoded.decode().flat, strict=True):
            i = min(max(round(Fraction(float(v)) / Fraction(2) ** e), -top), top)
            assert int(units) == i
            assert Fraction(float(value)) == i * Fraction(2) ** e
        assert fmt.storage_bits(x.shape) == 5 * (-(-9 * p // 8) * 8) + 8


def test_worked_example() -> None:
    a, b = (get_format("dfp16").encode(np.array([v], np.float32)) for v in ([0.75, -1.9, 0.001], [12, -3, 100]))
    assert a.operand().units.tolist() == [[12288, -31130, 16]]
    assert b.operand().units.tolist() == [[3072, -768, 25600]]
    assert (float(a.scales), float(b.scales)) == (2.0**-14, 2.0**-8)
    total = int((a.operand().units.astype(np.int64) * b.operand().units.astype(np.int64)).sum())
    assert total == 62066176
    assert gemm(a, b)[0, 0] == pytest.approx(14.79773, abs=1e-5)


def test_a_largest_magnitude_that_rounds_up_is_clipped_or_raises_the_exponent() -> None:
    x = np.array([1.99999, 0.5], np.float32)
    clipped, bumped = get_format("dfp16").encode(x), get_format("dfp16:top=bump").encode(x)
    assert clipped.elements.tolist() == [32767, 8192]
    assert float(clipped.scales) == 2.0**-14
    assert bumped.elements.tolist() == [16384, 4096]
    assert float(bumped.scales) == 2.0**-13
    fine = np.array([1.9999, 0.5], np.float32)
    assert get_format("dfp16:top=bump").encode(fine).scales == get_format("dfp16").encode(fine).scales


def test_safe_chains_are_tight() -> None:
    for p in (8, 12, 13, 14, 15, 16):
        largest, k = ((1 << (p - 1)) - 1) ** 2, safe_chain(p)
        assert k * largest <= 2**31 - 1 < (k + 1) * largest


def test_sums_at_the_length_of_the_chain_fit_and_one_more_overflows() -> None:
    fits = get_format("dfp16:spill=0").encode(np.full((1, 2), -1.9999999, np.float32))
    over = get_format("dfp16:spill=0").encode(np.full((1, 3), -1.9999999, np.float32))
    assert gemm(fits, fits, "int32:error")[0, 0] == np.float32(2 * 32767**2) * np.float32(2.0**-28)
    with pytest.raises(MacloomError, match="overflow the 32-bit accumulator"):
        gemm(over, over, "int32:error")
    assert gemm(over, over, "int32:wrap")[0, 0] < 0
    assert gemm(over, over, "int32:saturate")[0, 0] == np.float32(2**31 - 1) * np.float32(2.0**-28)
    spilled = get_format("dfp16").encode(np.full((1, 3), -1.9999999, np.float32))
    assert gemm(spilled, spilled, "int32:error")[0, 0] == pytest.approx(12, rel=1e-4)


@pytest.mark.parametrize("name", ["dfp16", "dfp16:spill=4", "dfp14", "dfp8"])
def test_spilled_sums_add_float32_parts_in_order(name: str) -> None:
    rng = np.random.default_rng(1)
    a, b = (get_format(name).encode(rng.normal(size=(3, 37)).astype(np.float32)) for _ in range(2))
    chain = get_format(name).chain  # type: ignore[attr-defined]
    ia, ib = (e.operand().units.astype(np.int64) for e in (a, b))
    total = np.zeros((3, 3), np.float32)
    for start in range(0, 37, chain):
        part = ia[:, start : start + chain] @ ib[:, start : start + chain].T
        assert np.abs(part).max() < 2**31
        total += (part.astype(np.float32) * a.scales) * b.scales
    assert np.array_equal(gemm(a, b), total)


def test_spilling_changes_nothing_while_sums_stay_exact_in_float32() -> None:
    rng = np.random.default_rng(2)
    x, y = (rng.integers(-60, 61, (4, 40)).astype(np.float32) for _ in range(2))
    products = [
        gemm(get_format(f).encode(x, scale=1.0), get_format(f).encode(y, scale=1.0)) for f in ("dfp16", "dfp16:spill=0")
    ]
    assert np.array_equal(products[0], products[1])
    assert np.array_equal(products[0], x @ y.T)


def test_arithmetic_on_dynamic_integers() -> None:
    rng = np.random.default_rng(3)
    a = Dynamic(rng.integers(-32767, 32768, 200), -14)
    b = Dynamic(rng.integers(-32767, 32768, 200), -9)
    product = multiply(a, b)
    assert product.exponent == -23
    assert np.array_equal(product.values(), a.values() * b.values())
    for rounding in (Rounding.NEAREST_EVEN, None):
        total = add(a, b, rounding)
        assert total.exponent == -9
        for i, j, t in zip(a.integers.tolist(), b.integers.tolist(), total.integers.tolist(), strict=True):
            exact = Fraction(i, 32)
            assert t == j + (round(exact) if rounding else i // 32)
    assert np.array_equal(add(b, a).integers, add(a, b).integers)


@pytest.mark.parametrize("p", [8, 12, 16])
def test_down_conversion_keeps_the_leading_bits(p: int) -> None:
    rng = np.random.default_rng(p)
    for bits in (3, 10, 17, 24, 31):
        wide = Dynamic(rng.integers(-(1 << bits) + 1, 1 << bits, 100), -20)
        narrow = down_convert(wide, p)
        shift = max(0, int(np.abs(wide.integers).max()).bit_length() - (p - 1))
        top = (1 << (p - 1)) - 1
        want = [min(max(round(Fraction(i, 1 << shift)), -top), top) for i in wide.integers.tolist()]
        assert narrow.integers.tolist() == want
        assert narrow.exponent == -20 + shift
    assert down_convert(Dynamic(np.array([(1 << 31) - 1]), 0), 16).integers.tolist() == [32767]  # would round to 2**15


def test_bad_input_is_refused() -> None:
    for call, message in [
        (lambda: get_format("dfp16").encode([1.0], scale=0.75), "stores scales as e8m0, which does not hold 0.75"),
        (lambda: get_format("dfp16:spill=-1"), "dfp.spill: must not be negative, not -1"),
        (lambda: get_format("dfp16:top=up"), "unknown name 'up'"),
        (
            lambda: DynamicFixedPoint(name="x", element=FloatFormat(label="f", exponent_bits=2, mantissa_bits=1)),
            "dfp.element",
        ),
        (
            lambda: DynamicFixedPoint(name="x", element=IntFormat(width=8), granularity=Granularity(grain=Grain.ROW)),
            "dfp.granularity",
        ),
        (lambda: shift_right(np.array([1]), 1, Rounding.TO_ODD), "dfp.rounding: must be 'nearest_even' or None"),
    ]:
        with pytest.raises(MacloomError, match=message):
            call()
