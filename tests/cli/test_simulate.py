"""`macloom simulate`: every option, the files, what it refuses."""

from __future__ import annotations

import csv
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import macloom
from macloom.cli import main

Capture = pytest.CaptureFixture[str]
RunJson = Callable[..., Any]
Fail = Callable[..., str]
COMMAND = {"--workload": "tiny", "--accelerator": "olive-sa", "--recipe": "ovp4"}


def words(**changes: str) -> list[str]:
    """Return the command line with some options changed or added."""
    given = COMMAND | {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
    return ["simulate", *(word for pair in given.items() for word in pair)]


def test_prefill_is_what_simulate_gives(run_json: RunJson) -> None:
    shown = run_json(*words(sequence="96", batch="2", seed="4"))
    workload = macloom.load_workload("tiny", sequence=96, batch=2, head_tokens="last")
    result = macloom.simulate(workload, macloom.load_accelerator("olive-sa"), recipe="ovp4")
    assert shown["totals"]["cycles"] == result.cycles
    assert shown["totals"]["energy_j"] == result.energy_j
    assert len(shown["ops"]) == len(result.ops)
    assert (shown["seed"], shown["version"]) == (4, macloom.__version__)


def test_area_leakage_and_their_origins_are_shown(run_json: RunJson, capsys: Capture) -> None:
    shown = run_json(*words(sequence="16"))
    area = shown["area"]
    assert area["total_mm2"] == pytest.approx(sum(part["total_mm2"] for part in area["parts"]))
    origins = {part["unit"]: part["origin"] for part in area["parts"]}
    assert origins["element"] == "gates of ovp4 mac"
    assert origins["row decoder"] == "gates of ovp4 decoder"
    assert area["priced"]["ovp4 x ovp4"] == "gates of ovp4 mac"
    assert shown["energy"]["leakage_j"] == pytest.approx(shown["totals"]["leakage_w"] * shown["totals"]["seconds"])
    assert shown["energy"]["kinds"]["leakage_j"] == "estimated"
    assert main(words(sequence="16")) == 0
    text = capsys.readouterr().out
    assert "of which" in text
    assert f"{area['total_mm2']:.3g} mm2: element" in text


def test_decode_takes_a_context(run_json: RunJson) -> None:
    short = run_json(*words(phase="decode", context="64"))
    long = run_json(*words(phase="decode", context="512"))
    assert short["phase"] == long["phase"] == "decode"
    assert short["totals"]["macs"] < long["totals"]["macs"]


def test_prefill_may_want_the_logits_of_every_token(run_json: RunJson) -> None:
    last, every = (run_json(*words(sequence="64", head_tokens=h))["totals"]["macs"] for h in ("last", "all"))
    assert every - last == 63 * 256 * 256
    assert last == run_json(*words(sequence="64"))["totals"]["macs"]


def test_dataflow_replaces_the_accelerator_s_own(run_json: RunJson) -> None:
    cycles = {flow: run_json(*words(sequence="64", dataflow=flow))["totals"]["cycles"] for flow in ("os", "ws", "is")}
    assert cycles["os"] == run_json(*words(sequence="64"))["totals"]["cycles"]
    assert len(set(cycles.values())) > 1


def test_rungs_and_objectives(run_json: RunJson) -> None:
    totals = {f: run_json(*words(sequence="16", fidelity=f))["totals"] for f in ("analytic", "event", "cycle")}
    assert totals["event"] == totals["cycle"]
    assert totals["analytic"]["cycles"] <= totals["event"]["cycles"]
    best, plain = (
        run_json(*words(sequence="16", **change)) for change in ({"dataflow": "best", "objective": "edp"}, {})
    )
    assert best["totals"]["edp_j_s"] <= plain["totals"]["edp_j_s"]


def test_mappings_are_saved_and_given(run_json: RunJson, tmp_path: Path) -> None:
    path = tmp_path / "mine" / "mapping.toml"
    best = run_json(*words(sequence="16", dataflow="best", save_mapping=str(path)))
    assert tomllib.loads(path.read_text())["ops"]["self_attn.q_proj"]["tile_m"] == 16
    assert run_json(*words(sequence="16", mapping=str(path)))["totals"] == best["totals"]


def test_prefetch_and_residency(run_json: RunJson, capsys: Capture, tmp_path: Path) -> None:
    plain = run_json(*words(sequence="16"))["totals"]["cycles"]
    assert run_json(*words(sequence="16"), "--prefetch")["totals"]["cycles"] < plain
    assert main(["show", "olive-sa"]) == 0
    machine = tmp_path / "mine.toml"
    shared = '\n[buffers.shared]\nsize = "1 MiB"\nbandwidth = "4096 bit/cycle"\n'
    machine.write_text(capsys.readouterr().out + shared)
    given = words(sequence="16", accelerator=str(machine))
    without, kept = (run_json(*given, *extra)["totals"]["dram_bits"] for extra in ([], ["--residency"]))
    assert kept < without


def test_prints_totals_and_operations(capsys: Capture) -> None:
    assert main(words(sequence="64")) == 0
    captured = capsys.readouterr()
    result = macloom.simulate(macloom.load_workload("tiny", sequence=64, head_tokens="last"), "olive-sa", recipe="ovp4")
    assert f"cycles            {result.cycles:,}\n" in captured.out
    for op in result.ops:
        assert f"\n{op.name} " in captured.out
    assert captured.err == "simulating tiny in ovp4 on olive-sa\n"


def test_out_writes_the_files(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "runs" / "mine"
    assert main(words(sequence="64", out=str(out))) == 0
    names = ["config.toml", "ops.csv", "trace.json", "result.json"]
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith("wrote")] == [
        f"wrote {out / name}" for name in names
    ]
    assert sorted(p.name for p in out.iterdir()) == sorted(names)
    assert [p.name for p in out.parent.iterdir()] == ["mine"]
    result = json.loads((out / "result.json").read_text())
    rows = list(csv.DictReader((out / "ops.csv").read_text().splitlines()))
    assert sum(int(row["cycles"]) for row in rows) == result["totals"]["cycles"]
    configuration = tomllib.loads((out / "config.toml").read_text())
    assert configuration["accelerator"]["array"]["rows"] == 64
    assert configuration["recipe"]["weight"] == "ovp4"
    assert configuration["workload"]["sequence"] == 64
    trace = json.loads((out / "trace.json").read_text())
    ends = [e["ts"] + e["dur"] for e in trace["traceEvents"] if e["ph"] == "X"]
    assert 0 < max(ends) <= result["totals"]["cycles"]


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_pictures_are_written(tmp_path: Path, capsys: Capture, suffix: str) -> None:
    heat, roof = tmp_path / f"heat.{suffix}", tmp_path / "new" / f"roof.{suffix}"
    assert main(words(sequence="16", heatmap=str(heat), roofline=str(roof))) == 0
    assert capsys.readouterr().err.splitlines()[1:] == [f"wrote {heat}", f"wrote {roof}"]
    first = heat.read_bytes()
    assert first.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix])
    assert roof.read_bytes() != first
    assert main(words(sequence="16", heatmap=str(heat))) == 0
    assert heat.read_bytes() == first


def test_accelerator_and_recipe_files(run_json: RunJson, capsys: Capture, tmp_path: Path) -> None:
    assert main(["show", "olive-sa"]) == 0
    machine, recipe = tmp_path / "mine.toml", tmp_path / "recipe.toml"
    machine.write_text(capsys.readouterr().out.replace("rows = 64", "rows = 16"))
    recipe.write_text('format = "ovp4"\nkv = "int4"\n')
    small = run_json(*words(sequence="64", accelerator=str(machine), recipe=str(recipe)))
    assert small["accelerator"]["array"]["rows"] == 16
    assert small["recipe"]["kv"] == "int4"
    assert small["totals"]["peak_macs_per_s"] * 4 == run_json(*words(sequence="64"))["totals"]["peak_macs_per_s"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workload": "opt-6.7"}, "did you mean 'opt-6.7b'"),
        ({"workload": "no/where"}, "no/where"),
        ({"accelerator": "oliv-sa"}, "error: accelerator: unknown name 'oliv-sa'; did you mean 'olive-sa'"),
        ({"accelerator": "none.toml"}, "error: none.toml: must be a TOML file; there is no such file"),
        ({"recipe": "mxfp5"}, "error: recipe: format: unknown name 'mxfp5'; did you mean 'mxfp"),
        ({"dataflow": "xs"}, "xs"),
        ({"fidelity": "cycles"}, "error: fidelity: unknown name 'cycles'; did you mean 'cycle'"),
        ({"objective": "times"}, "error: objective: unknown name 'times'; did you mean 'time'"),
        ({"mapping": "none.toml"}, "error: none.toml: no such file; a mapping is a .toml or .json file"),
        ({"save_mapping": "mapping.txt"}, "error: mapping: must be saved to a .toml or .json file"),
        ({"heatmap": "heat.gif"}, "error: --heatmap: must be a .png, .svg or .pdf file, not 'heat.gif'"),
        ({"roofline": "roof"}, "error: --roofline: must be a .png, .svg or .pdf file, not 'roof'"),
        ({"phase": "prefil"}, "error: --phase: unknown name 'prefil'; did you mean 'prefill'"),
        ({"sequence": "0"}, "error: argument --sequence: must be a positive integer, not '0'"),
        ({"batch": "-1"}, "error: argument --batch: must be a positive integer, not '-1'"),
        ({"phase": "decode", "sequence": "8"}, "error: sequence: must not be given for decode"),
        ({"context": "8"}, "error: context: must not be given for prefill"),
        ({"sequence": "4096"}, "error: sequence: must be at most 1024"),
        ({"accelerator": "int8-sa", "recipe": "fp16"}, "int8-sa"),
    ],
)
def test_bad_input(fail: Fail, tmp_path: Path, changes: dict[str, str], message: str) -> None:
    out = tmp_path / "out"
    assert message in fail(*words(**changes, out=str(out)))
    assert not out.exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rows = 64", "rows = 0", "arch.array.rows: must be a positive integer, not 0"),
        ("rows = 64", "row = 64", "arch.array.row: unknown key; did you mean 'rows'"),
        ("rows = 64", "rows = = 64", "must be valid TOML"),
        ('clock = "500 MHz"', 'clock = "500 MB"', "arch.clock: must be"),
    ],
)
def test_bad_accelerator_file(fail: Fail, capsys: Capture, tmp_path: Path, old: str, new: str, message: str) -> None:
    assert main(["show", "olive-sa"]) == 0
    path = tmp_path / "mine.toml"
    text = capsys.readouterr().out
    assert old in text
    path.write_text(text.replace(old, new))
    line = fail(*words(accelerator=str(path)))
    assert message in line
    assert str(path) in line
