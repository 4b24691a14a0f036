"""The choice of least loss within a budget, as an integer program (a multiple-choice knapsack).

Minimise sum x[g, f] loss[g, f] subject to sum_f x[g, f] = 1 for every group and sum x[g, f] cost[g, f] <= budget with
binary x, as AdaQuant's integer programming (Hubara et al. 2020, arXiv:2006.10518) and MC-MoE
(arXiv:2410.06270) do; solved by HiGHS through scipy.
"""

from __future__ import annotations

import numpy as np

from macloom.errors import MacloomError
from macloom.explore.mixed_precision.greedy import greedy
from macloom.explore.mixed_precision.problem import Picks, Problem, better

# The solver keeps the budget within a tolerance; choices that exceed it by less are cut off one by one.
MOST_CUTS = 200


def integer(problem: Problem, budget: float) -> Picks:
    """Return the choice of least loss whose cost is within `budget`, which must be feasible.

    Raises:
        MacloomError: scipy is missing, or the solver gives up.
    """
    try:
        from scipy.optimize import Bounds, LinearConstraint, milp
    except ImportError:
        raise MacloomError("method 'integer': needs scipy; pip install 'macloom[search]', or take 'greedy'") from None
    known = min((greedy(problem, budget), problem.cheapest), key=lambda p: (problem.cost(p) > budget, problem.loss(p)))
    above = problem.losses - np.where(problem.usable, problem.losses, np.inf).min(1, keepdims=True)
    scale = problem.loss(known) - problem.loss(problem.best)
    if not scale > 0:
        return known
    # An option that alone loses more than a known choice does in all is in no better choice.
    wanted = problem.usable & (above <= scale)
    groups, formats = np.nonzero(wanted)
    count = len(groups)
    one_each = np.zeros((len(problem.groups), count))
    one_each[groups, np.arange(count)] = 1
    costs = problem.costs[groups, formats]
    room = budget - problem.fixed_cost
    size = max(abs(room), float(np.abs(costs).max()), np.finfo(float).tiny)
    constraints = [LinearConstraint(one_each, 1, 1), LinearConstraint(costs / size, -np.inf, room / size)]
    for _ in range(MOST_CUTS):
        found = milp(
            1e3 * above[groups, formats] / scale, constraints=constraints, integrality=np.ones(count),
            bounds=Bounds(0, 1), options={"mip_rel_gap": 0.0},
        )  # fmt: skip
        if found.x is None:
            return known  # cut off: nothing is better than what was known
        chosen = found.x > 0.5
        picks = [0] * len(problem.groups)
        for group, fmt in zip(groups[chosen], formats[chosen], strict=True):
            picks[int(group)] = int(fmt)
        if problem.cost(picks) <= budget:
            return better(problem, known, tuple(picks))
        constraints.append(LinearConstraint(chosen.astype(float), -np.inf, len(problem.groups) - 1))
    raise MacloomError(f"method 'integer': finds no choice within the budget after {MOST_CUTS} cuts; take 'greedy'")
