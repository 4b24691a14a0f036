"""The calibration study: each run against an evaluation of its own, spreads by definition, texts, every message."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import re
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.workloads.calibration_study import TEXTS, CalibrationStudy, calibration_study, calibration_text
from macloom.workloads.evaluator import Evaluator
from macloom.workloads.lm.data import Text, stdlib_text

PROSE = Text(name="prose", data=b"It was the best of times, it was the worst of times. " * 40)


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return Evaluator("tiny-outlier", windows=2, context=48, batch=2, seed=5)


@pytest.fixture(scope="module")
def study(evaluator: Evaluator) -> CalibrationStudy:
    return calibration_study(evaluator, ["int8", "int8:token"], [PROSE, "bytes"], (1, 3), 2)


def test_every_run_equals_an_evaluation_of_its_own(study: CalibrationStudy) -> None:
    assert len(study.runs) == 2 * 2 * 2 * 2
    assert study.seeds == (5, 6)
    for run in (study.runs[0], study.runs[-2]):
        alone = Evaluator(
            "tiny-outlier", windows=2, context=48, batch=2, seed=run.seed, calibration_windows=run.windows,
            calibration=next(t for t in study.texts if t.name == run.text),
        ).run(run.recipe)  # fmt: skip
        assert (run.perplexity, run.kl_nats) == (alone.perplexity, alone.kl_nats)


def test_only_static_scales_depend_on_the_text(study: CalibrationStudy) -> None:
    """int8 has one scale per tensor, from calibration; int8:token takes the scale of every row at run time."""
    assert len({r.perplexity for r in study.runs if r.recipe == "int8"}) > 4
    assert study.spread("int8").deviation > 0  # type: ignore[operator]
    weights_searched_alone = {round(r.perplexity, 3) for r in study.runs if r.recipe == "int8:token"}
    assert len(weights_searched_alone) < 8


def test_spreads_are_the_statistics_of_their_runs(study: CalibrationStudy) -> None:
    for text, windows in (("prose", 1), ("bytes", None), (None, None)):
        found = study.spread("int8", text, windows)
        levels = [
            r.perplexity for r in study.runs
            if r.recipe == "int8" and text in (None, r.text) and windows in (None, r.windows)
        ]  # fmt: skip
        assert found.runs == len(levels)
        assert found.mean == pytest.approx(statistics.mean(levels))
        assert found.deviation == pytest.approx(statistics.stdev(levels))
        assert (found.low, found.high) == (min(levels), max(levels))
    assert len(study.spreads()) == 8
    with pytest.raises(MacloomError, match="must have a run of 'int4'"):
        study.spread("int4")


def test_the_record_and_the_table(study: CalibrationStudy) -> None:
    data = json.loads(json.dumps(study.to_dict(), allow_nan=False))
    assert data["calibration_windows"] == [1, 3]
    assert [t["name"] for t in data["calibration_texts"]] == ["prose", "bytes"]
    assert len(data["spreads"]) == 8
    assert [s["recipe"] for s in data["overall"]] == ["int8", "int8:token"]
    rows = list(csv.DictReader(io.StringIO(study.to_csv())))
    assert [float(r["perplexity"]) for r in rows] == [r.perplexity for r in study.runs]


def test_texts_by_name_are_the_same_every_time(tmp_path: Path) -> None:
    for name in TEXTS:
        assert calibration_text(name).sha256 == calibration_text(name).sha256
    train, shuffled = (np.frombuffer(calibration_text(n).data, np.uint8) for n in ("train", "shuffled"))
    assert train.tobytes() == stdlib_text("train").data
    assert np.array_equal(np.bincount(train[: len(shuffled)]), np.bincount(shuffled))
    assert not np.array_equal(train[: len(shuffled)], shuffled)
    ascii_bytes = np.frombuffer(calibration_text("ascii").data, np.uint8)
    assert (ascii_bytes.min(), ascii_bytes.max()) == (32, 126)
    assert len(set(calibration_text("bytes").data)) == 256
    path = tmp_path / "own.txt"
    path.write_bytes(b"own text")
    assert calibration_text(path).data == b"own text"


def test_a_run_that_collapses_is_counted_and_json_stays_strict(study: CalibrationStudy) -> None:
    broken = dataclasses.replace(study.runs[0], perplexity=math.inf, kl_nats=math.inf, collapsed=True)
    worse = dataclasses.replace(study, runs=(broken, *study.runs[1:]))
    found = worse.spread("int8")
    assert (found.mean, found.deviation, found.collapsed) == (math.inf, None, 1)
    assert json.loads(json.dumps(worse.to_dict(), allow_nan=False))["overall"][0]["mean"] is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"recipes": []}, "recipes: must be at least one, all different, not []"),
        ({"recipes": ["int8", "int8"]}, "recipes: must be at least one, all different, not ['int8', 'int8']"),
        ({"texts": ["ascii", "ascii"]}, "texts: must be at least one, all different, not ['ascii', 'ascii']"),
        ({"texts": ["none.txt"]}, "text: must be one of train, shuffled, ascii, bytes or a file, not 'none.txt'"),
        ({"counts": (0,)}, "counts: must be a positive integer, not 0"),
        ({"draws": 0}, "draws: must be a positive integer, not 0"),
        ({"texts": [Text(name="short", data=b"abc")]}, "text 'short': must hold more than one context of 48"),
    ],
)  # fmt: skip
def test_bad_arguments(evaluator: Evaluator, given: dict[str, Any], message: str) -> None:
    with pytest.raises(MacloomError, match=re.escape(message)):
        calibration_study(evaluator, **{"recipes": ["int8"], "texts": ["ascii"], "counts": (1,), "draws": 1, **given})
