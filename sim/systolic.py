"""Closed-form cycles and buffer accesses of one matrix product on a systolic array.

An array of R rows and C columns computes the product of an M x K by a K x N matrix in folds. Each
fold puts one piece of the problem on the array and streams the third dimension T through it:

| dataflow | rows hold | columns hold | T streams | folds                       |
|----------|-----------|--------------|-----------|-----------------------------|
| os       | M         | N            | K         | ceil(M / R) * ceil(N / C)   |
| ws       | K         | N            | M         | ceil(K / R) * ceil(N / C)   |
| is       | K         | M            | N         | ceil(K / R) * ceil(M / C)   |

A fold of the edge, which fills only part of the array, costs as much as a full one: the control
sequence of the array is fixed. Every function takes integers or numpy integer arrays (which
broadcast against each other) for sizes, and answers in kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from macloom.arch.array import Dataflow

Count: TypeAlias = Any  # int, or a numpy integer array


def ceil_div(a: Count, b: Count) -> Count:
    """Return the integer quotient rounded up.

    >>> ceil_div(65, 64)
    2
    """
    return -(-a // b)


@dataclass(frozen=True, kw_only=True)
class Folds:
    """How a product is cut to the array: folds along its rows and columns, and the streamed length."""

    along_rows: Count
    along_cols: Count
    stream: Count

    @property
    def total(self) -> Count:
        return self.along_rows * self.along_cols


@dataclass(frozen=True, kw_only=True)
class FoldTiming:
    """Cycles of one fold: the phases of a fold alone, and the time until the next one may start."""

    fill: Count
    steady: Count
    drain: Count
    interval: Count

    @property
    def alone(self) -> Count:
        """Cycles from the first operand in to the last result out."""
        return self.fill + self.steady + self.drain


@dataclass(frozen=True, kw_only=True)
class ArrayCycles:
    """Cycles of the array, split into phases that do not overlap.

    `fill` passes while operands load and wavefronts cross the array, `steady` while a new vector of
    the streamed operand enters every cycle, `drain` while the last results leave. With overlapped
    folds the waits between a short stream and the next count as fill.
    """

    folds: Count
    fill: Count
    steady: Count
    drain: Count

    @property
    def total(self) -> Count:
        return self.fill + self.steady + self.drain


@dataclass(frozen=True, kw_only=True)
class BufferAccesses:
    """Elements that pass between the array and its buffers; partial sums count at the output buffer."""

    a_reads: Count
    b_reads: Count
    out_writes: Count
    out_reads: Count


def folds(dataflow: Dataflow, m: Count, n: Count, k: Count, rows: Count, cols: Count) -> Folds:
    """Return the folds of an M x N x K product on `rows` x `cols` elements.

    >>> folds(Dataflow.WS, 2048, 4096, 4096, 128, 128).total
    1024
    """
    across, down, stream = {
        Dataflow.OS: (m, n, k),
        Dataflow.WS: (k, n, m),
        Dataflow.IS: (k, m, n),
    }[Dataflow(dataflow)]
    return Folds(along_rows=ceil_div(across, rows), along_cols=ceil_div(down, cols), stream=stream)


def fold_timing(
    dataflow: Dataflow,
    stream: Count,
    rows: Count,
    cols: Count,
    *,
    shadow_registers: bool = False,
    shift_out: bool = True,
) -> FoldTiming:
    """Return the timing of one fold that streams `stream` vectors.

    One fold, alone, with T = `stream`:

    - OS: R + C - 2 cycles of skew, T cycles of stream, then the accumulators shift down and out in
      R cycles: T + 2R + C - 2. With `shift_out` False each element has its own way out and the R
      cycles vanish, which is SCALE-Sim's convention: T + R + C - 2.
    - WS, IS: R cycles to shift the stationary operand in, R - 1 cycles of row skew until the first
      result leaves, T cycles of stream, C - 1 cycles of column skew: T + 2R + C - 2.

    Without `shadow_registers` a fold starts when the one before has left the array. With them every
    element has a second register, for the finished sum on its way out (OS) or for the next
    stationary value on its way in (WS, IS), and the register changes hands as the wavefront passes.
    Then folds start max(T, R) cycles apart, because the R shifts of one fold must end before those
    of the next begin (T apart where OS results do not shift).

    >>> fold_timing(Dataflow.OS, 100, 8, 4).alone
    118
    >>> fold_timing(Dataflow.WS, 5, 8, 4, shadow_registers=True).interval
    8
    """
    if Dataflow(dataflow) is Dataflow.OS:
        shifts = rows * int(shift_out)
        fill, drain = rows + cols - 2, shifts
    else:
        shifts = rows
        fill, drain = 2 * rows - 1, cols - 1
    interval = _maximum(stream, shifts) if shadow_registers else fill + stream + drain
    return FoldTiming(fill=fill, steady=stream, drain=drain, interval=interval)


def array_cycles(
    dataflow: Dataflow,
    m: Count,
    n: Count,
    k: Count,
    rows: Count,
    cols: Count,
    *,
    shadow_registers: bool = False,
    shift_out: bool = True,
) -> ArrayCycles:
    """Return the cycles from the first operand entering the array to the last result leaving it.

    (folds - 1) intervals and one fold alone, both as `fold_timing` gives them. Overlapped folds pay
    the skew, the first load and the last drain once. A per-cycle machine in the tests agrees.
    The folds are those of SCALE-Sim (ISPASS 2020), which reports one cycle less, the index of the last.

    >>> array_cycles(Dataflow.WS, 2048, 4096, 4096, 128, 128).total
    2488320
    >>> array_cycles(Dataflow.OS, 2048, 4096, 4096, 128, 128, shift_out=False).total
    2227200
    >>> array_cycles(Dataflow.OS, 2048, 4096, 4096, 128, 128, shadow_registers=True).total
    2097534
    """
    cut = folds(dataflow, m, n, k, rows, cols)
    fold = fold_timing(dataflow, cut.stream, rows, cols, shadow_registers=shadow_registers, shift_out=shift_out)
    drains = 1 if shadow_registers else cut.total
    total = (cut.total - 1) * fold.interval + fold.alone
    steady, drain = cut.total * fold.steady, drains * fold.drain
    return ArrayCycles(folds=cut.total, fill=total - steady - drain, steady=steady, drain=drain)


def product_cycles(
    dataflow: Dataflow,
    m: int,
    n: int,
    k: int,
    rows: int,
    cols: int,
    *,
    shadow_registers: bool = False,
    segment: int | None = None,
    decoder_latency: int = 0,
    arrays: int = 1,
) -> ArrayCycles:
    """Return the cycles of one product on `arrays` equal arrays, K cut into segments, behind decoders.

    A block of R x C outputs (OS) or a strip of C columns of the stationary operand (WS, IS) goes to one array with
    all of K; the array with most of them decides. No fold crosses the end of a segment. Decoders read
    ahead while the array drains, so that they add their latency once. In OS with shadow registers a short
    fold waits for the sums of the one before to shift out, R cycles; in WS and IS the next one waits for
    its R loads.

    >>> product_cycles(Dataflow.OS, 4, 4, 20, 4, 4, segment=8).total
    50
    >>> product_cycles(Dataflow.OS, 8, 8, 20, 4, 4, arrays=4, decoder_latency=2).total
    32
    """
    dataflow = Dataflow(dataflow)
    step = k if segment is None else min(segment, k)
    lengths = [(k // step, step), (1 if k % step else 0, k % step)]
    stream = {Dataflow.WS: m, Dataflow.IS: n}.get(dataflow)
    count = steady = spacing = drain = 0
    across = ceil_div(n if dataflow is Dataflow.WS else m, cols)
    groups = ceil_div(ceil_div(m, rows) * ceil_div(n, cols) if dataflow is Dataflow.OS else across, arrays)
    for times, length in lengths:
        if not times:
            continue
        passing = length if stream is None else stream
        fold = fold_timing(dataflow, passing, rows, cols, shadow_registers=shadow_registers)
        many = groups * times * (1 if stream is None else ceil_div(length, rows))
        count, steady = count + many, steady + many * passing
        spacing, drain = spacing + many * fold.interval, drain + many * fold.drain
    edge = fold_timing(dataflow, step if stream is None else stream, rows, cols, shadow_registers=shadow_registers)
    drain = edge.drain if shadow_registers else drain
    total = spacing + edge.alone - edge.interval + decoder_latency
    return ArrayCycles(folds=count, fill=total - steady - drain, steady=steady, drain=drain)


def buffer_accesses(dataflow: Dataflow, m: Count, n: Count, k: Count, rows: Count, cols: Count) -> BufferAccesses:
    """Return the elements read from the operand buffers and exchanged with the output buffer.

    An operand that streams enters once per fold of the other operand's dimension; a stationary one
    enters once. OS sums in the array. In WS and IS every fold along K but the first reads back the
    partial sums that the previous one wrote.

    >>> buffer_accesses(Dataflow.WS, 4, 4, 8, 4, 4)
    BufferAccesses(a_reads=32, b_reads=32, out_writes=32, out_reads=16)
    """
    dataflow = Dataflow(dataflow)
    cut = folds(dataflow, m, n, k, rows, cols)
    mn, mk, kn = m * n, m * k, k * n
    if dataflow is Dataflow.OS:
        return BufferAccesses(a_reads=mk * cut.along_cols, b_reads=kn * cut.along_rows, out_writes=mn, out_reads=0 * mn)
    a_reads, b_reads = (mk * cut.along_cols, kn) if dataflow is Dataflow.WS else (mk, kn * cut.along_cols)
    return BufferAccesses(
        a_reads=a_reads,
        b_reads=b_reads,
        out_writes=mn * cut.along_rows,
        out_reads=mn * (cut.along_rows - 1),
    )


def mapping_efficiency(dataflow: Dataflow, m: Count, n: Count, k: Count, rows: Count, cols: Count) -> Count:
    """Return the fraction of elements that hold a part of the problem, averaged over the folds.

    >>> mapping_efficiency(Dataflow.OS, 6, 8, 100, 4, 4)
    0.75
    """
    across, down = {Dataflow.OS: (m, n), Dataflow.WS: (k, n), Dataflow.IS: (k, m)}[Dataflow(dataflow)]
    return across * down / (folds(dataflow, m, n, k, rows, cols).total * rows * cols)


def utilisation(macs: Count, cycles: Count, rows: Count, cols: Count) -> Count:
    """Return useful multiply-accumulates per element and cycle.

    >>> round(utilisation(2048 * 4096 * 4096, 2488320, 128, 128), 3)
    0.843
    """
    return macs / (cycles * rows * cols)


def _maximum(a: Count, b: Count) -> Count:
    """Return the larger value; integers stay integers."""
    return max(a, b) if isinstance(a, int) and isinstance(b, int) else np.maximum(a, b)
