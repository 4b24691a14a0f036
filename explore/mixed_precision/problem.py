"""Choosing one format per group of layers under a budget: what a choice loses and costs, both added up.

The loss of a choice is the sum of what each group alone in its format does to the model, which assumes that
groups do not interact (Hubara et al. 2020, arXiv:2006.10518); the cost is the sum over groups plus what
does not depend on the choice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from macloom.errors import MacloomError
from macloom.units import format_quantity, parse_quantity

Picks = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """Groups and the formats to choose from.

    `losses` and `costs` are float64, groups x formats; an infinite loss forbids that format for that group.
    `fixed_cost` comes on top of every choice; `unit` is that of costs.
    """

    groups: tuple[str, ...]
    formats: tuple[str, ...]
    losses: np.ndarray
    costs: np.ndarray
    fixed_cost: float = 0.0
    unit: str = "s"

    def __post_init__(self) -> None:
        shape = (len(self.groups), len(self.formats))
        for name in ("losses", "costs"):
            values = np.asarray(getattr(self, name), np.float64)
            object.__setattr__(self, name, values)
            if values.shape != shape:
                raise MacloomError(
                    f"problem.{name}: must be {shape[0]} groups x {shape[1]} formats, not {values.shape}"
                )
        if 0 in shape:
            raise MacloomError("problem: must have at least one group and one format")
        if np.isnan(self.losses).any() or (self.losses == -np.inf).any():
            raise MacloomError("problem.losses: must be numbers, or infinite where a format must not be chosen")
        if not np.isfinite(self.costs).all() or not math.isfinite(self.fixed_cost):
            raise MacloomError("problem.costs: must be finite")
        for group, row in zip(self.groups, self.losses, strict=True):
            if not np.isfinite(row).any():
                raise MacloomError(f"problem: group {group!r} must have a format with a finite loss; add a wider one")

    @property
    def usable(self) -> np.ndarray:
        """Groups x formats, whether a format may be chosen."""
        return np.isfinite(self.losses)

    @property
    def cheapest(self) -> Picks:
        """The usable format of least cost for every group; of equal ones that of least loss."""
        return self._least(self.costs, self.losses)

    @property
    def best(self) -> Picks:
        """The format of least loss for every group; of equal ones the cheapest."""
        return self._least(self.losses, self.costs)

    def _least(self, first: np.ndarray, second: np.ndarray) -> Picks:
        order = np.where(self.usable, first, np.inf)
        ties = np.where(order == order.min(1, keepdims=True), second, np.inf)
        return tuple(int(i) for i in np.where(self.usable, ties, np.inf).argmin(1))

    def loss(self, picks: Sequence[int]) -> float:
        return math.fsum(self.losses[i, pick] for i, pick in enumerate(picks))

    def cost(self, picks: Sequence[int]) -> float:
        return math.fsum([self.fixed_cost, *(self.costs[i, pick] for i, pick in enumerate(picks))])

    def require_feasible(self, budget: float) -> None:
        """Raise unless some choice costs no more than `budget`; the message names the least possible."""
        least = self.cost(self.cheapest)
        if not budget >= least:
            raise MacloomError(
                f"budget: must be at least {self.written(least)}, the cost of the cheapest format everywhere, "
                f"not {self.written(budget)}; allow more, or add a cheaper format"
            )

    def written(self, cost: float) -> str:
        """Return a cost with its unit."""
        return format_quantity(cost, self.unit, 6) if math.isfinite(cost) else f"{cost} {self.unit}"

    def budget(self, text: str) -> float:
        """Read a budget: a quantity, or a percentage of what the choice of least loss costs.

        >>> import numpy as np
        >>> problem = Problem(groups=("a",), formats=("int4", "int8"), losses=np.array([[1.0, 0.1]]),
        ...                   costs=np.array([[1e-6, 4e-6]]))
        >>> problem.budget("50%"), problem.budget("3 us")
        (2e-06, 3e-06)
        """
        number, percent, rest = text.strip().partition("%")
        if percent and not rest:
            try:
                share = float(number) / 100
            except ValueError:
                share = math.nan
            if not 0 < share < math.inf:
                raise MacloomError(f"budget: must be a positive percentage or a quantity in {self.unit}, not {text!r}")
            return share * self.cost(self.best)
        return float(parse_quantity(text, self.unit, "budget"))


def better(problem: Problem, a: Picks, b: Picks) -> Picks:
    """Return the choice of less loss; of equal loss the cheaper, then the first in order."""
    return min(a, b, key=lambda picks: (problem.loss(picks), problem.cost(picks), picks))
