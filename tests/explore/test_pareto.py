"""Pareto fronts, against the definition."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from macloom.errors import MacloomError
from macloom.explore.pareto import pareto_front

SMALL = st.integers(0, 6)


def dominated(p: tuple[float, ...], points: list[tuple[float, ...]]) -> bool:
    return any(
        all(b <= a for a, b in zip(p, q, strict=True)) and any(b < a for a, b in zip(p, q, strict=True)) for q in points
    )


@given(st.lists(st.tuples(SMALL, SMALL), max_size=30))
def test_two_objectives_match_the_definition(points: list[tuple[float, ...]]) -> None:
    assert pareto_front(points) == [i for i, p in enumerate(points) if not dominated(p, points)]


@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.tuples(*[SMALL] * n), max_size=20)))
def test_any_number_of_objectives_matches_the_definition(points: list[tuple[float, ...]]) -> None:
    assert pareto_front(points) == [i for i, p in enumerate(points) if not dominated(p, points)]


def test_infinities_have_an_order() -> None:
    assert pareto_front([(1.0, float("inf")), (2.0, 3.0), (3.0, float("inf"))]) == [0, 1]


def test_points_of_different_length_are_refused() -> None:
    with pytest.raises(MacloomError, match=r"^points\[1\]: must have 2 objectives like the first, not 3$"):
        pareto_front([(1, 2), (1, 2, 3)])


def test_nan_is_refused() -> None:
    with pytest.raises(MacloomError, match=r"^points\[0\]: must not hold NaN; leave out points without a value$"):
        pareto_front([(float("nan"), 2)])
