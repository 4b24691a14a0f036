"""Which elements of the array multiply, and for how many cycles: from folds and tiles, exactly.

A fold that fills part of the array leaves elements idle, and so does a product narrower than it. Nothing here steps
a register: where an element stands in a fold says whether it has something to multiply, and the stream of the fold how
often. `macloom.sim.cycle.run(..., plain=True).active` counts the same in the machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from macloom.arch import Array, Dataflow
from macloom.errors import MacloomError
from macloom.sim.systolic import ceil_div


class MappedOp(Protocol):
    """What a picture of the array asks of an operation's result; `mapping` is that of `OpResult`."""

    @property
    def name(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def repeat(self) -> int: ...
    @property
    def cycles(self) -> int: ...
    @property
    def mapping(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class ArrayMap:
    """How long each element of the arrays multiplies.

    Attributes:
        name: of the operation, or of the run.
        active: int64 (arrays, rows, cols), cycles in which an element multiplies two values of the operands.
        cycles: all cycles, those in which the array stands still included.
    """

    name: str
    active: np.ndarray
    cycles: int

    @property
    def utilisation(self) -> np.ndarray:
        """Fraction of all cycles in which each element multiplies, (arrays, rows, cols); its mean is `OpResult`'s."""
        return self.active / max(1, self.cycles)


def pieces(size: int, tile: int, step: int | None = None) -> Counter[int]:
    """Return how many pieces of which length `size` is cut to: in tiles, and these after every `step`.

    >>> sorted(pieces(70, 32, 24).items())
    [(6, 1), (8, 2), (24, 2)]
    """
    found: Counter[int] = Counter()
    for length, times in ((tile, size // tile), (size % tile, 1)):
        cut = min(step or length, length)
        if cut and times:
            found[cut] += times * (length // cut)
            if length % cut:
                found[length % cut] += times
    return found


def lane_counts(cuts: Mapping[int, int], lanes: int) -> np.ndarray:
    """Return in how many folds each of `lanes` rows or columns has something to do; int64 (lanes,).

    >>> lane_counts({6: 2, 3: 1}, 4)
    array([5, 5, 3, 2])
    """
    lane = np.arange(lanes)
    counts = (times * np.maximum(ceil_div(length - lane, lanes), 0) for length, times in cuts.items())
    return sum(counts, np.zeros(lanes, np.int64))


def element_map(op: MappedOp, array: Array) -> ArrayMap:
    """Return how long each element of `array` multiplies for an operation, all its repeats together.

    A fused element is all of its parts: each of them works. Operations of the vector unit leave the array idle.

    Raises:
        MacloomError: the operation says too little of its mapping, as older results do.

    >>> from macloom.arch import load_accelerator
    >>> from macloom.sim import simulate
    >>> machine = load_accelerator("int8-sa")
    >>> op = simulate("tiny", machine, "int8").ops[2]
    >>> element_map(op, machine.array).active.sum() == op.macs
    np.True_
    """
    active = np.zeros((array.count, array.rows, array.cols), np.int64)
    if op.unit == "array":
        at = op.mapping
        missing = [name for name in _NEEDED if name not in at]
        if missing:
            raise MacloomError(
                f"heat map: mapping of {op.name!r} must say {', '.join(missing)}; simulate again with this version"
            )
        flow = Dataflow(at["dataflow"])
        across, down = (at["b_slices"], at["a_slices"]) if flow is Dataflow.IS else (at["a_slices"], at["b_slices"])
        rows, cols = array.rows // across, array.cols // down
        one = _output_stationary if flow is Dataflow.OS else _operand_stationary
        counts = op.repeat * at["batch"] * one(flow, at, rows, cols, array.count)
        whole = np.repeat(np.repeat(counts, across, axis=1), down, axis=2)
        active[:, : whole.shape[1], : whole.shape[2]] = whole
    return ArrayMap(name=op.name, active=active, cycles=op.cycles)


def run_map(ops: Iterable[MappedOp], array: Array, name: str = "whole run") -> ArrayMap:
    """Return how long each element of `array` multiplies in a whole run of operations, one after another."""
    maps = [element_map(op, array) for op in ops]
    nothing = np.zeros((array.count, array.rows, array.cols), np.int64)
    return ArrayMap(name=name, active=sum((m.active for m in maps), nothing), cycles=sum(m.cycles for m in maps))


_NEEDED = ("dataflow", "m", "n", "k", "tile_m", "tile_n", "tile_k", "segment", "batch", "a_slices", "b_slices")


def _output_stationary(flow: Dataflow, at: Mapping[str, Any], rows: int, cols: int, arrays: int) -> np.ndarray:
    """Blocks of outputs, down a column of blocks first, go to the arrays in turn; each streams all of K."""
    m_pieces, n_pieces = pieces(at["m"], at["tile_m"]), pieces(at["n"], at["tile_n"])
    if arrays == 1:
        return at["k"] * np.outer(lane_counts(m_pieces, rows), lane_counts(n_pieces, cols))[None]
    found = np.zeros((arrays, rows, cols), np.int64)
    for m, m_times in m_pieces.items():
        for n, n_times in n_pieces.items():
            high, wide = ceil_div(m, rows), ceil_div(n, cols)
            down = np.minimum(m - rows * np.arange(high), rows)  # rows that each block fills
            along = np.minimum(n - cols * np.arange(wide), cols)
            block = np.arange(high)[:, None] + high * np.arange(wide)
            row, col = np.arange(rows) < down[:, None], np.arange(cols) < along[:, None]
            for array in range(arrays):
                mine = (block % arrays == array).astype(np.int64)
                found[array] += m_times * n_times * (row.T.astype(np.int64) @ mine @ col.astype(np.int64))
    return at["k"] * found


def _operand_stationary(flow: Dataflow, at: Mapping[str, Any], rows: int, cols: int, arrays: int) -> np.ndarray:
    """Strips of columns go to the arrays in turn, with all of K; the other operand streams."""
    wide, stream = ("n", "m") if flow is Dataflow.WS else ("m", "n")
    row = lane_counts(pieces(at["k"], at["tile_k"], at["segment"]), rows)
    found = np.zeros((arrays, rows, cols), np.int64)
    for size, times in pieces(at[wide], at[f"tile_{wide}"]).items():
        along = np.minimum(size - cols * np.arange(ceil_div(size, cols)), cols)
        for array in range(arrays):
            col = (np.arange(cols) < along[array::arrays, None]).sum(axis=0)
            found[array] += times * np.outer(row, col)
    return at[stream] * found
