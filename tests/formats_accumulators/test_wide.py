"""Integer registers and sums beyond 53 bits equal Python's integers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from macloom.formats import GemmReport, IntegerAccumulator, Operand, get_accumulator
from macloom.formats.accumulators import reference, wide
from macloom.formats.accumulators.wide import WideSums, to_odd_float64
from macloom.formats.gemm import gemm_operands

BITS = (49, 53, 54, 60, 63, 64, 65, 80, 128)
POLICIES = ("wrap", "saturate", "saturate,every=mac", "saturate,every=7")


def operand(rows: int, depth: int, bits: int, seed: int, block: int = 1 << 20) -> Operand:
    """Return integers of up to `bits` bits with 24 significant ones, of all magnitudes, as float32 has them."""
    rng = np.random.default_rng([seed, rows, depth])
    units = np.ldexp(rng.integers(-(1 << 24) + 1, 1 << 24, (rows, depth)), rng.integers(0, bits - 23, (rows, depth)))
    units[0] = np.ldexp(float((1 << 24) - 1), bits - 24)  # all of one sign, as large as they can be
    block = min(block, depth)
    scales = rng.normal(size=(rows, -(-depth // block))).astype(np.float32)
    return Operand(units.astype(np.float32), 0, scales, block, np.float32(1), int(np.abs(units).max()))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("bits", BITS)
def test_registers_equal_the_reference(bits: int, policy: str) -> None:
    accumulator = get_accumulator(f"int{bits}:{policy}")
    width = max(24, min((bits - 1) // 2, 36))
    for block in (1 << 20, 16):
        a, b = (operand(n, 40, width, s, block) for n, s in ((3, 1), (4, 2)))
        report = GemmReport(locate=True)
        got = gemm_operands(a, b, accumulator, report)
        want, where = reference.product(a, b, accumulator)
        np.testing.assert_array_equal(got, want)
        assert report.where is not None
        np.testing.assert_array_equal(report.where, where)


def test_the_cases_overflow_and_are_wide() -> None:
    report = GemmReport()
    for bits in (54, 64, 72):
        a, b = (operand(n, 40, min((bits - 1) // 2, 36), s) for n, s in ((3, 1), (4, 2)))
        before = report.overflows
        gemm_operands(a, b, get_accumulator(f"int{bits}:saturate,every=mac"), report)
        assert report.overflows > before


def test_sums_are_exact_for_the_widest_units_and_longer_k_than_float64_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wide, "LONGEST", 16)
    a, b = operand(3, 50, 119, 5), operand(2, 50, 100, 6)
    got = WideSums(a, b)(slice(0, 3), slice(0, 2), slice(5, 50))
    want = [[sum(int(x) * int(y) for x, y in zip(p[5:], q[5:], strict=True)) for q in b.units] for p in a.units]
    assert got.tolist() == want


def test_sums_rounded_to_odd_round_to_float32_as_fractions_do() -> None:
    rng = np.random.default_rng(3)
    values = [int(x) << int(s) for x, s in zip(rng.integers(1, 1 << 62, 300), rng.integers(0, 60, 300), strict=True)]
    ties = [((1 << 24) + odd << 60) + rest for odd in (0, 1) for rest in (0, 1 << 59, (1 << 59) + 1, (1 << 59) - 1)]
    every = np.array([*values, *ties, *(-v for v in ties), 0], object)
    got = to_odd_float64(every).astype(np.float32)
    assert got.tolist() == [float(reference.nearest_float32(Fraction(v))) for v in every]


def test_64_bit_sums_come_out_whole() -> None:
    a, b = operand(2, 9, 29, 7), operand(2, 9, 29, 8)
    accumulator = IntegerAccumulator(bits=64)
    got = accumulator.sums(a, b, GemmReport())
    assert got.tolist() == [[sum(int(x) * int(y) for x, y in zip(p, q, strict=True)) for q in b.units] for p in a.units]
    assert np.abs(got).max() > 1 << 53


# -- mutants ---------------------------------------------------------------------------------------


def test_mutant_digits_of_too_many_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = operand(3, 50, 60, 5), operand(2, 50, 60, 6)
    tile = (slice(0, 3), slice(0, 2), slice(0, 50))
    want = WideSums(a, b)(*tile)
    monkeypatch.setattr(wide, "DIGIT_BITS", 28)
    assert WideSums(a, b)(*tile).tolist() != want.tolist()


def test_mutant_sums_rounded_to_nearest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    above = np.array([((1 << 24) + 1 << 60) + 1], object)
    want = float(reference.nearest_float32(Fraction(int(above[0]))))
    assert to_odd_float64(above).astype(np.float32)[0] == want
    monkeypatch.setattr(wide, "_to_odd", float)
    assert to_odd_float64(above).astype(np.float32)[0] != want
