"""What a precision search found: its points, predicted and measured, as a record, JSON and a table."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from macloom import __version__
from macloom.explore.mixed_precision.problem import Problem
from macloom.workloads import Recipe
from macloom.workloads.sensitivity_map import SensitivityMap


@dataclass(frozen=True, kw_only=True)
class PrecisionPoint:
    """One choice: the budget and method that led to it, what was predicted of it and what it really does.

    `method` is `uniform` for one format everywhere. Costs are in the unit of the search, losses of the kind that the
    search adds up. `measured_*` are of the whole recipe: losses on the text, cost from the simulator; None where
    nothing was run.
    """

    method: str
    budget: float | None
    formats: Mapping[str, str]
    recipe: Recipe = field(repr=False)
    predicted_loss_nats: float
    predicted_cost: float
    measured_cost: float | None = None
    measured_loss_nats: float | None = None
    measured_kl_nats: float | None = None
    measured_perplexity: float | None = None
    collapsed: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        numbers = {k: v for k, v in vars(self).items() if k not in ("formats", "recipe")}
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in numbers.items()}
        return {**finite, "formats": dict(self.formats), "recipe": self.recipe.to_dict()}


@dataclass(frozen=True, kw_only=True)
class PrecisionSearch:
    """The points of a frontier, by method and budget, and of every format alone.

    `predicted_loss_nats` of a point is the sum of the groups' losses of the kind that `loss` names, per token.
    """

    map: SensitivityMap = field(repr=False)
    text: str
    text_sha256: str
    windows: int
    reference_perplexity: float | None
    base: Recipe
    cost: str
    loss: str
    machine: Mapping[str, Any]
    problem: Problem = field(repr=False)
    points: tuple[PrecisionPoint, ...]
    uniform: tuple[PrecisionPoint, ...]
    seed: int
    version: str = __version__

    @property
    def unit(self) -> str:
        return self.problem.unit

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON; a number that is not finite becomes None."""
        return {
            "model": {"name": self.map.model, "sha256": self.map.model_sha256},
            "text": {"name": self.text, "sha256": self.text_sha256},
            "windows": self.windows,
            "sensitivity_text": {"name": self.map.text, "sha256": self.map.text_sha256},
            "sensitivity_windows": self.map.windows,
            "context": self.map.context,
            "seed": self.seed,
            "by": self.map.by,
            "base": self.base.to_dict(),
            "cost": self.cost,
            "unit": self.unit,
            "loss": self.loss,
            **self.machine,
            "reference_perplexity": self.reference_perplexity,
            "fixed_cost": self.problem.fixed_cost,
            "losses": self._table(self.problem.losses),
            "costs": self._table(self.problem.costs),
            "points": [point.to_dict() for point in self.points],
            "uniform": [point.to_dict() for point in self.uniform],
            "version": self.version,
        }

    def _table(self, values: np.ndarray) -> dict[str, dict[str, float | None]]:
        return {
            group: {f: float(v) if math.isfinite(v) else None for f, v in zip(self.problem.formats, row, strict=True)}
            for group, row in zip(self.problem.groups, values, strict=True)
        }

    def to_csv(self) -> str:
        """Return a table, a line per point, with a column for the format of every group."""
        names = [n for n in PrecisionPoint.__dataclass_fields__ if n not in ("formats", "recipe")]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([*names, *self.problem.groups])
        for point in (*self.uniform, *self.points):
            chosen = [point.formats[g] for g in self.problem.groups]
            writer.writerow([*("" if (v := getattr(point, n)) is None else v for n in names), *chosen])
        return out.getvalue()
