"""Greedy choice: from the best format everywhere down to the budget, the least loss per unit saved first."""

from __future__ import annotations

import numpy as np

from macloom.explore.mixed_precision.problem import Picks, Problem


def greedy(problem: Problem, budget: float) -> Picks:
    """Return a choice within `budget`, or the cheapest where that is more than the budget.

    Every group starts in its format of least loss; then, until the cost is within the budget, the one change to a
    cheaper format is made whose increase of the loss over what it saves is smallest. MPTQ-ViT (arXiv:2401.14895)
    goes down from the highest bits in this way; how it weighs loss against compression is not in what we could read,
    so the score is the plain ratio, and every cheaper format of a group is a candidate, not only the next.
    """
    picks = list(problem.best)
    rows = np.arange(len(picks))
    while problem.cost(picks) > budget:
        saved = problem.costs[rows, picks][:, None] - problem.costs
        lost = np.where(problem.usable, problem.losses, np.inf) - problem.losses[rows, picks][:, None]
        candidates = problem.usable & (saved > 0)
        if not candidates.any():
            break
        score = np.where(candidates, lost / np.where(candidates, saved, 1.0), np.inf)
        group, fmt = np.unravel_index(int(score.argmin()), score.shape)
        picks[int(group)] = int(fmt)
    return tuple(picks)
