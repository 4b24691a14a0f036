"""The systolic machines in plain Python: one object per element, one call per cycle, nothing clever.

The compiled machines equal these, value for value and cycle for cycle; accumulators without a compiled
form run here. A register holds what the accumulator's own `initial`, `step` and `final` make of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from macloom.arch import Dataflow
from macloom.formats.accumulator import Accumulator
from macloom.sim.cycle.program import Program
from macloom.sim.cycle.semantics import rounded


@dataclass
class Token:
    """What moves to the right from element to element: an operand, and what its last one says."""

    value: int | Fraction = 0
    fold: int = -1
    place: int = -1


@dataclass
class Element:
    """Registers of one element: operands on their way, a sum, a running sum of scaled segments, a second register.

    `active` counts the cycles in which its product was not zero.
    """

    right: Token = field(default_factory=Token)
    down: Any = 0
    held: int | Fraction = 0
    chain: int | Fraction = 0
    total: Any = None
    running: np.float32 | None = None
    leaving: Any = None
    active: int = 0


def value_of(final: Any, unit: np.float32) -> np.float32:
    """Return what leaves a register as float32: one rounding of the sum, times the value of its unit."""
    return (rounded(final) if isinstance(final, int) else np.float32(float(final))) * unit


def number(value: Any) -> int | Fraction:
    """Return an operand exactly."""
    exact = Fraction(float(value))
    return int(exact) if exact.denominator == 1 else exact


@dataclass(frozen=True, kw_only=True)
class PlainArray:
    """An array of `rows` x `cols` elements; `product` multiplies on several such arrays."""

    rows: int
    cols: int
    shadow: bool
    accumulator: Accumulator
    unit: np.float32

    def product(
        self,
        dataflow: Dataflow,
        a: np.ndarray,
        b: np.ndarray,
        segment: int | None,
        scaled: bool,
        a_scales: np.ndarray,
        b_scales: np.ndarray,
        plans: Sequence[Program],
    ) -> tuple[np.ndarray, int, np.ndarray]:
        """Return the product of A (M, K) and B (N, K) on arrays that each follow one of `plans`.

        Float32 (M, N), the cycles until the last sum has left the slowest array, and int64 (arrays, rows, cols), the
        cycles in which the product of an element was not zero.
        """
        step = segment or a.shape[1]
        terms: dict[tuple[int, int, int], np.float32] = {}
        cycles, active = 0, np.zeros((len(plans), self.rows, self.cols), np.int64)
        for plan, counts in zip(plans, active, strict=True):
            if not len(plan.folds):
                continue
            grid = [[Element(total=self.accumulator.initial()) for _ in range(self.cols)] for _ in range(self.rows)]
            if dataflow is Dataflow.OS:
                took = self._output_stationary(grid, plan, a, b, segment, scaled, a_scales, b_scales, terms)
            elif dataflow is Dataflow.WS:
                took = self._weight_stationary(grid, plan, a, b, segment, scaled, a_scales, b_scales, terms, swap=False)
            else:
                took = self._weight_stationary(grid, plan, b, a, segment, scaled, b_scales, a_scales, terms, swap=True)
            cycles = max(cycles, took)
            counts[...] = [[element.active for element in row] for row in grid]
        values = np.zeros((a.shape[0], b.shape[0]), np.float32)
        for i in range(a.shape[0]):
            for j in range(b.shape[0]):
                for index in range(1 if scaled else -(-a.shape[1] // step)):
                    term = terms[index, i, j]
                    if not scaled:
                        term = (term * a_scales[i, index]) * b_scales[j, index]
                    values[i, j] = term if index == 0 else values[i, j] + term
        return values, cycles, active

    def _scaled(
        self, total: Any, running: np.float32 | None, first: np.float32, second: np.float32, index: int
    ) -> np.float32:
        term = (value_of(self.accumulator.final(total), self.unit) * first) * second
        return term if index == 0 or running is None else running + term

    def _output_stationary(
        self,
        grid: list[list[Element]],
        plan: Program,
        a: np.ndarray,
        b: np.ndarray,
        segment: int | None,
        scaled: bool,
        a_scales: np.ndarray,
        b_scales: np.ndarray,
        terms: dict[tuple[int, int, int], np.float32],
    ) -> int:
        rows, cols, (m, k), n = self.rows, self.cols, a.shape, b.shape[0]
        folds, starts = plan.folds.tolist(), plan.starts.tolist()
        shifting: dict[int, tuple[int, int]] = {}  # column -> fold and sums that have left
        cycle = begin = gone = passed = current = drained = 0
        draining = False

        def entering(lane: int) -> tuple[int, int]:
            """Return fold and place along K whose operand enters this row or column now, or -1, -1."""
            known = range(len(folds)) if self.shadow else (current,)
            for f in known:
                place = cycle - lane - (starts[f] if self.shadow else begin)
                if 0 <= place < folds[f][3] - folds[f][2]:
                    return f, place
            return -1, -1

        def leave(column: int, fold: int, shift: int) -> None:
            i, j, first, _ = folds[fold]
            row = i + rows - 1 - shift
            if row < m and j + column < n:
                terms[0 if scaled else first // (segment or k), row, j + column] = grid[-1][column].leaving

        while gone < len(folds) * rows * cols:
            if draining:
                for j in range(cols):
                    leave(j, current, drained)
                    for i in range(rows - 1, 0, -1):
                        grid[i][j].leaving = grid[i - 1][j].leaving
                gone, drained, cycle = gone + cols, drained + 1, cycle + 1
                if drained == rows:
                    draining, drained, current, begin = False, 0, current + 1, cycle
                continue
            for i in range(rows - 1, -1, -1):  # from the far corner, so that neighbours still hold the old values
                for j in range(cols - 1, -1, -1):
                    element = grid[i][j]
                    if j:
                        element.right = grid[i][j - 1].right
                    else:
                        f, place = entering(i)
                        row = folds[f][0] + i
                        value = number(a[row, folds[f][2] + place]) if f >= 0 and row < m else 0
                        element.right = Token(value, f, place)
                    if i:
                        element.down = grid[i - 1][j].down
                    else:
                        f, place = entering(j)
                        column = folds[f][1] + j
                        element.down = number(b[column, folds[f][2] + place]) if f >= 0 and column < n else 0
            for row in grid:
                for element in row:
                    if element.right.fold >= 0:
                        product = element.right.value * element.down
                        element.total = self.accumulator.step(element.total, product)
                        element.active += product != 0
            for j, (fold, shift) in list(shifting.items()):
                leave(j, fold, shift)
                gone += 1
                for i in range(rows - 1, shift, -1):
                    grid[i][j].leaving = grid[i - 1][j].leaving
                shifting[j] = (fold, shift + 1)
                if shift + 1 == rows:
                    del shifting[j]
            for i, row in enumerate(grid):
                for j, element in enumerate(row):
                    f, place = element.right.fold, element.right.place
                    if f < 0:
                        continue
                    length = folds[f][3] - folds[f][2]
                    last = place == length - 1
                    if scaled and (last or (place + 1) % (segment or k) == 0):
                        index, at = place // (segment or k), (min(folds[f][0] + i, m - 1), min(folds[f][1] + j, n - 1))
                        element.running = self._scaled(
                            element.total, element.running, a_scales[at[0], index], b_scales[at[1], index], index
                        )
                        element.total = self.accumulator.initial()
                    if last:
                        final = (
                            element.running if scaled else value_of(self.accumulator.final(element.total), self.unit)
                        )
                        element.leaving, element.total = final, self.accumulator.initial()
                        passed += not self.shadow
                        if self.shadow and i == rows - 1:
                            shifting[j] = (f, 0)
            cycle += 1
            if passed == rows * cols:
                passed, draining = 0, True
        return cycle

    def _weight_stationary(
        self,
        grid: list[list[Element]],
        plan: Program,
        x: np.ndarray,
        w: np.ndarray,
        segment: int | None,
        scaled: bool,
        x_scales: np.ndarray,
        w_scales: np.ndarray,
        terms: dict[tuple[int, int, int], np.float32],
        *,
        swap: bool,
    ) -> int:
        rows, cols, (stream, k), n = self.rows, self.cols, x.shape, w.shape[0]
        folds, starts = plan.folds.tolist(), plan.starts.tolist()
        stored: dict[tuple[int, int, int], tuple[Any, np.float32 | None]] = {}  # the output buffer
        cycle = begin = gone = current = 0

        def streaming(lane: int) -> tuple[int, int]:
            known = range(len(folds)) if self.shadow else (current,)
            for f in known:
                place = cycle - lane - rows - (starts[f] if self.shadow else begin)
                if 0 <= place < stream:
                    return f, place
            return -1, -1

        def weight(f: int, row: int, column: int) -> int | Fraction:
            place, j = folds[f][0] + row, folds[f][2] + column
            return number(w[j, place]) if place < folds[f][1] and j < n else 0

        while gone < len(folds) * cols * stream:
            for i in range(rows - 1, -1, -1):
                for j in range(cols - 1, -1, -1):
                    element = grid[i][j]
                    if j:
                        element.right = grid[i][j - 1].right
                    else:
                        f, place = streaming(i)
                        inside = f >= 0 and folds[f][0] + i < folds[f][1]
                        element.right = Token(number(x[place, folds[f][0] + i]) if inside else 0, f, place)
                    f, place = element.right.fold, element.right.place
                    if self.shadow and place == 0:
                        element.held = element.chain
                    if f < 0:
                        element.down = None
                        continue
                    first, last, column, fresh, index = folds[f]
                    if i:
                        total, running = grid[i - 1][j].down
                    elif fresh or column + j >= n:
                        total, running = self.accumulator.initial(), None
                    else:
                        total, running = stored[0 if scaled else index, place, column + j]
                    if first + i < last:
                        product = element.right.value * element.held
                        total = self.accumulator.step(total, product)
                        element.active += product != 0
                    if scaled and segment and first + i < last and column + j < n:
                        at = first + i
                        if at == k - 1 or (at + 1) % segment == 0:
                            one, two = (
                                np.float32(s)
                                for s in (x_scales[place, at // segment], w_scales[column + j, at // segment])
                            )
                            one, two = (two, one) if swap else (one, two)
                            running = self._scaled(total, running, one, two, at // segment)
                            total = self.accumulator.initial()
                    element.down = total, running
            for j in range(cols):
                element = grid[-1][j]
                if element.right.fold >= 0:
                    gone += 1
                    _, last, column, _, index = folds[element.right.fold]
                    if column + j < n:
                        place = element.right.place
                        stored[0 if scaled else index, place, column + j] = element.down
            if self.shadow:
                for f, start in enumerate(starts):
                    for j in range(cols):
                        shift = cycle - start - j
                        if 0 <= shift < rows:
                            for i in range(shift, 0, -1):
                                grid[i][j].chain = grid[i - 1][j].chain
                            grid[0][j].chain = weight(f, rows - 1 - shift, j)
            elif cycle - begin < rows:
                for j in range(cols):
                    for i in range(rows - 1, 0, -1):
                        grid[i][j].held = grid[i - 1][j].held
                    grid[0][j].held = weight(current, rows - 1 - (cycle - begin), j)
            cycle += 1
            if not self.shadow and gone == (current + 1) * cols * stream:
                current, begin = current + 1, cycle
        for (index, place, column), (total, running) in stored.items():
            at = (column, place) if swap else (place, column)
            value = running if scaled else value_of(self.accumulator.final(total), self.unit)
            assert value is not None
            terms[index, *at] = value
        return cycle
