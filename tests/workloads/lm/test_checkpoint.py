"""Checkpoints: what is saved is loaded, and every way to be broken has its own message."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from macloom.errors import MacloomError
from macloom.workloads.lm.checkpoint import EMBEDDED, load_model, save_checkpoint
from macloom.workloads.lm.model import LlamaConfig
from macloom.workloads.lm.train import CONFIG, VARIANTS
from macloom.workloads.models import load_workload

Draw = Callable[..., dict[str, Tensor]]
GATE = "model.layers.0.mlp.gate_proj.weight"


def fails(directory: str | Path) -> str:
    with pytest.raises(MacloomError) as caught:
        load_model(directory)
    return str(caught.value)


def configure(directory: Path, **changes: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rewrite(directory: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def shard(directory: Path) -> None:
    """Split model.safetensors into two files and an index, as transformers does for large models."""
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, members in parts.items():
        save_file({n: tensors[n] for n in members}, directory / file)
    weight_map = {n: file for file, members in parts.items() for n in members}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_a_saved_model_loads_in_float32(checkpoint: Path, small: LlamaConfig, draw: Draw) -> None:
    model = load_model(checkpoint)
    assert (model.name, model.config, model.training) == ("model", small, {"seed": 0})
    assert model.sha256 == hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()
    assert list(model.parameters) == list(small.parameter_shapes())
    for name, expected in draw(small).items():
        assert model.parameters[name].dtype == torch.float32
        assert torch.equal(model.parameters[name], expected.to(torch.bfloat16).float())


def test_a_string_path_and_a_missing_training_record_are_fine(checkpoint: Path) -> None:
    (checkpoint / "training.json").unlink()
    assert load_model(str(checkpoint)).training == {}


def test_the_workload_of_a_checkpoint_counts_its_parameters(checkpoint: Path) -> None:
    assert load_workload(checkpoint).parameters == sum(t.numel() for t in load_model(checkpoint).parameters.values())


def test_sharded_weights_are_the_same_model(checkpoint: Path) -> None:
    whole = load_model(checkpoint)
    shard(checkpoint)
    parts = load_model(checkpoint)
    assert all(torch.equal(whole.parameters[n], parts.parameters[n]) for n in whole.parameters)
    assert re.fullmatch("[0-9a-f]{64}", parts.sha256)
    assert parts.sha256 != whole.sha256


def test_untied_head_and_redundant_tied_head(tmp_path: Path, checkpoint: Path, untied: LlamaConfig, draw: Draw) -> None:
    save_checkpoint(tmp_path / "untied", untied, draw(untied), {})
    assert "lm_head.weight" in load_model(tmp_path / "untied").parameters
    embedding = "model.embed_tokens.weight"
    rewrite(checkpoint, lambda t: t.update({"lm_head.weight": t[embedding].clone()}))
    assert "lm_head.weight" not in load_model(checkpoint).parameters
    rewrite(checkpoint, lambda t: t.update({"lm_head.weight": t[embedding] + 1}))
    assert fails(checkpoint).endswith("tensor 'lm_head.weight' must equal the embedding, since the config ties them")


def test_rotary_constants_of_older_checkpoints_are_ignored(checkpoint: Path) -> None:
    rewrite(checkpoint, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}))
    assert not any("rotary" in n for n in load_model(checkpoint).parameters)


def test_rope_parameters_of_transformers_5(checkpoint: Path) -> None:
    configure(checkpoint, rope_theta=None, rope_parameters={"rope_type": "default", "rope_theta": 777.0})
    assert load_model(checkpoint).config.rope_theta == 777.0


def test_saving_leaves_no_partial_file(checkpoint: Path) -> None:
    names = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "training.json"}
    assert {p.name for p in checkpoint.iterdir()} == names


def test_unknown_name_and_missing_directory(tmp_path: Path) -> None:
    assert "model: unknown name 'tinny'; did you mean 'tiny'" in fails("tinny")
    assert fails("").startswith("model: unknown name ''; known are tiny, tiny-outlier")
    assert fails(tmp_path / "nowhere") == f"model: no such directory {str(tmp_path / 'nowhere')!r}"
    assert fails(str(tmp_path / "nowhere")) == f"model: no such directory {str(tmp_path / 'nowhere')!r}"


def test_missing_and_malformed_configuration(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text("{,}")
    assert fails(checkpoint).startswith(f"{checkpoint / 'config.json'}: is not valid JSON: ")
    (checkpoint / "config.json").unlink()
    assert fails(checkpoint) == f"{checkpoint}: has no config.json; give a directory in Hugging Face layout"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "config.model_type: must be 'llama', not 'gpt2'"),
        ({"model_type": "opt"}, "config.model_type: must be 'llama', not 'opt'"),
        (
            {"architectures": ["LlamaForSequenceClassification"]},
            "config.architectures: must be ['LlamaForCausalLM'], not ['LlamaForSequenceClassification']",
        ),
        (
            {"quantization_config": {"bits": 4}},
            "config.quantization_config: must be absent; give the checkpoint before quantization",
        ),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
            "config.rope_scaling: must be plain rotary embedding ('default'), not 'llama3'",
        ),
        (
            {"rope_parameters": {"rope_type": "yarn"}},
            "config.rope_parameters: must be plain rotary embedding ('default'), not 'yarn'",
        ),
        (
            {"rope_parameters": {"partial_rotary_factor": 0.5}},
            "config.rope_parameters.partial_rotary_factor: must be 1, not 0.5",
        ),
        ({"rope_scaling": "linear"}, "config.rope_scaling: must be an object or null, not 'linear'"),
        ({"hidden_act": "gelu"}, "config.hidden_act: must be 'silu', not 'gelu'"),
        ({"attention_bias": True}, "config.attention_bias: must be false, not true"),
        ({"mlp_bias": True}, "config.mlp_bias: must be false, not true"),
        ({"head_dim": 16}, "config.head_dim: must be hidden_size / num_attention_heads = 8, not 16"),
        ({"hidden_size": "32"}, "config.hidden_size: must be a positive integer, not '32'"),
        ({"rms_norm_eps": 0}, "config.rms_norm_eps: must be a positive number, not 0"),
        ({"rms_norm_eps": float("inf")}, "config.rms_norm_eps: must be a positive number, not inf"),
        ({"rope_theta": True}, "config.rope_theta: must be a positive number, not True"),
    ],
)
def test_configurations_that_cannot_run(checkpoint: Path, changes: dict[str, Any], message: str) -> None:
    configure(checkpoint, **changes)
    assert fails(checkpoint) == f"{checkpoint / 'config.json'}: {message}"


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_truncated_weights(checkpoint: Path, keep: int) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    message = fails(checkpoint)
    assert message.startswith(f"{path}: is not a whole safetensors file (")
    assert message.endswith("copy it again")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(GATE), f"lacks the tensor '{GATE}'; the copy is incomplete"),
        (lambda t: [t.pop(n) for n in list(t)[1:]], "lacks the tensor"),
        (lambda t: t.update({GATE: t[GATE].T.contiguous()}), f"tensor '{GATE}' must be (48, 32), not (32, 48)"),
        (
            lambda t: t.update({"score.weight": torch.ones(2)}),
            "holds the tensor 'score.weight', which its config.json has no place for",
        ),
        (lambda t: t[GATE].view(-1)[7:8].fill_(float("nan")), f"tensor '{GATE}' holds NaN or infinite values"),
        (lambda t: t[GATE].view(-1)[7:8].fill_(float("-inf")), f"tensor '{GATE}' holds NaN or infinite values"),
        (
            lambda t: t.update({GATE: t[GATE].to(torch.int8)}),
            f"tensor '{GATE}' must be floating point, not torch.int8",
        ),
    ],
)
def test_tensors_that_do_not_fit(checkpoint: Path, change: Callable, message: str) -> None:
    rewrite(checkpoint, change)
    assert fails(checkpoint).startswith(f"{checkpoint}: {message}")


def test_an_untied_head_that_is_missing(checkpoint: Path) -> None:
    configure(checkpoint, tie_word_embeddings=False)
    assert fails(checkpoint) == f"{checkpoint}: lacks the tensor 'lm_head.weight'; the copy is incomplete"


def test_several_missing_tensors_are_counted(checkpoint: Path) -> None:
    configure(checkpoint, num_hidden_layers=3)
    assert fails(checkpoint).endswith(
        "lacks the tensor 'model.layers.2.self_attn.q_proj.weight' and 8 more; the copy is incomplete"
    )


def test_no_weights_at_all_and_pickle_only(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    assert fails(checkpoint) == f"{checkpoint}: has no model.safetensors and no model.safetensors.index.json"
    (checkpoint / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    message = fails(checkpoint)
    assert message.startswith(f"{checkpoint}: holds its weights as pickle (*.bin, *.pt, *.pth)")
    assert "convert it once, with transformers" in message


@pytest.mark.parametrize("weight_map", [None, {}, [], {GATE: 3}])
def test_malformed_index(checkpoint: Path, weight_map: object) -> None:
    shard(checkpoint)
    index = checkpoint / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert fails(checkpoint) == f"{index}: weight_map must be an object from tensor name to file name"


@pytest.mark.parametrize("name", ["gone.safetensors", "../model/config.json", "/etc/hostname"])
def test_index_names_a_file_that_is_not_in_the_directory(checkpoint: Path, name: str) -> None:
    shard(checkpoint)
    index = checkpoint / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {GATE: name}}))
    assert fails(checkpoint) == f"{index}: names the file {name!r}, which is not in that directory"


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_embedded_models_are_what_their_training_record_says(name: str) -> None:
    model = load_model(name)
    channels = list(VARIANTS[name].outlier_channels)
    assert (model.name, model.config) == (name, CONFIG)
    assert model.training["variant"]["outlier_channels"] == channels
    gains = {n: t for n, t in model.parameters.items() if n.endswith("layernorm.weight")}
    assert len(gains) == 8
    for gain in gains.values():
        assert torch.all(gain[channels] == 30.0)
        others = torch.ones(CONFIG.hidden_size, dtype=torch.bool)
        others[channels] = False
        assert gain[others].abs().max() < 10
    assert (EMBEDDED[name] / "model.safetensors").stat().st_size <= 5_000_000
