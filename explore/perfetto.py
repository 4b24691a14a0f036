"""Timelines as Chrome trace JSON, which https://ui.perfetto.dev opens.

One process stands for one run, one thread for one unit of the accelerator. The format counts in
microseconds; 1 cycle is written as 1 us, and the document's metadata says so. Complete events ("X")
of one thread must not overlap, because viewers nest them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from macloom.errors import MacloomError


class Event(Protocol):
    """What a timeline gives: a unit busy with something for a while, in cycles."""

    @property
    def unit(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def start(self) -> int: ...
    @property
    def duration(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Process:
    """The timeline of one run. `counters` holds per name the (cycle, value) steps of a quantity over time."""

    name: str
    events: Sequence[Event]
    counters: Mapping[str, Sequence[tuple[int, float]]]


def busy_fraction(events: Iterable[Event], steps: int = 200) -> dict[str, list[tuple[int, float]]]:
    """Return for each unit how busy it is over time: (start, fraction) of `steps` equal intervals.

    Intervals that read like the one before are left out; a last step at the end returns to zero.
    """
    events = list(events)
    end = max((e.start + e.duration for e in events), default=0)
    if end == 0:
        return {}
    width = max(1, -(-end // steps))
    busy: dict[str, list[int]] = {}
    for e in events:
        cells = busy.setdefault(e.unit, [0] * (-(-end // width)))
        first, last = e.start // width, (e.start + e.duration - 1) // width
        for i in range(first, last + 1):
            cells[i] += min(e.start + e.duration, (i + 1) * width) - max(e.start, i * width)
    counters: dict[str, list[tuple[int, float]]] = {}
    for unit, cells in busy.items():
        track = counters.setdefault(f"{unit} busy", [])
        for i, cycles in enumerate(cells):
            fraction = round(cycles / min(width, end - i * width), 4)
            if not track or track[-1][1] != fraction:
                track.append((i * width, fraction))
        track.append((end, 0.0))
    return counters


def chrome_trace(processes: Sequence[Process], metadata: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the trace document of several runs.

    Events of no duration are left out: nothing happens in them.

    Raises:
        MacloomError: two events of one unit overlap, or an event has a negative start or duration.
    """
    rows: list[dict[str, Any]] = []
    for pid, process in enumerate(processes, start=1):
        rows.append({"ph": "M", "pid": pid, "tid": 0, "name": "process_name", "args": {"name": process.name}})
        rows.append({"ph": "M", "pid": pid, "tid": 0, "name": "process_sort_index", "args": {"sort_index": pid}})
        units: dict[str, list[Event]] = {}
        for event in process.events:
            units.setdefault(event.unit, []).append(event)
        for tid, (unit, events) in enumerate(units.items(), start=1):
            rows.append({"ph": "M", "pid": pid, "tid": tid, "name": "thread_name", "args": {"name": unit}})
            rows.append({"ph": "M", "pid": pid, "tid": tid, "name": "thread_sort_index", "args": {"sort_index": tid}})
            rows += _complete_events(pid, tid, process.name, events)
        for name, steps in process.counters.items():
            rows += [{"ph": "C", "pid": pid, "name": name, "ts": t, "args": {"value": v}} for t, v in steps]
    return {
        "displayTimeUnit": "ns",
        "metadata": {"time": "1 us stands for 1 clock cycle", **(metadata or {})},
        "traceEvents": rows,
    }


def _complete_events(pid: int, tid: int, process: str, events: Sequence[Event]) -> list[dict[str, Any]]:
    rows = []
    end = 0
    for event in sorted(events, key=lambda e: (e.start, e.duration)):
        where = f"timeline {process!r}, unit {event.unit!r}, event {event.name!r}"
        if event.start < 0 or event.duration < 0:
            raise MacloomError(
                f"{where}: must have no negative time, not start {event.start}, duration {event.duration}"
            )
        if event.duration == 0:
            continue
        if event.start < end:
            raise MacloomError(
                f"{where}: must start at cycle {end} or later, when the one before ends, not {event.start}"
            )
        end = event.start + event.duration
        rows.append({"ph": "X", "pid": pid, "tid": tid, "name": event.name, "ts": event.start, "dur": event.duration})
    return rows


class Timed(Protocol):
    """A result of the simulator, as far as a trace needs it."""

    def timeline(self) -> Sequence[Event]: ...
    def counters(self) -> Mapping[str, Sequence[tuple[int, float]]]: ...


def trace_of(results: Mapping[str, Timed], metadata: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the trace document of simulator results by name, with their counters and how busy each unit is."""
    processes = []
    for name, result in results.items():
        events = result.timeline()
        processes.append(Process(name=name, events=events, counters={**result.counters(), **busy_fraction(events)}))
    return chrome_trace(processes, metadata)


def trace_json(document: Mapping[str, Any]) -> str:
    """Return the text of trace.json, one event per line."""
    head = {k: v for k, v in document.items() if k != "traceEvents"}
    rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in document["traceEvents"])
    return json.dumps(head)[:-1] + ', "traceEvents": [\n' + rows + "\n]}\n"
