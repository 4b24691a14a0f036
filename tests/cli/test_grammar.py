"""The grammar of the command line: verbs, options, messages, and that each is documented and tested."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import macloom
from macloom.cli import main
from macloom.cli.parser import build_parser

ROOT = Path(__file__).resolve().parents[2]
Capture = pytest.CaptureFixture[str]
RunJson = Callable[..., Any]
Fail = Callable[..., str]


def test_version(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"macloom {macloom.__version__}\n"


def test_help_names_every_verb(capsys: Capture) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for verb in ("demo", "list", "show", "quantize", "evaluate", "simulate", "report"):
        assert re.search(rf"^    {verb} ", out, re.MULTILINE)


@pytest.mark.parametrize("command", [["macloom"], [sys.executable, "-m", "macloom"]])
def test_installed_command_and_module(command: Sequence[str]) -> None:
    program = [str(Path(sys.executable).with_name("macloom"))] if command == ["macloom"] else list(command)
    done = subprocess.run([*program, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"macloom {macloom.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: the following arguments are required: VERB (macloom --help)"),
        (["lst"], "error: VERB: unknown name 'lst'; did you mean 'list'? (macloom --help)"),
        (["list", "formts"], "error: KIND: unknown name 'formts'; did you mean 'formats'? (macloom list --help)"),
        (["list", "formats", "--jsn"], "error: unrecognized arguments: --jsn (macloom --help)"),
        (["demo", "--seed", "-1"], "error: argument --seed: must be an integer of at least 0, not '-1' ("),
        (["list", "formats", "-q", "-v"], "not allowed with argument"),
        (["simulate"], "error: the following arguments are required: --workload, --accelerator, --recipe"),
        (["quantize", "x.npy"], "error: the following arguments are required: --format"),
        (["evaluate"], "error: the following arguments are required: --recipe"),
        (["evaluate", "--recipe", "int4", "--windows", "0"], "argument --windows: must be a positive integer, not '0'"),
        (["evaluate", "--recipe", "int4", "--context", "x"], "argument --context: must be a positive integer, not 'x'"),
    ],
)  # fmt: skip
def test_bad_command_line(arguments: list[str], message: str, fail: Fail) -> None:
    assert message in fail(*arguments)


def verbs() -> dict[str, argparse.ArgumentParser]:
    (action,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(action.choices)


@pytest.mark.parametrize("verb", verbs())
def test_every_option_is_documented_and_tested(verb: str) -> None:
    documentation = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    tests = "".join(p.read_text(encoding="utf-8") for p in Path(__file__).parent.glob("test_*.py"))
    for action in verbs()[verb]._actions:
        if isinstance(action, argparse._HelpAction) or not action.option_strings:
            continue
        assert action.help
        assert any(f"`{option}" in documentation or f" {option} " in documentation for option in action.option_strings)
        given = [f'"{option}"' for option in action.option_strings] + [rf"\b{action.dest}=", f'"{action.dest}": ']
        assert re.search("|".join(given), tests), action.option_strings


def test_documented_commands_parse() -> None:
    documentation = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    commands = [line for line in documentation.splitlines() if line.startswith("macloom ")]
    assert len(commands) > 12
    for command in commands:
        build_parser().parse_args(command.split(">")[0].split()[1:])


def test_common_options_stand_before_or_after_the_verb() -> None:
    for arguments in (
        ["--json", "--seed", "7", "-q", "list", "formats"],
        ["list", "formats", "--json", "--seed", "7", "-q"],
    ):
        options = build_parser().parse_args(arguments)
        assert (options.json, options.seed, options.verbosity) == (True, 7, -1)
    options = build_parser().parse_args(["list", "formats"])
    assert (options.json, options.seed, options.verbosity) == (False, 0, 0)
