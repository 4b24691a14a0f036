"""`macloom evaluate` on a user's own model: a small GPT-2 with random weights and a tokenizer of bytes."""

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


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        vocab_size=300, max_position_embeddings=64, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    directory = tmp_path_factory.mktemp("own") / "small-llama"
    transformers.LlamaForCausalLM(config).save_pretrained(directory)
    (directory / "tokenizer.json").write_text(json.dumps(byte_tokenizer()))
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    return str(directory)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8,
        num_labels=7,
    )  # fmt: skip
    directory = tmp_path_factory.mktemp("own") / "small-vit"
    transformers.ViTForImageClassification(config).save_pretrained(directory)
    return str(directory)


def test_every_option_reaches_the_evaluation(own: str, text: str, run_json: RunJson, tmp_path: Path) -> None:
    other = tmp_path / "calibration.txt"
    other.write_text("Sphinx of black quartz, judge my vow. " * 30)
    arguments = ("evaluate", own, "--recipe", "int4", "--text", text, "--windows", "2", "--context", "16")
    given: dict[str, str] = {
        "--calibration": str(other), "--calibration-windows": "3", "--stride": "8", "--batch": "2",
        "--scales": "dynamic", "--rope": "before", "--edge-layers": "1", "--edge-format": "int8",
        "--activations": "bf16", "--state": str(tmp_path / "state"),
    }  # fmt: skip
    result = run_json(*arguments, *(word for pair in given.items() for word in pair))
    assert result["model"]["name"] == "small-llama"
    assert (result["calibration_text"]["name"], result["calibration_windows"]) == ("calibration.txt", 3)
    assert (result["windows"], result["context"], result["stride"]) == (2, 16, 8)
    assert (result["scales"], result["rope"], result["sqnr_windows"]) == ("dynamic", "before", 2)
    assert result["recipe"]["overrides"]["model.layers.0.*"] == "int8"
    assert {r["operand"] for r in result["search"]} >= {"stored_key", "weight"}
    assert result["bits_per_byte"] > 0
    assert list((tmp_path / "state").iterdir()) == []


def test_prints_for_reading(own: str, text: str, capsys: Capture) -> None:
    arguments = ["evaluate", own, "--recipe", "int8", "--text", text, "--windows", "1", "--context", "16"]
    assert main([*arguments, "--calibration", text]) == 0
    captured = capsys.readouterr()
    assert "model                 small-llama, causal language model, " in captured.out
    assert "1 windows of 16 tokens, stride 16" in captured.out
    assert "perplexity per token" in captured.out
    assert "model.layers.1.mlp.down_proj" in captured.out
    steps = [line.split(": ", 1)[1] for line in captured.err.splitlines() if line.startswith(f"{own} in int8: step ")]
    assert [s.split(",")[0] for s in steps] == [
        "step 1 of 4: before the blocks", "step 2 of 4: block 1 of 2", "step 3 of 4: block 2 of 2",
        "step 4 of 4: after the blocks",
    ]  # fmt: skip
    assert steps[-1].endswith(" left")


def test_images(vit: str, run_json: RunJson, fail: Fail, capsys: Capture, tmp_path: Path) -> None:
    file = tmp_path / "images.npy"
    np.save(file, np.random.default_rng(0).standard_normal((3, 3, 16, 16)).astype(np.float32))
    arguments = ("evaluate", vit, "--recipe", "int8")
    result = run_json(*arguments, "--images", str(file))
    assert (result["windows"], result["perplexity"], result["kind"]) == (3, None, "image classifier")
    assert result["kl_nats"] > 0
    assert main([*arguments, "--images", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "images             3" in shown
    assert "perplexity" not in shown
    assert "images: must be given for an image classifier, and no text" in fail(*arguments)


def test_bad_input(own: str, text: str, fail: Fail) -> None:
    arguments = ("evaluate", own, "--recipe", "int4", "--text", text, "--context", "16")
    assert "scales: unknown name 'statik'; did you mean 'static'?" in fail(*arguments, "--scales", "statik")
    assert "vector: must be 'float' for a model of your own" in fail(*arguments, "--vector", "exact")
    message = fail("evaluate", "tiny", "--recipe", "int4", "--stride", "4")
    assert "stride: must be left out for a model of bytes, not 4; it is for your own model" in message
    message = fail("evaluate", "tiny", "--recipe", "int4", "--accumulator-sweep", "8:9", "--calibration-windows", "2")
    assert "--calibration-windows: must not be given with --accumulator-sweep" in message
    message = fail("evaluate", own, "--recipe", "int4", "--text", text, "--context", "2000")
    assert "context: must be at most 64, the model's limit, not 2000" in message
