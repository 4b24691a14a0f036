"""The verbs that study accuracy, on a user's own model: a small Mixtral and a small ViT with random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from macloom.cli import main
from macloom.workloads.lm.checkpoint import byte_tokenizer

transformers = pytest.importorskip("transformers")

Capture = pytest.CaptureFixture[str]
RunJson = Callable[..., Any]
Fail = Callable[..., str]
OWN = ("--stride", "8", "--scales", "dynamic", "--rope", "before", "--activations", "bf16")
EDGES = ("--edge-layers", "1", "--edge-format", "int8")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        vocab_size=300, max_position_embeddings=64, bos_token_id=0, eos_token_id=0, num_local_experts=2,
        num_experts_per_tok=2, sliding_window=None,
    )  # fmt: skip
    directory = tmp_path_factory.mktemp("own") / "small-mixtral"
    transformers.MixtralForCausalLM(config).save_pretrained(directory)
    (directory / "tokenizer.json").write_text(json.dumps(byte_tokenizer()))
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    return str(directory)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8,
        num_labels=7,
    )  # fmt: skip
    directory = tmp_path_factory.mktemp("own") / "small-vit"
    transformers.ViTForImageClassification(config).save_pretrained(directory)
    images = directory / "images.npy"
    np.save(images, np.random.default_rng(0).standard_normal((3, 3, 16, 16)).astype(np.float32))
    return str(directory), str(images)


def windows(text: str) -> tuple[str, ...]:
    return ("--text", text, "--windows", "2", "--context", "16")


def test_every_option_reaches_the_map(own: str, text: str, run_json: RunJson, capsys: Capture, tmp_path: Path) -> None:
    given = ("--calibration", text, "--calibration-windows", "1", "--batch", "2", "--state", str(tmp_path))
    arguments = ("sensitivity", own, *windows(text), "--formats", "int4", "--by", "layer", *given, *OWN)
    found = run_json(*arguments, "--roles", "all,kv")
    assert (found["unit"], found["context"], found["calibration_text"]["name"]) == ("token", 16, "pangrams.txt")
    assert list(found["operations"]) == ["model.layers.0", "model.layers.1", "lm_head"]
    assert [(c["group"], c["role"]) for c in found["cells"]] == [
        *((group, "all") for group in found["operations"]), ("model.layers.0", "kv"), ("model.layers.1", "kv"),
    ]  # fmt: skip
    identity = json.loads((tmp_path / "cells.jsonl").read_text().splitlines()[0])
    settings = {**identity["settings"], "config": None}
    assert settings == {
        "config": None, "stride": 8, "batch": 2, "calibration_windows": 1, "scales": "dynamic", "rope": "before",
        "activations": "torch.bfloat16",
    }  # fmt: skip
    # The cells of the map are kept: one more role runs only that.
    assert main([*arguments, "--roles", "all,kv,probability"]) == 0
    captured = capsys.readouterr()
    assert "cells 1 to 2 of 2: block 1 of 2" in captured.err
    assert "text                  pangrams.txt, 2 windows of 16 tokens" in captured.out


def test_experts_get_formats_of_their_own(own: str, text: str, run_json: RunJson, tmp_path: Path) -> None:
    given = ("--calibration", text, "--calibration-windows", "1", *OWN)
    arguments = ("precision", own, *windows(text), "--formats", "int4,int8", "--cost", "weight-bits", *given)
    # Blocks at the edges are left to their format, so that the head alone is chosen from; without edges, experts are.
    head = ("--recipe", str(everywhere(tmp_path)), "--points", "1", "--method", "greedy")
    edged = run_json(*arguments, *head, *EDGES, "--by", "expert")
    assert list(edged["losses"]) == ["lm_head"]
    out = tmp_path / "mixed"
    found = run_json(*arguments, "--by", "expert", "--points", "3", "--method", "greedy", "--out", str(out))
    assert found["sensitivity_text"]["name"] == "pangrams.txt"
    experts = [f"model.layers.{layer}.mlp.experts.{i}" for layer in range(2) for i in range(2)]
    assert [group for group in found["losses"] if "experts" in group] == experts
    mixed = next(p for p in found["points"] if len({p["formats"][e] for e in experts}) == 2)
    assert mixed["measured_cost"] == mixed["predicted_cost"] <= mixed["budget"]
    assert mixed["measured_kl_nats"] > 0
    recipe = str(out / f"{mixed['recipe']['name']}.toml")
    simulated = run_json(
        "simulate", "--workload", own, "--accelerator", "olive-sa", "--sequence", "16", "--recipe", recipe
    )
    assert f"{experts[0]}.down_proj" in json.dumps(simulated)


def everywhere(path: Path) -> Path:
    """A recipe that leaves the head to be chosen from."""
    file = path / "everywhere.toml"
    file.write_text('format = "int4"\n\n[overrides]\n')
    return file


def test_an_interrupted_search_measures_only_what_is_missing(
    own: str, text: str, run_json: RunJson, tmp_path: Path
) -> None:
    arguments = ("precision", own, *windows(text), "--formats", "int4,int8", "--cost", "weight-bits", "--by", "layer")
    arguments = (*arguments, "--calibration", text, "--points", "2", "--method", "greedy", "--state", str(tmp_path))
    found = run_json(*arguments)
    measured = tmp_path / "measured.jsonl"
    lines = measured.read_text().splitlines()
    assert len(lines) == 1 + 2  # both formats everywhere, which are the ends of the frontier
    measured.write_text("\n".join(lines[:-1]) + "\n")
    assert run_json(*arguments) == found
    assert measured.read_text().splitlines() == lines


def test_images(vit: tuple[str, str], run_json: RunJson, fail: Fail, capsys: Capture) -> None:
    model, images = vit
    arguments = ["sensitivity", model, "--images", images, "--formats", "int8", "--by", "layer", "--roles", "all"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "images  3\n" in shown
    assert "nats per image" in shown
    chosen = (
        "precision",
        model,
        "--images",
        images,
        "--formats",
        "int4,int8",
        "--cost",
        "weight-bits",
        "--by",
        "block",
    )
    found = run_json(*chosen, "--points", "2", "--method", "greedy", "--calibration", images)
    assert found["reference_perplexity"] is None
    assert found["points"][0]["measured_perplexity"] is None
    assert found["points"][0]["measured_kl_nats"] > found["points"][1]["measured_kl_nats"] > 0
    assert "vit.embeddings.patch_embeddings.projection" in found["losses"]
    assert "loss: must be 'kl' for images, which have no loss of their own" in fail(*chosen, "--loss", "loss")


def test_every_option_reaches_the_continuations(own: str, text: str, run_json: RunJson) -> None:
    given = ("--calibration", text, "--calibration-windows", "1", "--context", "16", *OWN[2:6], *EDGES)
    found = run_json("generate", own, "--recipes", "int4,int8", "--prompt", "The quick", "--tokens", "5", *given)
    assert [c["name"] for c in found["continuations"]] == ["unquantized", "int4", "int8"]
    assert [len(c["tokens"]) for c in found["continuations"]] == [5] * 3
    assert found["continuations"][1]["recipe"]["overrides"] == {"lm_head": "fp16"}
    # Both blocks are edges and have int8, so that both recipes do the same.
    assert found["continuations"][1]["mean_kl_nats"] == found["continuations"][2]["mean_kl_nats"] > 0


def test_every_option_reaches_the_study(
    own: str, text: str, run_json: RunJson, capsys: Capture, tmp_path: Path
) -> None:
    arguments = ["calibration", own, "--recipes", "int4", *windows(text), "--texts", f"ascii,{text}", "--samples", "1"]
    arguments += ["--draws", "1", "--batch", "2", "--state", str(tmp_path), *OWN[:2], *OWN[4:], *EDGES]
    found = run_json(*arguments)
    assert (found["unit"], found["windows"], found["context"]) == ("token", 2, 16)
    assert [run["text"] for run in found["runs"]] == ["ascii", "pangrams.txt"]
    for run in found["runs"]:
        assert run["ratio_low"] <= run["ratio"] <= run["ratio_high"]
    settings = json.loads((tmp_path / "runs.jsonl").read_text().splitlines()[0])["settings"]
    assert (settings["stride"], settings["batch"], settings["rope"]) == (8, 2, "before")
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert "Perplexity per token on pangrams.txt, 2 windows of 16 tokens" in captured.out
    assert "step" not in captured.err  # everything was kept


def test_intervals_over_documents(
    own: str, text: str, run_json: RunJson, fail: Fail, vit: tuple[str, str], tmp_path: Path
) -> None:
    pages = tmp_path / "pages.txt"
    pages.write_bytes(b"\n\0".join([b"The quick brown fox. " * 8, b"Pack my box with jugs. " * 8, b"Vow. " * 30]))
    arguments = ("evaluate", own, "--recipe", "int8", "--text", str(pages), "--context", "16", "--windows", "30")
    found = run_json(*arguments, "--calibration", text, "--bootstrap", "50", "--bootstrap-over", "document")[
        "bootstrap"
    ]
    assert (found["over"], found["units"]) == ("document", 3)
    message = fail(
        "evaluate", vit[0], "--images", vit[1], "--recipe", "int8", "--bootstrap", "50", "--bootstrap-over", "document"
    )
    assert "--bootstrap-over: must be 'window' for images" in message
