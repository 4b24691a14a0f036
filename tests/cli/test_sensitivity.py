"""`macloom sensitivity` on a small random model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from macloom.cli import main
from macloom.cli.text_options import names

Capture = pytest.CaptureFixture[str]
RunJson = Callable[..., Any]
Fail = Callable[..., str]


def arguments(model: str, text: str, *more: str) -> list[str]:
    return ["sensitivity", model, "--text", text, "--windows", "2", "--context", "24", "--formats", "int4,int8", *more]


def test_every_option_reaches_the_map(model: str, text: str, run_json: RunJson) -> None:
    found = run_json(*arguments(model, text, "--by", "block", "--roles", "all,weight", "--seed", "3"))
    assert (found["windows"], found["context"], found["seed"], found["by"]) == (2, 24, 3, "block")
    assert found["text"]["name"] == "pangrams.txt"
    assert (found["formats"], found["roles"]) == (["int4", "int8"], ["all", "weight"])
    groups = ["model.layers.0.self_attn", "model.layers.0.mlp", "lm_head"]
    assert list(found["operations"]) == groups
    assert [(c["group"], c["role"], c["format"]) for c in found["cells"]] == [
        (group, role, fmt) for fmt in ("int4", "int8") for role in ("all", "weight") for group in groups
    ]


def test_prints_a_table_and_writes_files(model: str, text: str, capsys: Capture, tmp_path: Path) -> None:
    out, picture = tmp_path / "map", tmp_path / "map.png"
    assert main(arguments(model, text, "--by", "layer", "--out", str(out), "--plot", str(picture))) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("model                small\n")
    assert "text                 pangrams.txt, 2 windows of 24 bytes\n" in captured.out
    assert "Sensitivity of small" in captured.out
    assert "† no better than with blocks zeroed" in captured.out  # a random model knows nothing
    assert "lm_head" in captured.out
    data = json.loads((out / "sensitivity.json").read_text())
    assert len((out / "sensitivity.csv").read_text().splitlines()) == len(data["cells"]) + 1
    assert (out / "sensitivity.svg").read_text().startswith("<svg")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert captured.err.endswith(f"wrote {picture}\n")
    assert f"wrote {out / 'sensitivity.json'}" in captured.err


def test_bad_input(model: str, text: str, fail: Fail) -> None:
    assert "the following arguments are required: --formats" in fail("sensitivity", model)
    assert "by: unknown name 'layers'" in fail(*arguments(model, text, "--by", "layers"))
    assert "roles: unknown name 'w'" in fail(*arguments(model, text, "--roles", "w"))
    message = fail(*arguments(model, text, "--plot", "map.jpg"))
    assert message == "error: --plot: must be a .png, .svg or .pdf file, not 'map.jpg'"


def test_lists_of_formats_keep_the_options_of_each() -> None:
    assert names("int4:group=32,clip=0.5,int8") == ["int4:group=32,clip=0.5", "int8"]
    assert names("int4:channel, int8") == ["int4:channel", "int8"]
