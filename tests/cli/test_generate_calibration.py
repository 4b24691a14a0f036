"""`macloom generate` and `macloom calibration` on a small random model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from macloom.cli import main
from macloom.cli.generate_verb import DEPARTURE

Capture = pytest.CaptureFixture[str]
RunJson = Callable[..., Any]
Fail = Callable[..., str]


def test_every_option_reaches_the_continuations(model: str, run_json: RunJson) -> None:
    arguments = ("generate", model, "--recipes", "int4,int8", "--prompt", "ab", "--tokens", "5")
    found = run_json(*arguments, "--temperature", "0.5", "--seed", "2")
    assert (found["prompt"], found["temperature"], found["seed"]) == ("ab", 0.5, 2)
    assert [c["name"] for c in found["continuations"]] == ["unquantized", "int4", "int8"]
    assert [len(c["tokens"]) for c in found["continuations"]] == [5] * 3


def test_texts_stand_side_by_side(model: str, capsys: Capture, tmp_path: Path) -> None:
    out, picture = tmp_path / "generated.json", tmp_path / "kl.svg"
    assert (
        main(["generate", model, "--recipes", "int4", "--tokens", "12", "--out", str(out), "--plot", str(picture)]) == 0
    )
    captured = capsys.readouterr()
    data = json.loads(out.read_text())
    assert data["prompt"] == "def read_lines(path):\n"
    assert captured.out.startswith("small continues 'def read_lines(path):\\n'\n\n--- unquantized\n")
    four = data["continuations"][1]
    expected = "same text" if four["departs"] is None else f"departs at token {four['departs'] + 1}"
    assert f"--- int4: {expected}, mean KL {four['mean_kl_nats']:.4g} nats per token" in captured.out
    assert (DEPARTURE in captured.out) == (four["departs"] is not None)
    assert "<svg" in picture.read_text()
    assert captured.err.endswith(f"wrote {picture}\n")


def test_every_option_reaches_the_study(model: str, text: str, run_json: RunJson) -> None:
    arguments = ["calibration", model, "--recipes", "int8,int4", "--text", text, "--windows", "2", "--context", "24"]
    found = run_json(*arguments, "--texts", f"ascii,{text}", "--samples", "1,2", "--draws", "2", "--seed", "7")
    assert (found["windows"], found["context"], found["seeds"]) == (2, 24, [7, 8])
    assert [t["name"] for t in found["calibration_texts"]] == ["ascii", "pangrams.txt"]
    assert found["calibration_windows"] == [1, 2]
    assert len(found["runs"]) == 16


def test_the_spread_as_a_table_and_files(model: str, text: str, capsys: Capture, tmp_path: Path) -> None:
    out, picture = tmp_path / "study", tmp_path / "spread.png"
    arguments = ["calibration", model, "--recipes", "int8", "--text", text, "--windows", "1", "--context", "24"]
    arguments += ["--texts", "bytes", "--samples", "1", "--draws", "1", "--out", str(out), "--plot", str(picture)]
    assert main(arguments) == 0
    assert "Calibration of small" in capsys.readouterr().out
    assert len((out / "calibration.csv").read_text().splitlines()) == 2
    assert json.loads((out / "calibration.json").read_text())["runs"][0]["text"] == "bytes"
    assert (out / "calibration.svg").read_text().startswith("<svg")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_bad_input(model: str, fail: Fail) -> None:
    assert "the following arguments are required: --recipes" in fail("generate", model)
    assert "the following arguments are required: --recipes" in fail("calibration", model)
    given = ("--recipes", "int8")
    assert "prompt: must leave room for 64 tokens within the 64" in fail("generate", model, *given, "--prompt", "x")
    assert "temperature: must be a number of at least 0, not -1.0" in fail(
        "generate", model, *given, "--temperature", "-1"
    )
    message = fail("calibration", model, *given, "--samples", "1,x")
    assert message == "error: --samples: must be positive integers such as 1,4,16, not 'x'"
    assert "--plot: must be a .png, .svg or .pdf file" in fail("calibration", model, *given, "--plot", "x.gif")
    assert "--plot: must be a .png, .svg or .pdf file" in fail("generate", model, *given, "--plot", "x.gif")
