"""The walk over tiles clock by clock: a barrier machine of array, vector unit and DRAM, for `fidelity="cycle"`."""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

import numpy as np

from macloom._numba import njit
from macloom.arch import Accelerator, Array, ProcessingElement
from macloom.errors import MacloomError
from macloom.sim.account import LANE_OPERATIONS_PER_MAC, SidePath, TileAccount, ported
from macloom.sim.cycle.memory import piece_cycles
from macloom.sim.cycle.product import stepped_product
from macloom.sim.event import LOADS, STORES, WalkTime
from macloom.sim.mapping import GemmMapping
from macloom.sim.memory import Channel, channel_of
from macloom.sim.systolic import ceil_div
from macloom.sim.tiling import TileProblem

MOST_UPDATES = 1 << 36  # element updates of one product: a minute or so
MOST_CLOCKS = 1 << 33  # clock cycles of one walk
MOST_BURSTS = 1 << 22  # of one transfer


@njit(cache=True, nogil=True)
def step_walk(loads, stores, array, vector, overlap_loads, overlap_stores, count, out):
    """Step a walk clock by clock.

    Args:
        loads, stores: int64 (tiles, pieces), cycles of the channel in the order in which it serves them.
        array, vector: int64 (tiles,).
        count: how often the walk is repeated.
        out: int64, receives cycles, array, vector waits, vector busy, DRAM busy, first load, idle cycles of the channel
            from the last step on, then stalls by store piece and by load piece.
    """
    tiles, kinds_out, kinds_in = len(array), stores.shape[1], loads.shape[1]
    base = 7
    clock, total = np.int64(0), np.int64(count) * tiles
    left = np.zeros(kinds_out + kinds_in, np.int64)
    blame = np.zeros(kinds_out + kinds_in, np.int64)
    for piece in range(kinds_in):  # the first load, alone
        for _ in range(loads[0, piece]):
            clock += 1
            out[4] += 1
            out[5] += 1
            out[base + kinds_out + piece] += 1
    for step in range(total + 1):
        here, before, after = step % tiles, (step - 1) % tiles, (step + 1) % tiles
        tail = step == total  # nothing left but the results of the last tile
        work = np.int64(0) if tail else array[here]
        fin = vector[before] if step > 0 else np.int64(0)
        beside_store = step > 0 and (overlap_stores or tail)
        for piece in range(kinds_out):
            left[piece] = stores[before, piece] if beside_store else 0
            blame[piece] = 0
        for piece in range(kinds_in):
            left[kinds_out + piece] = loads[after, piece] if overlap_loads and step + 1 < total else 0
            blame[kinds_out + piece] = 0
        finishing = fin if beside_store else np.int64(0)
        served, waited, last_channel, last_vector, elapsed = 0, 0, 0, 0, 0
        while True:
            while served < len(left) and left[served] == 0:
                served += 1
            moving = served < len(left)
            if work == 0 and finishing == 0 and not moving:
                break
            elapsed += 1
            clock += 1
            if work > 0:
                work -= 1
                out[1] += 1
            else:
                waited += 1
                if moving:
                    blame[served] += 1
            if finishing > 0:
                finishing -= 1
                out[3] += 1
                last_vector = elapsed
            if moving:
                left[served] -= 1
                out[4] += 1
                last_channel = elapsed
            elif step >= total - 1:
                out[6] += 1
        if tail:  # the vector unit first, then what the channel still has to do
            out[2] += last_vector
            late = max(last_channel - last_vector, 0)
            for piece in range(kinds_out - 1, -1, -1):
                part = min(late, stores[before, piece])
                out[base + piece] += part
                late -= part
        elif last_channel >= last_vector:
            for piece in range(len(blame)):
                out[base + piece] += blame[piece]
        else:
            out[2] += waited
        if tail:
            break
        if step > 0 and not overlap_stores:  # results of the tile before leave while the array stands still
            fin_left, late = fin, np.int64(0)
            for piece in range(kinds_out):
                for _ in range(stores[before, piece]):
                    clock += 1
                    out[4] += 1
                    if fin_left > 0:
                        fin_left -= 1
                    else:
                        late += 1
            clock += fin_left
            if step == total - 1:
                out[6] += fin_left
            out[2] += fin
            out[3] += fin
            for piece in range(kinds_out - 1, -1, -1):
                part = min(late, stores[before, piece])
                out[base + piece] += part
                late -= part
        if not overlap_loads and step + 1 < total:
            for piece in range(kinds_in):
                for _ in range(loads[after, piece]):
                    clock += 1
                    out[4] += 1
                    out[base + kinds_out + piece] += 1
    out[0] = clock


def stepped_costs(
    loads: np.ndarray,
    stores: np.ndarray,
    array: np.ndarray,
    vector: np.ndarray,
    *,
    count: int = 1,
    overlap_loads: bool = True,
    overlap_stores: bool = True,
) -> WalkTime:
    """Return the time of a walk whose tiles cost these cycles, (tiles, pieces) or (tiles,), stepped clock by clock.

    Pieces come in the order of `macloom.sim.event.LOADS` and `STORES`.
    """
    out = np.zeros(7 + len(STORES) + len(LOADS), np.int64)
    step_walk(
        *(np.ascontiguousarray(x, np.int64) for x in (loads, stores, array, vector)),
        overlap_loads,
        overlap_stores,
        count,
        out,
    )
    cycles, work, waits, finishing, dram, first, idle, *blamed = out.tolist()
    stalls = dict(zip((*STORES, *LOADS), blamed, strict=True))
    return WalkTime(
        cycles=cycles,
        array=work,
        memory_stall=sum(blamed),
        vector_wait=waits,
        dram=dram,
        vector=finishing,
        first_load=first,
        first_b=int(loads[0, LOADS.index("b")]),
        stalls=stalls,
        idle_tail=idle,
    )


def stepped_walk(
    mapping: GemmMapping,
    accelerator: Accelerator,
    account: TileAccount,
    side: SidePath | None,
    *,
    overlap_loads: bool,
    overlap_stores: bool,
) -> WalkTime:
    """Return the time of all tiles of a product, each measured on the machine and walked clock by clock.

    Raises:
        MacloomError: the product is too long to be stepped.
    """
    channel = channel_of(accelerator)
    own = np.array([0])
    if mapping.on_array:
        own = _Measured(mapping)(account.tiles.m, account.tiles.n, account.tiles.k)
        vector = ceil_div(account.multiplies + account.adds, accelerator.vector.lanes)
    else:  # the vector unit has no registers to step: its own rate
        vector = np.zeros_like(account.adds)
        own = LANE_OPERATIONS_PER_MAC * account.work.steady + ceil_div(
            account.multiplies + account.adds, accelerator.vector.lanes
        )
    array = ported(mapping, accelerator, account, own)
    if side is not None:
        array = np.maximum(array, side(mapping, account.tiles))
    loads = _transfers(channel, [account.loads[cause] for cause in LOADS])
    stores = _transfers(channel, [account.stores[cause] for cause in STORES])
    clocks = mapping.batch * int(array.sum() + vector.sum() + loads.sum() + stores.sum())
    if clocks > MOST_CLOCKS:
        raise MacloomError(
            f"cycle: {mapping.op.name!r} takes up to {clocks} clock cycles, more than the {MOST_CLOCKS} "
            "that are stepped; choose fidelity='event'"
        )
    return stepped_costs(
        loads, stores, array, vector, count=mapping.batch, overlap_loads=overlap_loads, overlap_stores=overlap_stores
    )


def _transfers(channel: Channel, pieces: list[np.ndarray]) -> np.ndarray:
    """Return the cycles of each piece of each tile's transfer, each distinct transfer stepped once."""
    bits = np.stack([np.asarray(piece, np.int64) for piece in pieces], axis=1)
    distinct, back = np.unique(bits, axis=0, return_inverse=True)
    most = int(distinct.sum(axis=1).max()) // channel.dram.burst_bits if channel.dram.burst_bits > 1 else 0
    if most > MOST_BURSTS:
        raise MacloomError(
            f"cycle: a transfer of {most} bursts is longer than the {MOST_BURSTS} that are stepped; "
            "choose fidelity='event'"
        )
    if channel.dram.burst_bits == 1:  # a channel of pure bandwidth has no bursts to step
        cycles = [[int(c) for c in channel.pieces([int(b) for b in row])] for row in distinct]
    else:
        cycles = [piece_cycles(channel, [int(b) for b in row]) for row in distinct]
    return np.array(cycles, np.int64)[back.ravel()]


class _Measured:
    """Measure how long tiles keep the array busy, each distinct size once, on random operands that are checked."""

    def __init__(self, mapping: GemmMapping) -> None:
        p = mapping.problem
        self.problem: TileProblem = p
        self.name = mapping.op.name
        self.array = Array(
            rows=p.rows,
            cols=p.cols,
            dataflow=p.dataflow,
            shadow_registers=p.shadow_registers,
            count=p.arrays,
            pe=ProcessingElement(significand_bits=8),
        )

    def __call__(self, m: np.ndarray, n: np.ndarray, k: np.ndarray) -> np.ndarray:
        sizes = np.stack([m, n, k], axis=1)
        distinct, back = np.unique(sizes, axis=0, return_inverse=True)
        p = self.problem
        updates = sum(p.arrays * p.rows * p.cols * self._expected(*size) for size in distinct.tolist())
        if updates > MOST_UPDATES:
            raise MacloomError(
                f"cycle: the tiles of {self.name!r} take {updates} updates of elements, more than the {MOST_UPDATES} "
                "that are stepped; choose fidelity='event'"
            )
        return np.array([self._measure(*size) for size in distinct.tolist()], np.int64)[back.ravel()]

    def _expected(self, m: int, n: int, k: int) -> int:
        from macloom.sim.tiling import tile_work

        return int(tile_work(self.problem, m, n, k).cycles)

    def _measure(self, m: int, n: int, k: int) -> int:
        from macloom.sim.systolic import fold_timing

        p = self.problem
        rng = np.random.default_rng(m + n + k)
        a, b = (rng.integers(-3, 4, (rows, k)).astype(np.float32) for rows in (m, n))
        values, cycles = stepped_product(a, b, self.array, p.segment)
        if not np.array_equal(values, a.astype(np.float64) @ b.T.astype(np.float64)):
            raise RuntimeError(
                f"internal fault: the array got a tile of {m} x {n} x {k} wrong; please report this with the inputs"
            )
        first = min(k, p.segment or k)
        stream = {"os": first, "ws": m, "is": n}[p.dataflow.value]
        fold = fold_timing(p.dataflow, stream, p.rows, p.cols, shadow_registers=p.shadow_registers)
        return cycles - (fold.alone - fold.interval)
