"""An evolutionary choice: a seeded population of choices within the budget, for losses that need not add up."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from macloom.explore.mixed_precision.greedy import greedy
from macloom.explore.mixed_precision.problem import Picks, Problem

Score = Callable[[Picks], float]


def evolutionary(
    problem: Problem,
    budget: float,
    rng: np.random.Generator,
    *,
    population: int = 48,
    generations: int = 60,
    score: Score | None = None,
) -> Picks:
    """Return the best choice that evolution finds within `budget`, which must be feasible.

    The first population holds the greedy choice, the cheapest, and random ones. A child takes each group from one of
    two parents (the better of two drawn at random, each), changes about one group at random, and is brought back
    within the budget by making random groups cheaper. Of parents and children the best survive, each choice once.

    Args:
        rng: draws everything.
        score: what a choice loses; None: the sum of `problem.losses`. A measured loss may be given here: it is asked
            once for each choice, at most population x (generations + 1) times.
    """
    rows, known = np.arange(len(problem.groups)), dict[Picks, float]()
    cheaper = _next_cheaper(problem)
    options = np.argsort(~problem.usable, 1, kind="stable")  # usable formats of each group first
    counts = problem.usable.sum(1)

    def drawn(size: int) -> np.ndarray:
        places = rng.integers(0, counts, (size, len(rows)))
        return options[rows, places]

    def losses(people: np.ndarray) -> np.ndarray:
        if score is None:
            return problem.losses[rows, people].sum(1)
        for picks in map(_picks, people):
            if picks not in known:
                known[picks] = score(picks)
        return np.array([known[_picks(p)] for p in people])

    def survivors(people: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        people = np.unique(people, axis=0)  # sorted, so that equal losses have an order
        found = losses(people)
        best = np.argsort(found, kind="stable")[:population]
        return people[best], found[best]

    first = np.array([greedy(problem, budget), problem.cheapest])
    people, found = survivors(
        _within(problem, budget, np.concatenate([first, drawn(max(0, population - 2))]), cheaper, rng)
    )
    for _ in range(generations):
        pairs = rng.integers(0, len(people), (2, population, 2))
        parents = np.where(found[pairs[..., 0]] <= found[pairs[..., 1]], pairs[..., 0], pairs[..., 1])
        mother, father = people[parents]
        children = np.where(rng.random(mother.shape) < 0.5, mother, father)
        children = np.where(rng.random(mother.shape) < 1.0 / len(rows), drawn(population), children)
        people, found = survivors(np.concatenate([people, _within(problem, budget, children, cheaper, rng)]))
    # Sums of the vectors round otherwise than `cost`, which decides.
    return next((p for p in map(_picks, people) if problem.cost(p) <= budget), problem.cheapest)


def _picks(row: np.ndarray) -> Picks:
    return tuple(int(i) for i in row)


def _next_cheaper(problem: Problem) -> np.ndarray:
    """Return groups x formats, the usable format next below in cost (of equal cost that of least loss), or -1."""
    found = np.full(problem.costs.shape, -1)
    for group, (costs, losses, usable) in enumerate(zip(problem.costs, problem.losses, problem.usable, strict=True)):
        for fmt in np.flatnonzero(usable):
            below = np.flatnonzero(usable & (costs < costs[fmt]))
            if len(below):
                found[group, fmt] = below[np.lexsort((losses[below], -costs[below]))[0]]
    return found


def _within(
    problem: Problem, budget: float, people: np.ndarray, cheaper: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Make random groups of each choice cheaper until its cost is within the budget or nothing is cheaper."""
    people, rows = people.copy(), np.arange(people.shape[1])
    while True:
        over = problem.costs[rows, people].sum(1) + problem.fixed_cost > budget
        steps = cheaper[rows, people]
        over &= (steps >= 0).any(1)
        if not over.any():
            return people
        chance = np.where(steps >= 0, rng.random(people.shape), -1.0).argmax(1)
        where = np.flatnonzero(over)
        people[where, chance[where]] = steps[where, chance[where]]
