"""Tiles: which pieces of a product sit in the buffers, and in which order the loops walk over them.

A product of M x K by K x N is cut into tiles that fit the usable part of each buffer (half of a
double-buffered one). One tile of each operand and one of the result is on chip at a time. The three
loops over tiles may nest in any order; an operand is fetched again whenever the walk leaves its
tile, and partial sums that leave before K is complete are written to DRAM and read back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from macloom.arch import Dataflow
from macloom.sim.systolic import Count, Folds, buffer_accesses, ceil_div, fold_timing, folds

ORDERS = tuple("".join(p) for p in permutations("mnk"))  # outermost loop first


@dataclass(frozen=True, kw_only=True)
class TileProblem:
    """One product, the array it runs on and the buffers; all that a tiling depends on.

    `a_bits`, `b_bits` and `out_bits` are the stored sizes of the whole tensors, `room_bits` and
    `port_bits` the usable bits and the bits per cycle of the buffers of A, B and the result; DRAM transfers
    pass the same ports, or others of `transfer_bits` per cycle. `segment` is the length along K after which
    partial sums leave the array to be scaled, or None. `arrays` share the work: blocks of outputs
    (OS) or strips of columns (WS, IS) go to them in turn.
    """

    dataflow: Dataflow
    m: int
    n: int
    k: int
    a_bits: int
    b_bits: int
    out_bits: int
    sum_bits: int
    rows: int
    cols: int
    shadow_registers: bool
    segment: int | None
    room_bits: tuple[int, int, int]
    port_bits: tuple[int, int, int]
    dram_bits_per_cycle: float
    transfer_bits: tuple[int | None, int | None, int | None] = (None, None, None)
    arrays: int = 1

    @property
    def a_density(self) -> float:
        """Stored bits per element of A, scales and padding included."""
        return self.a_bits / (self.m * self.k)

    @property
    def b_density(self) -> float:
        return self.b_bits / (self.n * self.k)

    @property
    def out_density(self) -> float:
        return self.out_bits / (self.m * self.n)


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """Tile sizes along M, N and K, and the loops over tiles, outermost first."""

    m: int
    n: int
    k: int
    order: str


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Bits between DRAM and the buffers for one product."""

    a_bits: Count
    b_bits: Count
    out_bits: Count
    spill_write_bits: Count
    spill_read_bits: Count

    @property
    def total_bits(self) -> Count:
        return self.a_bits + self.b_bits + self.out_bits + self.spill_write_bits + self.spill_read_bits


def traffic(problem: TileProblem, m: Count, n: Count, k: Count, order: str) -> Traffic:
    """Return the DRAM traffic of tiles of m x n x k under one loop order; sizes may be arrays.

    A tensor moves once per step of every loop it does not depend on that runs outside a loop it does
    depend on. Loops of one step do not count. Spilled sums are written and read back (steps of K - 1)
    times.
    """
    steps = {"m": ceil_div(problem.m, m), "n": ceil_div(problem.n, n), "k": ceil_div(problem.k, k)}

    def moves(depends: str, other: str) -> Count:
        inner = [steps[axis] for axis in order[order.index(other) + 1 :] if axis in depends]
        left = np.logical_or.reduce([s > 1 for s in inner]) if inner else False
        return np.where(left, steps[other], 1)

    spills = moves("mn", "k") - 1
    sums = problem.m * problem.n * problem.sum_bits
    return Traffic(
        a_bits=problem.a_bits * moves("mk", "n"),
        b_bits=problem.b_bits * moves("nk", "m"),
        out_bits=problem.out_bits,
        spill_write_bits=sums * spills,
        spill_read_bits=sums * spills,
    )


@dataclass(frozen=True, kw_only=True)
class TileWork:
    """What tiles take of the array, and what passes the buffers.

    `cycles` are those of the array alone, `steady` the part in which vectors stream. The elements of
    A and B and the sums are those that array and vector unit read from or write to the buffers.
    """

    folds: Count
    steady: Count
    cycles: Count
    a_elements: Count
    b_elements: Count
    sums: Count


def tile_work(
    problem: TileProblem, m: Count, n: Count, k: Count, *, continues: Count = False, finishes: Count = False
) -> TileWork:
    """Return the array's work on tiles of m x n x k; sizes may be arrays.

    K is cut at every segment. Each fold counts until the next may start, so that the first skew and
    the last drain of overlapped folds are left out. A tile that `continues` a sum along K reads back
    what is there. The sum of a segment passes through the vector unit, which reads the running sum
    (but for the first segment), adds and writes. A tile that `finishes` sums hands them to the vector
    unit, which encodes them: the last write is not one of sums.
    """
    p, segment = problem, problem.segment
    parts = [(1, k)] if segment is None else [(k // segment, segment), (np.minimum(k % segment, 1), k % segment)]
    count = steady = cycles = a_elements = b_elements = sums = pieces = 0
    for times, length in parts:
        cut = folds(p.dataflow, m, n, length, p.rows, p.cols)
        timing = fold_timing(p.dataflow, cut.stream, p.rows, p.cols, shadow_registers=p.shadow_registers)
        accesses = buffer_accesses(p.dataflow, m, n, length, p.rows, p.cols)
        in_turn = cut.total if p.arrays == 1 else _in_turn(p, cut)
        count = count + times * in_turn
        steady = steady + times * in_turn * cut.stream
        cycles = cycles + times * in_turn * timing.interval
        a_elements = a_elements + times * accesses.a_reads
        b_elements = b_elements + times * accesses.b_reads
        sums = sums + times * (accesses.out_writes + accesses.out_reads)
        pieces = pieces + times
    running_reads = continues if segment is None else pieces - 1 + continues
    return TileWork(
        folds=count,
        steady=steady,
        cycles=cycles,
        a_elements=a_elements,
        b_elements=b_elements,
        sums=sums + m * n * running_reads - m * n * finishes,
    )


def _in_turn(problem: TileProblem, cut: Folds) -> Count:
    """Return the folds of the array that has most of them."""
    if problem.dataflow is Dataflow.OS:
        return ceil_div(cut.total, problem.arrays)
    return cut.along_rows * ceil_div(cut.along_cols, problem.arrays)


def port_cycles(
    problem: TileProblem, array_bits: Sequence[Count], transfer_bits: Sequence[Count] | None = None
) -> Count:
    """Return the cycles in which bits pass the ports of the three buffers, the slowest deciding.

    `array_bits` are those of array and vector unit, for the buffers of A, B and results; `transfer_bits`
    those from and to DRAM, which add to them at a shared port.
    """
    found = []
    for i, bits in enumerate(array_bits):
        beside = 0 if transfer_bits is None else transfer_bits[i]
        own = problem.transfer_bits[i]
        found.append(ceil_div(np.asarray(bits + beside if own is None else bits, np.int64), problem.port_bits[i]))
        if own is not None and transfer_bits is not None:
            found.append(ceil_div(np.asarray(beside, np.int64), own))
    return np.maximum.reduce(np.broadcast_arrays(*found))


def granules(problem: TileProblem) -> tuple[int, int, int]:
    """Return the smallest useful tile along M, N and K: one fold of the array, whole segments."""
    rows, cols = problem.rows, problem.cols
    m, n, k = {
        Dataflow.OS: (rows, cols, rows),
        Dataflow.WS: (cols, cols, rows),
        Dataflow.IS: (cols, cols, rows),
    }[problem.dataflow]
    if problem.segment is not None:
        k = problem.segment if problem.dataflow is Dataflow.OS else math.lcm(k, problem.segment)
    return min(m, problem.m), min(n, problem.n), min(k, problem.k)


def whole_bits(share: Count) -> Count:
    """Return a share of a whole number of bits, rounded up.

    It carries a rounding error of far less than 1e-6.

    >>> whole_bits(3 * (10 / 3))
    10
    """
    if isinstance(share, float | int):
        return math.ceil(share - 1e-6)
    return np.ceil(np.asarray(share) - 1e-6).astype(np.int64)


def room_needed(problem: TileProblem, m: Count, n: Count, k: Count) -> tuple[Count, Count, Count]:
    """Return the bits that a tile takes in the buffers of A, B and the result; sizes may be arrays.

    The result buffer holds the whole tile of sums while K is walked in several tiles. When one tile
    spans K, it holds the strip that the array works on: one fold (OS), or all streamed rows of one
    column of folds (WS, IS). Segments double it, because scaled sums stand beside unscaled ones.
    """
    a, b = whole_bits(m * k * problem.a_density), whole_bits(n * k * problem.b_density)
    least = min if isinstance(m, int) and isinstance(n, int) else np.minimum
    if problem.dataflow is Dataflow.OS:
        strip = least(m, problem.rows) * least(n, problem.cols)
    else:
        strip = m * least(n, problem.cols) if problem.dataflow is Dataflow.WS else n * least(m, problem.cols)
    whole = (strip if k >= problem.k else m * n) if isinstance(k, int) else np.where(k < problem.k, m * n, strip)
    sums = whole * problem.sum_bits
    return a, b, sums * (1 if problem.segment is None else 2)
