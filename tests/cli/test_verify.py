"""`macloom verify`: tables, progress, files and the exit status."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from macloom.cli import main
from macloom.cli.verify_verb import duration
from macloom.errors import MacloomError
from macloom.verification import VERIFIERS, Check, Options, Verifier, to_json, to_markdown

Capture = pytest.CaptureFixture[str]


def agreeing(options: Options) -> Iterator[Check]:
    options.expect(2)
    yield Check(subject="int4 | codes", against="fractions", cases=5 if options.exhaustive else 3, seconds=0.25)
    yield Check(subject="int8", against=f"seed {options.seed}", cases=7)


def differing(options: Options) -> Iterator[Check]:
    yield Check(subject="int4", against="fractions", cases=9, mismatches=2, worst=0.5, note="0.5 gives 1, not 0")


def lacking(options: Options) -> Iterator[Check]:
    yield from agreeing(options)
    yield Check(subject="Verilog", against="int4", cases=0, skipped=True, note="needs Verilator")


def sharing(options: Options) -> Iterator[Check]:
    return options.spread([partial(Check, subject=f"part {n}", against="nothing", cases=n + 1) for n in range(5)])


@pytest.fixture
def verifiers(monkeypatch: pytest.MonkeyPatch) -> None:
    records = {
        name: Verifier(summary="a test", home=f"{__name__}:{name}")
        for name in ("agreeing", "differing", "lacking", "sharing")
    }
    monkeypatch.setattr(VERIFIERS, "_records", records)
    monkeypatch.setattr("macloom.verification.import_module", lambda name: __import__("sys").modules[name])


@pytest.mark.usefixtures("verifiers")
def test_table_on_stdout_and_progress_on_stderr(capsys: Capture) -> None:
    assert main(["verify", "agreeing"]) == 0
    captured = capsys.readouterr()
    assert "agreeing: 10 cases, 0 mismatches" in captured.out
    assert captured.err.splitlines() == [
        "agreeing 1 of 2: int4 | codes: 3 cases equal; 0 s left",
        "agreeing 2 of 2: int8: 7 cases equal; 0 s left",
    ]


@pytest.mark.usefixtures("verifiers")
def test_what_a_missing_tool_leaves_out_is_said(capsys: Capture, tmp_path: Path) -> None:
    assert main(["verify", "lacking", "--out", str(tmp_path / "page.md")]) == 0
    captured = capsys.readouterr()
    assert "lacking: 10 cases, 0 mismatches, 1 checks skipped" in captured.out
    assert "lacking 3: Verilog: SKIPPED, needs Verilator\n" in captured.err
    assert "10 cases in 3 checks, 0 mismatches, 1 checks skipped, 0 s" in (tmp_path / "page.md").read_text()


@pytest.mark.parametrize("tool, subject", [("verilator", "Verilog"), ("abc", "proofs against hand-written Verilog")])
def test_hardware_without_a_tool_has_fewer_checks_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tool: str, subject: str
) -> None:
    pytest.importorskip("pyrtl")
    from macloom.explore import verify_rtl

    whole = verify_rtl.planned(Options())
    monkeypatch.setattr(getattr(verify_rtl, tool), "available", lambda: False)
    calls, absent = verify_rtl.planned(Options())
    assert len(calls) < len(whole[0]) or subject in [check.subject for check in whole[1]]
    assert subject in [check.subject for check in absent if check.skipped]


@pytest.mark.usefixtures("verifiers")
def test_mismatch_is_exit_status_1(capsys: Capture) -> None:
    assert main(["verify", "agreeing", "differing"]) == 1
    captured = capsys.readouterr()
    assert "9 cases, 2 mismatches" in captured.out
    assert "differing 1: int4: 9 cases 2 DIFFER\n" in captured.err
    assert captured.err.endswith("differs: int4 from fractions: 2 0.5 gives 1, not 0\n")


@pytest.mark.usefixtures("verifiers")
def test_json_and_files(tmp_path: Path, capsys: Capture, run_json: Callable[..., Any]) -> None:
    (result,) = run_json("verify", "agreeing", "--exhaustive", "--seed", "3", "-q")
    assert result["command"] == "macloom verify agreeing --exhaustive --seed 3"
    assert (result["cases"], result["mismatches"]) == (12, 0)
    assert result["checks"][1]["against"] == "seed 3"
    for name in ("table.md", "table.json"):
        assert main(["verify", "agreeing", "--out", str(tmp_path / name), "-q"]) == 0
    page = (tmp_path / "table.md").read_text()
    assert page.startswith("# What was verified: agreeing\n\nWritten by `macloom verify agreeing` (macloom ")
    assert "| int4 \\| codes | fractions | 3 | 0 | 0 | 0.2 |  |\n" in page
    assert json.loads((tmp_path / "table.json").read_text())[0]["checks"][0]["cases"] == 3
    assert str(tmp_path) not in page


@pytest.mark.usefixtures("verifiers")
def test_jobs_do_not_change_the_order(run_json: Callable[..., Any]) -> None:
    alone, shared = (run_json("verify", "sharing", "--jobs", jobs, "-q") for jobs in ("1", "2"))
    assert alone == shared
    assert [check["cases"] for check in alone[0]["checks"]] == [1, 2, 3, 4, 5]


def test_unknown_name(fail: Callable[..., str]) -> None:
    assert "verifier: unknown name 'formts'; did you mean 'formats'? (macloom verify --help)" in fail(
        "verify", "formts"
    )


def test_every_registered_verifier_is_there() -> None:
    from importlib import import_module

    for name in VERIFIERS:
        module, _, function = VERIFIERS.get(name).home.partition(":")
        assert callable(getattr(import_module(module), function)), name


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"cases": 0}, "check 'int4': cases must be at least 1, not 0"),
        ({"skipped": True}, "check 'int4': must have no cases and a note that says why, to be skipped"),
        ({"mismatches": 4}, "check 'int4': mismatches must be from 0 to 3, not 4"),
        ({"against": ""}, "check: must name its subject and what it is compared with"),
    ],
)
def test_impossible_checks(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(MacloomError, match=message):
        Check(**{"subject": "int4", "against": "fractions", "cases": 3, **fields})


def test_durations() -> None:
    assert [duration(s) for s in (0.2, 99, 100, 3600, 9000)] == ["0 s", "99 s", "2 min", "1 h 0 min", "2 h 30 min"]


def test_pages_hold_every_result() -> None:
    checks = [Check(subject=name, against="x", cases=1) for name in "ab"]
    page = to_markdown([to_json(name, checks, "c") for name in ("one", "two")])
    assert page.count("\n# What was verified") == 1
    assert page.count("\n| a |") == 2
