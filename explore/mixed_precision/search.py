"""Search formats per layer under a budget, then evaluate and simulate what was found.

The map of sensitivities gives what each group loses in each format, the simulator what it costs; a solver chooses;
and every choice of the frontier, with every format alone beside it, is run as a recipe: what was predicted from single
groups stands beside what the whole recipe really does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from macloom.arch import Accelerator
from macloom.errors import MacloomError, require_positive_integer, unknown
from macloom.explore.mixed_precision.costs import COSTS, Machine, cost_table, mixed_recipe, split_for
from macloom.explore.mixed_precision.problem import Picks, Problem
from macloom.explore.mixed_precision.result import PrecisionPoint, PrecisionSearch
from macloom.explore.mixed_precision.solvers import SOLVERS, solve
from macloom.formats import TensorFormat
from macloom.workloads import Recipe, Workload, load_recipe
from macloom.workloads.accuracy import has_collapsed
from macloom.workloads.groups import By
from macloom.workloads.journal import Journal
from macloom.workloads.recipe import is_matched
from macloom.workloads.sensitivity import sensitivity
from macloom.workloads.sensitivity_map import ALL, SensitivityMap
from macloom.workloads.steps import Progress, TimeLeft
from macloom.workloads.studied import Studied

LOSSES = {"kl": "kl_nats", "loss": "loss_nats"}
MEASURED = "measured.jsonl"
LEAST_LOSS = 1e-6  # of AdaQuant's integer program: an increase below this counts as this (arXiv:2006.10518, its code)


def search_precision(
    evaluator: Studied,
    workload: Workload,
    formats: Sequence[str],
    accelerator: Accelerator | None = None,
    *,
    cost: str = "latency",
    loss: str = "kl",
    methods: Sequence[str] = ("integer",),
    budget: str | float | None = None,
    points: int = 8,
    by: By | str = By.OPERATION,
    base: Recipe | str | None = None,
    probe: Studied | None = None,
    measure: bool = True,
    seed: int = 0,
    state: str | Path | None = None,
    progress: Progress | None = None,
) -> PrecisionSearch:
    """Choose a format for every group of a model's operations.

    Args:
        evaluator: the model and the text on which whole recipes are measured.
        workload: the same model, for costs.
        formats: formats to choose from.
        accelerator: where costs come from; not needed for `weight-bits`.
        cost: `latency`, `energy`, `traffic` or `weight-bits`.
        loss: what a group alone does: `kl`, or `loss`, the increase in nats (at least 1e-6), as AdaQuant has it.
        methods: `greedy`, `integer`, `evolutionary`, or several.
        budget: the most a choice may cost, in the unit of the cost, or as text with a unit or in per cent of the cost
            of the choice of least loss; None: `points` budgets from the least cost to that of the choice of least loss.
        points: how many budgets, where none is given.
        by: what is chosen together: `operation`, `block` or `layer`.
        base: what holds where nothing is chosen: outputs, exceptions, accumulator, search; None: the first format's
            recipe. Operations that its exceptions name are left to it.
        probe: the model and the text on which sensitivities are measured; None: `evaluator`, so that formats are chosen
            on the very text they are judged by.
        measure: whether to evaluate and simulate what was chosen.
        seed: draws what methods draw.
        state: a directory that keeps finished cells of the map and measured recipes, so that a search goes on.
        progress: called as progress(what, steps done, steps in all).

    Raises:
        MacloomError: unknown names, a budget below the least possible cost, a workload of another model, or a base
            recipe that the accelerator cannot multiply.
    """
    if loss not in LOSSES:
        raise unknown("loss", loss, LOSSES)
    for method in methods:
        SOLVERS.get(method)
    if not methods:
        raise MacloomError(f"methods: must be at least one of {', '.join(SOLVERS)}")
    require_positive_integer("points", points)
    candidates = {recipe.name: recipe.weight for recipe in map(load_recipe, formats)}
    resolved = evaluator.resolved(load_recipe(formats[0] if base is None and formats else base or ""))
    source = evaluator if probe is None else probe
    operations = tuple(source.operands)
    left = [op for op in operations if any(is_matched(pattern, op) for pattern, _ in resolved.overrides)]
    chosen_from = [op for op in operations if op not in left]
    machine = Machine(workload=split_for(workload, chosen_from), accelerator=accelerator, cost=cost)
    found = sensitivity(
        source, formats, by=by, roles=(ALL,), search=resolved.search, without=left, state=state, progress=progress
    )
    costs, fixed = cost_table(machine, resolved, candidates, found.operations)
    problem = Problem(
        groups=found.groups,
        formats=found.formats,
        losses=_losses(found, loss),
        costs=costs,
        fixed_cost=fixed,
        unit=COSTS.get(cost).unit,
    )
    budgets = _budgets(problem, budget, points)
    journal = Journal(None if state is None else Path(state) / MEASURED, _identity(evaluator), "search")
    runs = _Runs(evaluator, machine, problem, resolved, candidates, found.operations, loss, measure, journal)
    wanted: list[tuple[str, float | None, Picks]] = [
        ("uniform", None, (i,) * len(problem.groups)) for i in range(len(problem.formats))
    ]
    wanted += [(m, b, solve(problem, b, m, seed)) for m in methods for b in budgets]
    steps = TimeLeft(progress, len(wanted))
    done: list[PrecisionPoint] = []
    for method, limit, picks in wanted:
        steps.step(f"{method} recipe")
        done.append(runs.point(method, limit, picks))
    kept = [p for p in done if p.method != "uniform"]
    return PrecisionSearch(
        map=found,
        text=evaluator.subject.text,
        text_sha256=evaluator.subject.text_sha256,
        windows=evaluator.subject.windows,
        reference_perplexity=runs.reference_perplexity,
        base=resolved,
        cost=cost,
        loss=loss,
        machine={
            "workload": {"name": workload.name, "phase": workload.phase, **workload.details},
            "accelerator": None if accelerator is None else accelerator.name,
        },
        problem=problem,
        points=tuple(_without_repeats(kept)),
        uniform=tuple(p for p in done if p.method == "uniform"),
        seed=seed,
    )


def _losses(found: SensitivityMap, loss: str) -> np.ndarray:
    """Return groups x formats; a format in which a group alone makes a model collapse is not to be chosen.

    A model that is no better than guessing to begin with has nothing to lose and forbids nothing.
    """
    predicts = not math.isnan(found.reference_perplexity)
    if loss != "kl" and not predicts:
        raise MacloomError("loss: must be 'kl' for images, which have no loss of their own")
    alive = not predicts or not has_collapsed(found.reference_perplexity, found.collapse_perplexity)
    table = np.empty((len(found.groups), len(found.formats)))
    for g, group in enumerate(found.groups):
        for f, fmt in enumerate(found.formats):
            cell = found.cell(group, ALL, fmt)
            assert cell is not None
            table[g, f] = math.inf if alive and cell.collapsed else getattr(cell, LOSSES[loss])
    return table if loss == "kl" else np.maximum(table, LEAST_LOSS)


def _budgets(problem: Problem, budget: str | float | None, points: int) -> list[float]:
    if budget is not None:
        limit = problem.budget(budget) if isinstance(budget, str) else float(budget)
        problem.require_feasible(limit)
        return [limit]
    least, most = problem.cost(problem.cheapest), problem.cost(problem.best)
    return [least + (most - least) * i / (points - 1) for i in range(points)] if points > 1 else [most]


def _without_repeats(points: Sequence[PrecisionPoint]) -> list[PrecisionPoint]:
    """Keep the first of the points of one method that chose the same, which has the smallest budget."""
    return list({(p.method, tuple(p.formats.values())): p for p in reversed(points)}.values())[::-1]


class _Runs:
    """Turns choices into recipes and runs them, each once."""

    def __init__(
        self,
        evaluator: Studied,
        machine: Machine,
        problem: Problem,
        base: Recipe,
        formats: Mapping[str, TensorFormat],
        operations: Mapping[str, Sequence[str]],
        loss: str,
        measure: bool,
        journal: Journal,
    ) -> None:
        self.evaluator, self.machine, self.problem, self.base = evaluator, machine, problem, base
        self.formats, self.operations, self.loss, self.measure = formats, operations, loss, measure
        self._measured: dict[Picks, dict[str, Any]] = {}
        self._journal = journal
        self.reference_perplexity: float | None = None  # on the text of the measurement; None: nothing was measured

    def point(self, method: str, budget: float | None, picks: Picks) -> PrecisionPoint:
        chosen = {g: self.problem.formats[f] for g, f in zip(self.problem.groups, picks, strict=True)}
        share = "" if budget is None else f"-{self.problem.written(budget).replace(' ', '')}"
        name = f"{method}-{chosen[self.problem.groups[0]]}" if method == "uniform" else f"{method}{share}"
        recipe = mixed_recipe(self.base, name, {g: self.formats[f] for g, f in chosen.items()}, self.operations)
        if picks not in self._measured:
            self._measured[picks] = self._run(recipe) if self.measure else {}
        return PrecisionPoint(
            method=method,
            budget=budget,
            formats=chosen,
            recipe=recipe,
            predicted_loss_nats=self.problem.loss(picks),
            predicted_cost=self.problem.cost(picks),
            **self._measured[picks],
        )

    def _run(self, recipe: Recipe) -> dict[str, Any]:
        what = {name: value for name, value in recipe.to_dict().items() if name != "name"}
        found = next((r["measured"] for r in self._journal.records if r["recipe"] == what), None)
        if found is None:
            accuracy = self.evaluator.run(recipe)
            found = {
                name: getattr(accuracy, name) for name in ("perplexity", "reference_perplexity", "kl_nats", "collapsed")
            }
            self._journal.append({"recipe": what, "measured": found})
        level = None if math.isnan(found["perplexity"]) else found["perplexity"]
        self.reference_perplexity = None if level is None else found["reference_perplexity"]
        increase = None if level is None else math.log(level / found["reference_perplexity"])
        return {
            "measured_cost": math.fsum(self.machine.by_operation(recipe).values()),
            "measured_loss_nats": found["kl_nats"] if self.loss == "kl" else increase,
            "measured_kl_nats": found["kl_nats"],
            "measured_perplexity": level,
            "collapsed": found["collapsed"],
        }


def _identity(evaluator: Studied) -> dict[str, Any]:
    return {**asdict(evaluator.subject), "settings": dict(evaluator.settings)}
