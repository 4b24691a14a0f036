"""The sensitivity map of a user's own model: every cell is a whole run with everything else in float32.

A model that does not fit in memory is streamed block by block, so that there is no unquantized pass to share; a cell
costs what an evaluation costs. Only whole operations are mapped: a recipe's exceptions concern all operands.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from macloom.errors import MacloomError
from macloom.formats import get_format
from macloom.workloads.groups import By, grouped, pattern_of
from macloom.workloads.recipe import Recipe, Search, load_recipe
from macloom.workloads.sensitivity import one_format_recipes
from macloom.workloads.sensitivity_map import ALL, SensitivityCell, SensitivityMap
from macloom.workloads.steps import Progress

if TYPE_CHECKING:
    from macloom.workloads.hf.evaluator import ModelEvaluator
    from macloom.workloads.hf.result import ModelAccuracy


class OwnModel:
    """A user's model and text, with the run in float32 that gives names and the unquantized perplexity."""

    def __init__(self, evaluator: ModelEvaluator) -> None:
        self.evaluator = evaluator

    @cached_property
    def reference(self) -> ModelAccuracy:
        """The run with every product in float32, which is the unquantized model but for rounding."""
        return self.evaluator.run(_float_recipe())

    @property
    def operations(self) -> tuple[str, ...]:
        return tuple(self.reference.sqnr_db)


def _float_recipe() -> Recipe:
    return replace(load_recipe("fp32"), name="float", output=get_format("fp32"), overrides=())


def own_sensitivity(
    model: OwnModel | ModelEvaluator,
    formats: Sequence[str],
    *,
    by: By | str = By.OPERATION,
    search: Search | None = None,
    without: Collection[str] = (),
    progress: Progress | None = None,
) -> SensitivityMap:
    """Run every group of operations of a user's model alone in every format; arguments as for `sensitivity`.

    Raises:
        MacloomError: an unknown format or grouping, an image classifier, or what the evaluator raises.
    """
    model = model if isinstance(model, OwnModel) else OwnModel(model)
    recipes = one_format_recipes(formats, search or Search())
    for recipe in recipes.values():
        if len({recipe.weight, recipe.activation, recipe.kv, recipe.probability}) > 1:
            raise MacloomError(
                f"formats: must be formats of all operands for a model of your own, not the recipe {recipe.name!r}"
            )
    report = progress or (lambda text, done, total: None)
    report("unquantized", 0, 1)
    reference = model.reference
    if math.isnan(reference.perplexity):
        raise MacloomError("model: must predict tokens for a sensitivity map, not classify images")
    groups = grouped((op for op in model.operations if op not in without), by)
    if not groups:
        raise MacloomError("sensitivity: must have at least one operation; all are left out")
    cells = []
    for fmt, recipe in recipes.items():
        for group, ops in groups.items():
            report(f"{group}: {ALL} in {fmt}", len(cells), len(recipes) * len(groups))
            cells.append(_cell(model, group, ops, recipe, fmt))
    return SensitivityMap(
        model=reference.model,
        model_sha256=reference.model_sha256,
        text=reference.text,
        text_sha256=reference.text_sha256,
        windows=reference.windows,
        context=reference.context,
        seed=reference.seed,
        calibration_text=reference.calibration_text,
        calibration_sha256=reference.calibration_sha256,
        by=By(by).value,
        formats=tuple(recipes),
        roles=(ALL,),
        operations=groups,
        search=search or Search(),
        reference_perplexity=reference.reference_perplexity,
        collapse_perplexity=reference.collapse_perplexity,
        cells=tuple(cells),
    )


def _cell(model: OwnModel, group: str, ops: Sequence[str], recipe: Recipe, fmt: str) -> SensitivityCell:
    exception = ((pattern_of(group, ops), recipe.weight),)
    found = model.evaluator.run(replace(_float_recipe(), overrides=exception, search=recipe.search))
    return SensitivityCell(
        group=group,
        role=ALL,
        format=fmt,
        perplexity=found.perplexity,
        loss_nats=_loss(found),
        kl_nats=found.kl_nats,
        top1_agreement=found.top1_agreement,
        sqnr_db=_noise(found.sqnr_db, ops),
        collapsed=found.collapsed,
    )


def _loss(found: ModelAccuracy) -> float:
    if not math.isfinite(found.perplexity):
        return math.inf
    return math.log(found.perplexity / found.reference_perplexity)


def _noise(sqnr_db: Mapping[str, float], ops: Sequence[str]) -> float:
    """Return the least SQNR of a group's products."""
    return min((sqnr_db[op] for op in ops if op in sqnr_db), default=math.nan)
