"""K-sort and the merging of channel scales leave the network's function as it is."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import KSort, Merge, Rope, get_format, k_sort, merge_channels, merge_scales


def heads(x: np.ndarray, count: int) -> np.ndarray:
    """(positions, heads * d) -> (heads, positions, d)."""
    return np.moveaxis(x.reshape(len(x), count, -1), 1, 0)


def rope(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """The half-split rotary embedding on (heads, positions, d)."""
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return np.concatenate((a * cos + -1.0 * b * sin, b * cos + 1.0 * a * sin), axis=-1)


def tables(positions: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    angle = np.arange(3, 3 + positions)[:, None] * 10000.0 ** (-2 * np.arange(d // 2) / d)
    return np.cos(angle), np.sin(angle)


def exact_logits(q: np.ndarray, k: np.ndarray) -> list[list[Fraction]]:
    return [
        [sum((Fraction(a) * Fraction(b) for a, b in zip(r, s, strict=True)), Fraction(0)) for s in k.tolist()]
        for r in q.tolist()
    ]


@pytest.mark.parametrize("mode", list(Rope))
def test_logits_are_the_same_in_exact_arithmetic(mode: Rope) -> None:
    rng = np.random.default_rng(0)
    key_heads, query_heads, d, inputs, positions = 2, 4, 8, 5, 3
    wk, wq = rng.normal(size=(key_heads * d, inputs)), rng.normal(size=(query_heads * d, inputs))
    bk, bq = rng.normal(size=key_heads * d), rng.normal(size=query_heads * d)
    x = rng.integers(-8, 9, (positions, inputs)).astype(np.float64)
    sort = k_sort(wk, key_heads, mode)
    cos, sin = tables(positions, d)

    def project(w: np.ndarray, b: np.ndarray, count: int) -> np.ndarray:
        # One row at a time, so that a row's sum does not depend on its place.
        return heads(np.stack([x @ row for row in w], axis=1) + b, count)

    plain = [project(wq, bq, query_heads), project(wk, bk, key_heads)]
    moved = [
        project(sort.rows(wq, query_heads), sort.rows(bq, query_heads), query_heads),
        project(sort.rows(wk, key_heads), sort.rows(bk, key_heads), key_heads),
    ]
    if mode is not Rope.NONE:
        plain = [rope(t, cos, sin) for t in plain]
        moved = [sort.rotate(t, cos, sin) for t in moved]
    for h in range(query_heads):
        group = h // (query_heads // key_heads)
        assert np.array_equal(moved[0][h], plain[0][h][:, sort.order[group]])
        assert exact_logits(moved[0][h], moved[1][group]) == exact_logits(plain[0][h], plain[1][group])


def test_sorted_pairs_need_only_permuted_tables() -> None:
    rng = np.random.default_rng(1)
    d = 8
    sort = k_sort(rng.normal(size=(d, 4)), 1, Rope.PAIRS)
    cos, sin = tables(5, d)
    x = rng.normal(size=(1, 5, d))
    order = sort.order[0, : d // 2]
    assert np.array_equal(sort.order[0, d // 2 :], order + d // 2)
    assert np.array_equal(sort.rotate(x, cos, sin), rope(x, cos[:, order], sin[:, order]))


def test_the_order_is_by_norm_with_ties_by_index() -> None:
    w = np.array([[3.0, 4.0], [5.0, 0.0], [0.0, 1.0], [6.0, 8.0]])
    assert k_sort(w, 1).order.tolist() == [[3, 0, 1, 2]]
    assert k_sort(w, 1, Rope.FREE).order.tolist() == [[3, 0, 1, 2]]
    assert k_sort(w, 1, Rope.PAIRS).order.tolist() == [[1, 0, 3, 2]]
    assert k_sort(np.tile(w, (2, 1))[::-1], 2).order.tolist() == [[0, 2, 3, 1], [0, 2, 3, 1]]


def test_sorted_values_fold_into_the_output_projection() -> None:
    rng = np.random.default_rng(2)
    wv, wo, x = rng.integers(-9, 10, (8, 5)), rng.integers(-9, 10, (6, 8)), rng.integers(-9, 10, (4, 5))
    sort = k_sort(wv, 2)
    assert np.array_equal(x @ sort.rows(wv, 2).T @ sort.columns(wo, 2).T, x @ wv.T @ wo.T)


def keys(rng: np.random.Generator, d: int) -> tuple[np.ndarray, np.ndarray]:
    w = rng.normal(size=(d, 48)) * np.exp(rng.normal(size=(d, 1)) * 1.3)
    return w, (rng.normal(size=(64, 48)) @ w.T).astype(np.float32)


def test_sorting_lowers_the_error_of_keys_with_outlier_channels() -> None:
    rng = np.random.default_rng(3)
    for block in (32, 64):
        fmt = get_format(f"bfp4:block={block}")
        for _ in range(6):
            w = rng.normal(size=(128, 48))
            w[rng.permutation(128)[:8]] *= 16
            k = (rng.normal(size=(64, 48)) @ w.T).astype(np.float32)
            order = k_sort(w, 1).order[0]
            before = np.square(fmt.quantize(k) - k).sum()
            after = np.square(fmt.quantize(k[:, order]) - k[:, order]).sum()
            assert after < before


def test_one_block_per_head_sees_no_order() -> None:
    w, k = keys(np.random.default_rng(4), 64)
    order = k_sort(w, 1).order[0]
    fmt = get_format("bfp4:block=64")
    assert np.array_equal(fmt.quantize(k)[:, order], fmt.quantize(k[:, order]))


def test_the_norm_order_follows_the_size_of_the_keys() -> None:
    w, k = keys(np.random.default_rng(5), 128)
    position = np.argsort(k_sort(w, 1).order[0])
    largest = np.argsort(np.argsort(-np.abs(k).max(axis=0)))
    assert np.corrcoef(position, largest)[0, 1] > 0.95  # rank correlation (Spearman)


@pytest.mark.parametrize("merge", [Merge.MEDIAN, Merge.MAD, Merge.MEAN])
def test_merged_norms_keep_the_function_and_the_codes(merge: Merge) -> None:
    rng = np.random.default_rng(6)
    channels, outputs = 12, 7
    gamma, beta = rng.normal(size=(2, channels))
    weight, bias = rng.normal(size=(outputs, channels)), rng.normal(size=outputs)
    scales, zeros = np.exp(rng.normal(size=channels)), rng.integers(-5, 6, channels).astype(float)
    scale, zero = merge_scales(scales, merge), float(np.median(zeros))
    merged = merge_channels(gamma, beta, weight, bias, scales, zeros, scale, zero)
    normed = rng.normal(size=(9, channels))
    x, y = normed * gamma + beta, normed * merged.gamma + merged.beta
    assert np.allclose(y @ merged.weight.T + merged.bias, x @ weight.T + bias, rtol=1e-12, atol=1e-12)
    assert np.array_equal(np.rint(y / scale + zero), np.rint(x / scales + zeros))


def test_merge_rules() -> None:
    s = np.array([1.0, 1.1, 0.9, 1.05, 40.0])
    assert merge_scales(s, Merge.MEDIAN) == 1.05
    assert merge_scales(s, Merge.MEAN) == pytest.approx(8.81)
    assert merge_scales(s, Merge.MAD) == pytest.approx((1.0 + 1.1 + 0.9 + 1.05) / 4)
    assert merge_scales(s, Merge.MAD, k=1000.0) == pytest.approx(8.81)
    assert merge_scales(np.full(4, 2.0), Merge.MAD) == 2.0
    found = merge_scales(s, Merge.SEARCH, error=lambda t: abs(t - 3.0), candidates=1001)
    assert abs(found - 3.0) < 0.02


def test_bad_input_is_refused() -> None:
    w = np.ones((8, 3))
    one = np.ones(3)
    for call, message in [
        (lambda: k_sort(w, 3), r"needs \(heads \* even d, inputs\) for 3 heads, not \(8, 3\)"),
        (lambda: k_sort(np.ones((6, 3)), 2), "needs .heads . even d, inputs. for 2 heads"),
        (lambda: k_sort(w, 2).rows(w, 3), "needs heads in multiples of 2 with 4 channels each, not 3 in 8 rows"),
        (lambda: merge_scales(np.array([1.0, -1.0])), "needs positive, finite scales"),
        (lambda: merge_scales(one, Merge.SEARCH), "'search' needs the error of a scale"),
        (lambda: merge_channels(one, one, w, np.ones(3), one, one, 1.0), "needs vectors of 3 channels and a bias of 8"),
        (lambda: merge_channels(one, one, w, np.ones(8), one, one, 0.0), "scales must be positive"),
    ]:
        with pytest.raises(MacloomError, match=message):
            call()
    assert isinstance(k_sort(w, 2), KSort)
