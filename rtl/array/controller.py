"""The controller of an array: start, the sequence of folds and their phases, done."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyrtl
from pyrtl import WireVector

from macloom.rtl import wires as w
from macloom.rtl.array.design import COUNT_BITS
from macloom.rtl.unit import Port, Values, Wires

CONTROL_INPUTS = (
    Port(name="start", width=1),
    Port(name="depth", width=COUNT_BITS),
    Port(name="row_folds", width=COUNT_BITS),
    Port(name="col_folds", width=COUNT_BITS),
)
CONTROL_OUTPUTS = (
    Port(name="busy", width=1),
    Port(name="done", width=1),
    Port(name="cycle", width=COUNT_BITS + 2),
    Port(name="row_fold", width=COUNT_BITS),
    Port(name="col_fold", width=COUNT_BITS),
)


@dataclass(frozen=True)
class Sequencer:
    """The running fold on wires: its cycle, its length in vectors, and whether one is running."""

    busy: WireVector
    cycle: WireVector
    depth: WireVector
    outputs: dict[str, WireVector]

    def within(self, first: int | WireVector, stop: int | WireVector) -> WireVector:
        """Return whether the fold is at a cycle from `first` on and before `stop`."""
        begun = w.inverted(self.cycle < _wide(first)) if not isinstance(first, int) or first else w.constant(1, 1)
        return self.busy & begun & (self.cycle < _wide(stop))

    def after(self, cycles: int) -> WireVector:
        """Return `depth` plus a constant, as a cycle of the fold."""
        width = len(self.cycle)
        return w.low(w.widened(self.depth, width) + w.constant(cycles, width), width)


def _wide(x: int | WireVector) -> WireVector:
    return w.constant(x, COUNT_BITS + 2) if isinstance(x, int) else x


def sequencer(inputs: Wires, overhead: int) -> Sequencer:
    """Return the counters: every fold takes `depth` + `overhead` cycles, folds go along columns first.

    A product without vectors or folds is done in the cycle after its start. A start while busy is not heard.
    """
    width = COUNT_BITS + 2
    busy, done = pyrtl.Register(1, "running"), pyrtl.Register(1, "finished")
    cycle = pyrtl.Register(width, "fold_cycle")
    row, col = pyrtl.Register(COUNT_BITS, "fold_row"), pyrtl.Register(COUNT_BITS, "fold_col")
    held = {name: pyrtl.Register(COUNT_BITS, f"held_{name}") for name in ("depth", "row_folds", "col_folds")}
    sizes = [w.any_bit(inputs[name]) for name in held]
    asked, some = inputs["start"] & w.inverted(busy), sizes[0] & sizes[1] & sizes[2]
    begin = asked & some
    for name, register in held.items():
        w.clock(register, pyrtl.select(begin, inputs[name], register))
    one = w.constant(1, COUNT_BITS)
    length = w.low(w.widened(held["depth"], width) + w.constant(overhead - 1, width), width)
    last_cycle = busy & (cycle == length)
    last_col = w.low(col + one, COUNT_BITS) == held["col_folds"]
    last_row = w.low(row + one, COUNT_BITS) == held["row_folds"]
    finished = last_cycle & last_col & last_row
    w.clock(busy, begin | (busy & w.inverted(finished)))
    w.clock(done, finished | (asked & w.inverted(some)))
    w.clock(cycle, w.gated(w.low(cycle + w.constant(1, width), width), busy & w.inverted(last_cycle)))
    moved_col = pyrtl.select(last_col, w.constant(0, COUNT_BITS), w.low(col + one, COUNT_BITS))
    moved_row = pyrtl.select(last_row, w.constant(0, COUNT_BITS), w.low(row + one, COUNT_BITS))
    w.clock(col, pyrtl.select(last_cycle, moved_col, col))
    w.clock(row, pyrtl.select(last_cycle & last_col, moved_row, row))
    return Sequencer(
        busy,
        cycle,
        held["depth"],
        {"busy": busy, "done": done, "cycle": cycle, "row_fold": row, "col_fold": col},
    )


@dataclass(frozen=True)
class Fold:
    """One fold of a run in a trace: when it begins, how many vectors it streams, and where it stands."""

    begin: int
    depth: int
    row: int
    col: int


def folds_of(inputs: Values, overhead: int) -> tuple[list[Fold], dict[str, np.ndarray]]:
    """Return the folds that a trace of control inputs starts, and the control outputs over time.

    Raises:
        ValueError: the trace ends within a fold; nothing but whole runs is modelled.
    """
    starts = np.asarray(inputs["start"])
    steps = len(starts)
    out = {port.name: np.zeros(steps, np.int64) for port in CONTROL_OUTPUTS}
    folds: list[Fold] = []
    now = 0
    while now < steps:
        if not starts[now]:
            now += 1
            continue
        depth, rows, cols = (int(inputs[n][now]) for n in ("depth", "row_folds", "col_folds"))
        length = depth + overhead
        begin = now + 1
        rows = rows if depth and cols else 0
        end = begin + rows * cols * length
        if end > steps:
            raise ValueError("the trace ends within a run")
        for index in range(rows * cols):
            first = begin + index * length
            fold = Fold(first, depth, index // cols, index % cols)
            folds.append(fold)
            part = slice(first, first + length)
            out["busy"][part], out["cycle"][part] = 1, np.arange(length)
            out["row_fold"][part], out["col_fold"][part] = fold.row, fold.col
        if end < steps:
            out["done"][end] = 1
        now = end
    return folds, out
