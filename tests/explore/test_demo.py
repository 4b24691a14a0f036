"""The demo from end to end, on models and workloads small enough for a test."""

from __future__ import annotations

import csv
import io
import json
import tomllib
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from macloom.errors import MacloomError
from macloom.explore import demo as demo_module
from macloom.explore.demo import PURPOSES, Demo, next_steps, run_demo
from macloom.explore.measure import TextCut
from macloom.explore.result import load_result
from macloom.explore.text_table import Mark
from macloom.formats import get_format
from macloom.workloads import Evaluator
from macloom.workloads.lm.checkpoint import save_checkpoint
from macloom.workloads.lm.model import LlamaConfig

CONFIG = LlamaConfig(
    hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
    vocab_size=256, max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=True,
)  # fmt: skip
FORMATS = ("fp16", "int8", "ovp4")
CUT = TextCut(windows=1, context=32)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learned nothing."""
    directory = tmp_path_factory.mktemp("models") / "small"
    generator = torch.Generator().manual_seed(3)
    shapes = CONFIG.parameter_shapes()
    parameters = {
        n: torch.normal(0, 0.05, s, generator=generator) if len(s) == 2 else torch.ones(s) for n, s in shapes.items()
    }
    save_checkpoint(directory, CONFIG, parameters, {})
    return directory


def _run(checkpoint: Path, out: Path, **options) -> Demo:
    fixed = {"models": (checkpoint,), "formats": FORMATS, "cost_model": "tiny", "cost_length": 48, "cut": CUT}
    return run_demo(out, **(fixed | options))


@pytest.fixture(scope="module")
def demo(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return _run(checkpoint, tmp_path_factory.mktemp("runs") / "demo")


def test_it_writes_exactly_the_promised_files(demo: Demo) -> None:
    directory = demo.files[0].parent
    assert {p.name for p in directory.iterdir()} == set(PURPOSES) == {p.name for p in demo.files}
    assert [p.name for p in directory.parent.iterdir()] == ["demo"]


def test_result_json_holds_the_result(demo: Demo) -> None:
    assert load_result(demo.files[0].parent) == demo.result


def test_every_pair_ran_or_is_unsupported_with_a_reason(demo: Demo) -> None:
    result = demo.result
    ran = {(r.format, r.accelerator) for r in result.runs}
    refused = {(u.format, u.accelerator): u.reason for u in result.unsupported}
    assert not ran & refused.keys()
    assert len(ran) + len(refused) == len(FORMATS) * 3
    assert ("fp16", "int8-sa") in refused
    assert ("ovp4", "olive-sa") in ran
    assert all(refused.values())
    assert len(result.runs) == len(ran) * 4  # two workloads, two phases


def test_accuracy_is_that_of_the_evaluator(demo: Demo, checkpoint: Path) -> None:
    accuracy = Evaluator(checkpoint, windows=CUT.windows, context=CUT.context, seed=0).run("ovp4")
    cell = demo.result.cell("ovp4", "small")
    assert cell is not None
    assert cell.perplexity == accuracy.perplexity
    assert cell.kl_nats == accuracy.kl_nats
    assert demo.result.models[0].perplexity == accuracy.reference_perplexity


def test_a_model_that_knows_nothing_is_collapsed_in_every_format(demo: Demo) -> None:
    assert all(c.collapsed for c in demo.result.accuracy)
    assert not [c for row in demo.table.rows for c in row if c.mark is Mark.BEST]


def test_bits_per_weight_are_those_of_the_format(demo: Demo) -> None:
    assert [f.weight_bits for f in demo.result.formats] == [get_format(f).bits_per_element() for f in FORMATS]


def test_checks_cover_every_operation_of_every_run(demo: Demo) -> None:
    operations = sum(len(r.ops) for r in demo.result.runs)
    assert demo.result.checks
    for check in demo.result.checks:
        assert check.cases == operations
        assert 0 <= check.closest <= 1 + 1e-9


def test_ops_csv_has_every_operation(demo: Demo) -> None:
    text = (demo.files[0].parent / "ops.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == sum(len(r.ops) for r in demo.result.runs)
    total = sum(
        int(r["cycles"]) for r in rows if (r["recipe"], r["accelerator"], r["phase"]) == ("ovp4", "olive-sa", "decode")
    )
    runs = [r for r in demo.result.runs if (r.format, r.accelerator, r.phase) == ("ovp4", "olive-sa", "decode")]
    assert total == sum(r.cycles for r in runs)


def test_trace_has_no_overlap_within_a_unit(demo: Demo) -> None:
    document = json.loads((demo.files[0].parent / "trace.json").read_text())
    tracks = defaultdict(list)
    for row in document["traceEvents"]:
        if row["ph"] == "X":
            tracks[row["pid"], row["tid"]].append((row["ts"], row["ts"] + row["dur"]))
    assert len(tracks) >= 6
    assert all(a[1] <= b[0] for track in tracks.values() for a, b in pairwise(track))
    assert "1 clock cycle" in document["metadata"]["time"]


def test_config_toml_is_resolved(demo: Demo) -> None:
    config = tomllib.loads((demo.files[0].parent / "config.toml").read_text())
    assert config["recipes"]["ovp4"]["weight"] == "ovp4"
    assert config["accelerators"]["olive-sa"]["array"]["rows"] == 64
    assert config["models"][0]["sha256"] == demo.result.models[0].sha256
    constants = [c for table in config["technologies"].values() for c in table.values()]
    assert constants
    assert all(c["source"] and c["kind"] in ("measured", "published", "scaled", "estimated") for c in constants)


def test_pictures_of_values_are_of_both_operands(demo: Demo) -> None:
    assert [p.role for p in demo.result.values] == ["activation", "weight"]
    assert [p.elements for p in demo.result.values] == [64 * 64, 64 * 64]
    assert all([s.format for s in p.strips] == list(FORMATS) for p in demo.result.values)


def test_closing_lines_name_every_file_and_what_to_type_next(demo: Demo) -> None:
    text = "\n".join(demo.closing_lines())
    for path in demo.files:
        assert str(path) in text
    for verb in ("show", "evaluate", "simulate"):
        assert f"macloom {verb} " in text
    assert len(next_steps(demo.result)) == 3


def test_the_same_seed_gives_the_same_bytes(demo: Demo, checkpoint: Path, tmp_path: Path) -> None:
    again = _run(checkpoint, tmp_path / "again")
    assert {p.name: p.read_bytes() for p in again.files} == {p.name: p.read_bytes() for p in demo.files}


def test_progress_counts_up_to_its_total(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_module, "render_report", lambda result: "quick")
    seen: list[tuple[str, int, int]] = []
    _run(checkpoint, tmp_path / "p", formats=("int8",), progress=lambda *step: seen.append(step))
    assert [done for _, done, _ in seen] == list(range(len(seen)))
    assert {total for _, _, total in seen} == {len(seen)}
    assert seen[0][0] == "cost of int8"


def test_an_interrupted_run_leaves_the_former_result(
    demo: Demo, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = demo.files[0].parent
    before = {p.name: p.read_bytes() for p in directory.iterdir()}

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_module, "render_report", interrupt)
    with pytest.raises(KeyboardInterrupt):
        _run(checkpoint, directory, seed=1, formats=("int8",))
    assert {p.name: p.read_bytes() for p in directory.iterdir()} == before


def test_nothing_runs_when_the_directory_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("mine")
    with pytest.raises(MacloomError, match=r"^out: must be a directory, not the file '.*demo'$"):
        run_demo(tmp_path / "demo")
    assert (tmp_path / "demo").read_text() == "mine"


def test_a_repeated_format_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(MacloomError, match=r"^formats: must name each once, not 'mxfp8_e4m3' twice$"):
        _run(checkpoint, tmp_path / "d", formats=("mxfp8", "mxfp8_e4m3"))


def test_a_repeated_accelerator_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(MacloomError, match=r"^accelerators: must name each once, not 'int8-sa' twice$"):
        _run(checkpoint, tmp_path / "d", accelerators=("int8-sa", "int8-sa"))


def test_no_model_or_no_format_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    for options in ({"models": ()}, {"formats": ()}):
        with pytest.raises(MacloomError, match=r"^demo: must have at least one model and one format$"):
            _run(checkpoint, tmp_path / "d", **options)


def test_an_unknown_format_names_the_nearest(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(MacloomError, match="did you mean 'ovp4'"):
        _run(checkpoint, tmp_path / "d", formats=("ovp44",))
    assert not (tmp_path / "d").exists()
