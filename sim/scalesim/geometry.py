"""How SCALE-Sim lays a product on the array: folds, streams, and when each row of demand asks for what.

Everything happens in folds of L rows of demand, one row per cycle that does not stall. In each fold a
streamed operand enters skewed by one cycle per lane, a stationary one is loaded row by row before it,
and results leave skewed. The number of lanes at work in row t is a trapezoid (`skewed`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from macloom.arch.array import Dataflow
from macloom.sim.scalesim.records import Config, Layer
from macloom.sim.systolic import ceil_div


@dataclass(frozen=True, kw_only=True)
class Stream:
    """A streamed operand: `folds` pieces of `stream` values on `lanes` lanes (`last` on those of the last piece).

    `across` is `rows` where the pieces follow the folds along array rows and `cols` where they follow
    those along columns. The first value enters `start` cycles into the fold.
    """

    folds: int
    lanes: int
    last: int
    stream: int
    start: int
    across: Literal["rows", "cols"]

    @property
    def size(self) -> int:
        """Values in all pieces together."""
        return self.stream * ((self.folds - 1) * self.lanes + self.last)

    @property
    def padded(self) -> int:
        """Values with the holes that fill the lanes of the last piece."""
        return self.stream * self.folds * self.lanes


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A stationary operand: `depth` rows cut to `rows` at a time, `width` columns cut to `cols` at a time."""

    depth: int
    width: int
    rows: int
    cols: int

    @property
    def padded(self) -> int:
        """Values with the holes that fill the columns of the last piece."""
        return self.depth * ceil_div(self.width, self.cols) * self.cols


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """One layer on one array. `k` counts the values of a window that N:M sparsity keeps."""

    dataflow: Dataflow
    m: int
    n: int
    k: int
    rows: int
    cols: int
    row_folds: int
    col_folds: int
    last_rows: int
    last_cols: int
    stream: int
    fold_cycles: int

    @property
    def folds(self) -> int:
        return self.row_folds * self.col_folds

    @property
    def loops(self) -> tuple[int, ...]:
        """What the compiled loops are told, in their order."""
        folds = (self.row_folds, self.col_folds, self.rows, self.cols, self.last_rows, self.last_cols)
        return *folds, self.stream, self.fold_cycles

    @property
    def ifmap(self) -> Stream | Loaded:
        """How the input reaches the array."""
        if self.dataflow is Dataflow.IS:
            return Loaded(depth=self.k, width=self.m, rows=self.rows, cols=self.cols)
        return self._stream("rows")

    @property
    def filter(self) -> Stream | Loaded:
        """How the weights reach the array."""
        if self.dataflow is Dataflow.WS:
            return Loaded(depth=self.k, width=self.n, rows=self.rows, cols=self.cols)
        return self._stream("cols" if self.dataflow is Dataflow.OS else "rows")

    def _stream(self, across: Literal["rows", "cols"]) -> Stream:
        by_rows = across == "rows"
        return Stream(
            folds=self.row_folds if by_rows else self.col_folds,
            lanes=self.rows if by_rows else self.cols,
            last=self.last_rows if by_rows else self.last_cols,
            stream=self.stream,
            start=0 if self.dataflow is Dataflow.OS else self.rows,
            across=across,
        )

    def first_write(self, rows_used: int) -> tuple[int, int]:
        """Return the row of demand of a fold's first write, and how many values each column then writes."""
        if self.dataflow is Dataflow.OS:
            return self.stream - 1 + self.rows - rows_used, rows_used
        return 2 * self.rows - 1, self.stream


def kept(layer: Layer) -> list[int]:
    """Return the positions along the window that the filter keeps: the first n of every m.

    >>> from macloom.sim.scalesim import Gemm
    >>> kept(Gemm(m=1, n=1, k=7, sparsity=(2, 4)))
    [0, 1, 4, 5]
    """
    n, m = layer.sparsity or (1, 1)
    return [i for i in range(layer.k) if i % m < n]


def kept_values(layer: Layer) -> int:
    """Return how many positions along the window the filter keeps."""
    n, m = layer.sparsity or (1, 1)
    return layer.k // m * n + min(layer.k % m, n)


def geometry(layer: Layer, config: Config) -> Geometry:
    """Return how `layer` folds on the array of `config`.

    >>> from macloom.sim.scalesim import Config, Gemm
    >>> array = Config(rows=128, cols=128, dataflow="ws", ifmap_kb=512, filter_kb=512, ofmap_kb=256)
    >>> folded = geometry(Gemm(m=2048, n=2048, k=128), array)
    >>> folded.folds, folded.fold_cycles
    (16, 2430)
    """
    dataflow = Dataflow(config.dataflow)
    m, n, k = layer.m, layer.n, kept_values(layer)
    across, down, stream = {Dataflow.OS: (m, n, k), Dataflow.WS: (k, n, m), Dataflow.IS: (k, m, n)}[dataflow]
    row_folds, col_folds = ceil_div(across, config.rows), ceil_div(down, config.cols)
    loads = 0 if dataflow is Dataflow.OS else config.rows
    return Geometry(
        dataflow=dataflow,
        m=m,
        n=n,
        k=k,
        rows=config.rows,
        cols=config.cols,
        row_folds=row_folds,
        col_folds=col_folds,
        last_rows=across - (row_folds - 1) * config.rows,
        last_cols=down - (col_folds - 1) * config.cols,
        stream=stream,
        fold_cycles=stream + loads + config.rows + config.cols - 2,
    )


def skewed(t: int, stream: int, lanes: int) -> int:
    """Return how many of `lanes` skewed lanes that carry `stream` values each are at work at time t.

    >>> [skewed(t, 3, 2) for t in range(-1, 5)]
    [0, 1, 2, 2, 1, 0]
    """
    return max(0, min(lanes, t + 1) - max(0, t - stream + 1))
