"""Exported Verilog: the same text every time, clean of width warnings, and the same function in Verilator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyrtl
import pytest

from macloom.errors import MacloomError
from macloom.formats import get_format
from macloom.formats.elements.minifloat import FP16
from macloom.rtl import icarus, verilator
from macloom.rtl.catalog import build
from macloom.rtl.emit import describe, emit
from macloom.rtl.export import verilog
from macloom.rtl.formats.decoder import decoder
from macloom.rtl.formats.encoder import encoder
from macloom.rtl.simulation import CompiledCircuit, run_block
from macloom.rtl.unit import Port, Unit, elaborate
from macloom.rtl.wires import inverted

needs_verilator = pytest.mark.skipif(not verilator.available(), reason="verilator, g++, make or perl is missing")
ELEMENTS = ["int4", "fp8_e4m3", "fp8_e5m2", "fp4_e2m1", "flint4", "pot4", "posit8_2", "nf4", "hif8", "tan4"]


def units() -> list[Unit]:
    decoders = [decoder(get_format(name).element) for name in ELEMENTS]
    encoders = [encoder(get_format(name).element, FP16) for name in ("int4", "fp8_e4m3", "flint4", "posit8_2")]
    return [*decoders, build(get_format("ovp4"), "decoder"), build(get_format("ovp8"), "decoder"), *encoders]


@needs_verilator
def test_verilator_finds_no_width_warning_in_any_module():
    for unit in units():
        assert verilator.lint(verilog(unit)) == [], unit.module


@needs_verilator
def test_verilator_gives_the_same_outputs_on_all_inputs_and_rejects_a_mutant():
    good = units()
    mutant = _mutant(decoder(get_format("fp6_e2m3").element))
    verdicts = verilator.cross_simulate([*good, mutant], texts=[*map(verilog, good), verilog(mutant)])
    assert {m: v.split()[0] for m, v in verdicts.items()} == {u.module: "PASS" for u in good} | {mutant.module: "FAIL"}


def _mutant(unit: Unit) -> Unit:
    """The same circuit, held to a model with one wrong code."""

    def model(inputs):
        made = {name: values.copy() for name, values in unit.model(inputs).items()}
        made["significand"][inputs["code"] == 5] += 1
        return made

    return Unit(
        module=unit.module, inputs=unit.inputs, outputs=unit.outputs, circuit=unit.circuit, model=model,
        cares=unit.cares, facts=unit.facts,
    )  # fmt: skip


def test_the_text_does_not_depend_on_what_was_built_before_or_on_the_hash_seed():
    unit = build(get_format("ovp4"), "decoder")
    first = verilog(unit)
    verilog(encoder(get_format("int4").element, FP16))
    assert verilog(unit) == first
    program = (
        "from macloom.formats import get_format; from macloom.rtl.formats.pair_decoder import pair_decoder;"
        "from macloom.rtl.export import verilog; print(verilog(pair_decoder(get_format('ovp4'))), end='')"
    )
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == first


def test_emit_writes_files_that_say_what_they_are(tmp_path):
    unit = build(get_format("ovp4"), "decoder")
    files = emit(unit, tmp_path / "ovp4")
    assert sorted(set(files) - {"ovp4_decoder.svg"}) == sorted(  # the picture needs pygraphviz
        ["ovp4_decoder.v", "ovp4_decoder_tb.v", "ovp4_decoder_vectors.hex", "ovp4_decoder.vcd", "unit.json"]
    )
    facts = json.loads(files["unit.json"].read_text())
    assert facts["module"] == "ovp4_decoder"
    assert facts["code_bits"] == 8
    assert facts["exponent_offset"] == 0
    assert facts["ports"] == {"pair": 8, "exponent0": 3, "significand0": 4, "exponent1": 3, "significand1": 4}
    assert facts == json.loads(json.dumps(describe(unit)))
    assert len(files["ovp4_decoder_vectors.hex"].read_text().splitlines()) == 256
    assert files["ovp4_decoder.vcd"].read_text().startswith("$timescale")


def test_emit_does_not_mix_with_other_files(tmp_path):
    unit = decoder(get_format("int4").element)
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(MacloomError, match="exists and is not empty; choose another directory or pass --force"):
        emit(unit, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    emit(unit, tmp_path, force=True)
    assert (tmp_path / "int4_decoder.v").exists()
    with pytest.raises(MacloomError, match="must be a directory, and .* is a file"):
        emit(unit, tmp_path / "mine.txt")


def spoilt(vectors: Path) -> Iterator[str]:
    """Spoil a file of vectors in one way after the other and say how; it is whole again at the end."""
    text = vectors.read_text()
    lines = text.splitlines()
    for what, made in (
        ("cut short", "\n".join(lines[:3])),
        ("empty", ""),
        ("an input", text.replace(lines[5], f"{int(lines[5], 16) ^ 1 << 13:04x}")),
        ("an expected output", text.replace(lines[5], f"{int(lines[5], 16) ^ 1 << 5:04x}")),
        ("a mask", text.replace(lines[5], f"{int(lines[5], 16) ^ 1:04x}")),
        ("two lines swapped", "\n".join([lines[1], lines[0], *lines[2:]])),
    ):
        vectors.write_text(made)
        yield what
    vectors.unlink()
    yield "missing"
    vectors.write_text(text)


def ends(command: list[str | Path], folder: Path) -> tuple[bool, str]:
    """Return whether a simulation ended well, and what it said."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode == 0, done.stdout


def check_that_the_testbench_needs_its_vectors(command: list[str | Path], folder: Path) -> None:
    good, said = ends(command, folder)
    assert good, said
    assert said.startswith("PASS int4_decoder 16 vectors")
    for what in spoilt(folder / "int4_decoder_vectors.hex"):
        good, said = ends(command, folder)
        assert not good, what
        assert "FAIL int4_decoder has no vectors: int4_decoder_vectors.hex is missing here, cut short or" in said, what
        assert "PASS" not in said, what
    assert not ends(command, folder.parent)[0]  # from another directory
    assert ends(command, folder)[0]


@needs_verilator
def test_a_testbench_fails_in_verilator_without_its_vectors_or_with_others(tmp_path):
    emit(build(get_format("int4"), "decoder"), tmp_path / "unit")
    command = verilator.build_command("int4_decoder").replace("-O1", "-O0")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(command, shell=True, cwd=tmp_path / "unit", env=environment, capture_output=True, check=True)
    simulation = tmp_path / "unit" / "obj_dir" / "Vint4_decoder_tb"
    check_that_the_testbench_needs_its_vectors([simulation], tmp_path / "unit")


@pytest.mark.skipif(not icarus.available(), reason="Icarus Verilog is not installed")
def test_a_testbench_fails_in_icarus_without_its_vectors_or_with_others_or_with_another_circuit(tmp_path):
    folder = tmp_path / "unit"
    files = emit(build(get_format("int4"), "decoder"), folder)
    subprocess.run(["iverilog", "-g2012", "-o", "run", "int4_decoder_tb.v", "int4_decoder.v"], cwd=folder, check=True)
    check_that_the_testbench_needs_its_vectors(["vvp", "-N", folder / "run"], folder)
    text = files["int4_decoder.v"].read_text()
    (folder / "int4_decoder.v").write_text(text.replace("assign significand = ", "assign significand = ~"))
    subprocess.run(["iverilog", "-g2012", "-o", "run", "int4_decoder_tb.v", "int4_decoder.v"], cwd=folder, check=True)
    good, said = ends(["vvp", "-N", folder / "run"], folder)
    assert not good
    assert "FAIL int4_decoder 16 of 16 vectors" in said


def test_a_simulation_without_a_verdict_is_no_success(monkeypatch):
    """A testbench that never ends must not look like one that said nothing wrong."""
    unit = build(get_format("int4"), "decoder")
    silent = subprocess.CompletedProcess([], 0, stdout="", stderr="")
    monkeypatch.setattr(verilator, "_build", lambda folder: folder / "run")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: silent)
    with pytest.raises(MacloomError, match="the simulation ended with 0, and int4_decoder said nothing"):
        verilator.cross_simulate([unit])


@needs_verilator
def test_guard_an_inverted_operand_of_a_wider_sum_keeps_its_meaning():
    """PyRTL's own export of `~a + b` gives 29 for a = 15, b = 13, where it means 13."""

    def circuit(inputs):
        return {"sum": ~inputs["a"] + inputs["b"], "product": ~inputs["a"] * inputs["b"]}

    unit = Unit(
        module="fuzz",
        inputs=(Port(name="a", width=4), Port(name="b", width=4)),
        outputs=(Port(name="sum", width=5), Port(name="product", width=8)),
        circuit=circuit,
        model=lambda i: {"sum": (15 - i["a"]) + i["b"], "product": (15 - i["a"]) * i["b"]},
    )
    assert verilator.cross_simulate([unit])["fuzz"] == "PASS fuzz 256 vectors"


def test_guard_the_compiled_buffers_are_read_right():
    """`CompiledSimulation.run` repeats the first step in the pinned version; the raw buffer must not."""
    block = pyrtl.Block()
    with pyrtl.set_working_block(block):
        a, out = pyrtl.Input(8, "a"), pyrtl.Output(8, "out")
        out <<= inverted(a)
    values = np.arange(256, dtype=np.uint64)
    np.testing.assert_array_equal(CompiledCircuit(block).run({"a": values})["out"], 255 - values)
    np.testing.assert_array_equal(run_block(block, {"a": values})["out"], 255 - values)


def test_units_refuse_circuits_that_are_not_what_they_declare():
    unit = Unit(
        module="narrow",
        inputs=(Port(name="a", width=4),),
        outputs=(Port(name="b", width=5),),
        circuit=lambda i: {"b": i["a"]},
        model=lambda i: {"b": i["a"]},
    )
    with pytest.raises(MacloomError, match=r"its circuit makes \{'b': 4\}, but its ports are \{'b': 5\}"):
        elaborate(unit)
    with pytest.raises(MacloomError, match="port.name: must be lower-case letters"):
        Port(name="A b", width=1)
    with pytest.raises(MacloomError, match="port a.width: must be a positive integer, not 0"):
        Port(name="a", width=0)
    with pytest.raises(MacloomError, match=r"port a: 16 is not in \[0, 15\]"):
        Port(name="a", width=4).bits_of(np.array([16]))
