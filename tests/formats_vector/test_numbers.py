"""Number kinds: ml_dtypes and numpy are the oracles of floats, Fraction of fixed point."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from macloom.errors import MacloomError
from macloom.formats.vector import Fixed, Float, Pair, Shift, pair_of, round_to
from macloom.formats.vector.number import shift
from macloom.testing.vector import mismatches, pairs

ml_dtypes = pytest.importorskip("ml_dtypes")
KINDS = [
    Float(exponent_bits=8, mantissa_bits=23),
    Float(exponent_bits=8, mantissa_bits=7),
    Float(exponent_bits=5, mantissa_bits=10),
    Float(exponent_bits=4, mantissa_bits=3),
    *(Fixed(bits=b, fraction=f, rounding=r) for b, f in ((16, 9), (8, -2), (36, 22), (24, 15)) for r in Shift),
]


def awkward() -> np.ndarray:
    """Float32 of all magnitudes, halves and quarters of steps, the largest and smallest, both signs."""
    rng = np.random.default_rng(3)
    bits = rng.integers(0, 1 << 32, 6000, dtype=np.uint32).view(np.float32)
    grid = np.concatenate([np.arange(-300, 300) * 2.0**-k for k in (0, 3, 10, 11, 16, 140)])
    edges = [3.4028235e38, 1e-45, 2.0**-126, 65504.0, 65519.99, 65520.0, 240.0, 248.0, 0.0, -0.0]
    x = np.concatenate([bits, *(np.array(v).astype(np.float32) for v in (grid, edges, [-e for e in edges]))])
    return x[np.isfinite(x)]


@pytest.mark.parametrize("number", KINDS, ids=lambda n: f"{n.name}-{getattr(n, 'rounding', 'even')}")
def test_kernel_rounds_like_the_reference(number: Fixed | Float) -> None:
    x = awkward()
    assert mismatches(round_to(x, number), [number.round(p) for p in pairs(x)]) == 0


@pytest.mark.parametrize(
    ("number", "dtype"),
    [
        (Float(exponent_bits=8, mantissa_bits=7), ml_dtypes.bfloat16),
        (Float(exponent_bits=5, mantissa_bits=10), np.float16),
        (Float(exponent_bits=8, mantissa_bits=23), np.float32),
    ],
)
def test_floats_round_like_ml_dtypes_and_numpy(number: Float, dtype: type) -> None:
    x = awkward()
    with np.errstate(over="ignore"):
        want = x.astype(dtype).astype(np.float32)
    largest = float(number.largest.fraction)
    want = np.clip(want, -largest, largest) + np.float32(0)
    np.testing.assert_array_equal(round_to(x, number).view(np.uint32), want.view(np.uint32))


@given(st.integers(-(2**70), 2**70), st.integers(0, 80), st.sampled_from(list(Shift)))
def test_shift_is_the_rounded_quotient(value: int, places: int, rounding: Shift) -> None:
    exact, got = Fraction(value, 1 << places), shift(value, places, rounding)
    if rounding is Shift.FLOOR:
        assert got == math.floor(exact)
    elif rounding is Shift.HALF_UP:
        assert got == math.floor(exact + Fraction(1, 2))
    else:
        assert got == round(exact)


@given(st.integers(-(2**40), 2**40), st.integers(-60, 60), st.integers(-(2**40), 2**40), st.integers(-60, 60))
def test_pairs_are_exact(i: int, e: int, j: int, f: int) -> None:
    a, b = Pair(e, i), Pair(f, j)
    assert a.plus(b).fraction == a.fraction + b.fraction
    assert a.minus(b).fraction == a.fraction - b.fraction
    assert a.times(b).fraction == a.fraction * b.fraction


def test_pair_of_a_float_is_exact() -> None:
    for x in awkward()[:500]:
        assert float(pair_of(float(x)).fraction) == float(x)


BYTE = Fixed(bits=8, fraction=0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Fixed(bits=37, fraction=0), "number.bits: must be an integer from 2 to 36, not 37"),
        (lambda: replace(BYTE, fraction=1.5), "number.fraction: must be an integer from -100 to 100, not 1.5"),
        (lambda: replace(BYTE, rounding="flor"), "number.rounding: unknown name 'flor'; did you mean 'floor'"),
        (lambda: Float(exponent_bits=9, mantissa_bits=7), "number.exponent_bits: must be an integer from 2 to 8"),
        (lambda: Float(exponent_bits=8, mantissa_bits=24), "number.mantissa_bits: must be an integer from 1 to 23"),
        (lambda: round_to(np.array([1, np.nan]), BYTE), "vector input: must hold finite numbers"),
        (lambda: round_to(np.array([-np.inf, 0]), BYTE), "vector input: must hold finite numbers"),
    ],
)
def test_messages(build: Callable[[], object], message: str) -> None:
    with pytest.raises(MacloomError, match="^" + re.escape(message)):
        build()
