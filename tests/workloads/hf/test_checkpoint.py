"""What is wrong with a directory, its weights, its tokenizer or its text: every message, and sharded weights."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from macloom.errors import MacloomError
from macloom.workloads.evaluator import evaluate
from macloom.workloads.hf.evaluator import ModelEvaluator
from macloom.workloads.lm.data import Text
from macloom.workloads.recipe import Recipe

Directory = Callable[[str], Path]
Write = Callable[..., Path]


@pytest.fixture
def copied(directory: Directory, tmp_path: Path) -> Path:
    """A copy of the small Llama's directory that a test may damage."""
    return Path(shutil.copytree(directory("llama"), tmp_path / "llama"))


def refused(path: Path, text: Text, **options: Any) -> str:
    with pytest.raises(MacloomError) as caught:
        ModelEvaluator(path, text, **{"context": 16, "calibration": text, "windows": 1, **options}).run("int8")
    return str(caught.value)


def change(path: Path, **tensors: torch.Tensor | None) -> None:
    """Replace, add or (None) remove tensors of `model.safetensors`."""
    held: dict[str, Any] = load_file(path / "model.safetensors") | tensors
    save_file({k: v.contiguous() for k, v in held.items() if v is not None}, path / "model.safetensors")


def configure(path: Path, **fields: Any) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | fields))


def test_shards_give_the_same_result_as_one_file(
    directory: Directory, build: Callable[..., Any], write: Write, sentences: Text, quick: Callable[..., Recipe],
    tmp_path: Path,
) -> None:  # fmt: skip
    sharded = write(build("mixtral"), tmp_path / "mixtral", max_shard_size="60KB")
    assert len(list(sharded.glob("*.safetensors"))) > 3
    options: dict[str, Any] = {"context": 12, "windows": 2, "calibration": sentences, "calibration_windows": 1}
    first, second = (
        ModelEvaluator(path, sentences, **options).run(quick("int4")) for path in (directory("mixtral"), sharded)
    )
    assert first.by_window.table().tolist() == second.by_window.table().tolist()
    assert first.model_sha256 != second.model_sha256
    (shard,) = [f for f in sharded.iterdir() if f.name.startswith("model-00002-of")]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    message = refused(sharded, sentences)
    assert message.startswith(f"{shard}: is not a whole safetensors file (")
    shard.unlink()
    assert refused(sharded, sentences).endswith(f"names the file {shard.name!r}, which is not in that directory")


def test_weights(copied: Path, sentences: Text) -> None:
    norm, name = torch.ones(64), "model.layers.1.mlp.up_proj.weight"
    change(copied, **{"model.norm.weight": norm.to(torch.int32)})
    assert refused(copied, sentences) == (
        f"{copied}/model.safetensors: tensor 'model.norm.weight' must be one of F32, BF16, F16, F64, not I32; "
        "give the checkpoint before quantization"
    )
    change(copied, **{"model.norm.weight": None, name: None})
    assert refused(copied, sentences) == (
        f"{copied}: lacks the tensor 'model.layers.1.mlp.up_proj.weight' and 1 more; the copy is incomplete"
    )
    change(copied, **{"model.norm.weight": norm, name: torch.zeros(95, 64)})
    assert refused(copied, sentences) == f"{copied}: tensor {name!r} must be (96, 64), not (95, 64)"
    change(copied, **{name: torch.zeros(96, 64), "model.layers.2.mlp.up_proj.weight": torch.zeros(96, 64)})
    assert refused(copied, sentences) == (
        f"{copied}: holds the tensor 'model.layers.2.mlp.up_proj.weight', which its config.json has no place for"
    )
    change(copied, **{name: torch.full((96, 64), torch.nan), "model.layers.2.mlp.up_proj.weight": None})
    assert refused(copied, sentences) == (
        f"{copied}/model.safetensors: tensor {name!r} holds NaN or infinite values; copy the file again"
    )
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    message = refused(copied, sentences)
    assert message.startswith(f"{copied}: holds its weights as pickle")
    assert "save_pretrained(new_directory)" in message
    (copied / "pytorch_model.bin").unlink()
    assert refused(copied, sentences) == f"{copied}: has no model.safetensors and no model.safetensors.index.json"


def test_configuration(copied: Path, sentences: Text) -> None:
    where = f"{copied}/config.json: config"
    configure(copied, auto_map={"AutoModel": "code.Model"})
    assert refused(copied, sentences) == (
        f"{where}.auto_map: must be absent; models that bring code of their own are not run"
    )
    configure(copied, auto_map=None, quantization_config={"quant_method": "gptq"})
    assert refused(copied, sentences) == (
        f"{where}.quantization_config: must be absent; give the checkpoint before quantization"
    )
    configure(copied, quantization_config=None, architectures=["LlamaForTokenClassification"])
    assert f"{where}.architectures: must begin with a causal language model" in refused(copied, sentences)
    configure(copied, architectures=["LlamaForCausalLM"], model_type="lama")
    assert refused(copied, sentences).startswith(f"{where}: transformers cannot build LlamaForCausalLM from it: ")
    (copied / "config.json").unlink()
    assert refused(copied, sentences) == f"{copied}: has no config.json; give a directory in Hugging Face layout"


def test_tokenizer(copied: Path, sentences: Text) -> None:
    document = json.loads((copied / "tokenizer.json").read_text())
    more = {**document["added_tokens"][0], "id": 300, "content": "[MORE]"}
    fill = [{**more, "id": 259 + i, "content": f"[{i}]"} for i in range(41)]
    (copied / "tokenizer.json").write_text(
        json.dumps({**document, "added_tokens": [*document["added_tokens"], *fill, more]})
    )
    message = refused(copied, sentences)
    assert re.fullmatch(
        rf"{copied}: its tokenizer must have at most 264 tokens, as the embedding has, not 30\d; "
        "copy the tokenizer that belongs to the weights",
        message,
    )
    (copied / "tokenizer.json").write_text("{")
    assert refused(copied, sentences).startswith(f"{copied}: transformers cannot read its tokenizer: ")
    (copied / "tokenizer.json").unlink()
    assert refused(copied, sentences).startswith(f"{copied}: has no tokenizer (tokenizer.json, tokenizer.model, ")
    # Token ids need no tokenizer.
    ids = np.frombuffer(sentences.data, np.uint8).astype(np.int64)
    accuracy = ModelEvaluator(copied, ids, context=16, windows=1, calibration=ids, calibration_windows=1).run("int8")
    assert accuracy.text == "token ids"
    assert accuracy.scored_bytes is None
    assert accuracy.to_dict()["bits_per_byte"] is None
    with pytest.raises(MacloomError, match="every token must be in .0, 264., as the embedding has, not 999"):
        ModelEvaluator(copied, np.full(64, 999), context=16, calibration=ids)
    with pytest.raises(MacloomError, match="text: token ids must be integers along one axis, not float64"):
        ModelEvaluator(copied, np.ones(64), context=16, calibration=ids)
    with pytest.raises(MacloomError, match="calibration: must be given, as token ids or a text, when"):
        ModelEvaluator(copied, ids, context=16)


def test_texts_that_are_too_short(copied: Path, sentences: Text) -> None:
    short = Text(name="short", data=b"too short")
    assert refused(copied, short, calibration=sentences) == (
        "text 'short': must hold at least one window of 17 tokens, not 9; give a longer text or a shorter context"
    )
    assert refused(copied, sentences, calibration=short) == (
        "calibration text 'short': must hold at least one window of 16 tokens, not 9; "
        "give a longer text or a shorter context"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": 65}, "context: must be at most 64, the model's limit, not 65"),
        ({"context": 0}, "context: must be a positive integer, not 0"),
        ({"stride": 17}, "stride: must be at most the context 16, not 17"),
        ({"windows": 0}, "windows: must be a positive integer, not 0"),
        ({"seed": -1}, "seed: must be a non-negative integer, not -1"),
        ({"scales": "statik"}, "scales: unknown name 'statik'; did you mean 'static'?"),
        ({"rope": "befor"}, "rope: unknown name 'befor'; did you mean 'before'?"),
        ({"activations": "fp8"}, "activations: unknown name 'fp8'; did you mean 'fp32'?"),
        ({"edge_layers": 2}, "edge_layers: must be at most 1, half of the model's 2 blocks, not 2"),
        ({"edge_layers": -1}, "edge_layers: must be a non-negative integer, not -1"),
        ({"images": np.zeros((1, 3, 4, 4))}, "images: must not be given for a causal language model"),
    ],
)
def test_arguments(directory: Directory, sentences: Text, options: dict[str, Any], message: str) -> None:
    assert refused(directory("llama"), sentences, **options) == message


def test_images(directory: Directory, sentences: Text) -> None:
    path = directory("vit")
    with pytest.raises(MacloomError, match="images: must be given for an image classifier, and no text"):
        ModelEvaluator(path, sentences)
    for wrong in (np.zeros((3, 4, 4)), np.zeros((1, 3, 4, 4), int), [1.0]):
        with pytest.raises(MacloomError, match="images: must be a float array .N, channels, height, width., not"):
            ModelEvaluator(path, images=wrong)  # type: ignore[arg-type]
    with pytest.raises(MacloomError, match="images: must be at least one image of finite numbers"):
        ModelEvaluator(path, images=np.full((1, 3, 16, 16), np.nan))
    with pytest.raises(MacloomError, match=r"refuses pixel_values \(1, 3, 8, 8\): Input image size"):
        ModelEvaluator(path, images=np.zeros((1, 3, 8, 8), np.float32), calibration_windows=1).run("int8")


def test_a_text_for_a_tokenizer_must_be_utf8(directory: Directory, tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("caf\xe9 ".encode("latin-1") * 99)
    with pytest.raises(MacloomError, match="text 'latin.txt': must be UTF-8 for a tokenizer, but byte 3 is not"):
        ModelEvaluator(directory("llama"), tmp_path / "latin.txt", context=8)


def test_without_transformers(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    path = directory("llama")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MacloomError, match="needs transformers; pip install 'macloom.llm.'"):
        evaluate(path, "int8")


def test_evaluate_sends_a_model_of_bytes_and_ones_own_where_they_belong(
    directory: Directory, sentences: Text, quick: Callable[..., Recipe]
) -> None:
    result = evaluate(
        directory("gpt2"), quick("int8"), sentences, windows=1, context=8, calibration=sentences, stride=4
    )
    assert (result.model, result.stride) == ("gpt2", 4)
    with pytest.raises(MacloomError, match="stride: must be left out for a model of bytes, not 4; it is for your own"):
        evaluate("tiny", "int8", sentences, stride=4)
    with pytest.raises(MacloomError, match="text: must be a text or a file for a model of bytes, not an array"):
        evaluate("tiny", "int8", np.zeros(8, int))
    with pytest.raises(MacloomError, match="vector: must be 'float' for a model of your own, not 'exact'"):
        evaluate(directory("gpt2"), "int8", sentences, vector="exact")
