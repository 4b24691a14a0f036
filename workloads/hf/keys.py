"""Keys that are rounded to the cache's format before rotary positions are applied, as KVQuant stores them.

Keys rotate by an angle per position, which spreads the outliers of a channel over others; a cache that holds
them unrotated keeps channels apart (Hooper et al. 2024, arXiv:2401.18079). What attention then
multiplies are rotated keys, which are in the recipe's output format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from macloom.errors import MacloomError
from macloom.workloads.hf.interfaces import active
from macloom.workloads.hf.skeleton import Skeleton
from macloom.workloads.ops import Role
from macloom.workloads.recipe import Recipe
from macloom.workloads.search import OperandPlan, Plan, search_clip

OPERAND = "stored_key"


def store_unrotated_keys(skeleton: Skeleton) -> None:
    """Let the module that makes the keys of each attention round them, where the active route says so.

    That is the norm of the keys, or their projection, or their part of a joint projection.

    Raises:
        MacloomError: the model has no rotary positions, or an attention whose keys are not found.
    """
    model = skeleton.model
    if not any("Rotary" in type(m).__name__ for m in model.modules()):
        raise MacloomError(f"rope: must be 'after' for {type(model).__name__}, which rotates no keys, not 'before'")
    for name, module in model.named_modules():
        if "Attention" not in type(module).__name__ or not name.startswith(skeleton.layers):
            continue
        width = getattr(module, "head_dim", None)
        maker: Any = getattr(module, "k_norm", None) or getattr(module, "k_proj", None)
        part = slice(None)
        if maker is None and hasattr(module, "qkv_proj") and width:
            maker, config = module.qkv_proj, module.config
            queries, keys = config.num_attention_heads * width, config.num_key_value_heads * width
            part = slice(queries, queries + keys)
        if maker is None or not width:
            raise MacloomError(f"rope: must be 'after' for {type(module).__name__}, whose keys are not found apart")
        maker.register_forward_hook(_rounding(name, part, width))


def _rounding(name: str, part: slice, width: int) -> Any:
    def hook(module: nn.Module, args: Any, out: Tensor) -> Tensor:
        keys = out[..., part]
        rounded = active().store(f"{name}.{OPERAND}", keys.reshape(*keys.shape[:-1], -1, width)).reshape(keys.shape)
        if part == slice(None):
            return rounded
        out = out.clone()
        out[..., part] = rounded
        return out

    return hook


def plan_stored(recipe: Recipe, stored: Mapping[str, Sequence[Tensor]], dynamic: bool) -> Plan:
    """Search the clip ratio of stored keys; `stored` holds those of each calibration batch, by operation."""
    plan: Plan = {}
    for op, parts in stored.items():
        fmt = recipe.format_for(Role.KV, op)
        rows = np.concatenate([p.numpy().reshape(-1, p.shape[-1]) for p in parts])
        extremes = np.array([rows.min(), rows.max()], np.float32)
        static = fmt.static_scale and not dynamic
        choice = search_clip(fmt, rows, recipe.search, extremes=extremes if static else None)
        scale = fmt.calibrate(extremes, choice.clip) if static else None
        plan[op, OPERAND] = OperandPlan(op=op, operand=OPERAND, role=Role.KV, format=fmt, scale=scale, choice=choice)
    return plan
