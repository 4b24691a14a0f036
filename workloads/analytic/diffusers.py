"""Configurations of the diffusers library, in the words of the formulas: its DiT and PixArt.

Names and defaults are those of `DiTTransformer2DModel` and `PixArtTransformer2DModel`, diffusers 0.42.1. Its DiT has
embedders of timestep and class in every block, where the paper's has one pair, and positions that are no parameters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from macloom.errors import MacloomError, unknown
from macloom.workloads.families import integer

CLASS = "_class_name"
"""The field by which diffusers says which model a configuration is of."""

_COMMON: dict[str, Any] = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_elementwise_affine": False,
}


def _fixed(config: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in (_COMMON | dict(values)).items():
        if config.get(key, value) != value:
            raise MacloomError(
                f"config.{key}: must be {json.dumps(value)}, which alone has a formula, not {json.dumps(config[key])}"
            )


def _shared(config: Mapping[str, Any]) -> dict[str, Any]:
    heads, width = integer(config, "num_attention_heads", 16), integer(config, "attention_head_dim", 72)
    return {
        "hidden_size": heads * width,
        "num_heads": heads,
        "depth": integer(config, "num_layers", 28),
        "in_channels": integer(config, "in_channels", 4),
    }


def _dit(config: Mapping[str, Any]) -> dict[str, Any]:
    _fixed(config, {"norm_type": "ada_norm_zero"})
    shared = _shared(config)
    return shared | {
        "model_type": "dit",
        "input_size": integer(config, "sample_size", 32),
        "patch_size": integer(config, "patch_size", 2),
        "out_channels": integer(config, "out_channels", shared["in_channels"]),
        "num_classes": integer(config, "num_embeds_ada_norm", 1000),
        "embedders": "blocks",
        "learned_positions": False,
    }


def _pixart(config: Mapping[str, Any]) -> dict[str, Any]:
    shared, side = _shared(config), integer(config, "sample_size")
    _fixed(config, {"norm_type": "ada_norm_single", "only_cross_attention": False, "attention_type": "default"})
    _fixed(config, {"cross_attention_dim": shared["hidden_size"]})
    if config.get("use_additional_conditions") or (config.get("use_additional_conditions") is None and side == 128):
        raise MacloomError(
            "config.use_additional_conditions: must be false, which alone has a formula; it is true unless given where "
            "sample_size is 128"
        )
    return shared | {
        "model_type": "pixart",
        "input_size": side,
        "patch_size": integer(config, "patch_size"),
        "out_channels": integer(config, "out_channels", 8),
        "caption_channels": integer(config, "caption_channels"),
    }


_CLASSES = {"DiTTransformer2DModel": _dit, "PixArtTransformer2DModel": _pixart}


def from_diffusers(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a configuration of diffusers as one that the formulas read; any other one as it is.

    Raises:
        MacloomError: a model of diffusers without a formula, or an option of one.

    >>> from_diffusers({"_class_name": "DiTTransformer2DModel", "out_channels": 8})["hidden_size"]
    1152
    """
    kind = config.get(CLASS)
    if kind is None or "model_type" in config:
        return config
    if kind not in _CLASSES:
        raise unknown(f"config.{CLASS}", kind, _CLASSES, "models of diffusers that have a formula")
    return _CLASSES[kind](config)
