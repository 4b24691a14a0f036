"""Properties that must hold, a witness where one must not, and mutants that the checks reject."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from macloom.formats import Encoded, GemmReport, gemm, get_accumulator, get_format
from macloom.formats.accumulators import integer, saturating
from macloom.formats.accumulators.block import BlockAccumulator
from macloom.formats.accumulators.floating import SmallFloatAccumulator
from macloom.formats.accumulators.verify import KINDS, differs, encoded
from macloom.formats.kernels import accumulate_saturating, exact

INT8 = get_format("int8")
ONE = np.float32(1)

rows = st.lists(st.integers(-127, 127), min_size=1, max_size=40)


def of(values: list[int]) -> Encoded:
    return INT8.encode(np.array([values], np.float32), scale=ONE)


def pair_of(data: st.DataObject) -> tuple[list[int], list[int]]:
    left = data.draw(rows)
    right = data.draw(st.lists(st.integers(-127, 127), min_size=len(left), max_size=len(left)))
    return left, right


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_wrap_at_the_end_equals_wrap_at_every_product(data: st.DataObject) -> None:
    left, right = pair_of(data)
    bits = data.draw(st.integers(15, 18))
    state, half = 0, 1 << (bits - 1)
    for x, y in zip(left, right, strict=True):
        state = (state + x * y + half) % (2 * half) - half
    for every in ("end", "mac", "3"):
        assert gemm(of(left), of(right), f"int{bits}:wrap,every={every}")[0, 0] == state


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_exact_equals_fractions_for_any_float32(data: st.DataObject) -> None:
    values = st.floats(width=32, allow_nan=False, allow_infinity=False)
    left = data.draw(st.lists(values, min_size=1, max_size=12))
    right = data.draw(st.lists(values, min_size=len(left), max_size=len(left)))
    x, y = (np.array([v], np.float32) for v in (left, right))
    total = sum((Fraction(float(p)) * Fraction(float(q)) for p, q in zip(x[0], y[0], strict=True)), Fraction(0))
    from macloom.formats.accumulators.reference import nearest_float32

    with np.errstate(over="ignore"):
        got = float(exact.rounded_sums(x, y, 1.0)[0, 0])
    assert got == float(nearest_float32(total))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_sums_that_fit_do_not_depend_on_order_or_policy(data: st.DataObject) -> None:
    left, right = pair_of(data)
    order = data.draw(st.permutations(range(len(left))))
    want = sum(x * y for x, y in zip(left, right, strict=True))
    for name in ("int22:saturate,every=mac", "int22:saturate,every=4", "int22:wrap", "int22:error,every=mac", "exact"):
        assert gemm(of(left), of(right), name)[0, 0] == want
        permuted = of([left[i] for i in order]), of([right[i] for i in order])
        assert gemm(*permuted, name)[0, 0] == want


@pytest.mark.parametrize(
    "name", ["int16:saturate,every=mac", "int16:saturate,every=2", "e5m6", "e8m7:toward_zero", "e8m12:to_odd", "fp32"]
)
def test_registers_that_lose_something_depend_on_order(name: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(-127, 128, (8, 20)).astype(np.float32) * (1 << 12 if name == "fp32" else 1)
    order = rng.permutation(20)
    fmt = get_format("fp16" if name == "fp32" else "int8")
    values = x * np.exp2(rng.integers(-12, 1, x.shape)).astype(np.float32) if name == "fp32" else x
    scale = None if name == "fp32" else ONE
    forward, permuted = fmt.encode(values, scale=scale), fmt.encode(values[:, order], scale=scale)
    assert (gemm(forward, forward, name) != gemm(permuted, permuted, name)).any()
    np.testing.assert_array_equal(gemm(forward, forward, "exact"), gemm(permuted, permuted, "exact"))


def test_overflow_at_the_first_and_at_the_last_product_is_seen() -> None:
    peak = of([127, 127, 127, -127, -127])
    late = of([-127, -127, 127, 127, 127])
    for e, overflows in ((peak, 1), (late, 0)):
        report = GemmReport(locate=True)
        gemm(e, of([127] * 5), "int16:saturate,every=mac", report)
        assert report.overflows == overflows
    report = GemmReport(locate=True)
    assert gemm(of([127] * 3), of([127] * 3), "int16:saturate,every=mac", report)[0, 0] == 32767
    assert report.where is not None
    assert report.where.tolist() == [[True]]


# -- mutants ---------------------------------------------------------------------------------------


def rejected(name: str, pair: tuple[str, str] = ("int8:token", "int8"), depth: int = 64) -> bool:
    """Say whether the checks find that what is computed now is not what `name` means."""
    accumulator = get_accumulator(name)
    return any(differs(*encoded(pair, kind, depth, seed=s), accumulator) for s in range(4) for kind in KINDS)


def test_the_checks_accept_what_is_right() -> None:
    assert not rejected("int16:saturate,every=mac")
    assert not rejected("int15:saturate,every=3")
    assert not rejected("block:e5m3", ("mxfp4", "mxfp8_e4m3"), 96)


def test_clamping_at_the_end_instead_of_at_every_product_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(
        a: np.ndarray, panels: np.ndarray, start: int, stop: int, low: float, high: float, state: np.ndarray, mark: Any
    ) -> None:
        total = state + (a.astype(np.int64) @ panels.astype(np.int64))[0]
        mark[(total > high) | (total < np.iinfo(np.int16).min)] = 1
        state[:] = np.clip(total, np.iinfo(np.int16).min, high)

    monkeypatch.setattr(accumulate_saturating, "saturate_each", late)
    assert rejected("int16:saturate,every=mac")


def test_a_register_one_bit_too_wide_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    honest: Callable[..., None] = saturating.SaturatingSteps.__init__
    monkeypatch.setattr(saturating.SaturatingSteps, "__init__", lambda self, a, b, bits: honest(self, a, b, bits + 1))
    assert rejected("int16:saturate,every=mac")


def test_a_chunk_boundary_off_by_one_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = integer.stretches
    monkeypatch.setattr(integer, "stretches", lambda start, stop, length: honest(start, stop, length + 1))
    assert rejected("int15:saturate,every=3")


def test_blocks_added_in_the_wrong_order_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = BlockAccumulator.product

    def reversed_(self: BlockAccumulator, a: object, b: object, report: object) -> np.ndarray:
        order = "ascending" if self.order == "descending" else "descending"
        return honest(replace(self, order=order), a, b, report)  # type: ignore[arg-type]

    monkeypatch.setattr(BlockAccumulator, "product", reversed_)
    assert rejected("block:e5m3", ("mxfp4", "mxfp8_e4m3"), 96)


def test_another_rounding_of_the_register_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = SmallFloatAccumulator.kernel_arguments

    def truncating(self: SmallFloatAccumulator) -> tuple[int, int, int, float, float]:
        digits, least, _, largest, beyond = honest(self)
        return digits, least, 1, largest, beyond

    monkeypatch.setattr(SmallFloatAccumulator, "kernel_arguments", truncating)
    assert rejected("e4m3:toward_zero", depth=40)


def test_an_error_bound_that_is_too_small_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.array([[2.0**80, 2.0**-20, -(2.0**80), 2.0**-40]], np.float32)
    ones = np.ones((1, 4), np.float32)
    want = np.float32(2.0**-20 + 2.0**-40)
    assert exact.rounded_sums(x, ones, 1.0)[0, 0] == want
    honest = exact._settle
    monkeypatch.setattr(exact, "_settle", lambda t, x, y, f, *rest: honest(t, x, y, f * 0, *rest))
    assert exact.rounded_sums(x, ones, 1.0)[0, 0] != want
