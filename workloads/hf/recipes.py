"""Recipes for a given model: the head under its own name, and blocks at both ends in a format of their own."""

from __future__ import annotations

from dataclasses import replace

from macloom.errors import MacloomError
from macloom.formats import get_format
from macloom.workloads.hf.skeleton import Skeleton
from macloom.workloads.recipe import Recipe

HEAD = "lm_head"
"""The name that recipes know the product under which gives the logits, whatever a family calls it."""


def bound(recipe: Recipe, head: str | None) -> Recipe:
    """Return the recipe with the exception for `lm_head`, if it has one, for the head of this model, too.

    >>> from macloom.workloads.recipe import load_recipe
    >>> [pattern for pattern, _ in bound(load_recipe("int4"), "classifier").overrides]
    ['lm_head', 'classifier']
    >>> once = bound(load_recipe("int4"), "classifier")
    >>> bound(once, "classifier") == once
    True
    """
    if head is None or head.rpartition(".")[2] == HEAD:
        return recipe
    added = tuple((head, fmt) for pattern, fmt in recipe.overrides if pattern == HEAD)
    if added and added[0] in recipe.overrides:
        return recipe
    return replace(recipe, overrides=recipe.overrides + added)


def with_edges(recipe: Recipe, skeleton: Skeleton, count: int, fmt: str) -> Recipe:
    """Return the recipe with the first and the last `count` blocks in another format.

    Raises:
        MacloomError: `count` is no integer of at least zero, or the model has fewer blocks than that at both ends.
    """
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise MacloomError(f"edge_layers: must be a non-negative integer, not {count!r}")
    blocks = len(skeleton.layers)
    if 2 * count > blocks:
        raise MacloomError(
            f"edge_layers: must be at most {blocks // 2}, half of the model's {blocks} blocks, not {count}"
        )
    names = skeleton.layers[:count] + skeleton.layers[blocks - count :]
    added = tuple((f"{name}.*", get_format(fmt)) for name in names)
    if recipe.overrides[: len(added)] == added:
        return recipe
    return replace(recipe, overrides=added + recipe.overrides)
