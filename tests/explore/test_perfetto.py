"""Chrome trace JSON: what Perfetto needs to draw one track per unit."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from macloom.errors import MacloomError
from macloom.explore.perfetto import Process, busy_fraction, chrome_trace, trace_json, trace_of


@dataclass(frozen=True)
class Piece:
    unit: str
    name: str
    start: int
    duration: int


# Per unit a list of (pause before, duration), so that nothing overlaps.
TRACKS = st.dictionaries(
    st.sampled_from(["array", "dram", "vector"]), st.lists(st.tuples(st.integers(0, 9), st.integers(0, 50)), max_size=8)
)


def pieces(tracks: dict[str, list[tuple[int, int]]]) -> list[Piece]:
    events = []
    for unit, steps in tracks.items():
        now = 0
        for i, (pause, duration) in enumerate(steps):
            events.append(Piece(unit, f"op{i}", now + pause, duration))
            now += pause + duration
    return events[::-1]


@given(TRACKS)
def test_no_two_events_of_a_thread_overlap_and_no_time_is_lost(tracks: dict[str, list[tuple[int, int]]]) -> None:
    events = pieces(tracks)
    rows = chrome_trace([Process(name="run", events=events, counters={})])["traceEvents"]
    spans = defaultdict(list)
    for row in rows:
        if row["ph"] == "X":
            spans[row["tid"]].append((row["ts"], row["ts"] + row["dur"]))
    for track in spans.values():
        assert all(a[1] <= b[0] for a, b in pairwise(track))
    total = sum(end - start for track in spans.values() for start, end in track)
    assert total == sum(e.duration for e in events)


@given(TRACKS, st.integers(1, 7))
def test_busy_fractions_integrate_to_the_busy_time(tracks: dict[str, list[tuple[int, int]]], steps: int) -> None:
    events = pieces(tracks)
    end = max((e.start + e.duration for e in events), default=0)
    for name, track in busy_fraction(events, steps).items():
        unit = name.removesuffix(" busy")
        busy = sum(v * (t2 - t1) for (t1, v), (t2, _) in pairwise(track))
        assert all(0 <= v <= 1 for _, v in track)
        assert track[-1] == (end, 0.0)
        # Fractions are rounded to four places.
        assert busy == pytest.approx(sum(e.duration for e in events if e.unit == unit), abs=1e-4 * max(1, end))


def test_names_units_and_counters_are_there() -> None:
    document = chrome_trace(
        [
            Process(
                name="int4 on sa",
                events=[Piece("array", "q_proj", 5, 7)],
                counters={"array busy": [(0, 0.5), (12, 0.0)]},
            )
        ],
        {"version": "1"},
    )
    rows = document["traceEvents"]
    assert document["metadata"] == {"time": "1 us stands for 1 clock cycle", "version": "1"}
    assert {(r["name"], r["args"].get("name")) for r in rows if r["ph"] == "M"} >= {
        ("process_name", "int4 on sa"), ("thread_name", "array"),
    }  # fmt: skip
    assert [r for r in rows if r["ph"] == "X"] == [{"ph": "X", "pid": 1, "tid": 1, "name": "q_proj", "ts": 5, "dur": 7}]
    assert [(r["ts"], r["args"]["value"]) for r in rows if r["ph"] == "C"] == [(0, 0.5), (12, 0.0)]


def test_processes_are_apart() -> None:
    class One:
        def timeline(self) -> list[Piece]:
            return [Piece("array", "a", 0, 3)]

        def counters(self) -> dict[str, list[tuple[int, float]]]:
            return {"DRAM, bits/s in use": [(0, 8.0), (3, 0.0)]}

    rows = trace_of({"first": One(), "second": One()})["traceEvents"]
    assert {r["pid"] for r in rows} == {1, 2}
    for pid in (1, 2):
        counted = {r["name"] for r in rows if r["ph"] == "C" and r["pid"] == pid}
        assert counted == {"array busy", "DRAM, bits/s in use"}


def test_the_text_is_the_document() -> None:
    document = chrome_trace([Process(name="r", events=[Piece("dram", 'a "b"', 0, 3)], counters={})], {"seed": 0})
    assert json.loads(trace_json(document)) == document


def test_overlap_is_refused() -> None:
    events = [Piece("array", "a", 0, 10), Piece("array", "b", 9, 2)]
    message = "timeline 'r', unit 'array', event 'b': must start at cycle 10 or later, when the one before ends, not 9"
    with pytest.raises(MacloomError, match=f"^{message}$"):
        chrome_trace([Process(name="r", events=events, counters={})])


def test_negative_time_is_refused() -> None:
    with pytest.raises(MacloomError, match=r"event 'a': must have no negative time, not start -1, duration 3$"):
        chrome_trace([Process(name="r", events=[Piece("array", "a", -1, 3)], counters={})])
