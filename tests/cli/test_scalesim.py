"""`macloom simulate --scalesim-config`: SCALE-Sim's files in, its reports out, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from macloom.cli import main
from macloom.sim.scalesim import REPORT_COLUMNS, Config, Gemm, simulate_layer

RunJson = Callable[..., Any]
Fail = Callable[..., str]

CONFIG = """[general]
run_name = trial
[run_presets]
InterfaceBandwidth: USER
[architecture_presets]
ArrayHeight: 4
ArrayWidth: 4
IfmapSramSzkB: 1
FilterSramSzkB: 1
OfmapSramSzkB: 1
Bandwidth: 2
Dataflow: ws
[layout]
IfmapSRAMBankBandwidth: 2
FilterSRAMBankBandwidth: 2
"""
TOPOLOGY = "Layer, M, N, K,\nfirst, 40, 24, 30,\nsecond, 5, 6, 7,\n"
ARRAY = {"rows": 4, "cols": 4, "dataflow": "ws", "ifmap_kb": 1, "filter_kb": 1, "ofmap_kb": 1}
RATES = {"mode": "USER", "bw_ifmap": 2, "bw_filter": 2, "bw_ofmap": 2}


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Write a configuration and a topology, and return the options that name them."""
    (tmp_path / "run.cfg").write_text(CONFIG, encoding="utf-8")
    (tmp_path / "layers.csv").write_text(TOPOLOGY, encoding="utf-8")
    return ["--scalesim-config", str(tmp_path / "run.cfg"), "--topology", str(tmp_path / "layers.csv")]


@pytest.mark.parametrize("version", ["v3", "v2"])
def test_layers_are_what_simulate_layer_gives(files: list[str], version: str, run_json: RunJson) -> None:
    shown = run_json("simulate", *files, "--scalesim-version", version)
    config = Config(**ARRAY, **RATES)  # type: ignore[arg-type]
    wanted = [simulate_layer(Gemm(m=m, n=n, k=k), config, version) for m, n, k in ((40, 24, 30), (5, 6, 7))]
    assert [layer["name"] for layer in shown["layers"]] == ["first", "second"]
    assert [{c: layer[c] for c in REPORT_COLUMNS} for layer in shown["layers"]] == [dict(report) for report in wanted]
    assert (shown["run"], shown["scalesim_version"], wanted[0].stall_cycles > 0) == ("trial", version, True)


def test_reports_are_written_and_shown(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", *files, "--out", str(tmp_path / "results")]) == 0
    names = {path.name: path.read_text(encoding="utf-8").splitlines() for path in (tmp_path / "results").iterdir()}
    assert set(names) == {"COMPUTE_REPORT.csv", "BANDWIDTH_REPORT.csv", "DETAILED_ACCESS_REPORT.csv"}
    assert all(len(lines) == 3 and lines[1].startswith("0, ") for lines in names.values())
    shown = capsys.readouterr()
    assert "trial, as SCALE-Sim counts" in shown.out
    assert "first" in shown.out
    assert "28,800" in shown.out
    assert shown.err.count("wrote") == 3


def test_a_bad_line_writes_nothing(files: list[str], tmp_path: Path, fail: Fail) -> None:
    path = tmp_path / "layers.csv"
    path.write_text(TOPOLOGY + "third, 1, two, 3,\n", encoding="utf-8")
    message = fail("simulate", *files, "--out", str(tmp_path / "results"))
    assert f"error: {path}:4:11: N: must be a positive integer, not 'two'" in message
    assert not (tmp_path / "results").exists()


def test_options_that_do_not_go_together(files: list[str], fail: Fail) -> None:
    assert "--scalesim-config and --topology must come together" in fail("simulate", *files[:2])
    assert "--scalesim-config and --topology must come together" in fail("simulate", *files[2:])
    message = fail("simulate", *files, "--workload", "tiny", "--dataflow", "os")
    assert "brings its own array and layers; leave out --workload, --dataflow" in message
    assert "--scalesim-version: unknown name 'v4'; did you mean" in fail("simulate", *files, "--scalesim-version", "v4")
