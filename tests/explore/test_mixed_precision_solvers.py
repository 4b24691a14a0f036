"""The solvers: the integer program against brute force, greedy and evolution against it, budgets, every message."""

from __future__ import annotations

import itertools
import re
import sys
from typing import Any

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.explore.mixed_precision.evolutionary import evolutionary
from macloom.explore.mixed_precision.problem import Picks, Problem, better
from macloom.explore.mixed_precision.solvers import SOLVERS, solve

pytest.importorskip("scipy")


def random_problem(rng: np.random.Generator, groups: int, formats: int, *, forbid: float = 0.0) -> Problem:
    losses = rng.lognormal(0.0, 2.0, (groups, formats)) * 1e-3
    losses[rng.random(losses.shape) < forbid] = np.inf
    losses[:, -1] = rng.random(groups) * 1e-5
    return Problem(
        groups=tuple(f"g{i}" for i in range(groups)), formats=tuple(f"f{i}" for i in range(formats)), losses=losses,
        costs=rng.random((groups, formats)) * 1e-6, fixed_cost=3e-7,
    )  # fmt: skip


def brute_force(problem: Problem, budget: float) -> Picks:
    """Every choice, one after another."""
    best: Picks | None = None
    for picks in itertools.product(range(len(problem.formats)), repeat=len(problem.groups)):
        if problem.cost(picks) <= budget and all(problem.usable[g, f] for g, f in enumerate(picks)):
            best = picks if best is None else better(problem, best, picks)
    assert best is not None
    return best


@pytest.mark.parametrize("seed", range(20))
def test_the_integer_program_equals_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    problem = random_problem(rng, int(rng.integers(1, 7)), int(rng.integers(2, 5)), forbid=0.15)
    least, most = problem.cost(problem.cheapest), problem.cost(problem.best)
    for share in (0.0, 0.1, 0.35, 0.7, 1.0, 1.5):
        budget = least + share * (most - least) if most > least else least
        exact, found = brute_force(problem, budget), solve(problem, budget)
        assert problem.loss(found) == pytest.approx(problem.loss(exact), rel=1e-9)
        assert problem.cost(found) <= budget


def test_a_mutant_that_ignores_the_budget_or_the_loss_would_be_found() -> None:
    problem = random_problem(np.random.default_rng(5), 5, 3)
    budget = 0.5 * (problem.cost(problem.cheapest) + problem.cost(problem.best))
    exact = brute_force(problem, budget)
    assert problem.cost(problem.best) > budget
    assert problem.loss(problem.cheapest) > problem.loss(exact)


@pytest.mark.parametrize("method", list(SOLVERS))
@pytest.mark.parametrize("seed", range(4))
def test_no_solver_exceeds_the_budget_or_beats_the_integer_program(method: str, seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    problem = random_problem(rng, 24, 4, forbid=0.1)
    least, most = problem.cost(problem.cheapest), problem.cost(problem.best)
    for share in (0.0, 0.05, 0.3, 0.6, 1.0):
        budget = least + share * abs(most - least)
        picks = solve(problem, budget, method, seed)
        assert problem.cost(picks) <= budget
        assert all(problem.usable[g, f] for g, f in enumerate(picks))
        assert problem.loss(picks) >= problem.loss(solve(problem, budget)) * (1 - 1e-9)


def test_evolution_is_never_worse_than_greedy_and_is_decided_by_its_seed() -> None:
    better_somewhere = False
    for seed in range(6):
        problem = random_problem(np.random.default_rng(seed), 16, 3)
        budget = 0.6 * problem.cost(problem.cheapest) + 0.4 * problem.cost(problem.best)
        first = solve(problem, budget, "evolutionary", seed)
        assert first == solve(problem, budget, "evolutionary", seed)
        assert problem.loss(first) <= problem.loss(solve(problem, budget, "greedy"))
        better_somewhere |= problem.loss(first) < problem.loss(solve(problem, budget, "greedy"))
    assert better_somewhere


def test_evolution_minimises_a_loss_that_does_not_add_up() -> None:
    """A measured score of which the additive losses know nothing: the number of neighbours in different formats."""
    rng = np.random.default_rng(0)
    problem = random_problem(rng, 7, 2)
    budget = float(np.sort(problem.costs, 1).sum() + problem.fixed_cost)
    calls: list[Picks] = []

    def score(picks: Picks) -> float:
        calls.append(picks)
        return sum(a != b for a, b in itertools.pairwise(picks)) + 0.1 * sum(p == 0 for p in picks)

    found = evolutionary(problem, budget, rng, population=12, generations=15, score=score)
    assert found == (1,) * 7
    assert len(calls) == len(set(calls)) <= 12 * 16


def test_greedy_takes_the_least_loss_per_unit_saved_first() -> None:
    problem = Problem(
        groups=("a", "b"), formats=("narrow", "wide"), losses=np.array([[0.5, 0.0], [0.9, 0.0]]),
        costs=np.array([[1.0, 2.0], [1.0, 4.0]]),
    )  # fmt: skip
    assert solve(problem, 6.0, "greedy") == (1, 1)
    assert solve(problem, 5.0, "greedy") == (1, 0)  # 0.9 / 3 a unit, not 0.5 / 1
    assert solve(problem, 5.0, "integer") == (0, 1)
    assert solve(problem, 2.0, "greedy") == (0, 0)


@pytest.mark.parametrize("method", list(SOLVERS))
def test_an_infeasible_budget_names_the_least_possible(method: str) -> None:
    problem = random_problem(np.random.default_rng(1), 4, 3)
    least = problem.cost(problem.cheapest)
    message = (
        f"budget: must be at least {problem.written(least)}, the cost of the cheapest format everywhere, "
        f"not {problem.written(0.9 * least)}; allow more, or add a cheaper format"
    )
    with pytest.raises(MacloomError, match=re.escape(message)):
        solve(problem, 0.9 * least, method)
    assert solve(problem, least, method) == problem.cheapest


def test_a_group_of_equal_formats_and_a_single_format() -> None:
    problem = Problem(groups=("a",), formats=("x",), losses=np.array([[0.3]]), costs=np.array([[2.0]]))
    assert [solve(problem, 2.0, method) for method in SOLVERS] == [(0,)] * 3
    same = Problem(groups=("a", "b"), formats=("x", "y"), losses=np.zeros((2, 2)), costs=np.ones((2, 2)))
    assert {same.cost(solve(same, 2.0, method)) for method in SOLVERS} == {2.0}


@pytest.mark.parametrize(
    ("text", "budget"), [("50%", 2.5e-6), ("100 %", 5e-6), ("3 us", 3e-6), ("0.004 ms", 4e-6)]
)  # fmt: skip
def test_budgets_as_people_write_them(text: str, budget: float) -> None:
    problem = Problem(groups=("a",), formats=("x", "y"), losses=np.array([[1.0, 0.0]]), costs=np.array([[1e-6, 5e-6]]))
    assert problem.budget(text) == pytest.approx(budget)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3 mJ", "budget: must be a time such as '2 ms', not '3 mJ' (an energy)"),
        ("3", "budget: must be a time such as '2 ms', not '3' (no unit)"),
        ("-5%", "budget: must be a positive percentage or a quantity in s, not '-5%'"),
        ("x%", "budget: must be a positive percentage or a quantity in s, not 'x%'"),
    ],
)
def test_bad_budgets(text: str, message: str) -> None:
    problem = Problem(groups=("a",), formats=("x",), losses=np.array([[1.0]]), costs=np.array([[1e-6]]))
    with pytest.raises(MacloomError, match=re.escape(message)):
        problem.budget(text)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"losses": np.zeros((2, 1))}, "problem.losses: must be 1 groups x 2 formats, not (2, 1)"),
        ({"costs": np.array([[1.0, np.inf]])}, "problem.costs: must be finite"),
        ({"losses": np.array([[1.0, np.nan]])}, "problem.losses: must be numbers, or infinite where"),
        ({"losses": np.array([[np.inf, np.inf]])}, "group 'a' must have a format with a finite loss; add a wider one"),
        (
            {"groups": (), "losses": np.zeros((0, 2)), "costs": np.zeros((0, 2))},
            "problem: must have at least one group",
        ),
    ],
)
def test_bad_problems(fields: dict[str, Any], message: str) -> None:
    whole: dict[str, Any] = {
        "groups": ("a",), "formats": ("x", "y"), "losses": np.zeros((1, 2)), "costs": np.ones((1, 2)),
    }  # fmt: skip
    with pytest.raises(MacloomError, match=re.escape(message)):
        Problem(**{**whole, **fields})


def test_unknown_method() -> None:
    problem = random_problem(np.random.default_rng(1), 2, 2)
    with pytest.raises(MacloomError, match=re.escape("method: unknown name 'integr'; did you mean 'integer'")):
        solve(problem, 1.0, "integr")


def test_without_scipy_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    problem = random_problem(np.random.default_rng(1), 2, 2)
    with pytest.raises(MacloomError, match=re.escape("method 'integer': needs scipy; pip install 'macloom[search]'")):
        solve(problem, 1.0)
