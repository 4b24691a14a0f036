"""What the controller of the array does: folds in order, when each starts, and the marks that travel along."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from macloom.arch import Dataflow
from macloom.sim.cycle.marks import FIT, HAND_OVER, SCALE


@dataclass(frozen=True, kw_only=True)
class Program:
    """Folds of one product, in the order in which the controller starts them.

    `folds` and `marks` are those of `os_machine` or `ws_machine`, `starts` the cycles at which folds start
    in an array with shadow registers. `groups` cuts the folds into pieces that need nothing of each other.
    """

    folds: np.ndarray
    starts: np.ndarray
    marks: np.ndarray
    groups: tuple[tuple[int, int], ...]


def pieces_of(k: int, segment: int | None) -> list[tuple[int, int]]:
    """Return first and last + 1 place of each segment of K.

    >>> pieces_of(70, 32)
    [(0, 32), (32, 64), (64, 70)]
    """
    step = k if segment is None else segment
    return [(start, min(start + step, k)) for start in range(0, k, step)]


def os_program(
    m: int, n: int, k: int, rows: int, cols: int, *, segment: int | None, chunk: int | None, scaled: bool
) -> Program:
    """Return the folds of an output-stationary array: blocks of R x C outputs, K streaming.

    Without `scaled` the sum of each segment of K leaves in a fold of its own; with it a mark scales it where it
    is. A fold may start when its stream follows the one before, or so much later that its sums are
    handed over R cycles after those of the one before, which shift out in that time.
    """
    pieces = pieces_of(k, None if scaled else segment)
    folds = [(i, j, first, last) for j in range(0, n, cols) for i in range(0, m, rows) for first, last in pieces]
    lengths = np.array([last - first for _, _, first, last in folds], np.int64)
    ends = np.cumsum(np.maximum(lengths, np.where(np.arange(len(folds)) > 0, rows, 0)))
    marks: list[tuple[int, int, int, int]] = []
    per_piece = [_os_marks(first, last, segment if scaled else None, chunk) for first, last in pieces]
    for f in range(len(folds)):
        marks += [(f, *mark) for mark in per_piece[f % len(pieces)]]
    return Program(
        folds=np.array(folds, np.int64),
        starts=ends - lengths,
        marks=np.array(marks, np.int64).reshape(-1, 4),
        groups=tuple((f, f + 1) for f in range(len(folds))),
    )


def _os_marks(first: int, last: int, segment: int | None, chunk: int | None) -> list[tuple[int, int, int]]:
    """Return place, kind and segment of the marks of one fold over places `first` to `last` of K."""
    found: dict[int, tuple[int, int]] = {}
    for index, (start, end) in enumerate(pieces_of(last - first, segment)):
        for place in range(start + (chunk or end), end + 1, chunk or end):
            found[place - 1] = (FIT, index) if chunk else (0, index)
        kind = (FIT if chunk else 0) | (SCALE if segment else 0)
        found[end - 1] = (kind, index)
    kind, index = found[last - first - 1]
    found[last - first - 1] = (kind | HAND_OVER, index)
    return [(place, kind, index) for place, (kind, index) in sorted(found.items()) if kind]


def ws_program(
    stream: int, n: int, k: int, rows: int, cols: int, *, segment: int | None, chunk: int | None, scaled: bool
) -> Program:
    """Return the folds of a weight-stationary array: pieces of R x C of the stationary operand.

    All folds along K of one strip of columns follow one another. Without `scaled` sums begin anew with
    each segment of K, and no fold crosses its end.
    """
    folds, marks, groups = [], [], []
    ends = {last - 1: index for index, (_, last) in enumerate(pieces_of(k, segment))} if scaled else {}
    for j in range(0, n, cols):
        start = len(folds)
        for index, (first, last) in enumerate(pieces_of(k, None if scaled else segment)):
            for piece in range(first, last, rows):
                folds.append((piece, min(piece + rows, last), j, int(piece == first), index))
                marks.append([_ws_mark(piece + i, first, last, segment, ends, chunk) for i in range(rows)])
        groups.append((start, len(folds)))
    intervals = np.full(len(folds), max(stream, rows), np.int64)
    return Program(
        folds=np.array(folds, np.int64),
        starts=np.cumsum(intervals) - intervals,
        marks=np.array(marks, np.int64),
        groups=tuple(groups),
    )


def _ws_mark(place: int, first: int, last: int, segment: int | None, ends: dict[int, int], chunk: int | None) -> int:
    if place >= last:
        return 0
    begin = first if not ends or segment is None else place // segment * segment
    over = place == last - 1 or place in ends
    mark = FIT if chunk and ((place + 1 - begin) % chunk == 0 or over) else 0
    if place in ends:
        mark |= SCALE | 8 * ends[place] | (HAND_OVER if ends[place] == 0 else 0)
    return mark


def program(
    dataflow: Dataflow,
    m: int,
    n: int,
    k: int,
    rows: int,
    cols: int,
    *,
    segment: int | None,
    chunk: int | None,
    scaled: bool,
) -> Program:
    """Return what the controller does for a product of M x N x K; input stationary streams N and holds A."""
    if dataflow is Dataflow.OS:
        return os_program(m, n, k, rows, cols, segment=segment, chunk=chunk, scaled=scaled)
    stream, width = (m, n) if dataflow is Dataflow.WS else (n, m)
    return ws_program(stream, width, k, rows, cols, segment=segment, chunk=chunk, scaled=scaled)
