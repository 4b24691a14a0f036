"""`macloom demo` and `macloom report`: how they are called, what they print. The rooms test the rest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from macloom.cli import main

Capture = pytest.CaptureFixture[str]
RunJson = Callable[..., Any]
Fail = Callable[..., str]
FILES = {"config.toml", "ops.csv", "report.html", "result.json", "trace.json"}


@pytest.fixture
def small_demo(monkeypatch: pytest.MonkeyPatch, model: str, text: str) -> None:
    """Let the verb run the real demo on two formats, a random model and a short text."""
    from macloom.explore import demo
    from macloom.explore.measure import TextCut

    def run_small(*arguments: Any) -> demo.Demo:
        return complete(
            *arguments,
            models=[model],
            formats=["int8", "ovp4"],
            accelerators=["int8-sa", "olive-sa"],
            cost_model="tiny",
            cost_length=64,
            cut=TextCut(text=text, windows=1, context=32),
        )

    complete = demo.run_demo
    monkeypatch.setattr(demo, "run_demo", run_small)


@pytest.mark.usefixtures("small_demo")
def test_demo_prints_the_table_and_writes_where_it_is_told(capsys: Capture, tmp_path: Path) -> None:
    out = tmp_path / "first"
    assert main(["demo", "--out", str(out), "--seed", "9"]) == 0
    captured = capsys.readouterr()
    assert {p.name for p in out.iterdir()} == FILES
    assert json.loads((out / "result.json").read_text())["seed"] == 9
    for word in ("int8", "ovp4", str(out / "report.html"), "Next:"):
        assert word in captured.out
    steps = [line for line in captured.err.splitlines() if line.startswith("demo: step ")]
    assert len(steps) > 4
    assert captured.err.splitlines() == steps


@pytest.mark.usefixtures("small_demo")
def test_demo_json_is_the_result(run_json: RunJson, tmp_path: Path) -> None:
    shown = run_json("demo", "--out", str(tmp_path), "-q")
    assert shown == json.loads((tmp_path / "result.json").read_text())


def test_demo_writes_to_runs_demo_by_default() -> None:
    from macloom.cli.parser import build_parser

    assert build_parser().parse_args(["demo"]).out == Path("runs/demo")


def test_demo_refuses_a_file_as_directory(fail: Fail, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "must be a directory, not the file" in fail("demo", "--out", str(tmp_path / "file"))


@pytest.mark.usefixtures("small_demo")
def test_report_is_drawn_again_from_the_result(run_json: RunJson, capsys: Capture, tmp_path: Path) -> None:
    assert main(["demo", "-q", "--out", str(tmp_path)]) == 0
    drawn = (tmp_path / "report.html").read_bytes()
    (tmp_path / "report.html").unlink()
    capsys.readouterr()
    assert main(["report", str(tmp_path / "result.json")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'report.html'}\n"
    assert (tmp_path / "report.html").read_bytes() == drawn
    other = tmp_path / "new" / "page.html"
    assert run_json("report", str(tmp_path), "--out", str(other)) == {"report": str(other)}
    assert other.read_bytes() == drawn


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "error: result: no such file"),
        ("{", "must be JSON"),
        ("[]", "must be an object written by macloom demo"),
        ('{"schema": "other"}', "schema must be"),
    ],
)
def test_report_refuses(fail: Fail, tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "result.json"
    if content is not None:
        path.write_text(content)
    assert message in fail("report", str(path), "--out", str(tmp_path / "page.html"))
    assert not (tmp_path / "page.html").exists()


@pytest.fixture
def two_simulations(tmp_path: Path) -> tuple[str, str]:
    for recipe in ("int4", "ovp4"):
        arguments = ["--workload", "tiny", "--accelerator", "olive-sa", "--recipe", recipe, "--sequence", "32"]
        assert main(["simulate", *arguments, "--out", str(tmp_path / recipe), "-q", "--json"]) == 0
    return str(tmp_path / "int4"), str(tmp_path / "ovp4" / "result.json")


def test_report_compares_two_simulations(two_simulations: tuple[str, str], capsys: Capture) -> None:
    capsys.readouterr()
    assert main(["report", *two_simulations]) == 0
    out = capsys.readouterr().out
    assert "recipe" in out
    assert "energy_high_j" in out
    assert main(["report", *two_simulations, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["settings"] == {"recipe": ["int4", "ovp4"]}
    first, other = (
        json.loads((Path(two_simulations[0]).parent / r / "result.json").read_text()) for r in ("int4", "ovp4")
    )
    totals = {row["name"]: row for row in found["totals"]}
    assert totals["cycles"] == {
        "name": "cycles",
        "first": first["totals"]["cycles"],
        "other": other["totals"]["cycles"],
        "ratio": other["totals"]["cycles"] / first["totals"]["cycles"],
    }
    assert totals["decoder_j"]["ratio"] is None  # int4 codes are operands: no decoder, no energy
    assert sum(row["other"] for row in found["operations"]) == other["totals"]["cycles"]


def test_report_refuses_what_cannot_be_compared(
    two_simulations: tuple[str, str], tmp_path: Path, capsys: Capture, fail: Fail
) -> None:
    capsys.readouterr()
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "broken.json").write_text("{")
    assert "is not the result of a simulation (workload" in fail(
        "report", two_simulations[0], str(tmp_path / "list.json")
    )
    assert "is not JSON" in fail("report", two_simulations[0], str(tmp_path / "broken.json"))
    assert "cannot read" in fail("report", two_simulations[0], str(tmp_path / "absent.json"))
    assert "belongs to the report of one demo" in fail("report", *two_simulations, "--out", "x.html")
