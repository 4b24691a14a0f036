"""The sensitivity map: what one layer alone in a low-precision format does to the model.

Every group of operations (one operation, an expert, a block or a layer) runs in every format, one at a time,
everything else unquantized: once with all operands and the output in the recipe's arithmetic, and once for each operand
role with only the operands of that role rounded. All cells run on the same windows. A model of bytes shares the
unquantized pass between them (`macloom.workloads.replayed_map`); a user's own is streamed block by block, many cells
side by side (`macloom.workloads.hf.streamed_map`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from macloom.errors import MacloomError, unknown
from macloom.workloads.groups import By, grouped
from macloom.workloads.journal import Journal
from macloom.workloads.lm.data import Text
from macloom.workloads.recipe import Recipe, Search, load_recipe
from macloom.workloads.sensitivity_map import ALL, ROLES, SensitivityMap
from macloom.workloads.steps import Progress
from macloom.workloads.studied import MapRequest, Studied, studied

if TYPE_CHECKING:
    from macloom.workloads.lm.checkpoint import LanguageModel

CELLS = "cells.jsonl"


def sensitivity(
    model: LanguageModel | str | Path | Studied,
    formats: Sequence[str],
    *,
    by: By | str = By.OPERATION,
    roles: Sequence[str] | None = None,
    text: Text | str | Path | None = None,
    windows: int = 8,
    context: int | None = None,
    batch: int | None = None,
    seed: int = 0,
    search: Search | None = None,
    without: Collection[str] = (),
    state: str | Path | None = None,
    progress: Progress | None = None,
    **own: Any,
) -> SensitivityMap:
    """Run every group of operations alone in every format.

    Args:
        model: an embedded model, a directory, or an `Evaluator` or `ModelEvaluator`, whose text, windows and
            calibration are used.
        formats: format names; a TOML recipe stands for its formats by role, without its exceptions.
        by: what forms a group: `operation`, `expert`, `block` or `layer`.
        roles: `all`, `weight`, `activation`, `kv`, `probability`, or several of them; None: every one.
        context: bytes per window (256); tokens for a model of your own (2048, or its limit).
        batch: windows per forward pass (4; 1 for a model of your own).
        search: the scale search, as in a recipe.
        without: operations that are in no group.
        state: a directory that keeps finished cells, so that an interrupted map goes on.
        progress: called as progress(what, steps done, steps in all).
        own: further arguments of `ModelEvaluator` for a model of your own, such as `images`.

    Raises:
        MacloomError: an unknown format, grouping or role, a state of another map, or what the evaluator raises.
    """
    subject = studied(model, text=text, windows=windows, context=context, batch=batch, seed=seed, **own)
    recipes = one_format_recipes(formats, search or Search())
    wanted = _roles(ROLES if roles is None else roles)
    operands = subject.operands
    groups = grouped((op for op in operands if op not in without), by)
    if not groups:
        raise MacloomError("sensitivity: must have at least one operation; all are left out")
    keys = tuple(
        (group, role, fmt)
        for fmt in recipes
        for role in wanted
        for group, ops in groups.items()
        if role == ALL or any(role in operands[op] for op in ops)
    )
    what = {
        **asdict(subject.subject),
        "settings": dict(subject.settings),
        "recipes": {name: recipe.to_dict() for name, recipe in recipes.items()},
        "groups": groups,
    }
    journal = Journal(None if state is None else Path(state) / CELLS, what, "map")
    found = subject.map_sums(MapRequest(recipes=recipes, groups=groups, keys=keys), journal, progress)
    return SensitivityMap(
        **asdict(subject.subject),
        by=By(by).value,
        formats=tuple(recipes),
        roles=wanted,
        operations=groups,
        search=search or Search(),
        reference_perplexity=found.reference_perplexity,
        collapse_perplexity=found.collapse_perplexity,
        cells=tuple(found.cells[key].cell(key, found.collapse_perplexity) for key in keys),
    )


def one_format_recipes(formats: Sequence[str], search: Search) -> dict[str, Recipe]:
    """Return for each format the recipe that has it everywhere, the output head included."""
    if isinstance(formats, str) or not formats:
        raise MacloomError(f"formats: must be a list of at least one format, not {formats!r}")
    loaded = [load_recipe(name) for name in formats]
    recipes = {r.name: replace(r, overrides=(), search=search) for r in loaded}
    if len(recipes) < len(loaded):
        raise MacloomError(f"formats: must be different, not {', '.join(r.name for r in loaded)}")
    return recipes


def _roles(roles: Sequence[str]) -> tuple[str, ...]:
    for role in roles:
        if role not in ROLES:
            raise unknown("roles", role, ROLES)
    if not roles:
        raise MacloomError(f"roles: must be at least one of {', '.join(ROLES)}")
    return tuple(role for role in ROLES if role in roles)
