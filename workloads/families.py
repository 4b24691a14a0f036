"""Families of transformers: how the fields of their Hugging Face configuration describe a `DecoderConfig`.

A family is one record. Field names and defaults are those of the configuration classes in transformers,
module names those of its checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from macloom.errors import MacloomError, require_positive_integer
from macloom.workloads.ops import VectorKind
from macloom.workloads.shape import Modules

ACTIVATIONS = {
    "silu": VectorKind.SILU,
    "relu": VectorKind.RELU,
    "gelu": VectorKind.GELU,
    "gelu_new": VectorKind.GELU,
    "gelu_pytorch_tanh": VectorKind.GELU,
}


@dataclass(frozen=True, kw_only=True)
class Family:
    """One `model_type`.

    Attributes:
        names: what its modules are called.
        traits: fields of `DecoderConfig` that all its models share.
        keys: configuration keys of the sizes, where they are not those of Llama; of several the first present one.
        defaults: sizes that a configuration may leave out.
        flags: boolean fields of `DecoderConfig`, with their key and default.
        activation: key of the activation, and the values that it may have, the default first.
        fixed: keys with the only value that is supported, which is also the default.
        window_period: every so many layers the first one has the sliding window; 0: no layer has one.
        derive: further fields of `DecoderConfig`, computed from the configuration.
    """

    names: Modules = Modules()
    traits: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    defaults: Mapping[str, int] = field(default_factory=dict)
    flags: Mapping[str, tuple[str, bool]] = field(default_factory=dict)
    activation: tuple[str, ...] = ("hidden_act", "silu")
    fixed: Mapping[str, Any] = field(default_factory=dict)
    window_period: int = 0
    derive: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda config: {}


_RMS: dict[str, Any] = {"norm": VectorKind.RMS_NORM, "norm_order": "pre", "final_norm": True, "gated": True}
_LAYER: dict[str, Any] = {"norm": VectorKind.LAYER_NORM, "norm_order": "pre", "final_norm": True, "gated": False}
_NO_BIAS = {"attention_bias": False, "output_bias": False, "mlp_bias": False}
_BIAS = {"attention_bias": True, "output_bias": True, "mlp_bias": True}
_ROPE = {"rope": True}
_UNTIED = {"tied": ("tie_word_embeddings", False)}
_TIED = {"tied": ("tie_word_embeddings", True)}
_GPT2_KEYS = {
    "hidden": "n_embd",
    "layers": "n_layer",
    "heads": "n_head",
    "intermediate": "n_inner",
    "max_positions": "n_positions",
}


def integer(config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """Return a positive integer of a configuration; absent or null means the default."""
    value = config.get(name)
    if value is None:
        if default is None:
            raise MacloomError(f"config.{name}: is missing; it must be a positive integer")
        value = default
    require_positive_integer(f"config.{name}", value)
    return value


def flag(config: Mapping[str, Any], name: str, default: bool) -> bool:
    """Return a boolean of a configuration; absent means the default."""
    value = config.get(name, default)
    if not isinstance(value, bool):
        raise MacloomError(f"config.{name}: must be true or false, not {value!r}")
    return value


def _opt(config: Mapping[str, Any]) -> dict[str, Any]:
    before = flag(config, "do_layer_norm_before", True)
    return {
        "norm_order": "pre" if before else "post",
        "final_norm": before and not flag(config, "_remove_final_layer_norm", False),
        # OPTLearnedPositionalEmbedding keeps two rows of padding in front.
        "position_rows": integer(config, "max_position_embeddings", 2048) + 2,
    } | ({} if flag(config, "layer_norm_elementwise_affine", True) else {"norm_parameters": 0})


def _falcon(config: Mapping[str, Any]) -> dict[str, Any]:
    # With multi_query, num_kv_heads is not read.
    return {"norm_order": "parallel" if flag(config, "parallel_attn", True) else "pre"} | (
        {"kv_heads": 1} if flag(config, "multi_query", True) else {}
    )


def _phi(config: Mapping[str, Any]) -> dict[str, Any]:
    # Half of each head turns unless the configuration says otherwise; transformers 5 keeps the factor with rope.
    rope = config.get("rope_parameters") or {}
    factor = config.get("partial_rotary_factor", rope.get("partial_rotary_factor", 0.5))
    if not isinstance(factor, int | float) or not 0 < factor <= 1:
        raise MacloomError(f"config.partial_rotary_factor: must be above 0 and at most 1, not {factor!r}")
    hidden, heads = integer(config, "hidden_size", 2048), integer(config, "num_attention_heads", 32)
    return {"rope_width": int(factor * (hidden // heads))}


FAMILIES: dict[str, Family] = {
    "llama": Family(
        traits=_RMS | _ROPE,
        flags=_UNTIED
        | {
            "attention_bias": ("attention_bias", False),
            "output_bias": ("attention_bias", False),
            "mlp_bias": ("mlp_bias", False),
        },
        defaults={"max_positions": 2048},
    ),
    "opt": Family(
        names=Modules(
            out="self_attn.out_proj",
            up="fc1",
            activation="relu",
            down="fc2",
            first_norm="self_attn_layer_norm",
            second_norm="final_layer_norm",
            final_norm="final_norm",
        ),
        traits=_LAYER | {"rope": False},
        keys={"intermediate": "ffn_dim", "embedding": "word_embed_proj_dim"},
        defaults={"max_positions": 2048},
        flags=_TIED
        | {
            "attention_bias": ("enable_bias", True),
            "output_bias": ("enable_bias", True),
            "mlp_bias": ("enable_bias", True),
        },
        activation=("activation_function", "relu"),
        derive=_opt,
    ),
    "mistral": Family(
        traits=_RMS | _ROPE | _NO_BIAS,
        flags=_UNTIED,
        window_period=1,
    ),
    "mixtral": Family(
        names=Modules(gate_up="mlp.experts.gate_up_proj", down="mlp.experts.down_proj", activation="mlp.experts.silu"),
        traits=_RMS | _ROPE | _NO_BIAS,
        keys={"experts": "num_local_experts", "experts_per_token": "num_experts_per_tok"},
        defaults={"experts": 8, "experts_per_token": 2},
        flags=_UNTIED,
        window_period=1,
    ),
    "qwen2": Family(
        traits=_RMS | _ROPE | _NO_BIAS | {"attention_bias": True},
        flags=_UNTIED,
        fixed={"use_sliding_window": False},
    ),
    "qwen3": Family(
        traits=_RMS | _ROPE | {"mlp_bias": False, "qk_norm": True},
        flags=_UNTIED | {"attention_bias": ("attention_bias", False), "output_bias": ("attention_bias", False)},
        fixed={"use_sliding_window": False},
    ),
    "gemma2": Family(
        names=Modules(
            activation="mlp.gelu",
            attention_norm="post_attention_layernorm",
            second_norm="pre_feedforward_layernorm",
            mlp_norm="post_feedforward_layernorm",
        ),
        traits=_RMS | _ROPE | {"norm_order": "sandwich", "mlp_bias": False, "scaled_embedding": True},
        flags=_TIED | {"attention_bias": ("attention_bias", False), "output_bias": ("attention_bias", False)},
        activation=("hidden_activation", "gelu_pytorch_tanh"),
        window_period=2,
    ),
    "gemma": Family(
        names=Modules(activation="mlp.gelu"),
        traits=_RMS | _ROPE | {"mlp_bias": False, "scaled_embedding": True},
        flags=_TIED | {"attention_bias": ("attention_bias", False), "output_bias": ("attention_bias", False)},
        # Checkpoints say gelu where they mean its tanh form (`hidden_activation`); both cost the same.
        activation=("hidden_act", "gelu_pytorch_tanh", "gelu"),
    ),
    "phi": Family(
        names=Modules(
            out="self_attn.dense", up="mlp.fc1", activation="mlp.gelu", down="mlp.fc2", final_norm="final_layernorm"
        ),
        traits=_LAYER | _BIAS | _ROPE | {"norm_order": "parallel", "head_bias": True},
        flags=_UNTIED,
        defaults={"max_positions": 2048},
        activation=("hidden_act", "gelu_new", "gelu"),
        fixed={"qk_layernorm": False},
        derive=_phi,
    ),
    "phi3": Family(
        names=Modules(qkv="self_attn.qkv_proj", gate_up="mlp.gate_up_proj"),
        traits=_RMS | _ROPE | _NO_BIAS,
        flags=_UNTIED,
        fixed={"partial_rotary_factor": 1.0},
        window_period=1,
    ),
    "falcon": Family(
        names=Modules(
            attention="self_attention",
            qkv="self_attention.query_key_value",
            out="self_attention.dense",
            up="mlp.dense_h_to_4h",
            activation="mlp.gelu",
            down="mlp.dense_4h_to_h",
            embedding="word_embeddings",
            final_norm="ln_f",
        ),
        traits=_LAYER | _ROPE,
        keys={
            "intermediate": "ffn_hidden_size",
            "layers": ("num_hidden_layers", "n_layer"),
            "heads": ("num_attention_heads", "n_head"),
        },
        defaults={"max_positions": 2048},
        flags=_TIED | {"attention_bias": ("bias", False), "output_bias": ("bias", False), "mlp_bias": ("bias", False)},
        activation=("activation", "gelu"),
        fixed={"alibi": False, "new_decoder_architecture": False},
        derive=_falcon,
    ),
    "bloom": Family(
        names=Modules(
            attention="self_attention",
            qkv="self_attention.query_key_value",
            out="self_attention.dense",
            up="mlp.dense_h_to_4h",
            activation="mlp.gelu_impl",
            down="mlp.dense_4h_to_h",
            embedding="word_embeddings",
            embedding_norm="word_embeddings_layernorm",
            final_norm="ln_f",
        ),
        # Positions are a bias of the scores (ALiBi), which is part of softmax.
        traits=_LAYER | _BIAS | {"rope": False, "embedding_norm": True},
        keys={
            "hidden": ("hidden_size", "n_embed"),
            "layers": ("n_layer", "num_hidden_layers"),
            "heads": ("n_head", "num_attention_heads"),
            "intermediate": "n_inner",
            "max_positions": "seq_length",
        },
        defaults={"max_positions": 2048},
        flags=_TIED,
        activation=("hidden_act", "gelu"),
        fixed={"apply_residual_connection_post_layernorm": False},
    ),
    "gpt2": Family(
        names=Modules(
            attention="attn",
            qkv="attn.c_attn",
            out="attn.c_proj",
            up="mlp.c_fc",
            activation="mlp.act",
            down="mlp.c_proj",
            first_norm="ln_1",
            second_norm="ln_2",
            embedding="wte",
            positions="wpe",
            final_norm="ln_f",
        ),
        traits=_LAYER | _BIAS | {"rope": False},
        keys=_GPT2_KEYS,
        defaults={"max_positions": 1024},
        flags=_TIED,
        activation=("activation_function", "gelu_new", "gelu", "relu"),
        derive=lambda config: {"position_rows": integer(config, "n_positions", 1024)},
    ),
    "bert": Family(
        names=Modules(
            attention="attention.self",
            q="attention.self.query",
            k="attention.self.key",
            v="attention.self.value",
            out="attention.output.dense",
            up="intermediate.dense",
            activation="intermediate.gelu",
            down="output.dense",
            first_norm="attention.output.LayerNorm",
            second_norm="output.LayerNorm",
            embedding="word_embeddings",
            positions="position_embeddings",
            token_types="token_type_embeddings",
            embedding_norm="embeddings.LayerNorm",
            transform="cls.predictions.transform",
        ),
        traits=_LAYER
        | _BIAS
        | {
            "rope": False,
            "norm_order": "post",
            "final_norm": False,
            "causal": False,
            "embedding_norm": True,
            "head_transform": True,
            "head_bias": True,
        },
        defaults={"max_positions": 512},
        flags=_TIED,
        activation=("hidden_act", "gelu"),
        derive=lambda config: {
            "position_rows": integer(config, "max_position_embeddings", 512),
            "token_types": integer(config, "type_vocab_size", 2),
        },
    ),
}
