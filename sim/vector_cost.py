"""Cycles, traffic and energy of one operation on the vector unit."""

from __future__ import annotations

import numpy as np

from macloom.arch import Accelerator
from macloom.formats import TensorFormat
from macloom.sim import energy as joules
from macloom.sim.course import Tiles, WalkCourse
from macloom.sim.event import TileCosts, representatives, walk_time
from macloom.sim.gemm_cost import shared_energy
from macloom.sim.mapping import RecipeLike, require_countable
from macloom.sim.memory import channel_of
from macloom.sim.resident import NOT_RESIDENT, Resident
from macloom.sim.result import OpResult, bound_by
from macloom.sim.systolic import ceil_div
from macloom.sim.tiling import whole_bits
from macloom.sim.vector import KIND_COSTS, kind_operations
from macloom.workloads.ops import Role, Vector


def vector_result(
    op: Vector, accelerator: Accelerator, recipe: RecipeLike, resident: Resident = NOT_RESIDENT
) -> OpResult:
    """Return what a vector op costs.

    Inputs come from DRAM in the recipe's output format and results go back in the format of the role
    that the kind of op feeds. Chunks of rows pass through the output buffer; a row that does not fit
    is read once per pass. The array does not work meanwhile. Resident tensors come from and go to the shared
    memory instead.
    """
    require_countable(f"vector {op.name!r}", op.rows * op.width * op.terms, "elements")
    source = recipe.format_for(Role.OUTPUT, op.name)
    result = recipe.format_for(KIND_COSTS[op.kind].result, op.name)
    operations = kind_operations(op.kind, op.rows, op.width, result, op.terms, op.inputs)
    each = op.terms if KIND_COSTS[op.kind].reads_terms else 1
    in_bits, out_bits = op.inputs * each * _bits(source, op), _bits(result, op)
    per_row = (in_bits + out_bits) / op.rows
    room = accelerator.buffers.output
    fits = per_row <= room.usable_bits
    passes = KIND_COSTS[op.kind].passes
    read_bits = in_bits if fits else in_bits * passes
    shared_bits = read_bits * resident.inputs // op.inputs + out_bits * resident.out
    kept_bits = in_bits * resident.inputs // op.inputs + out_bits * resident.out
    from_dram, to_dram = read_bits * (op.inputs - resident.inputs) // op.inputs, out_bits * (not resident.out)
    chunk = min(op.rows, max(1, int(room.usable_bits // per_row)))
    steps = ceil_div(op.rows, chunk)
    channel, lanes = channel_of(accelerator), accelerator.vector.lanes

    def rows_at(indices: np.ndarray) -> np.ndarray:
        return np.where(indices == steps - 1, op.rows - (steps - 1) * chunk, chunk)

    def costs_at(indices: np.ndarray) -> TileCosts:
        rows = rows_at(indices)
        return TileCosts(
            load=channel.cycles(whole_bits(rows * (from_dram / op.rows))),
            array=whole_bits(rows * (operations.total / op.rows) / lanes),
            vector=np.zeros_like(rows),
            store=channel.cycles(whole_bits(rows * (to_dram / op.rows))),
        )

    overlap = {"overlap_loads": room.double_buffered, "overlap_stores": room.double_buffered}
    walk = walk_time([steps], costs_at, **overlap)
    sram_bits = read_bits + in_bits * passes + 2 * out_bits
    room_bits = min(per_row, room.usable_bits)  # a row that does not fit passes through
    visited = representatives([steps])[0]
    finishing = joules.finishing_energy(accelerator, operations, result, op.rows * op.width)
    energy = joules.energy_of(
        encoder_j=finishing.encoders,
        sram_j=joules.buffer_energy(accelerator, 0, 0, sram_bits) + shared_energy(accelerator, shared_bits),
        dram_j=joules.dram_energy(accelerator, from_dram + to_dram),
        vector_j=finishing.lanes,
        leakage_j=joules.leakage_energy(accelerator, walk.cycles),
    )
    return OpResult(
        name=op.name,
        kind=op.kind.value,
        unit="vector",
        repeat=op.repeat,
        cycles=op.repeat * walk.cycles,
        stall_cycles=op.repeat * walk.memory_stall,
        a_stall_cycles=op.repeat * walk.stalls["a"],
        out_stall_cycles=op.repeat * walk.stalls["out"],
        vector_cycles=op.repeat * walk.array,
        vector_busy_cycles=op.repeat * walk.array,
        vector_operations=op.repeat * operations.total,
        dram_busy_cycles=op.repeat * walk.dram,
        first_load_cycles=walk.first_load,
        idle_tail_cycles=walk.idle_tail,
        dram_read_bits=op.repeat * from_dram,
        dram_write_bits=op.repeat * to_dram,
        compulsory_dram_bits=op.repeat * (in_bits + out_bits - kept_bits),
        resident_bits=op.repeat * kept_bits,
        sram_bits=op.repeat * (sram_bits + shared_bits),
        energy=op.repeat * energy,
        bound=bound_by(0, walk.dram, walk.array),
        formats={"a": source.name, "out": result.name},
        course=WalkCourse(
            trips=(steps,),
            count=1,
            costs=costs_at(visited),
            tiles=_tiles(rows_at(visited), op, from_dram, to_dram, room_bits),
            **overlap,
        ),
    )


def _tiles(rows: np.ndarray, op: Vector, from_dram: int, to_dram: int, held_bits: float) -> Tiles:
    """Return what chunks of rows move and hold; inputs and results of a chunk share the output buffer."""
    always = np.ones_like(rows, bool)
    return Tiles(
        load_bits=whole_bits(rows * (from_dram / op.rows)),
        store_bits=whole_bits(rows * (to_dram / op.rows)),
        held={"output": whole_bits(rows * held_bits)},
        comes={"output": always},
        goes={"output": always},
    )


def _bits(fmt: TensorFormat, op: Vector) -> int:
    return fmt.storage_bits((op.rows, op.width))
