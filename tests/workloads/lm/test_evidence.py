"""The evidence: statistics of known tensors, deletions whose effect is known, and a page that is rewritten safely."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from macloom.errors import MacloomError
from macloom.workloads.lm import evidence
from macloom.workloads.lm.checkpoint import EMBEDDED, LanguageModel, load_model, save_checkpoint
from macloom.workloads.lm.data import Text, stdlib_text
from macloom.workloads.lm.evidence import BEGIN, END, gather, insert, render, table
from macloom.workloads.lm.measure import (
    Overlap,
    after_norm,
    input_statistics,
    linear_inputs,
    log_probabilities,
    overlap,
    random_channels,
    score,
    strongest_channels,
    without_blocks,
    without_channels,
)
from macloom.workloads.lm.model import LlamaConfig, forward

Draw = Callable[..., dict[str, Tensor]]
TEXT = Text(name="sample", data=bytes(range(32, 127)) * 20)


def windows(rows: int = 3, length: int = 17) -> Tensor:
    return torch.from_numpy(TEXT.windows(length, rows).astype(np.int64))


def test_statistics_of_a_tensor_known_by_hand() -> None:
    x = torch.tensor([[1.0, -1.0, 2.0], [-1.0, 1.0, -8.0]])
    s = input_statistics("x", x)
    assert s.channel_max == (1.0, 1.0, 8.0)
    assert s.channel_ratio == 8.0
    assert s.absmax_ratio == 8.0
    values = np.array([1, -1, 2, -1, 1, -8]) + 1.0
    assert s.kurtosis == pytest.approx((values**4).mean() / (values**2).mean() ** 2)


def test_kurtosis_of_a_normal_tensor_is_three() -> None:
    x = torch.randn(2000, 64, generator=torch.Generator().manual_seed(0))
    s = input_statistics("x", x * 5 + 1)
    assert s.kurtosis == pytest.approx(3.0, abs=0.05)
    assert input_statistics("x", x).absmax_ratio > s.channel_ratio


def test_every_distinct_linear_input_is_recorded_once(small: LlamaConfig, draw: Draw) -> None:
    parameters = draw(small)
    found = linear_inputs(parameters, small, windows())
    assert [s.name for s in found] == [
        *(
            f"model.layers.{i}.{n}"
            for i in range(2)
            for n in ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj")
        ),
        "lm_head",
    ]
    parameters["model.layers.1.post_attention_layernorm.weight"][5] = 1000.0
    spiked = {s.name: s for s in linear_inputs(parameters, small, windows())}["model.layers.1.mlp.gate_proj"]
    assert int(np.argmax(spiked.channel_max)) == 5
    assert spiked.channel_ratio > 100


def test_strongest_channels_are_those_with_a_large_gain(small: LlamaConfig, draw: Draw) -> None:
    parameters = draw(small)
    for name in parameters:
        if name.endswith("layernorm.weight"):
            parameters[name] = torch.ones(32)
            parameters[name][[3, 30]] = 40.0
    found = linear_inputs(parameters, small, windows())
    assert strongest_channels(found, 2) == (3, 30)
    assert sum(after_norm(s.name) for s in found) == 4


def test_score_of_uniform_and_of_certain_predictions() -> None:
    tokens = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]])
    uniform = torch.full((2, 3, 4), -math.log(4))
    s = score(uniform, tokens, uniform)
    assert (s.perplexity, s.nats_error, s.kl_nats) == (pytest.approx(4.0), pytest.approx(0.0), pytest.approx(0.0))
    sure = torch.log_softmax(20.0 * torch.nn.functional.one_hot(tokens[:, 1:], 4).float(), -1)
    s = score(sure, tokens, sure)
    assert (s.perplexity, s.top1_agreement) == (pytest.approx(1.0), 1.0)
    against = score(uniform, tokens, sure)
    assert against.kl_nats == pytest.approx(math.log(4), abs=1e-5)
    assert against.top1_agreement == pytest.approx(1 / 6)  # ties go to token 0, which is right once


def test_error_of_the_mean_over_windows() -> None:
    log_p = torch.log(torch.tensor([[[0.5, 0.5]], [[0.25, 0.75]], [[0.9, 0.1]]]))
    s = score(log_p, torch.zeros(3, 2, dtype=torch.int64), log_p)
    nats = -np.log([0.5, 0.25, 0.9])
    assert s.nats == pytest.approx(nats.mean())
    assert s.nats_error == pytest.approx(nats.std(ddof=1) / math.sqrt(3))


def test_batches_do_not_change_the_probabilities(small: LlamaConfig, draw: Draw) -> None:
    tokens = windows(5)
    one, all_at_once = (log_probabilities(draw(small), small, tokens, batch=b) for b in (1, 8))
    torch.testing.assert_close(one, all_at_once, rtol=0, atol=1e-5)
    torch.testing.assert_close(one.exp().sum(-1), torch.ones(5, 16))


def test_a_deleted_channel_is_zero_in_the_inputs_after_the_norms_only(small: LlamaConfig, draw: Draw) -> None:
    parameters = draw(small)
    before = {n: t.clone() for n, t in parameters.items()}
    for s in linear_inputs(without_channels(parameters, (4, 9)), small, windows()):
        zero = [i for i, m in enumerate(s.channel_max) if m == 0.0]
        assert zero == ([4, 9] if after_norm(s.name) else [])
    assert all(torch.equal(before[n], parameters[n]) for n in before)


def test_a_model_that_ignores_a_channel_does_not_miss_it(small: LlamaConfig, draw: Draw) -> None:
    parameters = draw(small)
    for name, tensor in parameters.items():
        if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight", "gate_proj.weight", "up_proj.weight")):
            tensor[:, 7] = 0.0
    whole = log_probabilities(parameters, small, windows())
    ignored = log_probabilities(without_channels(parameters, (7,)), small, windows())
    used = log_probabilities(without_channels(parameters, (8,)), small, windows())
    torch.testing.assert_close(whole, ignored, rtol=0, atol=1e-5)
    assert (whole - used).abs().max() > 1e-2


def test_a_model_without_blocks_is_its_embedding_and_head(small: LlamaConfig, draw: Draw) -> None:
    parameters = draw(small)
    tokens = torch.arange(6)[None]
    logits = forward(without_blocks(parameters), small, tokens)
    alone = forward(without_blocks(parameters), small, tokens[:, 3:4])
    torch.testing.assert_close(logits[:, 3:4], alone, rtol=0, atol=1e-5)


def test_random_channels_are_seeded_and_avoid_the_excluded() -> None:
    draws = random_channels(12, (0, 3, 5), 8, 1)
    assert draws == random_channels(12, (0, 3, 5), 8, 1)
    assert draws != random_channels(12, (0, 3, 5), 8, 2)
    assert len(set(draws)) > 1
    for channels in draws:
        assert len(set(channels)) == 3
        assert not {0, 3, 5} & set(channels)
        assert all(0 <= c < 12 for c in channels)


def test_overlap_of_lines_and_words() -> None:
    shared = "this line is long enough to be counted as a line"
    words = " ".join(f"w{i}" for i in range(13))
    train = f"  {shared}\nshort\n{words}\n".encode()
    parts = {
        "copy": f"{shared}  \nshort\nanother line that is long enough to be counted\n".encode(),
        "none": b"short\n",
        "words": f"x {words} y".encode(),
    }
    counts, repeated = overlap(parts, train)
    assert counts["copy"] == Overlap(lines=2, lines_repeated=1, ngrams=9, ngrams_repeated=0)
    assert counts["copy"].line_share == 0.5
    assert counts["none"] == Overlap(lines=0, lines_repeated=0, ngrams=0, ngrams_repeated=0)
    assert (counts["none"].line_share, counts["none"].ngram_share) == (0.0, 0.0)
    assert (counts["words"].ngrams, counts["words"].ngrams_repeated) == (3, 1)
    assert repeated == Counter([shared])


def test_table_is_markdown() -> None:
    assert table(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | --: |\n| x | 1 |"


def test_insert_replaces_only_what_is_generated() -> None:
    page = f"top\n{BEGIN}\nold\n{END}\nbottom\n"
    assert insert(page, "new") == f"top\n{BEGIN}\nnew\n{END}\nbottom\n"
    assert insert(insert(page, "new"), "new") == insert(page, "new")
    for broken in ("top\n", f"{END}\n{BEGIN}\n", f"{BEGIN}\n"):
        with pytest.raises(MacloomError, match=r"language-models.md: must hold the lines .*, in this order"):
            insert(broken, "new")


def outlier_model(directory: Path, config: LlamaConfig, parameters: dict[str, Tensor]) -> LanguageModel:
    """A model whose channels 3 and 9 are large and used, and that reads every other channel faintly."""
    for name, tensor in parameters.items():
        if name.endswith("layernorm.weight"):
            parameters[name] = torch.ones(config.hidden_size)
            parameters[name][[3, 9]] = 30.0
        elif name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight", "gate_proj.weight", "up_proj.weight")):
            tensor.mul_(0.05)
    training = {"variant": {"outlier_channels": [3, 9]}, "loss_every_10_steps": [5.0, 3.0, 2.0]}
    save_checkpoint(directory, config, parameters, training)
    return load_model(directory)


def test_gather_finds_that_large_channels_matter(tmp_path: Path, small: LlamaConfig, draw: Draw) -> None:
    model = outlier_model(tmp_path / "model", small, draw(small))
    found = gather(model, TEXT, windows=4, context=32)
    assert found.by_construction
    assert found.strongest.channels == (3, 9)
    assert [len(d.channels) for d in found.random] == [2] * 5
    assert found.whole.kl_nats == pytest.approx(0.0, abs=1e-6)
    assert found.whole.top1_agreement == 1.0
    assert found.strongest.score.kl_nats > 5 * max(d.score.kl_nats for d in found.random)
    again = gather(model, TEXT, windows=4, context=32)
    assert again == replace(found, model=again.model)
    plain = gather(replace(model, training={}), TEXT, windows=4, context=32)
    assert not plain.by_construction
    assert len(plain.strongest.channels) == 4
    assert {3, 9} <= set(plain.strongest.channels)


@pytest.fixture
def page(tmp_path: Path, small: LlamaConfig, draw: Draw, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A documentation page, a model directory beside it, and a small standard library."""
    outlier_model(tmp_path / "model", small, draw(small))
    (tmp_path / "language-models.md").write_text(f"# Models\n\n{BEGIN}\n{END}\n\nthe end\n")
    monkeypatch.setattr(evidence, "stdlib_text", lambda split: Text(name=split, data=TEXT.data))
    monkeypatch.setattr(evidence, "stdlib_files", lambda: iter([("json/tool.py", TEXT.data), ("abc.py", b"x")]))
    return tmp_path / "language-models.md"


def test_command_rewrites_the_page_and_its_figures(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [str(page.parent / "model"), "--docs", str(page.parent), "--windows", "4", "--context", "32"]
    evidence.main(options)
    assert capsys.readouterr().out == ""
    text = page.read_text()
    assert text.startswith("# Models\n")
    assert text.endswith("the end\n")
    assert "| `model` | outlier channels 3, 9 |" in text
    assert "| `json` |" in text
    figures = {p.name: p.read_bytes() for p in (page.parent / "figures").iterdir()}
    assert set(figures) == {"lm-loss.svg", "lm-channels.svg", "lm-deletion.svg"}
    for name, data in figures.items():
        assert ElementTree.fromstring(data).tag.endswith("svg")
        assert f"](figures/{name})" in text
    evidence.main(options)
    assert page.read_text() == text
    assert {p.name: p.read_bytes() for p in (page.parent / "figures").iterdir()} == figures


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--docs", "nowhere"], "error: --docs: must be the directory of language-models.md, not 'nowhere'"),
        (["tinny"], "error: model: unknown name 'tinny'; did you mean 'tiny'"),
    ],
)
def test_command_explains_bad_input(
    page: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        evidence.main(["--docs", str(page.parent), *arguments])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(message)


def test_a_text_that_the_models_were_not_trained_on_is_named(tmp_path: Path, small: LlamaConfig, draw: Draw) -> None:
    found = [gather(outlier_model(tmp_path / "model", small, draw(small)), TEXT, windows=2, context=16)]
    counts = {"json": Overlap(lines=3, lines_repeated=1, ngrams=0, ngrams_repeated=0)}
    assert "not the bytes they were trained on" in render(found, TEXT, TEXT, counts, Counter())
    training = {**found[0].model.training, "train_text": {"sha256": TEXT.sha256}}
    found = [replace(found[0], model=replace(found[0].model, training=training))]
    assert "the text both models were trained on" in render(found, TEXT, TEXT, counts, Counter())


def test_outlier_channels_of_the_embedded_model_are_large_and_matter() -> None:
    text = stdlib_text("held-out")
    plain, outlier = (gather(load_model(n), text, windows=16) for n in ("tiny", "tiny-outlier"))
    for s, reference in zip(outlier.inputs, plain.inputs, strict=True):
        if after_norm(s.name):
            assert s.channel_ratio > 10
            assert reference.channel_ratio < 5
            assert s.kurtosis > 30 > reference.kurtosis
    worst = max(d.score.perplexity for d in outlier.random)
    assert worst < 1.05 * outlier.whole.perplexity
    assert outlier.strongest.score.perplexity > 2 * worst


def test_the_page_was_made_from_the_models_that_ship() -> None:
    page = (Path(__file__).parents[3] / "docs" / "language-models.md").read_text()
    for name in EMBEDDED:
        assert f"`{load_model(name).sha256[:12]}`" in page, "run python -m macloom.workloads.lm.evidence"
