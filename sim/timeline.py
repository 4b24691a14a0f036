"""A timeline of a result: when the array, the DRAM channel and the vector unit are busy."""

from __future__ import annotations

from macloom.sim.result import Event, OpResult, Result

UNITS = ("array", "dram", "vector")


def timeline(result: Result) -> list[Event]:
    """Return busy times of each unit, in cycles, without overlaps within a unit.

    Operations run one after another. One occurrence of each is shown, in the order of the workload,
    so that a block of operations that all layers repeat appears once; the name ends in "(x 32)"
    where 32 occurrences follow. Within an operation a unit's work is drawn in one piece: DRAM from
    the start, the array after the first load, the vector unit up to the end. The pieces are as long as
    the busy cycles; in the machine they are spread over the tiles. What DRAM prefetched starts before the operation.
    """
    events: list[Event] = []
    start = 0
    for op in result.ops:
        cycles, busy = _once(op)
        early = op.prefetched_cycles // op.repeat
        name = op.name if op.repeat == 1 else f"{op.name} (x {op.repeat})"
        starts = {
            "array": max(0, min(op.first_load_cycles - early, cycles - busy["array"])),
            "dram": -early,
            "vector": cycles - busy["vector"],
        }
        events += [
            Event(unit=unit, name=name, start=start + starts[unit], duration=busy[unit]) for unit in UNITS if busy[unit]
        ]
        start += cycles
    return events


def _once(op: OpResult) -> tuple[int, dict[str, int]]:
    """Return the cycles of one occurrence, and of each unit in it."""
    busy = {
        "array": op.compute_cycles + op.port_stall_cycles + op.side_stall_cycles,
        "dram": op.dram_busy_cycles,
        "vector": op.vector_busy_cycles,
    }
    return op.cycles // op.repeat, {unit: cycles // op.repeat for unit, cycles in busy.items()}
