"""The fast ways to a product give the bits of the slow ones, on sizes where they are taken."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from macloom.formats import Encoded, GemmReport, IntegerAccumulator, Operand, gemm, get_accumulator, get_format
from macloom.formats import digits as digits_module
from macloom.formats.accumulators import integer, reference, saturating
from macloom.formats.accumulators.sums import Sums, bits_for, bound, stretches
from macloom.formats.digits import split
from macloom.formats.gemm import gemm_operands

torch = pytest.importorskip("torch")


def matrix(rows: int, columns: int, low: int, high: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high + 1, (rows, columns)).astype(np.float32)


def operand(units: np.ndarray, zeros: np.ndarray | None = None, maximum: int = 127) -> Operand:
    scales = np.ones((len(units), 1), np.float32)
    return Operand(units, 0, scales, units.shape[1], np.float32(1), maximum, zeros=zeros)


def whole(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The product of integers as int64."""
    return a.astype(np.int64) @ b.astype(np.int64).T


# -- digits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "low, high, count",
    [
        (-127, 127, 1),
        (0, 255, 1),
        (-128, 127, 1),
        (-255, 255, 2),
        (-32600, 32600, 2),
    ],
)
def test_digits_stand_for_the_integers(low: int, high: int, count: int) -> None:
    units = matrix(40, 50, low, high)
    made = split(units, float(np.abs(units).max()))
    assert made is not None
    assert len(made.digits) == count
    total = made.offset[:, None] + sum(np.ldexp(d.astype(np.float64), 8 * i) for i, d in enumerate(made.digits))
    total[made.rows, made.columns] += made.values
    np.testing.assert_array_equal(total, units)


def test_integers_with_too_many_digits_have_none() -> None:
    assert split(np.array([[2.0**24]], np.float32), 2.0**24) is None
    assert split(matrix(40, 50, -32767, 32767), 32767.0) is None


@pytest.mark.parametrize("torch_way", [True, False])
@pytest.mark.parametrize(
    "a_range, b_range, zeros",
    [
        ((-127, 127), (-127, 127), False),
        ((0, 255), (-127, 127), False),
        ((0, 255), (0, 255), True),
        ((-7, 7), (0, 15), True),
        ((-300, 300), (-32000, 32000), False),
    ],
)
def test_sums_equal_integers(
    a_range: tuple[int, int], b_range: tuple[int, int], zeros: bool, torch_way: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digits_module, "FEWEST_PRODUCTS", 0 if torch_way else 1 << 60)
    a, b = matrix(33, 70, *a_range), matrix(45, 70, *b_range, seed=1)
    a[3, 4], b[5, 60] = a_range[1] * (3 if a_range[0] < 0 and a_range[1] < 128 else 1), b_range[0]
    zero_a, zero_b = (
        matrix(len(x), 1, 0, max(r[1], 1), seed=2) if zeros else None for x, r in ((a, a_range), (b, b_range))
    )
    left, right = operand(a, zero_a), operand(b, zero_b)
    sums = Sums(left, right, 70)
    assert (sums.torch is not None) == torch_way
    want = whole(a - (0 if zero_a is None else zero_a), b - (0 if zero_b is None else zero_b))
    np.testing.assert_array_equal(sums(slice(0, 33), slice(0, 45), slice(0, 70)), want)
    part = whole(
        (a - (0 if zero_a is None else zero_a))[2:9, 7:61], (b - (0 if zero_b is None else zero_b))[4:40, 7:61]
    )
    np.testing.assert_array_equal(sums(slice(2, 9), slice(4, 40), slice(7, 61)), part)


def test_remainders_that_meet_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits_module, "FEWEST_PRODUCTS", 0)
    a, b = matrix(64, 64, -9, 9), matrix(64, 64, -9, 9, seed=1)
    a[5, 7], b[6, 7], b[6, 8] = 1000, -999, 500
    sums = Sums(operand(a), operand(b), 64)
    assert sums.left is not None
    assert len(sums.left.values) == 1
    np.testing.assert_array_equal(sums(slice(0, 64), slice(0, 64), slice(0, 64)), whole(a, b))


def test_bounds_hold_for_partial_sums_in_any_order() -> None:
    rng = np.random.default_rng(0)
    for seed in range(20):
        a, b = (operand(matrix(3, 30, -9, 9, seed=s)) for s in (seed, seed + 100))
        limit = bound(a, b, 30)
        for _ in range(5):
            order = rng.permutation(30)
            partial = np.cumsum(a.units[:, None, order] * b.units[None, :, order], axis=-1)
            assert np.abs(partial).max() <= limit
    assert bits_for(bound(operand(np.zeros((1, 3), np.float32)), operand(np.ones((1, 3), np.float32)), 3)) == 1
    assert [s.stop - s.start for s in stretches(0, 10, 4)] == [4, 4, 2]


# -- saturation ------------------------------------------------------------------------------------


def every_mac(a: np.ndarray, b: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Clamp after each product, all outputs at a time, as int64."""
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    state, hit = np.zeros((len(a), len(b)), np.int64), np.zeros((len(a), len(b)), bool)
    for k in range(a.shape[1]):
        total = state + np.outer(a[:, k].astype(np.int64), b[:, k].astype(np.int64))
        state = np.clip(total, low, high)
        hit |= state != total
    return state, hit


def by_register(a: np.ndarray, b: np.ndarray, bits: int, every: str | int = "mac") -> tuple[np.ndarray, np.ndarray]:
    report = GemmReport(locate=True)
    accumulator = IntegerAccumulator(bits=bits, overflow=integer.IntegerOverflow.SATURATE, every=every)
    got = gemm_operands(operand(a), operand(b), accumulator, report)
    assert report.where is not None
    assert report.overflows == np.count_nonzero(report.where)
    return got, report.where


@pytest.mark.parametrize("bits", [15, 16, 17, 18, 20, 24, 31])
def test_saturation_at_every_product_equals_a_loop(bits: int) -> None:
    # From all outputs saturating to none: checked stretches, single outputs and stepped tiles all occur.
    a, b = matrix(300, 400, -127, 127), matrix(270, 400, -127, 127, seed=1)
    a[:9] = np.abs(a[:9])
    b[:9] = np.abs(b[:9])
    want, hit = every_mac(a, b, bits)
    got, where = by_register(a, b, bits)
    np.testing.assert_array_equal(got, want.astype(np.float32))
    np.testing.assert_array_equal(where, hit)


def test_saturation_where_few_rows_and_columns_can_saturate_equals_a_loop() -> None:
    a, b = matrix(200, 300, -3, 3), matrix(150, 300, -3, 3, seed=1)
    a[17], a[40], b[33] = 127, -127, np.where(np.arange(300) % 50 < 30, 127, -127)
    accumulator = get_accumulator("int18:saturate,every=mac")
    assert isinstance(accumulator, IntegerAccumulator)
    rows, _ = accumulator.candidates(operand(a), operand(b))
    assert 0 < len(rows) < 10
    want, hit = every_mac(a, b, 18)
    got, where = by_register(a, b, 18)
    np.testing.assert_array_equal(got, want.astype(np.float32))
    np.testing.assert_array_equal(where, hit)
    assert 0 < hit.sum() < 10


def test_wide_registers_saturate_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = matrix(20, 90, -32767, 32767), matrix(30, 90, -32767, 32767, seed=1)
    report = GemmReport()
    for bits in (31, 33):
        accumulator = IntegerAccumulator(bits=bits, overflow=integer.IntegerOverflow.SATURATE, every="mac")
        got = gemm_operands(operand(a, maximum=32767), operand(b, maximum=32767), accumulator, report)
        np.testing.assert_array_equal(got, every_mac(a, b, bits)[0].astype(np.float32))
    accumulator = IntegerAccumulator(bits=32, overflow=integer.IntegerOverflow.SATURATE, every=8)
    got = gemm_operands(operand(a, maximum=32767), operand(b, maximum=32767), accumulator, report)
    want = [
        [reference.integer((x * y).astype(int).tolist(), accumulator)[0] for y in b.astype(int)] for x in a.astype(int)
    ]
    np.testing.assert_array_equal(got, np.array(want).astype(np.float32))


@pytest.mark.parametrize("bits, every", [(16, 64), (18, 64), (20, 32), (15, 7)])
def test_saturation_at_every_chunk_equals_a_loop(bits: int, every: int) -> None:
    a, b = matrix(300, 200, -127, 127), matrix(280, 200, -127, 127, seed=1)
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    state, hit = np.zeros((300, 280), np.int64), np.zeros((300, 280), bool)
    for start in range(0, 200, every):
        total = state + whole(a[:, start : start + every], b[:, start : start + every])
        state = np.clip(total, low, high)
        hit |= state != total
    got, where = by_register(a, b, bits, every)
    np.testing.assert_array_equal(got, state.astype(np.float32))
    np.testing.assert_array_equal(where, hit)


def test_stepping_is_the_same_without_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = matrix(130, 500, -127, 127), matrix(140, 500, -127, 127, seed=1)
    checked = by_register(a, b, 19)
    monkeypatch.setattr(saturating, "MOST_CHECKED_BITS", 0)
    stepped = by_register(a, b, 19)
    assert checked[1].any()
    for one, other in zip(checked, stepped, strict=True):
        np.testing.assert_array_equal(one, other)


# -- float paths, blocks ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["e5m10", "e8m7", "e8m10", "e5m8", "e4m3"])
def test_float32_registers_equal_float64_ones(name: str) -> None:
    rng = np.random.default_rng(3)
    x, y = (rng.normal(size=(70, 90)).astype(np.float32) for _ in range(2))
    for pair in (("fp4_e2m1", "fp4_e2m1"), ("int8", "int8"), ("fp8_e4m3", "fp8_e4m3"), ("mxfp4", "fp6_e3m2")):
        a, b = (get_format(n).encode(v).operand() for n, v in zip(pair, (x, y), strict=True))
        with np.errstate(over="ignore", invalid="ignore"):
            fast = gemm_operands(a, b, get_accumulator(name), GemmReport())
            # Values instead of integer units take the general way.
            left, right = (
                replace(o, units=np.ldexp(o.units, o.unit_exponent), unit_exponent=0, max_unit=1 << 130) for o in (a, b)
            )
            slow = gemm_operands(left, right, get_accumulator(name), GemmReport())
        np.testing.assert_array_equal(fast, slow)


@pytest.mark.parametrize("pair", [("mxfp4", "mxfp4"), ("bfp8", "mxint8"), ("mxfp8_e4m3", "mxfp4")], ids="*".join)
def test_tiles_of_segments_equal_the_loop_over_segments(pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    a, b = (get_format(n).encode(rng.normal(size=(400, 100)).astype(np.float32)) for n in pair)
    tiles = [gemm(a, b, name) for name in ("exact", "int40:saturate", "block:fp32")]
    monkeypatch.setattr(digits_module, "FEWEST_PRODUCTS", 1 << 60)
    loop = [gemm(a, b, name) for name in ("exact", "int40:saturate", "block:fp32")]
    for one in (*tiles, *loop):
        np.testing.assert_array_equal(one, tiles[0])


def test_operands_keep_what_they_computed() -> None:
    encoded: Encoded = get_format("int8").encode(matrix(64, 64, -127, 127))
    assert encoded.operand() is encoded.operand()
    assert encoded.operand().digits is encoded.operand().digits
    assert encoded.operand().format is encoded.format
