"""Solvers by name: each a function from a problem, a budget and a random generator to a choice within the budget."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from macloom._registry import Registry
from macloom.explore.mixed_precision.evolutionary import evolutionary
from macloom.explore.mixed_precision.greedy import greedy
from macloom.explore.mixed_precision.integer import integer
from macloom.explore.mixed_precision.problem import Picks, Problem

Solver = Callable[[Problem, float, np.random.Generator], Picks]

SOLVERS: Registry[Solver] = Registry("method")
SOLVERS.add("greedy", lambda problem, budget, rng: greedy(problem, budget))
SOLVERS.add("integer", lambda problem, budget, rng: integer(problem, budget))
SOLVERS.add("evolutionary", lambda problem, budget, rng: evolutionary(problem, budget, rng))


def solve(problem: Problem, budget: float, method: str = "integer", seed: int = 0) -> Picks:
    """Return the format of every group, as an index, so that the cost stays within `budget`.

    Raises:
        MacloomError: an unknown method, or a budget below the cost of every choice.

    >>> problem = Problem(groups=("a", "b"), formats=("int4", "int8"), losses=np.array([[0.5, 0.1], [0.2, 0.1]]),
    ...                   costs=np.array([[1.0, 2.0], [1.0, 2.0]]))
    >>> solve(problem, 3.0)
    (1, 0)
    """
    solver = SOLVERS.get(method)
    problem.require_feasible(budget)
    return solver(problem, budget, np.random.default_rng(seed))
