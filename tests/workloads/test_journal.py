"""The journal of a study: what was kept comes back, another study is refused, a cut line is forgotten."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from macloom.errors import MacloomError
from macloom.workloads.journal import Journal


def test_what_was_kept_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "cells.jsonl"
    first = Journal(path, {"model": "a", "keys": (1, 2)}, "map")
    first.append({"cell": ["x"], "kl": 0.1 + 0.2, "level": math.inf})
    again = Journal(path, {"model": "a", "keys": [1, 2]}, "map")
    assert again.records == first.records == [{"cell": ["x"], "kl": 0.1 + 0.2, "level": math.inf}]


def test_a_line_that_was_cut_off_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    journal = Journal(path, {}, "map")
    journal.append({"cell": 1})
    journal.append({"cell": 2})
    path.write_text(path.read_text()[:-5])
    again = Journal(path, {}, "map")
    assert again.records == [{"cell": 1}]
    again.append({"cell": 3})
    assert [json.loads(line) for line in path.read_text().splitlines()[-1:]] == [{"cell": 3}]
    assert Journal(path, {}, "map").records == [{"cell": 1}, {"cell": 3}]


def test_another_study_is_refused(tmp_path: Path) -> None:
    Journal(tmp_path / "cells.jsonl", {"model": "a"}, "map")
    with pytest.raises(MacloomError, match=r"cells.jsonl: holds another map \(model, recipe, text or options\)"):
        Journal(tmp_path / "cells.jsonl", {"model": "b"}, "map")


def test_without_a_path_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    journal = Journal(None, {}, "map")
    journal.append({"cell": 1})
    assert journal.records == [{"cell": 1}]
    assert list(tmp_path.iterdir()) == []
