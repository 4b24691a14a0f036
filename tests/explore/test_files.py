"""The files of a run: whole or absent, and readable by their standard readers."""

from __future__ import annotations

import csv
import io
import tomllib
from pathlib import Path
from typing import Any

import pytest

from macloom.errors import MacloomError
from macloom.explore.files import config_toml, ops_csv, write_together
from macloom.explore.result import DemoResult
from macloom.sim import simulate
from macloom.workloads import load_workload


def test_files_appear_together_in_a_new_directory(tmp_path: Path) -> None:
    paths = write_together(tmp_path / "runs" / "demo", {"a.txt": "one\n", "b.txt": "zwei µ\n"})
    assert paths == (tmp_path / "runs/demo/a.txt", tmp_path / "runs/demo/b.txt")
    assert paths[1].read_bytes() == "zwei µ\n".encode()
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["demo"]


def test_former_files_are_replaced_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    (tmp_path / "mine.txt").write_text("mine")
    write_together(tmp_path, {"a.txt": "new"})
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.txt": "new", "mine.txt": "mine"}


class _Interrupts(dict[str, str]):
    """Contents whose second file never comes: the user pressed Ctrl-C."""

    def items(self) -> Any:
        yield "a.txt", "new"
        raise KeyboardInterrupt


@pytest.mark.parametrize("existing", [True, False])
def test_an_interrupted_write_leaves_the_former_result(tmp_path: Path, existing: bool) -> None:
    out = tmp_path / "demo"
    if existing:
        write_together(out, {"a.txt": "old", "b.txt": "old"})
    before = {p: p.read_text() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(KeyboardInterrupt):
        write_together(out, _Interrupts())
    assert {p: p.read_text() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert out.exists() is existing


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("a file")
    with pytest.raises(MacloomError, match=r"^out: must be a directory, not the file '.*demo'$"):
        write_together(tmp_path / "demo", {"a": "b"})


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MacloomError, match=r"^out: cannot write to '.*file': "):
        write_together(tmp_path / "file" / "demo", {"a": "b"})


def test_ops_csv_has_the_rows_of_every_result_behind_their_names() -> None:
    workload = load_workload("tiny", phase="decode", context=64)
    results = [simulate(workload, "int8-sa", recipe=name) for name in ("int8", "int4")]
    rows = list(csv.DictReader(io.StringIO(ops_csv(results))))
    assert len(rows) == 2 * len(workload.ops)
    assert [(r["recipe"], r["accelerator"], r["workload"], r["phase"]) for r in rows[:: len(workload.ops)]] == [
        ("int8", "int8-sa", "tiny", "decode"), ("int4", "int8-sa", "tiny", "decode"),
    ]  # fmt: skip
    for result in results:
        mine = [r for r in rows if r["recipe"] == result.recipe["name"]]
        assert sum(int(r["cycles"]) for r in mine) == result.cycles
        assert sum(float(r["energy_j"]) for r in mine) == pytest.approx(result.energy_j, rel=1e-12)


def test_ops_csv_of_nothing_is_refused() -> None:
    with pytest.raises(MacloomError, match=r"^ops\.csv: must have at least one result to write$"):
        ops_csv([])


def test_config_holds_everything_that_decided_the_run(result: DemoResult) -> None:
    config = tomllib.loads(config_toml(result))
    assert config["seed"] == 0
    assert config["version"] == "0.1.0"
    assert [f["name"] for f in config["formats"]] == [f.name for f in result.formats]
    assert config["accelerators"]["int8-sa"] == {
        "clock_hz": 1e9,
        "array": {"rows": 32, "cols": 32, "pe": {"significand_bits": 8}},
    }
    assert config["recipes"] == {"int4": {"weight": "int4", "activation": "int4"}}
    assert config["technologies"]["28nm"]["dram_hbm2"]["kind"] == "published"
    assert config["text"]["sha256"] == result.text.sha256
    assert {(w["name"], w["phase"]) for w in config["workloads"]} == {(w.name, w.phase) for w in result.workloads}
