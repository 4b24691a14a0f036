"""One-dimensional clustering against every partition, and against the definition step by step."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations_with_replacement, pairwise

import numpy as np
import pytest

from macloom.formats.outliers.cluster import cluster_rows, least_absolute_error, nearest_index


def f32(values: object) -> np.ndarray:
    return np.asarray(values, np.float32)


def squared_error(values: list[Fraction], weights: list[Fraction], centroid: Fraction) -> Fraction:
    return sum((w * (v - centroid) ** 2 for v, w in zip(values, weights, strict=True)), Fraction(0))


def least_error(values: np.ndarray, weights: np.ndarray, count: int) -> Fraction:
    """Return the smallest weighted squared error over all partitions of the sorted values."""
    order = np.argsort(values, kind="stable")
    v, w = [Fraction(float(x)) for x in values[order]], [Fraction(float(x)) for x in weights[order]]
    best = None
    for cuts in combinations_with_replacement(range(len(v) + 1), count - 1):
        total = Fraction(0)
        edges = (0, *cuts, len(v))
        for a, b in pairwise(edges):
            mass = sum(w[a:b], Fraction(0))
            if mass:
                mean = sum((x * y for x, y in zip(v[a:b], w[a:b], strict=True)), Fraction(0)) / mass
                total += squared_error(v[a:b], w[a:b], mean)
        best = total if best is None else min(best, total)
    assert best is not None
    return best


@pytest.mark.parametrize("seed", range(12))
def test_no_partition_is_better(seed):
    rng = np.random.default_rng(seed)
    length, count = int(rng.integers(1, 9)), int(rng.integers(2, 5))
    x = (np.round(rng.normal(size=(3, length)) * 4) / 4 + rng.normal() * 50).astype(np.float32)
    w = (rng.integers(0, 4, (3, length))).astype(np.float32)
    w[2] = 0  # counts all alike
    centroids = cluster_rows(x, count, w)
    assert np.all(np.diff(centroids, axis=1) >= 0)
    assert np.all(np.isfinite(centroids))
    for row, weights, found in zip(x, w, centroids, strict=True):
        counted = weights if weights.any() else np.ones_like(weights)
        got = sum(float(c) * min((float(v) - m) ** 2 for m in found) for v, c in zip(row, counted, strict=True))
        assert got == pytest.approx(float(least_error(row, counted, count)), abs=1e-9)


def test_no_weights_means_one_each_and_few_values_repeat():
    x = f32([[3, 1, 2, 2, 10, 11], [4, 4, 4, 4, 4, 4]])
    np.testing.assert_array_equal(cluster_rows(x, 2)[0], [2, 10.5])
    np.testing.assert_array_equal(cluster_rows(x, 2), cluster_rows(x, 2, np.full(x.shape, 3.0)))
    assert cluster_rows(x, 4)[1].tolist() == [4, 4, 4, 4]
    assert cluster_rows(f32([[7]]), 3).tolist() == [[7, 7, 7]]
    many = cluster_rows(x, 16)
    assert sorted(set(many[0])) == [1, 2, 3, 10, 11]


def test_remembered_results_are_those_of_the_data_and_cannot_be_spoiled():
    x = f32([[0, 1, 5, 6], [2, 2, 3, 3]])
    first = cluster_rows(x, 2)
    want = first.copy()
    first[...] = 9
    np.testing.assert_array_equal(cluster_rows(x, 2), want)
    np.testing.assert_array_equal(want, [[0.5, 5.5], [2, 3]])
    x[0, 0] = -1
    assert cluster_rows(x, 2)[0].tolist() == [0, 5.5]
    assert cluster_rows(x, 2, f32([[3, 1, 1, 1], [1, 1, 1, 1]]))[0].tolist() == [-0.5, 5.5]
    assert cluster_rows(x.reshape(1, 8), 2).shape == (1, 2)
    for shift in range(6):  # more than are remembered
        assert cluster_rows(x + np.float32(shift), 2)[1].tolist() == [2 + shift, 3 + shift]


def test_nearest_takes_the_lower_entry_at_a_tie():
    table = f32([[-1, 0, 2, 2]])
    x = f32([[-5, -0.5, -0.49, 1, 1.01, 9]])
    assert nearest_index(x, table).tolist() == [[0, 0, 1, 1, 2, 2]]
    each = nearest_index(f32([[1, 3], [1, 3]]), f32([[0, 4], [2, 9]]))
    assert each.tolist() == [[0, 1], [0, 0]]


def by_definition(values: list[float], count: int) -> list[float]:
    """GOBO's iteration, one value at a time."""
    ordered = sorted(values)
    size = len(ordered)
    bins = [ordered[i * size // count : (i + 1) * size // count] for i in range(count)]
    centroids = [sum(b) / len(b) for b in bins]

    def assigned(c: list[float]) -> list[int]:
        return [min(range(count), key=lambda i: (abs(v - c[i]), i)) for v in ordered]

    def error(c: list[float]) -> float:
        return sum(abs(v - c[i]) for v, i in zip(ordered, assigned(c), strict=True))

    while True:
        index = assigned(centroids)
        groups = [[v for v, i in zip(ordered, index, strict=True) if i == k] for k in range(count)]
        candidate = [sum(g) / len(g) if g else c for g, c in zip(groups, centroids, strict=True)]
        if not error(candidate) < error(centroids):
            return centroids
        centroids = candidate


@pytest.mark.parametrize("seed", range(6))
def test_least_absolute_error_iterates_as_defined(seed):
    x = np.random.default_rng(seed).standard_t(3, 400).astype(np.float32)
    got, iterations = least_absolute_error(x, 8)
    np.testing.assert_allclose(got, by_definition([float(v) for v in x], 8), rtol=1e-9)
    assert 1 <= iterations < 100


def test_least_absolute_error_of_few_values():
    for values in ([3.0], [1.0, 1.0, 1.0], [0.0, 5.0]):
        got, _ = least_absolute_error(f32(values), 4)
        assert np.all(np.diff(got) >= 0)
        assert set(got) <= set(values)
