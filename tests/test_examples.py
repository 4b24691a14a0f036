"""The examples run, and the commands that their comments name are commands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from macloom.cli import main
from macloom.cli.parser import build_parser

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def examples(suffix: str) -> list[str]:
    return sorted(p.name for p in EXAMPLES.glob(f"*{suffix}"))


@pytest.mark.parametrize("name", examples(".py"))
def test_script_runs(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", str(EXAMPLES / name)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) >= 3


@pytest.mark.parametrize("name", examples(".toml"))
def test_configuration_loads(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(EXAMPLES / name)]) == 0
    assert f'name = "{name.removesuffix(".toml")}"' in capsys.readouterr().out


@pytest.mark.parametrize("name", examples(".toml"))
def test_commands_in_comments_parse(name: str) -> None:
    commands = re.findall(r"macloom ([^`\n]+)", (EXAMPLES / name).read_text(encoding="utf-8"))
    assert commands
    for command in commands:
        build_parser().parse_args(command.split())
