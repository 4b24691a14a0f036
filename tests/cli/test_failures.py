"""What happens when a verb fails, and that files and JSON stay whole."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from macloom import MacloomError
from macloom._files import write_atomically
from macloom.cli import main
from macloom.cli.console import jsonable

Capture = pytest.CaptureFixture[str]
RunJson = Callable[..., Any]
Fail = Callable[..., str]


class Broken(RuntimeError):
    """Stands for a defect of macloom."""


def make_verb_raise(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def run(*_: object) -> None:
        raise error

    monkeypatch.setattr("macloom.cli.list_verb.run", run)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (MacloomError("x: must be 1,\n  not 2"), 2, "error: x: must be 1, not 2"),
        (FileNotFoundError(2, "No such file or directory", "a.npy"), 2, "error: a.npy: No such file or directory"),
        (PermissionError(13, "Permission denied", "locked/x"), 2, "error: locked/x: Permission denied"),
        (IsADirectoryError(21, "Is a directory", "runs"), 2, "error: runs: Is a directory"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (Broken("no idea"), 1, "error: macloom failed: Broken: no idea (-v shows where)"),
    ],
)
def test_exit_status_and_message(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, message: str, fail: Fail
) -> None:
    make_verb_raise(monkeypatch, error)
    assert fail("list", "formats", status=status) == message


def test_verbose_shows_the_traceback(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    make_verb_raise(monkeypatch, Broken("no idea"))
    assert main(["list", "formats", "-v"]) == 1
    captured = capsys.readouterr().err
    assert "Traceback (most recent call last):" in captured
    assert captured.endswith("error: macloom failed: Broken: no idea\n")


def test_verbose_says_how_long_it_took(capsys: Capture) -> None:
    assert main(["list", "workloads", "-v"]) == 0
    assert re.fullmatch(r"took \d+\.\d s\n", capsys.readouterr().err)


def test_reader_that_closes_the_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m macloom show fp8_e4m3 --json | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("{\n", "")


def test_write_atomically_keeps_the_old_file_when_writing_fails(tmp_path: Path) -> None:
    target = write_atomically(tmp_path / "deep" / "result.json", "old")

    def write_half(file: object) -> None:
        assert isinstance(file, io.BufferedWriter)
        file.write(b"new, but")
        raise Broken("power cut")

    with pytest.raises(Broken):
        write_atomically(target, write_half)
    assert target.read_text() == "old"
    assert [p.name for p in target.parent.iterdir()] == ["result.json"]


def test_jsonable_keeps_json_strict() -> None:
    data = {"a": np.array([1, np.nan, np.inf], np.float32), "b": (np.int64(3), float("-inf")), 4: None, "c": True}
    assert jsonable(data) == {"a": [1.0, None, "inf"], "b": [3, "-inf"], "4": None, "c": True}
