"""Cycles, traffic and energy of one matrix product, from its mapping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from macloom.arch import Accelerator
from macloom.sim import energy as joules
from macloom.sim.mapping import GemmMapping
from macloom.sim.memory import TileCosts, WalkTime, representatives, transfer_cycles, walk_time
from macloom.sim.result import OpResult, bound_by
from macloom.sim.systolic import ceil_div, fold_timing, folds
from macloom.sim.tiling import TileWork, port_cycles, tile_work, traffic, whole_bits
from macloom.sim.vector import Operations, epilogue_operations, is_scaled, segment_operations
from macloom.sim.walk import loop_steps, visited_tiles

LANE_OPERATIONS_PER_MAC = 2  # a multiply and an add


@dataclass(frozen=True, kw_only=True)
class _Account:
    """What tiles take of each unit: bits through the ports and the DRAM channel, array and vector work."""

    work: TileWork
    a_bits: np.ndarray
    b_bits: np.ndarray
    out_bits: np.ndarray
    load_bits: np.ndarray
    store_bits: np.ndarray
    multiplies: np.ndarray
    adds: np.ndarray


def _scaled_operands(mapping: GemmMapping, *, blocked: bool) -> int:
    """Count the operands whose scales the vector unit applies: per segment, or once at the end."""
    if blocked:
        return sum(f.block is not None and f.block < mapping.problem.k for f in (mapping.a, mapping.b))
    in_time = mapping.problem.segment is not None or mapping.block_scales > 0
    blocks = _scaled_operands(mapping, blocked=True) if in_time else 0
    return sum(is_scaled(f) for f in (mapping.a, mapping.b)) - blocks


def _account(mapping: GemmMapping, indices: np.ndarray) -> _Account:
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
        segments = segment_operations(_scaled_operands(mapping, blocked=True))
        multiplies = outputs * count * segments.multiplies
        adds = outputs * (count - tiles.first_k) * segments.adds
    epilogue = epilogue_operations(_scaled_operands(mapping, blocked=False), mapping.out)
    return _Account(
        work=work,
        a_bits=whole_bits(work.a_elements * p.a_density) + a_load,
        b_bits=whole_bits(work.b_elements * p.b_density) + b_load,
        # Beside the sums in progress: sums that have to wait in DRAM, and codes, in and out.
        out_bits=work.sums * p.sum_bits + sums * (tiles.spills + tiles.reloads) + 2 * finished,
        load_bits=a_load + b_load + sums * tiles.reloads,
        store_bits=finished + sums * tiles.spills,
        multiplies=multiplies + epilogue.multiplies * outputs * tiles.finishes,
        adds=adds + epilogue.adds * outputs * tiles.finishes,
    )


def gemm_result(mapping: GemmMapping, accelerator: Accelerator) -> OpResult:
    """Return what a product costs: every tile in its place of the walk, then all batches and repeats.

    Sums leave through the vector unit, which scales and encodes finished ones, and with segments scales
    and adds partial ones; its work counts one tile later. The ports of the buffers bound the array's rate.
    """
    p, buffers, lanes = mapping.problem, accelerator.buffers, accelerator.vector.lanes
    rate = accelerator.dram_bits_per_cycle

    def busy(account: _Account) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cycles of the unit that multiplies, the same with the ports, and of the vector unit beside it."""
        own = account.work.cycles
        vector = ceil_div(account.multiplies + account.adds, lanes)
        if not mapping.on_array:  # the lanes multiply first and finish the results afterwards
            own, vector = account.work.steady * LANE_OPERATIONS_PER_MAC + vector, np.zeros_like(vector)
        return own, np.maximum(own, port_cycles(p, account.a_bits, account.b_bits, account.out_bits)), vector

    def costs_at(indices: np.ndarray) -> TileCosts:
        account = _account(mapping, indices)
        _, with_ports, vector = busy(account)
        return TileCosts(
            load=transfer_cycles(account.load_bits, rate),
            array=with_ports,
            vector=vector,
            store=transfer_cycles(account.store_bits, rate),
        )

    trips = list(loop_steps(p, mapping.tiling).values())
    walk = walk_time(
        trips,
        costs_at,
        count=mapping.batch,
        overlap_loads=buffers.operand_a.double_buffered and buffers.operand_b.double_buffered,
        overlap_stores=buffers.output.double_buffered,
    )
    indices, weights = representatives(trips)
    account = _account(mapping, indices)
    own, with_ports, _ = busy(account)

    def total(values: np.ndarray) -> int:
        return mapping.batch * int((weights * values).sum())

    return _gemm_row(
        mapping,
        accelerator,
        walk,
        own_cycles=total(own),
        port_stall=total(with_ports - own),
        work=TileWork(**{name: total(values) for name, values in vars(account.work).items()}),
        buffer_bits=(total(account.a_bits), total(account.b_bits), total(account.out_bits)),
        operations=Operations(multiplies=total(account.multiplies), adds=total(account.adds)),
    )


def _gemm_row(
    mapping: GemmMapping,
    accelerator: Accelerator,
    walk: WalkTime,
    *,
    own_cycles: int,
    port_stall: int,
    work: TileWork,
    buffer_bits: tuple[int, int, int],
    operations: Operations,
) -> OpResult:
    op, p, t, fit = mapping.op, mapping.problem, mapping.tiling, mapping.fit
    macs = op.macs // op.repeat
    moved = traffic(p, t.m, t.n, t.k, t.order)
    read_bits = mapping.batch * int(moved.a_bits + moved.b_bits + moved.spill_read_bits)
    write_bits = mapping.batch * int(moved.out_bits + moved.spill_write_bits)
    technology, pe = accelerator.technology, accelerator.array.pe
    decoder = vector = joules.NOTHING
    if fit:
        mac = macs * joules.mac_energy(technology, pe, fit)
        if mapping.block_scales:
            scalings = mapping.batch * p.m * p.n * mapping.block_scales
            mac += scalings * joules.block_scale_energy(technology, pe)
        for side, fmt, count in ((fit.a, mapping.a, work.a_elements), (fit.b, mapping.b, work.b_elements)):
            if side.decoded:
                decoder += joules.decoding_energy(technology, fmt, count)
    else:
        mac = joules.NOTHING
        vector += macs * joules.vector_mac_energy(accelerator)
    energy = joules.energy_of(
        mac_j=mac,
        decoder_j=decoder,
        sram_j=joules.buffer_energy(accelerator, *buffer_bits),
        dram_j=joules.dram_energy(accelerator, read_bits + write_bits),
        vector_j=vector + joules.vector_energy(accelerator, operations),
    )
    fill, steady, drain, trailing = _phases(mapping, work) if fit else (0, 0, 0, 0)
    on_lanes = 0 if fit else own_cycles
    compute = fill + steady + drain
    vector_busy = walk.vector + on_lanes
    return OpResult(
        name=op.name,
        kind="gemm",
        unit="array" if fit else "vector",
        repeat=op.repeat,
        macs=op.macs,
        pes_per_mac=mapping.pes_per_mac,
        cycles=op.repeat * (walk.cycles + trailing),
        compute_cycles=op.repeat * compute,
        fill_cycles=op.repeat * fill,
        steady_cycles=op.repeat * steady,
        drain_cycles=op.repeat * drain,
        stall_cycles=op.repeat * (walk.memory_stall + port_stall),
        port_stall_cycles=op.repeat * port_stall,
        vector_cycles=op.repeat * (walk.vector_wait + on_lanes),
        vector_busy_cycles=op.repeat * vector_busy,
        vector_operations=op.repeat * (operations.total + (0 if fit else LANE_OPERATIONS_PER_MAC * macs)),
        dram_busy_cycles=op.repeat * walk.dram,
        first_load_cycles=walk.first_load,
        dram_read_bits=op.repeat * read_bits,
        dram_write_bits=op.repeat * write_bits,
        compulsory_dram_bits=op.repeat * mapping.batch * (p.a_bits + p.b_bits + p.out_bits),
        sram_bits=op.repeat * sum(buffer_bits),
        energy=op.repeat * energy,
        bound=bound_by(compute + port_stall if fit else 0, walk.dram, vector_busy),
        formats={"a": mapping.a.name, "b": mapping.b.name, "out": mapping.out.name},
        mapping=_mapping_columns(mapping),
    )


def _phases(mapping: GemmMapping, work: TileWork) -> tuple[int, int, int, int]:
    """Return fill, steady and drain cycles of all batches, and the part of them after the last interval."""
    p = mapping.problem
    tile = mapping.tiling
    length = p.k if p.segment is None else p.k % p.segment or p.segment
    m, n, k = ((size - 1) % step + 1 for size, step in ((p.m, tile.m), (p.n, tile.n), (length, tile.k)))
    cut = folds(p.dataflow, m, n, k, p.rows, p.cols)
    fold = fold_timing(p.dataflow, cut.stream, p.rows, p.cols, shadow_registers=p.shadow_registers)
    trailing = fold.alone - fold.interval
    drain = fold.drain * (1 if p.shadow_registers else work.folds)
    return work.cycles + trailing - work.steady - drain, work.steady, drain, trailing


def _mapping_columns(mapping: GemmMapping) -> dict[str, Any]:
    p, t = mapping.problem, mapping.tiling
    return {
        "dataflow": p.dataflow.value if mapping.on_array else "lanes",
        "tile_m": t.m,
        "tile_n": t.n,
        "tile_k": t.k,
        "loop_order": t.order,
        "segment": p.segment or p.k,
        "batch": mapping.batch,
    }
