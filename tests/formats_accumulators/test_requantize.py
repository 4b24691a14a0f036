"""Requantization against its definitions on Python integers, and against what they are meant to approximate."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import (
    Activation,
    GemmReport,
    IntegerAccumulator,
    IntFormat,
    Requantize,
    Scheme,
    get_format,
    requantized_gemm,
)
from macloom.formats.requantize import quantize_scale, requantize_reference, scale_error

INT8, INT16 = IntFormat(width=8), IntFormat(width=16)
EDGES = [0, 1, -1, 2, -2, 3, 5, -5, 127, -128, (1 << 30) - 1, 1 << 30, -(1 << 30), (1 << 31) - 1, -(1 << 31)]


def some_sums(seed: int, count: int = 200) -> np.ndarray:
    rng = np.random.default_rng(seed)
    wide = rng.integers(-(1 << 31), 1 << 31, count)
    return np.concatenate((EDGES, wide, wide >> 12, wide >> 22)).astype(np.int32)


@pytest.mark.parametrize("scheme", list(Scheme))
def test_codes_equal_python_integers(scheme: Scheme) -> None:
    rng = np.random.default_rng(1)
    for trial in range(40):
        multiplier = int(rng.choice([1 << 30, (1 << 31) - 1, int(rng.integers(1 << 30, 1 << 31)), 0]))
        shift = int(rng.integers(-31, 31)) if trial % 2 else int(rng.integers(-12, 3))
        record = Requantize(
            multiplier=multiplier,
            shift=shift,
            scheme=scheme,
            zero_point=int(rng.integers(-100, 100)),
            bias=int(rng.choice([0, 1000, -(1 << 31), (1 << 31) - 1])),
            activation=Activation.RELU if trial % 3 == 0 else Activation.NONE,
            output=INT16 if trial % 4 else INT8,
        )
        sums = some_sums(trial)
        assert record(sums).tolist() == [requantize_reference(x, record) for x in sums.tolist()]


@pytest.mark.parametrize("scheme", list(Scheme))
def test_channels_have_their_own_scale_and_bias(scheme: Scheme) -> None:
    record = Requantize(
        multiplier=(1 << 30, 1_500_000_000, 2_000_000_000),
        shift=(-3, 0, -9),
        bias=(5, -70, 100_000),
        scheme=scheme,
        output=INT16,
    )
    sums = some_sums(3)[:210].reshape(-1, 3)
    want = [[requantize_reference(x, record, n) for n, x in enumerate(row)] for row in sums.tolist()]
    assert record(sums).tolist() == want


def test_one_rounding_is_the_nearest_and_two_may_not_be() -> None:
    one = Requantize(multiplier=1 << 30, shift=-1, scheme=Scheme.EVEN, output=INT16)  # a quarter
    assert one(np.arange(-8, 9)).tolist() == [round(Fraction(x, 4)) for x in range(-8, 9)]
    # 5 / 8 rounds to 1. Halved first it is 2.5, which becomes 3, and 3 / 4 becomes 1; 3 / 8: 1.5, 2, 0.5, 1: wrong.
    twice = Requantize(multiplier=1 << 30, shift=-2, scheme=Scheme.DOUBLING_HIGH, output=INT16)
    single = Requantize(multiplier=1 << 30, shift=-2, scheme=Scheme.SINGLE, output=INT16)
    assert [int(r(np.array([3]))[0]) for r in (twice, single)] == [1, 0]
    floor = Requantize(multiplier=1 << 30, shift=-2, scheme=Scheme.FLOOR, output=INT16)
    assert floor(np.array([-1, 7])).tolist() == [-1, 0]


def test_ties_go_where_gemmlowp_sends_them() -> None:
    half = Requantize(multiplier=1 << 30, shift=0, output=INT16)  # ties of the high product: toward plus infinity
    assert half(np.array([1, 3, -1, -3])).tolist() == [1, 2, 0, -1]
    quarter = Requantize(multiplier=(1 << 31) - 1, shift=-1, output=INT16)  # ties of the shift: away from zero
    assert quarter(np.array([5, -5])).tolist() == [3, -3]


@pytest.mark.parametrize("scale", [1.0, 0.3, 0.5, 1e-6, 2.0**-32, 0.99999999999, 2.0**29, 1 / 3])
def test_integer_scales_are_within_half_a_unit_in_the_last_place(scale: float) -> None:
    multiplier, shift = quantize_scale(scale)
    assert 1 << 30 <= multiplier < 1 << 31
    exact = Fraction(multiplier) * Fraction(2) ** (shift - 31)
    assert abs(exact - Fraction(scale)) <= Fraction(2) ** (shift - 32)
    assert abs(scale_error(scale)) <= 2.0**-31
    assert Requantize.from_scale(scale, output=INT8).scale == exact
    assert Requantize.from_scale(np.array([scale, 0.25]), output=INT8).scale == (exact, Fraction(1, 4))


def test_a_product_becomes_codes_of_the_next_operand() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 7, 50)).astype(np.float32), rng.normal(size=(2, 9, 50)).astype(np.float32)
    a, b = get_format("affine8").encode(x), get_format("int8").encode(w)
    bias = tuple(rng.integers(-2000, 2000, 9).tolist())
    layer = Requantize.from_scale(0.003, output=INT8, bias=bias, zero_point=-7, activation=Activation.RELU)
    report = GemmReport()
    got = requantized_gemm(a, b, layer, report=report)
    left, right = a.operand().centred().units.astype(int), b.operand().units.astype(int)
    sums = np.einsum("bmk,bnk->bmn", left, right)
    want = [[[requantize_reference(int(s), layer, n) for n, s in enumerate(row)] for row in m] for m in sums]
    assert got.tolist() == want
    assert (report.outputs, report.overflows) == (2 * 7 * 9, 0)
    narrow = IntegerAccumulator(bits=17, overflow="saturate")  # type: ignore[arg-type]
    clamped = requantized_gemm(a, b, layer, narrow, report)
    assert clamped.tolist() == layer(np.clip(sums, -(1 << 16), (1 << 16) - 1)).tolist()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"multiplier": 5}, r"requantize.multiplier: must be 0 or from 2\*\*30 to 2\*\*31 - 1, not 5"),
        ({"shift": 31}, "requantize.shift: must be from -31 to 30, not 31"),
        ({"bias": 1 << 31}, "requantize.bias: must fit 32 bits, not 2147483648"),
        ({"zero_point": 128}, "requantize.zero_point: must be a code from -127 to 127, not 128"),
        ({"least": -300, "zero_point": 0}, "requantize: the range -300 to 127 must lie in that of"),
        ({"bias": (1, 2), "shift": (0, 0, 0)}, "requantize: multiplier, shift and bias must have one entry per output"),
    ],
)
def test_bad_records_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(MacloomError, match=message):
        Requantize(**({"multiplier": 1 << 30, "shift": 0, "output": INT8} | change))  # type: ignore[arg-type]


def test_bad_calls_are_refused() -> None:
    record = Requantize(multiplier=1 << 30, shift=0, bias=(1, 2))
    with pytest.raises(MacloomError, match="requantize: needs sums of a 32-bit register as integers, not float32"):
        record(np.zeros((2, 2), np.float32))
    with pytest.raises(MacloomError, match="requantize: needs sums of a 32-bit register as integers, not int64"):
        record(np.array([[1 << 40, 0]]))
    with pytest.raises(MacloomError, match=r"requantize: has 2 output channels, and the sums have shape \(2, 3\)"):
        record(np.zeros((2, 3), np.int32))
    for scale in (0.0, -1.0, float("inf")):
        with pytest.raises(MacloomError, match="requantize.scale: must be positive and finite"):
            quantize_scale(scale)
    with pytest.raises(MacloomError, match=r"requantize.scale: must be from 2\*\*-32 to 2\*\*30, not 1e\+20; rescale"):
        quantize_scale(1e20)
    blocks = get_format("mxfp4").encode(np.ones((2, 64), np.float32))
    with pytest.raises(
        MacloomError, match="'mxfp4' and 'mxfp4' in 'int32:wrap' have scales along K, outliers apart, or"
    ):
        requantized_gemm(blocks, blocks, Requantize(multiplier=1 << 30, shift=0))
