"""Tiny models of every tested family, with random weights, saved as a user's directory would be."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from macloom.formats import get_format
from macloom.workloads.lm.checkpoint import byte_tokenizer
from macloom.workloads.lm.data import Text
from macloom.workloads.recipe import Recipe, Search, load_recipe

transformers = pytest.importorskip("transformers")

VOCABULARY = 264  # the bytes, three special tokens, and room for those that a tokenizer class adds
SPECIAL = ("[CLS]", "[SEP]", "[MASK]")

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
ENCODER = {k: v for k, v in SIZES.items() if k not in ("num_key_value_heads", "bos_token_id", "eos_token_id")}

FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", SIZES),
    "mistral": ("MistralConfig", "MistralForCausalLM", SIZES | {"sliding_window": 8}),
    "mixtral": (
        "MixtralConfig",
        "MixtralForCausalLM",
        SIZES | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    ),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", SIZES | {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", SIZES | {"head_dim": 16}),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", SIZES | {"head_dim": 16, "sliding_window": 8}),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", SIZES),
    "falcon": (
        "FalconConfig",
        "FalconForCausalLM",
        {
            "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": VOCABULARY,
            "multi_query": True, "parallel_attn": True, "alibi": False, "bias": False,
        },
    ),
    "opt": (
        "OPTConfig",
        "OPTForCausalLM",
        {
            "hidden_size": 64, "ffn_dim": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
            "vocab_size": VOCABULARY, "max_position_embeddings": 64, "word_embed_proj_dim": 32,
            "do_layer_norm_before": True,
        },
    ),
    "gpt2": (
        "GPT2Config",
        "GPT2LMHeadModel",
        {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": VOCABULARY},
    ),
    "bloom": (
        "BloomConfig",
        "BloomForCausalLM",
        {"hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY},
    ),
    "bert": ("BertConfig", "BertForMaskedLM", ENCODER),
    "vit": (
        "ViTConfig",
        "ViTForImageClassification",
        {
            "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
            "image_size": 16, "patch_size": 4, "num_labels": 10,
        },
    ),
}  # fmt: skip


def random_model(family: str, seed: int = 0, **changes: Any) -> Any:
    """Return a model of transformers whose weights are large enough that every product matters."""
    config_name, model_name, fields = FAMILIES[family]
    torch.manual_seed(seed)
    config = getattr(transformers, config_name)(**fields | changes)
    model = getattr(transformers, model_name)(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim > 1:
                p.normal_(0, 0.08)
            elif "norm" not in name.lower() and ".ln" not in name.lower():
                p.normal_(0, 0.05)
            else:
                p.add_(torch.randn_like(p) * 0.05)
    return model


def tokenizer_document() -> dict[str, Any]:
    """Return a `tokenizer.json` of bytes, with the special tokens of an encoder after them."""
    document = byte_tokenizer()
    document["added_tokens"] = [
        {
            "id": 256 + i, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": True,
        }
        for i, token in enumerate(SPECIAL)
    ]  # fmt: skip
    return document


def save(model: Any, directory: Path, **options: Any) -> Path:
    """Save a model and the byte tokenizer."""
    model.save_pretrained(directory, **options)
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer_document()))
    (directory / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast", "cls_token": "[CLS]", "sep_token": "[SEP]",
                "mask_token": "[MASK]",
            }
        )
    )  # fmt: skip
    return directory


@pytest.fixture(scope="session")
def build() -> Callable[..., Any]:
    """Return the function that makes a random model of a family."""
    return random_model


@pytest.fixture(scope="session")
def write() -> Callable[..., Path]:
    """Return the function that saves a model with a tokenizer."""
    return save


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the directory of a family's model, saved the first time; tests must not change it."""
    root, made = tmp_path_factory.mktemp("models"), {}

    def saved(family: str) -> Path:
        if family not in made:
            made[family] = save(random_model(family), root / family)
        return made[family]

    return saved


@pytest.fixture(scope="session")
def sentences() -> Text:
    return Text(name="pangrams", data=b"The quick brown fox jumps over the lazy dog; pack my box with jugs. " * 40)


@pytest.fixture(scope="session")
def unquantized() -> Recipe:
    return dataclasses.replace(load_recipe("fp32"), output=get_format("fp32"), overrides=())


@pytest.fixture(scope="session")
def quick() -> Callable[..., Recipe]:
    """Return a function that makes a recipe whose scales need no search."""

    def recipe(name: str, **changes: Any) -> Recipe:
        return dataclasses.replace(load_recipe(name), search=Search(objective="absmax"), **changes)  # type: ignore[arg-type]

    return recipe
