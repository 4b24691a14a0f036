"""Registers that saturate after every product, stepped through in vectors, equal a loop over Python's integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from macloom.formats import GemmReport, Operand, get_accumulator
from macloom.formats.accumulators import reference, saturating
from macloom.formats.accumulators.integer import IntegerAccumulator, IntegerOverflow
from macloom.formats.accumulators.saturating import SaturatingSteps, stepping_type
from macloom.formats.gemm import gemm_operands
from macloom.formats.kernels import accumulate_saturating

# Rows and columns that fill no block of the kernel, or one and a bit.
SHAPES = ((1, 1, 1), (3, 7, 2), (5, 70, 65), (4, 64, 130), (9, 129, 33))


def operand(units: np.ndarray, maximum: int = 127) -> Operand:
    scales = np.ones((len(units), 1), np.float32)
    return Operand(units.astype(np.float32), 0, scales, units.shape[1], np.float32(1), maximum)


def adversarial(kind: str, rows: int, depth: int, largest: int, seed: int) -> np.ndarray:
    """Integers up to `largest` that drive sums to both ends of a register, as early and as late as they can."""
    rng = np.random.default_rng([seed, rows, depth])
    match kind:
        case "largest":
            return np.full((rows, depth), largest)
        case "alternating":
            return largest * np.where(np.arange(depth) % 2, 1, -1) * np.ones((rows, 1), int)
        case "both ends":  # up to the top, down to the bottom and up again by the same amounts
            return np.where(np.arange(depth) * 3 // depth == 1, -largest, largest) * np.ones((rows, 1), int)
        case "last":
            x = np.zeros((rows, depth), int)
            x[:, -3:] = largest
            return x
        case "one row":
            x = rng.integers(-1, 2, (rows, depth))
            x[rows // 2] = largest
            return x
    return rng.integers(-largest, largest + 1, (rows, depth))


KINDS = ("random", "largest", "alternating", "both ends", "last", "one row")


def by_definition(a: np.ndarray, b: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Return sums and marks of overflow by `reference.integer`, on Python's integers."""
    accumulator = IntegerAccumulator(bits=bits, overflow=IntegerOverflow.SATURATE, every="mac")
    found = [[reference.integer((x * y).tolist(), accumulator) for y in b] for x in a]
    return np.array([[f[0] for f in row] for row in found]), np.array([[f[1] for f in row] for row in found])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "bits, largest", [(15, 127), (16, 127), (9, 15), (17, 127), (22, 127), (31, 32767), (33, 32767)]
)
def test_stepped_sums_and_marks_equal_the_reference(bits: int, largest: int, kind: str) -> None:
    for rows, depth, columns in SHAPES[:: 1 if kind in ("random", "both ends") else 2]:
        x = adversarial(kind, rows, depth, largest, seed=1)
        y = adversarial("largest" if kind in ("both ends", "last") else kind, columns, depth, largest, seed=2)
        steps = SaturatingSteps(operand(x, largest), operand(y, largest), bits)
        where = np.zeros((rows, columns), bool)
        got = steps(slice(0, rows), slice(0, columns), slice(0, depth), where)
        want, hit = by_definition(x, y, bits)
        np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(where, hit)


def test_the_cases_reach_every_type_and_both_kinds_of_blocks() -> None:
    kinds = {stepping_type(n, n, bits).__name__ for bits, n in ((15, 127.0), (22, 127.0), (31, 32767.0))}
    assert kinds == {"int16", "float32", "float64"}
    pairs = [(adversarial(k, 5, 70, 127, 1), adversarial(k, 65, 70, 127, 1)) for k in KINDS]
    hits = [by_definition(a, b, 15)[1].mean() for a, b in pairs]
    assert min(hits) < 0.3
    assert max(hits) == 1  # blocks without anything left to watch


@pytest.mark.parametrize("bits", [15, 16, 19, 24])
def test_a_stretch_of_k_goes_on_from_any_state(bits: int) -> None:
    a, b = (adversarial("random", n, 150, 127, s) for n, s in ((6, 3), (70, 4)))
    steps = SaturatingSteps(operand(a), operand(b), bits)
    state, hit = np.zeros((6, 70), np.int32), np.zeros((6, 70), np.int32)
    for part in (slice(0, 1), slice(1, 67), slice(67, 150)):
        state = steps._stepped(slice(0, 6), slice(0, 70), part, state, hit).astype(np.int32)
    want, where = by_definition(a, b, bits)
    np.testing.assert_array_equal(state, want)
    np.testing.assert_array_equal(hit > 0, where)


@pytest.mark.parametrize("few", [1, 48, 1 << 30])
@pytest.mark.parametrize("bits", [16, 18, 20])
def test_where_checking_ends_changes_no_bit(bits: int, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from macloom.formats import digits

    a, b = (adversarial("random", 90, 300, 127, seed) for seed in (5, 6))
    a[:20], b[:30] = np.abs(a[:20]), np.abs(b[:30])
    accumulator = get_accumulator(f"int{bits}:saturate,every=mac")
    monkeypatch.setattr(digits, "FEWEST_PRODUCTS", 1 << 60)
    plain = GemmReport(locate=True)
    want = gemm_operands(operand(a), operand(b), accumulator, plain)
    monkeypatch.setattr(digits, "FEWEST_PRODUCTS", 0)
    monkeypatch.setattr(saturating, "FEW", few)
    report = GemmReport(locate=True)
    got = gemm_operands(operand(a), operand(b), accumulator, report)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(report.where, plain.where)
    assert report.overflows == plain.overflows > 0


# -- mutants ---------------------------------------------------------------------------------------


def disagrees(bits: int, kind: str = "random", rows: int = 5, largest: int = 127) -> bool:
    """Say whether sums or marks are not those of the reference."""
    a, b = (adversarial(k, n, 70, largest, n) for k, n in ((kind, rows), ("largest" if kind != "random" else kind, 9)))
    where = np.zeros((rows, 9), bool)
    got = SaturatingSteps(operand(a), operand(b), bits)(slice(0, rows), slice(0, 9), slice(0, 70), where)
    want, hit = by_definition(a, b, bits)
    return bool(np.any(got != want) or np.any(where != hit))


def test_mutant_int16_for_products_that_do_not_fit_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not disagrees(16, largest=400)
    monkeypatch.setattr(saturating, "stepping_type", lambda a, b, bits: np.int16)
    assert disagrees(16, largest=400)


def test_mutant_float32_for_registers_beyond_its_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not disagrees(31, "largest", largest=32767)
    monkeypatch.setattr(saturating, "stepping_type", lambda a, b, bits: np.float32)
    assert disagrees(31, "largest", largest=32767)


def test_mutant_a_state_without_the_half_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    # -x + x is +0 and a register of one product may hold -0: their codes differ where nothing was clamped.
    honest: Callable[..., Any] = accumulate_saturating.saturate_each

    def without(a: Any, panels: Any, start: int, stop: int, low: Any, high: Any, state: Any, mark: Any) -> None:
        state -= state.dtype.type(0.5)
        honest(a, panels, start, stop, low, high, state, mark)
        state += state.dtype.type(0.5)

    monkeypatch.setattr(accumulate_saturating, "saturate_each", without)
    assert disagrees(18, "largest")


def test_mutant_a_block_that_is_closed_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    honest: Callable[..., Any] = accumulate_saturating.saturate_each

    def closed(a: Any, panels: Any, start: int, stop: int, low: Any, high: Any, state: Any, mark: np.ndarray) -> None:
        before = mark.copy()
        mark[:] = 1
        honest(a, panels, start, stop, low, high, state, mark)
        mark[:] = before

    monkeypatch.setattr(accumulate_saturating, "saturate_each", closed)
    assert disagrees(16)
    assert disagrees(18, "largest")
