"""Cycles, traffic and energy of one matrix product, from its mapping."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from macloom.arch import Accelerator, Dataflow, Quantity, sram_energy_j_per_bit
from macloom.sim import energy as joules
from macloom.sim.account import (
    LANE_OPERATIONS_PER_MAC,
    Busy,
    SidePath,
    TileAccount,
    account_of,
    busy_cycles,
)
from macloom.sim.course import Tiles, WalkCourse
from macloom.sim.event import CAUSES, TileCosts, WalkTime, every_tile, representatives, tail_split, walk_time
from macloom.sim.fidelity import Fidelity
from macloom.sim.mapping import GemmMapping
from macloom.sim.memory import Channel, channel_of
from macloom.sim.resident import NOT_RESIDENT, Resident
from macloom.sim.result import OpResult, bound_by
from macloom.sim.systolic import fold_timing, folds
from macloom.sim.tiling import TileProblem, TileWork, Tiling, room_needed, traffic
from macloom.sim.vector import Operations
from macloom.sim.walk import loop_steps


def _costs(account: TileAccount, busy: Busy, channel: Channel) -> TileCosts:
    loads = dict(zip(account.loads, channel.pieces(list(account.loads.values())), strict=True))
    stores = dict(zip(account.stores, channel.pieces(list(account.stores.values())), strict=True))
    return TileCosts(
        load=np.add.reduce(list(loads.values())),
        array=busy.array,
        vector=busy.vector,
        store=np.add.reduce(list(stores.values())),
        loads=loads,
        stores=stores,
    )


def gemm_result(
    mapping: GemmMapping,
    accelerator: Accelerator,
    *,
    fidelity: Fidelity = Fidelity.EVENT,
    side: SidePath | None = None,
    resident: Resident = NOT_RESIDENT,
) -> OpResult:
    """Return what a product costs: every tile in its place of the walk, then all batches and repeats.

    Sums leave through the vector unit, which scales and encodes finished ones, and with segments scales
    and adds partial ones; its work counts one tile later. The ports of the buffers bound the array's rate.

    Args:
        fidelity: `analytic` bounds, `event` walks, `cycle` steps; see `macloom.sim.simulate`.
        side: what a path beside the array takes of each tile, such as one for outliers.
        resident: tensors that need no DRAM, because they are on chip.
    """
    p, buffers = mapping.problem, accelerator.buffers
    channel = channel_of(accelerator)
    trips = list(loop_steps(p, mapping.tiling).values())
    every = side is not None

    def costs_at(indices: np.ndarray) -> TileCosts:
        account = account_of(mapping, resident, indices)
        return _costs(account, busy_cycles(mapping, accelerator, account, side), channel)

    indices, weights = every_tile(trips) if every else representatives(trips)
    account = account_of(mapping, resident, indices)
    busy = busy_cycles(mapping, accelerator, account, side)

    def total(values: np.ndarray) -> int:
        return mapping.batch * int((weights * values).sum())

    overlap = {
        "overlap_loads": buffers.operand_a.double_buffered and buffers.operand_b.double_buffered,
        "overlap_stores": buffers.output.double_buffered,
    }
    if fidelity is Fidelity.ANALYTIC:
        walk = _bound(account, busy, channel, total)
    elif fidelity is Fidelity.CYCLE:
        from macloom.sim.cycle.walk import stepped_walk

        walk = stepped_walk(mapping, accelerator, account_of(mapping, resident, every_tile(trips)[0]), side, **overlap)
    else:
        walk = walk_time(trips, costs_at, count=mapping.batch, every=every, **overlap)
    if every:
        indices = representatives(trips)[0]
        seen = account_of(mapping, resident, indices)
        course = _course(mapping, seen, _costs(seen, busy_cycles(mapping, accelerator, seen, None), channel), trips)
    else:
        course = _course(mapping, account, _costs(account, busy, channel), trips)
    course = replace(course, **overlap, timed=not every and fidelity is not Fidelity.ANALYTIC)
    moved = {name: total(bits) for name, bits in {**account.loads, **account.stores}.items()}
    return _gemm_row(
        mapping,
        accelerator,
        walk,
        own_cycles=total(busy.own),
        port_stall=total(busy.with_ports - busy.own),
        side_stall=total(busy.array - busy.with_ports),
        work=TileWork(**{name: total(values) for name, values in vars(account.work).items()}),
        buffer_bits=(
            total(account.array_bits[0] + account.transfer_bits[0]),
            total(account.array_bits[1] + account.transfer_bits[1]),
            total(account.array_bits[2] + account.transfer_bits[2]),
        ),
        shared_bits=total(account.shared_bits),
        operations=Operations(multiplies=total(account.multiplies), adds=total(account.adds)),
        rows=sum(total(channel.row_misses(bits)) for bits in (*account.loads.values(), *account.stores.values())),
        bursts=sum(total(channel.bursts(bits)) for bits in (*account.loads.values(), *account.stores.values())),
        spilled=moved["spill"] + moved["sums"],
        resident=resident,
        course=course,
    )


def _course(mapping: GemmMapping, account: TileAccount, costs: TileCosts, trips: list[int]) -> WalkCourse:
    """Keep what the visited tiles take, so that timelines can lay the walk out."""
    p, tiles = mapping.problem, account.tiles
    names = ("operand_a", "operand_b", "output")
    room = room_needed(p, tiles.m, tiles.n, tiles.k)
    comes, goes = (tiles.loads_a, tiles.loads_b, tiles.reloads), (False, False, tiles.finishes | tiles.spills)
    return WalkCourse(
        trips=tuple(trips),
        count=mapping.batch,
        costs=costs,
        tiles=Tiles(
            load_bits=np.add.reduce(list(account.loads.values())),
            store_bits=np.add.reduce(list(account.stores.values())),
            held={name: np.asarray(bits, np.int64) for name, bits in zip(names, room, strict=True)},
            comes={name: np.broadcast_to(flag, tiles.m.shape) for name, flag in zip(names, comes, strict=True)},
            goes={name: np.broadcast_to(flag, tiles.m.shape) for name, flag in zip(names, goes, strict=True)},
        ),
        overlap_loads=True,
        overlap_stores=True,
    )


def _bound(account: TileAccount, busy: Busy, channel: Channel, total: Callable[[np.ndarray], int]) -> WalkTime:
    """Return the time that the busiest unit takes, as if all of them overlapped from the first cycle to the last."""
    bits = {name: total(values) for name, values in {**account.stores, **account.loads}.items()}
    rate = channel.dram.streaming_bits_per_s / channel.clock_hz
    edges = np.ceil(np.cumsum([0, *(bits[cause] for cause in CAUSES)]) / rate).astype(np.int64)
    chain = list(zip(CAUSES, np.diff(edges), strict=True))
    array, vector, dram = total(busy.array), total(busy.vector), int(edges[-1])
    cycles = max(array, vector, dram)
    memory = cycles - array if dram >= vector else 0
    return WalkTime(
        cycles=cycles,
        array=array,
        memory_stall=memory,
        vector_wait=cycles - array - memory,
        dram=dram,
        vector=vector,
        first_load=0,
        stalls={cause: int(n) for cause, n in tail_split(np.array(memory), chain).items()},
    )


def _gemm_row(
    mapping: GemmMapping,
    accelerator: Accelerator,
    walk: WalkTime,
    *,
    own_cycles: int,
    port_stall: int,
    side_stall: int,
    work: TileWork,
    buffer_bits: tuple[int, int, int],
    shared_bits: int,
    operations: Operations,
    rows: int,
    bursts: int,
    spilled: int,
    resident: Resident,
    course: WalkCourse | None,
) -> OpResult:
    op, p, t, fit = mapping.op, mapping.problem, mapping.tiling, mapping.fit
    macs = op.macs // op.repeat
    moved = traffic(p, t.m, t.n, t.k, t.order)
    a_bits, out_bits = 0 if resident.a else moved.a_bits, 0 if resident.out else moved.out_bits
    read_bits = mapping.batch * int(a_bits + moved.b_bits + moved.spill_read_bits)
    write_bits = mapping.batch * int(out_bits + moved.spill_write_bits)
    kept = mapping.batch * (p.a_bits * resident.a + p.out_bits * resident.out)
    technology, pe = accelerator.technology, accelerator.array.pe
    decoder = vector = joules.NOTHING
    if fit:
        mac = macs * joules.mac_energy(technology, pe, fit, mapping.a, mapping.b)
        if mapping.block_scales:
            scalings = mapping.batch * p.m * p.n * mapping.block_scales
            mac += scalings * joules.block_scale_energy(technology, pe)
        for side, fmt, count in ((fit.a, mapping.a, work.a_elements), (fit.b, mapping.b, work.b_elements)):
            if side.decoded:
                decoder += joules.decoding_energy(technology, fmt, count)
    else:
        mac = joules.NOTHING
        vector += macs * joules.vector_mac_energy(accelerator)
    finishing = joules.finishing_energy(accelerator, operations, mapping.out, mapping.batch * p.m * p.n)
    fill, steady, drain, trailing = phases(p, t, work, mapping.decoder_latency) if fit else (0, 0, 0, 0)
    energy = joules.energy_of(
        mac_j=mac,
        decoder_j=decoder,
        encoder_j=finishing.encoders,
        sram_j=joules.buffer_energy(accelerator, *buffer_bits) + shared_energy(accelerator, shared_bits),
        dram_j=joules.dram_energy(accelerator, read_bits + write_bits),
        vector_j=vector + finishing.lanes,
        leakage_j=joules.leakage_energy(accelerator, walk.cycles + trailing),
    )
    on_lanes = 0 if fit else own_cycles
    compute = fill + steady + drain
    vector_busy = walk.vector + on_lanes
    repeated = {
        "cycles": walk.cycles + trailing,
        "compute_cycles": compute,
        "fill_cycles": fill,
        "steady_cycles": steady,
        "drain_cycles": drain,
        "stall_cycles": walk.memory_stall + port_stall + side_stall,
        **{f"{_COLUMNS.get(cause, cause)}_stall_cycles": walk.stalls[cause] for cause in CAUSES},
        "port_stall_cycles": port_stall,
        "side_stall_cycles": side_stall,
        "vector_cycles": walk.vector_wait + on_lanes,
        "vector_busy_cycles": vector_busy,
        "vector_operations": operations.total + (0 if fit else LANE_OPERATIONS_PER_MAC * macs),
        "dram_busy_cycles": walk.dram,
        "dram_read_bits": read_bits,
        "dram_write_bits": write_bits,
        "dram_bursts": bursts,
        "dram_row_misses": rows,
        "spill_bits": spilled,
        "resident_bits": kept,
        "compulsory_dram_bits": mapping.batch * (p.a_bits + p.b_bits + p.out_bits) - kept,
        "sram_bits": sum(buffer_bits) + shared_bits,
    }
    return OpResult(
        name=op.name,
        kind="gemm",
        unit="array" if fit else "vector",
        repeat=op.repeat,
        macs=op.macs,
        pes_per_mac=mapping.pes_per_mac,
        **{name: op.repeat * value for name, value in repeated.items()},
        first_load_cycles=walk.first_load,
        first_b_cycles=walk.first_b,
        idle_tail_cycles=walk.idle_tail,
        energy=op.repeat * energy,
        bound=bound_by(compute + port_stall + side_stall if fit else 0, walk.dram, vector_busy),
        formats={"a": mapping.a.name, "b": mapping.b.name, "out": mapping.out.name},
        mapping=_mapping_columns(mapping),
        course=course,
    )


def shared_energy(accelerator: Accelerator, bits: float) -> Quantity:
    """Return the energy of bits read from or written to the memory that holds tensors between operations."""
    shared = accelerator.buffers.shared
    if shared is None or not bits:
        return joules.NOTHING
    return bits * sram_energy_j_per_bit(accelerator.technology, shared.size_bits)


_COLUMNS = {"sums": "sum"}


def phases(problem: TileProblem, tiling: Tiling, work: TileWork, latency: int = 0) -> tuple[int, int, int, int]:
    """Return fill, steady and drain cycles of `work`, and the part of them beyond the intervals between folds.

    That part is the edge of the walk: the skew, the last drain and the latency of decoders. With shadow registers an
    output-stationary array starts R - T cycles early with a first stream of T < R; the others end late.
    """
    p, tile = problem, tiling
    if p.dataflow is Dataflow.OS:
        m, n, k = tile.m, tile.n, min(tile.k, p.segment or p.k)
    else:
        m, n, k = ((size - 1) % step + 1 for size, step in ((p.m, tile.m), (p.n, tile.n), (p.k, tile.k)))
    cut = folds(p.dataflow, m, n, k, p.rows, p.cols)
    fold = fold_timing(p.dataflow, cut.stream, p.rows, p.cols, shadow_registers=p.shadow_registers)
    trailing = fold.alone - fold.interval + latency
    drain = fold.drain * (1 if p.shadow_registers else work.folds)
    return work.cycles + trailing - work.steady - drain, work.steady, drain, trailing


def _mapping_columns(mapping: GemmMapping) -> dict[str, Any]:
    p, t = mapping.problem, mapping.tiling
    return {
        "m": p.m,
        "n": p.n,
        "k": p.k,
        "dataflow": p.dataflow.value if mapping.on_array else "lanes",
        "tile_m": t.m,
        "tile_n": t.n,
        "tile_k": t.k,
        "loop_order": t.order,
        "segment": p.segment or p.k,
        "batch": mapping.batch,
        "a_slices": mapping.fit.a.slices if mapping.fit else 1,
        "b_slices": mapping.fit.b.slices if mapping.fit else 1,
    }
