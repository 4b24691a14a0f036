"""Which operations are chosen together: one at a time, by expert, by block of a layer, or by layer.

Operations are named as in a checkpoint: `model.layers.0.self_attn.q_proj` has the layer `model.layers.0` and the
block `model.layers.0.self_attn`; other families number their layers elsewhere (`transformer.h.0.attn.c_attn`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum

from macloom.errors import MacloomError, unknown

_EXPERT = re.compile(r"(?P<expert>.+\.experts\.\d+)\..+")
_LAYER = re.compile(r"(?P<layer>(?P<stack>[^.]+(?:\.[^.\d][^.]*)*)\.\d+)\.(?P<rest>.+)")


class By(StrEnum):
    """What operations have in common that form a group; `expert`: those of one expert, others one at a time."""

    OPERATION = "operation"
    EXPERT = "expert"
    BLOCK = "block"
    LAYER = "layer"


def layer_of(op: str) -> str | None:
    """Return the layer an operation is in, or None outside of layers.

    >>> layer_of("model.layers.0.mlp.up_proj"), layer_of("transformer.h.11.attn.c_attn"), layer_of("lm_head")
    ('model.layers.0', 'transformer.h.11', None)
    """
    match = _LAYER.fullmatch(op)
    return match["layer"] if match else None


def stack_of(op: str) -> str | None:
    """Return the name of the list of layers an operation is in, or None.

    >>> stack_of("model.layers.0.mlp.up_proj")
    'model.layers'
    """
    match = _LAYER.fullmatch(op)
    return match["stack"] if match else None


def group_of(op: str, by: By | str) -> str:
    """Return the group of an operation, which is its own name outside of layers.

    >>> [group_of("model.layers.3.mlp.up_proj", by) for by in By]
    ['model.layers.3.mlp.up_proj', 'model.layers.3.mlp.up_proj', 'model.layers.3.mlp', 'model.layers.3']
    >>> group_of("model.layers.3.mlp.experts.7.down_proj", "expert")
    'model.layers.3.mlp.experts.7'
    """
    if by not in list(By):
        raise unknown("by", by, [b.value for b in By])
    expert = _EXPERT.fullmatch(op)
    if by == By.EXPERT and expert:
        return expert["expert"]
    match = _LAYER.fullmatch(op)
    if by in (By.OPERATION, By.EXPERT) or match is None:
        return op
    if by == By.LAYER:
        return match["layer"]
    block, dot, _ = match["rest"].partition(".")
    return f"{match['layer']}.{block}" if dot else op


def pattern_of(group: str, ops: Iterable[str]) -> str:
    """Return the pattern of a recipe's exception that stands for a group of `ops`.

    >>> pattern_of("model.layers.3", ["model.layers.3.mlp.up_proj"]), pattern_of("lm_head", ["lm_head"])
    ('model.layers.3.*', 'lm_head')
    """
    ops = list(ops)
    if not ops:
        raise MacloomError(f"group {group!r}: must hold at least one operation")
    return group if ops == [group] else f"{group}.*"


def grouped(ops: Iterable[str], by: By | str) -> dict[str, tuple[str, ...]]:
    """Return the operations of each group, both in the order of `ops`."""
    groups: dict[str, list[str]] = {}
    for op in ops:
        groups.setdefault(group_of(op, by), []).append(op)
    return {group: tuple(members) for group, members in groups.items()}
