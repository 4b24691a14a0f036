"""The search for tiles and loop order: a small exhaustive set, ranked by estimates."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from itertools import product

import numpy as np

from macloom.errors import MacloomError, unknown
from macloom.sim.systolic import ceil_div
from macloom.sim.tiling import (
    ORDERS,
    TileProblem,
    Tiling,
    granules,
    port_cycles,
    room_needed,
    tile_work,
    traffic,
    whole_bits,
)


class Objective(StrEnum):
    """What the search for tiles, loop order and dataflow minimises first.

    `traffic`: DRAM bits. `time`: an estimate of time, the busiest of array, ports and DRAM. `cycles`: the cycles of
    the walk, stalls and ends included. `energy`: joules of the operation. `edp`: their product. The last three
    estimate all tilings and then price the best of each estimate exactly.
    """

    TRAFFIC = "traffic"
    TIME = "time"
    CYCLES = "cycles"
    ENERGY = "energy"
    EDP = "edp"


@dataclass(frozen=True, kw_only=True)
class BitPrices:
    """Joules per bit that depend on the tiling: DRAM, and what array and vector unit move at each buffer."""

    dram: float
    a: float
    b: float
    out: float


def _candidates(granule: int, size: int) -> list[int]:
    """Return granule * 2**i and granule * 3 * 2**i below `size`, and `size`."""
    values = {size}
    for factor in (granule, 3 * granule):
        while factor < size:
            values.add(factor)
            factor *= 2
    return sorted(values)


@lru_cache(maxsize=4096)
def best_tiling(problem: TileProblem, objective: Objective = Objective.TRAFFIC) -> Tiling:
    """Return the best tiling of a small exhaustive set: deterministic, no randomness, no cut-off.

    Candidates are the granule (one fold of the array) times 2**i and 3 * 2**i and the whole size,
    along each of M, N and K, in all six loop orders. TRAFFIC takes the fewest DRAM bits, then the
    fewest cycles of array and ports; larger buffers never add traffic and the choice does not depend
    on DRAM bandwidth. TIME takes the fewest cycles of the busiest of array, ports and DRAM, then the
    fewest DRAM bits. Remaining ties go to the fewest bits through the ports, the smallest first load,
    the largest M, N and K tiles and the first order.

    Raises:
        MacloomError: a buffer is too small for the smallest tile.
    """
    return ranked_tilings(problem, objective, 1)[0]


@lru_cache(maxsize=4096)
def ranked_tilings(
    problem: TileProblem, objective: Objective, count: int, prices: BitPrices | None = None
) -> tuple[Tiling, ...]:
    """Return the `count` best tilings by an estimate, best first; `prices` are needed for ENERGY and EDP.

    CYCLES estimates as TIME does. See `best_tiling` for the candidates and for ties.

    Raises:
        MacloomError: a buffer is too small for the smallest tile.
    """
    sizes = [_candidates(g, s) for g, s in zip(granules(problem), (problem.m, problem.n, problem.k), strict=True)]
    axes = np.meshgrid(*(np.array(s[::-1], np.int64) for s in sizes), indexing="ij")
    m, n, k = (axis.ravel() for axis in axes)
    a_need, b_need, out_need = room_needed(problem, m, n, k)
    a_room, b_room, out_room = problem.room_bits
    fitting = np.flatnonzero((a_need <= a_room) & (b_need <= b_room) & (out_need <= out_room))
    if not len(fitting):
        raise _too_small(problem)
    m, n, k, a_need, b_need = (x[fitting] for x in (m, n, k, a_need, b_need))
    bits = np.stack([traffic(problem, m, n, k, order).total_bits for order in ORDERS], axis=1)
    if objective is Objective.TRAFFIC and bits.size > count:  # the others move more than the last of the best
        least = np.partition(bits.ravel(), count - 1)[count - 1]
        kept = np.flatnonzero((bits <= least).any(axis=1))
        m, n, k, a_need, b_need, bits = (x[kept] for x in (m, n, k, a_need, b_need, bits))
    cycles, through = _walk_work(problem, m, n, k)
    first_load, buffer_bits, cycles = (
        np.broadcast_to(x[:, None], bits.shape) for x in (a_need + b_need, through[0] + through[1] + through[2], cycles)
    )
    slower = np.maximum(cycles, np.ceil(bits / problem.dram_bits_per_cycle))
    if objective is Objective.TRAFFIC:
        keys = [first_load, buffer_bits, cycles, bits]
    elif objective in (Objective.TIME, Objective.CYCLES):
        keys = [first_load, buffer_bits, bits, slower]
    else:
        if prices is None:
            raise TypeError(f"ranked_tilings: objective {objective.value!r} needs prices")
        moved = through[0] * prices.a + through[1] * prices.b + through[2] * prices.out
        joules = bits * prices.dram + moved[:, None]
        keys = [first_load, buffer_bits, slower, joules if objective is Objective.ENERGY else joules * slower]
    best = np.lexsort([key.ravel() for key in keys])[:count]
    rows, orders = np.divmod(best, len(ORDERS))
    return tuple(
        Tiling(m=int(m[row]), n=int(n[row]), k=int(k[row]), order=ORDERS[order])
        for row, order in zip(rows, orders, strict=True)
    )


def _walk_work(
    problem: TileProblem, m: np.ndarray, n: np.ndarray, k: np.ndarray
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return for each candidate the cycles of array and ports over all tiles, and the bits through each port."""
    corners = []  # inner tiles and the last one along each axis: their number, and their size
    for size, tile in ((problem.m, m), (problem.n, n), (problem.k, k)):
        inner = ceil_div(size, tile) - 1
        corners.append(((inner, tile), (np.ones_like(tile), size - inner * tile)))
    kinds = list(product(*corners))
    times = np.stack([a[0] * b[0] * c[0] for a, b, c in kinds])
    m_size, n_size, k_size = (np.stack([kind[axis][1] for kind in kinds]) for axis in range(3))
    last = np.arange(len(kinds))[:, None] % 2 == 1  # K is the innermost axis of `kinds`
    work = tile_work(problem, m_size, n_size, k_size, continues=ceil_div(problem.k, k) > 1, finishes=last)
    a_bits, b_bits, sum_bits = (
        whole_bits(work.a_elements * problem.a_density),
        whole_bits(work.b_elements * problem.b_density),
        work.sums * problem.sum_bits,
    )
    busy = np.maximum(work.cycles, port_cycles(problem, (a_bits, b_bits, sum_bits)))
    a_moved, b_moved, sums_moved = ((times * bits).sum(axis=0) for bits in (a_bits, b_bits, sum_bits))
    return (times * busy).sum(axis=0), (a_moved, b_moved, sums_moved)


def check_tiling(problem: TileProblem, tiling: Tiling, name: str) -> None:
    """Raise unless a given tiling of the product `name` can be walked: sizes, loop order, room in the buffers.

    Raises:
        MacloomError: with the field, what came and what is allowed.
    """
    path = f"mapping.ops.{name}"
    for axis in "mnk":
        size, limit = getattr(tiling, axis), getattr(problem, axis)
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= limit:
            raise MacloomError(f"{path}.tile_{axis}: must be an integer from 1 to {limit}, not {size!r}")
    if tiling.order not in ORDERS:
        raise unknown(f"{path}.loop_order", tiling.order, ORDERS)
    if problem.segment is not None and tiling.k % problem.segment and tiling.k != problem.k:
        raise MacloomError(
            f"{path}.tile_k: must be a multiple of {problem.segment}, after which scales change, or {problem.k}, "
            f"not {tiling.k}"
        )
    for buffer, need, room in zip(
        ("operand_a", "operand_b", "output"), room_needed(problem, tiling.m, tiling.n, tiling.k), problem.room_bits,
        strict=True,
    ):  # fmt: skip
        if need > room:
            raise MacloomError(
                f"{path}: its tile of {tiling.m} x {tiling.n} x {tiling.k} needs {int(need)} bits of "
                f"arch.buffers.{buffer}, whose usable part holds {room}; take a smaller tile"
            )


def _too_small(problem: TileProblem) -> MacloomError:
    m, n, k = granules(problem)
    names = ("operand_a", "operand_b", "output")
    needs = zip(names, room_needed(problem, m, n, k), problem.room_bits, strict=True)
    name, need, room = next((name, need, room) for name, need, room in needs if need > room)
    return MacloomError(
        f"arch.buffers.{name}: must have room for {int(need)} bits in its usable part, the smallest tile of a product "
        f"({m} x {n} x {k}), not {room}"
    )
