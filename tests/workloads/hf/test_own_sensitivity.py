"""Maps and mixed precision of a user's own model: cells against the embedded models' way, and every message."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from macloom.cli import main
from macloom.errors import MacloomError
from macloom.explore.mixed_precision.search import search_precision
from macloom.workloads import load_workload
from macloom.workloads.evaluator import Evaluator
from macloom.workloads.hf.evaluator import ModelEvaluator
from macloom.workloads.lm.checkpoint import EMBEDDED
from macloom.workloads.lm.data import Text
from macloom.workloads.own_sensitivity import own_sensitivity
from macloom.workloads.recipe import Search
from macloom.workloads.sensitivity import sensitivity

Directory = Callable[[str], Path]
QUICK = Search(objective="absmax")  # type: ignore[arg-type]


def own(path: Path, text: Text) -> ModelEvaluator:
    return ModelEvaluator(path, text, context=20, windows=2, batch=2, calibration=text, calibration_windows=1)


def test_cells_equal_those_of_the_shared_pass(sentences: Text) -> None:
    """The embedded model both ways, on one window, in a format whose scales come from the data itself.

    There the operation's output is rounded to fp16 as well.
    """
    text = Text(name="one", data=sentences.data[:49])
    evaluator = Evaluator("tiny", text, windows=1, context=48)
    without = {s.op for s in evaluator.samples() if not s.op.startswith(("model.layers.1", "lm_head"))}
    shared = sensitivity(evaluator, ["int4:token"], search=QUICK, without=without)
    streamed = ModelEvaluator(EMBEDDED["tiny"], text, windows=1, context=48, calibration=text)
    whole = own_sensitivity(streamed, ["int4:token"], search=QUICK, without=without)
    assert whole.operations == shared.operations
    assert len(whole.cells) == 10
    assert whole.reference_perplexity == pytest.approx(shared.reference_perplexity, rel=1e-5)
    for cell in whole.cells:
        other = shared.cell(cell.group, "all", "int4:token")
        assert other is not None
        assert cell.kl_nats == pytest.approx(other.kl_nats, rel=0.005)
        assert cell.sqnr_db == pytest.approx(other.sqnr_db, abs=0.01)


def test_a_map_by_directory_and_its_record(directory: Directory, sentences: Text) -> None:
    found = sensitivity(own(directory("qwen2"), sentences), ["int4", "int8"], by="layer", search=QUICK)
    assert found.roles == ("all",)
    assert found.groups[:2] == ("model.layers.0", "model.layers.1")
    for group in found.groups:
        four, eight = (found.cell(group, "all", f) for f in ("int4", "int8"))
        assert four is not None
        assert eight is not None
        assert four.kl_nats > eight.kl_nats > 0
        assert four.sqnr_db < eight.sqnr_db


def test_mixed_precision_of_a_directory(directory: Directory, sentences: Text) -> None:
    pytest.importorskip("scipy")
    path = directory("llama")
    found = search_precision(
        own(path, sentences), load_workload(str(path), sequence=20), ("int4", "int8"), cost="weight-bits", points=2,
        by="layer",
    )  # fmt: skip
    assert [p.method for p in found.points] == ["integer", "integer"]
    for point in found.points:
        assert point.measured_cost == point.predicted_cost <= point.budget  # type: ignore[operator]
        assert point.measured_kl_nats is not None
    assert found.windows == 2
    assert found.reference_perplexity is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"roles": ("weight",)}, "roles: must be 'all' for a model of your own, not weight"),
        ({"by": "rows"}, "by: unknown name 'rows'"),
        ({"formats": ["int44"]}, "unknown name 'int44'"),
    ],
)
def test_bad_arguments(directory: Directory, sentences: Text, options: dict[str, Any], message: str) -> None:
    with pytest.raises(MacloomError, match=re.escape(message)):
        sensitivity(own(directory("llama"), sentences), **{"formats": ["int8"], **options})


def test_what_has_no_map(directory: Directory, sentences: Text, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed.toml"
    mixed.write_text('format = "int8"\nkv = "int4"\n')
    message = "formats: must be formats of all operands for a model of your own, not the recipe 'mixed'"
    with pytest.raises(MacloomError, match=re.escape(message)):
        sensitivity(own(directory("llama"), sentences), [str(mixed)])
    images = np.zeros((2, 3, 16, 16), np.float32)
    vit = ModelEvaluator(directory("vit"), images=images, calibration_windows=1)
    with pytest.raises(MacloomError, match="model: must predict tokens for a sensitivity map, not classify images"):
        sensitivity(vit, ["int8"])


def test_the_verbs_take_a_directory(
    directory: Directory, sentences: Text, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("scipy")
    path = tmp_path / "pangrams.txt"
    path.write_bytes(sentences.data)
    given = [str(directory("llama")), "--text", str(path), "--windows", "1", "--context", "16", "--by", "layer", "-q"]
    assert main(["sensitivity", *given, "--formats", "int8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["roles"] == ["all"]
    assert (
        main(["precision", *given, "--formats", "int4,int8", "--cost", "weight-bits", "--points", "1", "--json"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["sensitivity_text"]["name"] == "python-stdlib/train"
    assert found["text"]["name"] == "pangrams.txt"
