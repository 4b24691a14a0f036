"""A timeline of a result: when array, DRAM channel and vector unit are busy, and what buffers hold meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from macloom.arch import Accelerator
from macloom.sim.course import MOST_STEPS, Layout, joined, laid_out
from macloom.sim.result import Event, OpResult, Result

UNITS = ("array", "dram", "vector")
INTERVALS = 16  # of one operation, beside its first load and its end
BUFFERS = {"operand_a": "buffer A", "operand_b": "buffer B", "output": "output buffer", "shared": "shared buffer"}
BANDWIDTH = "DRAM, bits/s in use"
OCCUPANCY = "{}, bytes in use"


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """A time in which a unit works; the DRAM moves `rate` bits per cycle in it."""

    start: int
    duration: int
    rate: float = 0.0

    @property
    def end(self) -> int:
        return self.start + self.duration


_Pieces = dict[str, list[_Piece]]


@dataclass(frozen=True, kw_only=True)
class _Interval:
    """Some steps of one operation: when they begin and end, how long units are busy in them, and what moves."""

    name: str
    start: int
    end: int
    busy: Mapping[str, int]
    bits: float
    held: Mapping[str, int]


def timeline(result: Result) -> list[Event]:
    """Return busy times of each unit, in cycles, without overlaps within a unit.

    Operations run one after another. One occurrence of each is shown, in the order of the workload,
    so that a block of operations that all layers repeat appears once; the name ends in "(x 32)"
    where 32 occurrences follow. An operation of many tiles is cut to intervals of several; in each, a unit's work
    is drawn in one piece from the start. What DRAM prefetched is drawn in idle time of the operation before.
    """
    events = [
        Event(unit=unit, name=interval.name, start=piece.start, duration=piece.duration)
        for interval, pieces in _scheduled(result)
        for unit in UNITS
        for piece in pieces[unit]
    ]
    return sorted(events, key=lambda event: event.start)


def counters(result: Result) -> dict[str, list[tuple[int, float]]]:
    """Return what is in use over time, by name: (cycle, value) steps of the same occurrences as `timeline`.

    DRAM bandwidth is that of the bits that pass in a piece of the timeline, over that piece, so that its integral is
    the traffic of one occurrence of each operation. The bytes of a buffer are the most that an interval holds: a
    tile, and beside it the one that comes or goes where the buffer is double.
    """
    scheduled, clock, end = _scheduled(result), result.accelerator.clock_hz, 0
    names = [name for name in BUFFERS if any(name in interval.held for interval, _ in scheduled)]
    found: dict[str, list[tuple[int, float]]] = {BANDWIDTH: []}
    found |= {OCCUPANCY.format(BUFFERS[name]): [] for name in names}
    for interval, _ in scheduled:
        for name in names:
            _step(found[OCCUPANCY.format(BUFFERS[name])], interval.start, interval.held.get(name, 0) / 8)
        end = interval.end
    for piece in sorted((piece for _, pieces in scheduled for piece in pieces["dram"]), key=lambda piece: piece.start):
        _step(found[BANDWIDTH], piece.start, piece.rate * clock)
        _step(found[BANDWIDTH], piece.end, 0.0)
    for name, steps in found.items():
        if name != BANDWIDTH:
            _step(steps, end, 0.0)
    return found


def _step(steps: list[tuple[int, float]], at: int, value: float) -> None:
    """Add a step, dropping the one before where nothing lies between, and itself where it changes nothing."""
    if steps and steps[-1][0] == at:
        steps.pop()
    if not steps or steps[-1][1] != value:
        steps.append((at, value))


def _scheduled(result: Result) -> list[tuple[_Interval, _Pieces]]:
    """Return intervals with the pieces in which each unit works."""
    found: list[tuple[_Interval, _Pieces]] = []
    start = 0
    for op in result.ops:
        intervals = list(_intervals(op, result.accelerator, start))
        waiting: _Pieces = {unit: [] for unit in UNITS}  # work that an interval has no time for
        for place, interval in enumerate(intervals):
            for unit in UNITS:
                if busy := interval.busy[unit]:
                    rate = interval.bits / busy if unit == "dram" else 0.0
                    waiting[unit].append(_Piece(start=interval.start, duration=busy, rate=rate))
            early = op.prefetched_cycles // op.repeat
            gaps = _gaps(found, early) if place == 0 and early else []
            pieces = {
                unit: _placed(waiting[unit], [(interval.start, interval.end)]) for unit in UNITS if unit != "dram"
            }
            pieces["dram"] = _placed(waiting["dram"], [*gaps, (interval.start, interval.end)])
            found.append((interval, pieces))
        start = intervals[-1].end
    return found


def _placed(waiting: list[_Piece], gaps: Sequence[tuple[int, int]]) -> list[_Piece]:
    """Take as much from the front of `waiting` as the gaps (start, end) have time for, and return when it runs."""
    found: list[_Piece] = []
    for start, end in gaps:
        while waiting and start < end:
            piece = waiting.pop(0)
            cycles = min(piece.duration, end - start)
            found.append(replace(piece, start=start, duration=cycles))
            if cycles < piece.duration:
                waiting.insert(0, replace(piece, duration=piece.duration - cycles))
            start += cycles
    return found


def _gaps(found: list[tuple[_Interval, _Pieces]], cycles: int) -> list[tuple[int, int]]:
    """Return times (start, end), `cycles` at most, at the end of the operation before in which its DRAM is idle."""
    gaps: list[tuple[int, int]] = []
    for interval, pieces in reversed(found):
        if not cycles or interval.name != found[-1][0].name:
            break
        begin = max([interval.start, *(piece.end for piece in pieces["dram"])])
        free = min(cycles, interval.end - begin)
        if free > 0:
            gaps.append((interval.end - free, interval.end))
            cycles -= free
    return gaps[::-1]


def _intervals(op: OpResult, accelerator: Accelerator, start: int) -> Iterator[_Interval]:
    name = op.name if op.repeat == 1 else f"{op.name} (x {op.repeat})"
    layout = _layout(op)
    columns = {"array": layout.array, "dram": layout.dram, "vector": layout.vector}
    shared = {} if accelerator.buffers.shared is None else {"shared": op.shared_held_bits}
    for place, cycles in enumerate(layout.cycles.tolist()):
        yield _Interval(
            name=name,
            start=start,
            end=start + cycles,
            busy={unit: int(values[place]) for unit, values in columns.items()},
            bits=float(layout.bits[place]),
            held={buffer: int(layout.held[buffer][place]) for buffer in layout.held} | shared,
        )
        start += cycles


def _layout(op: OpResult) -> Layout:
    """Return the intervals of one occurrence, as long and as busy as the result says."""
    cycles, busy = _once(op)
    early = op.prefetched_cycles // op.repeat
    course, bits = op.course, op.dram_bits // op.repeat
    if course is None or not course.timed or course.steps > MOST_STEPS:
        held = {} if course is None else {name: np.array([most.max()]) for name, most in course.tiles.held.items()}
        one = {unit: np.array([count]) for unit, count in busy.items()}
        return Layout(cycles=np.array([cycles]), bits=np.array([bits]), held=held, **one)
    layout = joined(laid_out(course), INTERVALS)
    # Tiles are rounded up to whole bits, one by one.
    layout = replace(layout, bits=layout.bits * (bits / max(1, layout.bits.sum())))
    if op.unit == "vector":  # what the course calls the array is the unit that works
        worked = _shared_out(layout.array + layout.vector, busy["vector"])
        layout = replace(layout, array=0 * layout.array, vector=worked)
    lasting, array = layout.cycles.copy(), layout.array.copy()
    lasting[0] -= early
    # The ends of the array: the skew and the last drain, or the cycles by which it starts early.
    edge = int(busy["array"] - array.sum())
    if edge >= 0:
        lasting[-2] += edge
        array[-2] += edge
    for place in range(1, len(lasting)):
        less = min(-edge, int(array[place])) if edge < 0 else 0
        lasting[place] -= less
        array[place] -= less
        edge += less
    assert lasting.sum() == cycles, (op.name, lasting.sum(), cycles)
    return replace(layout, cycles=lasting, array=array)


def _shared_out(parts: np.ndarray, total: int) -> np.ndarray:
    """Return integers in the ratio of `parts` that sum to `total`, each at most its part where `total` is less.

    >>> _shared_out(np.array([3, 0, 5]), 4)
    array([1, 0, 3])
    """
    sums = [0, *np.cumsum(parts).tolist()]  # of Python, whose products do not overflow
    return np.diff([part * total // max(1, sums[-1]) for part in sums])


def _once(op: OpResult) -> tuple[int, dict[str, int]]:
    """Return the cycles of one occurrence, and of each unit in it."""
    on_array = op.unit == "array"  # the ports keep the vector unit busy otherwise
    busy = {
        "array": on_array * (op.compute_cycles + op.port_stall_cycles + op.side_stall_cycles),
        "dram": op.dram_busy_cycles,
        "vector": op.vector_busy_cycles,
    }
    early = op.prefetched_cycles // op.repeat
    whole = (op.cycles + op.prefetched_cycles) // op.repeat - early
    return whole, {unit: cycles // op.repeat for unit, cycles in busy.items()}
