"""Maps of a user's own model: cells against the embedded models' way, against transformers, and against whole runs."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from macloom.errors import MacloomError
from macloom.formats import get_format
from macloom.workloads.evaluator import Evaluator
from macloom.workloads.groups import pattern_of
from macloom.workloads.hf.evaluator import ModelEvaluator
from macloom.workloads.hf.streamed_map import StreamedMap
from macloom.workloads.journal import Journal
from macloom.workloads.lm.checkpoint import EMBEDDED
from macloom.workloads.lm.data import Text
from macloom.workloads.recipe import Recipe, Search
from macloom.workloads.sensitivity import one_format_recipes, sensitivity
from macloom.workloads.studied import MapRequest

Directory = Callable[[str], Path]
QUICK = Search(objective="absmax")  # type: ignore[arg-type]
IMAGES = np.random.default_rng(0).standard_normal((3, 3, 16, 16)).astype(np.float32)


def own(path: Path, text: Text, **options: Any) -> ModelEvaluator:
    given = {"context": 20, "windows": 3, "batch": 2, "calibration": text, "calibration_windows": 1, **options}
    return ModelEvaluator(path, text, **given)


def test_cells_of_every_role_equal_those_of_the_embedded_models_way(sentences: Text) -> None:
    """The embedded model both ways, on one window, in a format whose scales come from the data itself."""
    text = Text(name="one", data=sentences.data[:49])
    evaluator = Evaluator("tiny", text, windows=1, context=48)
    without = {op for op in evaluator.operands if not op.startswith(("model.layers.1", "lm_head"))}
    given: dict[str, Any] = {"search": QUICK, "without": without}
    replayed = sensitivity(evaluator, ["int4:token"], **given)
    streamed = sensitivity(
        ModelEvaluator(EMBEDDED["tiny"], text, windows=1, context=48, calibration=text), ["int4:token"], **given
    )
    assert streamed.operations == replayed.operations
    assert len(streamed.cells) == 10 + 8 + 9 + 2 + 1  # all, weights, activations, keys and values, probabilities
    assert streamed.reference_perplexity == pytest.approx(replayed.reference_perplexity, rel=1e-5)
    for cell in streamed.cells:
        other = replayed.cell(cell.group, cell.role, cell.format)
        assert other is not None
        assert cell.kl_nats == pytest.approx(other.kl_nats, rel=0.005)
        assert cell.loss_nats == pytest.approx(other.loss_nats, abs=1e-5)
        assert cell.sqnr_db == pytest.approx(other.sqnr_db, abs=0.01)


def rounded(module: torch.nn.Module, inputs: Any) -> Any:
    fmt = get_format("int4:token")
    return (torch.from_numpy(fmt.quantize(inputs[0].numpy())), *inputs[1:])


CELLS = {
    "llama": "model.layers.0.mlp.down_proj", "gpt2": "transformer.h.1.mlp.c_fc", "opt": "model.decoder.project_in",
    "falcon": "lm_head", "bert": "bert.encoder.layer.1.intermediate.dense", "vit": "classifier",
}  # fmt: skip


@pytest.mark.parametrize("family", sorted(CELLS))
def test_one_rounded_operand_does_what_it_does_in_transformers(
    family: str, directory: Directory, build: Callable[..., Any], sentences: Text
) -> None:
    from transformers.pytorch_utils import Conv1D

    op = CELLS[family]
    if family == "vit":
        e = ModelEvaluator(directory(family), images=IMAGES, batch=2, calibration_windows=1)
    else:
        e = own(directory(family), sentences)
    without = e.operands.keys() - {op}
    found = sensitivity(e, ["int4:token"], roles=("weight", "activation"), search=QUICK, without=without)
    scored = e.text.scored
    for role in ("weight", "activation"):
        plain, changed = build(family), build(family)
        module = changed.get_submodule(op)
        if role == "activation":
            module.register_forward_pre_hook(rounded)
        else:
            transposed = isinstance(module, Conv1D)
            weight = module.weight.data.t().contiguous() if transposed else module.weight.data
            new = torch.from_numpy(get_format("int4:token").quantize(weight.numpy()))
            module.weight = torch.nn.Parameter(new.t() if transposed else new)
        with torch.inference_mode():
            p, q = (F.log_softmax(m(**e.text.inputs).logits, -1) for m in (plain, changed))
        kl = (p.exp() * (p - q)).sum(-1)
        cell = found.cell(op, role, "int4:token")
        assert cell is not None
        assert cell.kl_nats == pytest.approx(float(kl.mean() if family == "vit" else kl[scored].mean()), rel=1e-3)
        assert cell.kl_nats > 1e-7
        if family == "vit":
            assert math.isnan(cell.perplexity)
            assert not cell.collapsed
        else:
            assert e.text.targets is not None
            nats = -q.gather(-1, e.text.targets[..., None])[..., 0][scored].mean()
            assert math.log(cell.perplexity) == pytest.approx(float(nats), rel=1e-5)


@pytest.mark.parametrize("family", ["mixtral", "qwen2", "bloom"])
def test_a_layer_alone_does_what_it_does_as_an_exception_of_a_whole_run(
    family: str, directory: Directory, sentences: Text, unquantized: Recipe, tmp_path: Path
) -> None:
    path = tmp_path / "mixed.toml"  # float results, as the whole run has
    path.write_text('format = "int4"\noutput = "fp32"\n')
    e = own(directory(family), sentences)
    found = sensitivity(e, [str(path)], by="layer", roles=("all",), search=QUICK)
    for group in found.groups[:2]:
        exception = ((pattern_of(group, found.operations[group]), get_format("int4")),)
        whole = e.run(dataclasses.replace(unquantized, overrides=exception, search=QUICK))
        cell = found.cell(group, "all", "mixed")
        assert cell is not None
        assert cell.kl_nats == pytest.approx(whole.kl_nats, rel=0.002)
        assert cell.perplexity == pytest.approx(whole.perplexity, rel=1e-4)
        assert cell.top1_agreement == pytest.approx(whole.top1_agreement, abs=0.02)


def test_experts_are_groups_of_their_own(directory: Directory, sentences: Text) -> None:
    e = own(directory("mixtral"), sentences)
    found = sensitivity(e, ["int4", "int8"], by="expert", roles=("all",), search=QUICK)
    experts = [f"model.layers.{layer}.mlp.experts.{i}" for layer in range(2) for i in range(4)]
    assert [g for g in found.groups if ".experts." in g] == experts
    assert found.operations[experts[0]] == (f"{experts[0]}.gate_up_proj", f"{experts[0]}.down_proj")
    for group in experts:
        four, eight = (found.cell(group, "all", fmt) for fmt in ("int4", "int8"))
        assert four is not None
        assert eight is not None
        assert four.kl_nats > eight.kl_nats or four.kl_nats == eight.kl_nats == 0.0  # no token reached it


def test_keys_that_are_stored_before_rotation_are_the_caches(directory: Directory, sentences: Text) -> None:
    before = sensitivity(
        own(directory("llama"), sentences, rope="before"), ["int4"], roles=("kv", "activation"), search=QUICK
    )
    after = sensitivity(own(directory("llama"), sentences), ["int4"], roles=("kv", "activation"), search=QUICK)
    for op in ("scores", "values"):
        one, other = (m.cell(f"model.layers.0.self_attn.{op}", "kv", "int4") for m in (before, after))
        assert one is not None
        assert other is not None
        assert (one.kl_nats == other.kl_nats) == (op == "values")
        assert 0 < one.kl_nats < 1
        assert 0 < one.sqnr_db < 40


def test_cells_do_not_depend_on_how_many_run_side_by_side(directory: Directory, sentences: Text) -> None:
    e = own(directory("llama"), sentences)
    recipes = one_format_recipes(["int4"], QUICK)
    groups = {op: (op,) for op in e.operands}
    keys = tuple((op, "all", "int4") for op in groups)
    request = MapRequest(recipes=recipes, groups=groups, keys=keys)
    parts = {op: i for i, part in enumerate(e._listed) for op in part}
    seen: list[str] = []
    found = [
        StreamedMap(e._setting(), request, parts, Journal(None, {}, "map"), lambda what, *_: seen.append(what), room)()
        for room in (1 << 30, 5 * 3 * 20 * 64 * 4)
    ]
    assert found[0] == found[1]
    assert "cells 1 to 19 of 19: block 1 of 2" in [text.split(",")[0] for text in seen]
    assert "cells 16 to 19 of 19: after the blocks" in [text.split(",")[0] for text in seen]
    assert seen[-1].endswith(" left")


def test_an_interrupted_map_goes_on_and_gives_the_same(
    directory: Directory, sentences: Text, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sensitivity(own(directory("llama"), sentences), ["int4"], by="block", search=QUICK)
    monkeypatch.setattr(StreamedMap.__init__, "__defaults__", (None, 4 * 3 * 20 * 64 * 4))  # four cells at a time
    state = tmp_path / "state"

    def interrupt(text: str, done: int, total: int) -> None:
        if text.startswith("cells 9"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sensitivity(
            own(directory("llama"), sentences), ["int4"], by="block", search=QUICK, state=state, progress=interrupt
        )
    lines = (state / "cells.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 1 + 8  # what it is of, the unquantized model, two sweeps
    seen: list[str] = []
    resumed = sensitivity(
        own(directory("llama"), sentences), ["int4"], by="block", search=QUICK, state=state,
        progress=lambda text, *_: seen.append(text),
    )  # fmt: skip
    assert resumed.to_dict() == whole.to_dict()
    left = len(whole.cells) - 8
    assert f"cells 1 to 4 of {left}" in seen[1]
    with pytest.raises(MacloomError, match="holds another map"):
        sensitivity(own(directory("llama"), sentences), ["int8"], by="block", search=QUICK, state=state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"roles": ("w",)}, "roles: unknown name 'w'"),
        ({"by": "rows"}, "by: unknown name 'rows'"),
        ({"formats": ["int44"]}, "unknown name 'int44'"),
        ({"without": {"*"}, "by": "layer", "formats": []}, "formats: must be a list of at least one format"),
    ],
)
def test_bad_arguments(directory: Directory, sentences: Text, options: dict[str, Any], message: str) -> None:
    with pytest.raises(MacloomError, match=re.escape(message)):
        sensitivity(own(directory("llama"), sentences), **{"formats": ["int8"], **options})


def test_an_unquantized_model_that_is_not_finite_is_refused(
    build: Callable[..., Any], write: Callable[..., Path], sentences: Text, tmp_path: Path
) -> None:
    model = build("gpt2")
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(3e38)
    e = own(write(model, tmp_path / "damaged"), sentences)
    with pytest.raises(MacloomError, match="must give finite logits, not .* the checkpoint may be damaged"):
        sensitivity(e, ["int8"], by="layer", roles=("all",), search=QUICK, without={"lm_head"})


def test_its_record_is_strict_json(directory: Directory) -> None:
    e = ModelEvaluator(directory("vit"), images=IMAGES, calibration_windows=1)
    found = sensitivity(e, ["int8"], by="layer", roles=("all",), search=QUICK).to_dict()
    assert found["unit"] == "image"
    read = json.loads(json.dumps(found, allow_nan=False))
    assert read["cells"][0]["perplexity"] is None
    assert read["reference_perplexity"] is None
