"""Continuations and calibration studies of a user's own model: against transformers, and against single evaluations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from macloom.errors import MacloomError
from macloom.formats import get_format
from macloom.workloads.bootstrap import bootstrap, documents_of_windows
from macloom.workloads.calibration_study import calibration_study
from macloom.workloads.generation import generate
from macloom.workloads.hf.evaluator import ModelEvaluator
from macloom.workloads.hf.resident import ResidentModel
from macloom.workloads.lm.data import SEPARATOR, Text
from macloom.workloads.recipe import Recipe
from macloom.workloads.studied import studied

Directory = Callable[[str], Path]
Quick = Callable[..., Recipe]
PROMPT = "The quick brown"


def own(path: Path, text: Text, **options: Any) -> ModelEvaluator:
    given = {"context": 20, "windows": 2, "batch": 2, "calibration": text, "calibration_windows": 1, **options}
    return ModelEvaluator(path, text, **given)


@pytest.mark.parametrize("family", ["llama", "mixtral", "opt"])
def test_recipes_stand_beside_the_greedy_text_of_transformers(
    family: str, directory: Directory, build: Callable[..., Any], sentences: Text, quick: Quick
) -> None:
    model = build(family)
    ids = torch.tensor([list(PROMPT.encode())])
    with torch.inference_mode():
        whole = model.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=-1, pad_token_id=0)
        expected = F.log_softmax(model(whole[:, :-1]).logits[0, ids.shape[1] - 1 :], -1)
    e = own(directory(family), sentences)
    recipe = quick("int8:token")
    found = generate(e, [recipe, quick("int2")], PROMPT, 8)
    assert found.reference.tokens == tuple(whole[0, ids.shape[1] :].tolist())
    assert found.reference.mean_kl_nats == 0.0
    eight, two = found.continuations[1:]
    assert (eight.name, two.name) == ("int8:token", "int2")
    assert two.departs is not None
    # Divergences are of one pass over the unquantized text.
    scores = F.log_softmax(ResidentModel(e, recipe).logits(whole[:, :-1])[0, ids.shape[1] - 1 :], -1)
    kl = (expected.exp() * (expected - scores)).sum(-1)
    assert eight.kl_nats == pytest.approx(kl.tolist(), rel=1e-3, abs=1e-6)
    assert 0 < eight.mean_kl_nats < two.mean_kl_nats


def test_a_prompt_must_fit_and_the_model_must_write(directory: Directory, sentences: Text) -> None:
    given: dict[str, Any] = {"calibration": sentences, "calibration_windows": 1}
    with pytest.raises(MacloomError, match="must leave room for 60 tokens within the 64 of the model, not be 15 long"):
        generate(directory("llama"), [], PROMPT, 60, **given)
    with pytest.raises(MacloomError, match="prompt: must hold at least one token, not ''"):
        generate(directory("llama"), [], "", 6, **given)
    with pytest.raises(MacloomError, match="must be a causal language model, not a masked language model"):
        generate(directory("bert"), [], PROMPT, 6, **given)
    with pytest.raises(MacloomError, match="rope: must be left out for a model of bytes, not 'before'"):
        studied("tiny", windows=1, rope="before")


@pytest.mark.parametrize(
    "name", ["int4", "fp8_e4m3", "nvfp4", "mxint8", "affine4", "flint4", "nf4:group=32", "llm_int8"]
)
@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_decode_with_a_cache_gives_the_logits_of_prefill(
    name: str, family: str, directory: Directory, sentences: Text, quick: Quick
) -> None:
    """Formats that take a statistic of a whole tensor at run time are another matter: it is of other tokens."""
    tokens = torch.tensor(list(sentences.data[:12]))
    recipe = quick(name, kv=get_format("fp32"), probability=get_format("fp32"))
    model = own(directory(family), sentences).in_memory(recipe)
    prefill = model.logits(tokens[None])[0]
    read = model.reading()
    found = [read(tokens[:7]), *(read(token[None]) for token in tokens[7:])]
    torch.testing.assert_close(torch.stack(found), prefill[6:], rtol=1e-4, atol=1e-4)


def test_calibration_windows_fit_a_model_with_few_positions(directory: Directory, sentences: Text) -> None:
    from macloom.workloads.hf import resident

    alone = resident.generate(directory("llama"), "int8", PROMPT, 6, calibration=sentences)
    beside = generate(directory("llama"), ["int8"], PROMPT, 6, calibration=sentences, calibration_windows=2)
    assert alone == beside.continuations[1].text


def test_edges_hold_in_memory_too(directory: Directory, sentences: Text, quick: Quick) -> None:
    tokens = torch.tensor([list(sentences.data[:12])])
    plain, edged = (
        own(directory("gpt2"), sentences, edge_layers=n, edge_format="fp32").in_memory(quick("int4")).logits(tokens)
        for n in (0, 1)
    )
    exact = own(directory("gpt2"), sentences).in_memory(None).logits(tokens)
    assert (edged - exact).abs().max() < 0.2 * (plain - exact).abs().max()  # both blocks are edges; the head is fp16


def test_a_study_holds_what_single_evaluations_give(
    directory: Directory, sentences: Text, quick: Quick, tmp_path: Path
) -> None:
    path, recipe = directory("llama"), quick("int4")
    other = Text(name="digits", data=b"0123456789 " * 300)
    e = own(path, sentences, windows=4)
    found = calibration_study(e, [recipe], [sentences, other], (1, 2), 1, state=tmp_path)
    assert (found.unit, found.windows, found.context) == ("token", 4, 20)
    assert len(found.runs) == 4
    for run, text in zip(found.runs, [sentences, sentences, other, other], strict=True):
        alone = own(path, sentences, windows=4, calibration=text, calibration_windows=run.windows).run(recipe)
        assert (run.perplexity, run.kl_nats) == (alone.perplexity, alone.kl_nats)
        interval = bootstrap(alone.by_window, 1000).intervals["perplexity_ratio"]
        assert (run.ratio, run.ratio_low, run.ratio_high) == (interval.value, interval.low, interval.high)
    assert len({run.perplexity for run in found.runs}) == 4
    # An interrupted study goes on: with one line cut off, one run is missing.
    journal = tmp_path / "runs.jsonl"
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join(lines[:-1]) + "\n")
    seen: list[str] = []
    again = calibration_study(
        e, [recipe], [sentences, other], (1, 2), 1, state=tmp_path, progress=lambda text, *_: seen.append(text)
    )
    assert again.to_dict() == found.to_dict()
    assert seen == ["int4 on 2 windows of digits"]
    with pytest.raises(MacloomError, match="holds another study"):
        calibration_study(own(path, other, windows=4), [recipe], [other], (1,), 1, state=tmp_path)


def test_images_have_no_study_of_texts(directory: Directory) -> None:
    images = np.zeros((2, 3, 16, 16), np.float32)
    e = ModelEvaluator(directory("vit"), images=images, calibration_windows=1)
    with pytest.raises(MacloomError, match="images: must be a float array"):
        calibration_study(e, ["int8"], ["ascii"], (1,), 1)


def test_windows_know_their_documents(directory: Directory, sentences: Text) -> None:
    text = Text(name="pages", data=SEPARATOR.join([b"naive " * 20, b"caf\xc3\xa9 " * 30, b"jugs " * 50]))
    e = own(directory("llama"), text, windows=50)
    # The tokenizer of the test is one of bytes, so that places are those of the text.
    expected = documents_of_windows(text.data, 21, 50, SEPARATOR)
    assert e.text.documents is not None
    starts = np.arange(len(e.text)) * 20
    ends = [text.data.find(SEPARATOR) + 2, text.data.rfind(SEPARATOR) + 2]
    assert e.text.documents.tolist() == np.searchsorted(ends, starts, side="right").tolist()
    assert set(e.text.documents) == set(expected) == {0, 1, 2}


def test_subject_and_settings_are_json(directory: Directory, sentences: Text) -> None:
    e = own(directory("llama"), sentences)
    assert json.loads(json.dumps(e.settings))["scales"] == "static"
    other = e.recalibrated(None, 2, 5)
    assert (other.subject.seed, other.settings["calibration_windows"]) == (5, 2)
    assert (e.subject.seed, e.settings["calibration_windows"]) == (0, 1)
