"""What each tile of a product takes of every unit: bits by cause, array and vector work, cycles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from macloom.arch import Accelerator
from macloom.sim.mapping import GemmMapping
from macloom.sim.resident import Resident
from macloom.sim.systolic import ceil_div
from macloom.sim.tiling import TileWork, port_cycles, tile_work, whole_bits
from macloom.sim.vector import epilogue_operations, is_scaled, scale_operations, segment_operations
from macloom.sim.walk import VisitedTiles, visited_tiles

LANE_OPERATIONS_PER_MAC = 2  # a multiply and an add

# Cycles that a path beside the array needs for each of these tiles; the array waits where that is longer.
SidePath = Callable[[GemmMapping, VisitedTiles], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class TileAccount:
    """What tiles take of each unit: bits through the ports and the DRAM, by cause, array and vector work."""

    tiles: VisitedTiles
    work: TileWork
    array_bits: tuple[np.ndarray, np.ndarray, np.ndarray]
    transfer_bits: tuple[np.ndarray, np.ndarray, np.ndarray]
    shared_bits: np.ndarray
    loads: dict[str, np.ndarray]
    stores: dict[str, np.ndarray]
    multiplies: np.ndarray
    adds: np.ndarray


def scaled_operands(mapping: GemmMapping, *, blocked: bool) -> int:
    """Count the operands whose scales the vector unit applies: per segment, or once at the end."""
    if blocked:
        return sum(f.block is not None and f.block < mapping.problem.k for f in (mapping.a, mapping.b))
    in_time = mapping.problem.segment is not None or mapping.block_scales > 0
    blocks = scaled_operands(mapping, blocked=True) if in_time else 0
    return sum(is_scaled(f) for f in (mapping.a, mapping.b)) - blocks


def account_of(mapping: GemmMapping, resident: Resident, indices: np.ndarray) -> TileAccount:
    """Return what the tiles at these linear places of the walk take."""
    p = mapping.problem
    tiles = visited_tiles(p, mapping.tiling, indices)
    work = tile_work(p, tiles.m, tiles.n, tiles.k, continues=~tiles.first_k, finishes=tiles.finishes)
    outputs = tiles.m * tiles.n
    a_load = whole_bits(tiles.m * tiles.k * p.a_density) * tiles.loads_a
    b_load = whole_bits(tiles.n * tiles.k * p.b_density) * tiles.loads_b
    sums = outputs * p.sum_bits
    finished = whole_bits(outputs * p.out_density) * tiles.finishes
    multiplies = adds = np.zeros_like(outputs)
    if p.segment is not None:
        count = ceil_div(tiles.k, p.segment)
        segments = segment_operations(scaled_operands(mapping, blocked=True))
        multiplies = outputs * count * segments.multiplies
        adds = outputs * (count - tiles.first_k) * segments.adds
    epilogue, scale = (
        epilogue_operations(scaled_operands(mapping, blocked=False), mapping.out),
        scale_operations(mapping.out),
    )
    scales = tiles.m * ceil_div(tiles.n, mapping.out.block or p.n) * tiles.finishes
    return TileAccount(
        tiles=tiles,
        work=work,
        # Beside the sums in progress the vector unit writes codes.
        array_bits=(
            whole_bits(work.a_elements * p.a_density),
            whole_bits(work.b_elements * p.b_density),
            work.sums * p.sum_bits + finished,
        ),
        # Sums that have to wait in DRAM, and codes on their way there.
        transfer_bits=(a_load, b_load, sums * tiles.spills + sums * tiles.reloads + finished),
        shared_bits=a_load * resident.a + finished * resident.out,
        loads={"sums": sums * tiles.reloads, "a": a_load * (not resident.a), "b": b_load},
        stores={"out": finished * (not resident.out), "spill": sums * tiles.spills},
        multiplies=multiplies + epilogue.multiplies * outputs * tiles.finishes + scale.multiplies * scales,
        adds=adds + epilogue.adds * outputs * tiles.finishes + scale.adds * scales,
    )


@dataclass(frozen=True, kw_only=True)
class Busy:
    """Cycles of the unit that multiplies, alone, with the ports, and with the side path; of the vector unit."""

    own: np.ndarray
    with_ports: np.ndarray
    array: np.ndarray
    vector: np.ndarray


def ported(mapping: GemmMapping, accelerator: Accelerator, account: TileAccount, own: np.ndarray) -> np.ndarray:
    """Return the cycles of a unit that also has to wait for the ports of all buffers."""
    slowest = np.maximum(own, port_cycles(mapping.problem, account.array_bits, account.transfer_bits))
    shared = accelerator.buffers.shared
    return slowest if shared is None else np.maximum(slowest, ceil_div(account.shared_bits, shared.port_bits))


def busy_cycles(mapping: GemmMapping, accelerator: Accelerator, account: TileAccount, side: SidePath | None) -> Busy:
    """Return how long each unit works on each tile."""
    lanes = accelerator.vector.lanes
    own = account.work.cycles
    vector = ceil_div(account.multiplies + account.adds, lanes)
    if not mapping.on_array:  # the lanes multiply first and finish the results afterwards
        own, vector = account.work.steady * LANE_OPERATIONS_PER_MAC + vector, np.zeros_like(vector)
    with_ports = ported(mapping, accelerator, account, own)
    beside = 0 if side is None else np.asarray(side(mapping, account.tiles), np.int64)
    return Busy(own=own, with_ports=with_ports, array=np.maximum(with_ports, beside), vector=vector)
