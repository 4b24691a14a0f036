"""SqueezeLLM: outliers, weighted tables and both ways of storing them, from their definitions."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import SqueezeLLM, get_format
from macloom.formats.outliers.cluster import cluster_rows


def make(name: str) -> SqueezeLLM:
    fmt = get_format(name)
    assert isinstance(fmt, SqueezeLLM)
    return fmt


def outliers_of(encoded) -> np.ndarray:
    mask = np.zeros(encoded.shape, bool).reshape(-1, encoded.shape[-1])
    rows, columns = encoded.side["rows"], encoded.side["columns"]
    for r in range(len(mask)):
        mask[r, columns[rows[r] : rows[r + 1]]] = True
    return mask.reshape(encoded.shape)


def test_paper_takes_the_largest_and_the_most_sensitive(heavy):
    x, sensitivity = heavy((40, 50)), np.random.default_rng(1).random((40, 50)).astype(np.float32)
    fmt = make("squeezellm4:outliers=0.02,sensitive=0.005")
    encoded = fmt.encode(x, weights=sensitivity)
    want = np.zeros(x.size, bool)
    want[np.argsort(-np.abs(x).reshape(-1))[:40]] = True
    want[np.argsort(-sensitivity.reshape(-1))[:10]] = True
    np.testing.assert_array_equal(outliers_of(encoded), want.reshape(x.shape))
    np.testing.assert_array_equal(
        encoded.decode()[outliers_of(encoded)], x.astype(np.float16).astype(np.float32)[outliers_of(encoded)]
    )
    np.testing.assert_array_equal(fmt.quantize(x, weights=sensitivity), encoded.decode())
    count = int(want.sum())
    assert encoded.bits == 40 * 50 * 4 + 40 * 16 * 16 + 32 * 41 + count * 32


def test_dense_elements_take_the_nearest_entry_of_the_best_table(heavy):
    x, sensitivity = heavy((3, 9)), np.random.default_rng(2).integers(1, 5, (3, 9)).astype(np.float32)
    fmt = make("squeezellm3:outliers=0,sensitive=0,table=fp32,value=fp32")
    got = fmt.quantize(x, weights=sensitivity).astype(np.float64)
    for row, weight, found in zip(x.astype(np.float64), sensitivity, got, strict=True):
        order = np.argsort(row)
        v, w = row[order], weight[order]
        best = min(
            sum((w[a:b] * (v[a:b] - np.average(v[a:b], weights=w[a:b])) ** 2).sum() for a, b in pairwise(e))
            for cuts in combinations(range(1, 9), 7)
            for e in [(0, *cuts, 9)]
        )
        assert (weight * (row - found) ** 2).sum() == pytest.approx(best, rel=1e-5, abs=1e-12)


def test_upstream_finds_outliers_by_the_quartiles(heavy):
    x = heavy((32, 48))
    fmt = make("squeezellm4:mode=upstream,range=1.5")
    q1, q3 = np.quantile(x.astype(np.float64), (0.25, 0.75))
    threshold = max(abs(q1 - 1.5 * (q3 - q1)), abs(q3 + 1.5 * (q3 - q1)))
    encoded = fmt.encode(x)
    np.testing.assert_array_equal(outliers_of(encoded), np.abs(x) >= threshold)
    assert encoded.side is not None
    assert encoded.side["columns"].dtype == np.uint32
    assert encoded.side["values"].dtype == np.uint32  # float32 patterns
    count = int((np.abs(x) >= threshold).sum())
    assert encoded.bits == 32 * 48 * 4 + 32 * 16 * 32 + 32 * 33 + count * 64


def test_upstream_stores_outliers_less_the_entry_nearest_to_zero(heavy):
    x = heavy((6, 40))
    encoded = make("squeezellm4:mode=upstream").encode(x)
    mask = outliers_of(encoded)
    assert encoded.side is not None
    table = encoded.scales
    zero = table[np.arange(6), np.abs(table).argmin(axis=1)]
    row = np.nonzero(mask)[0]
    np.testing.assert_array_equal(encoded.side["values"].view(np.float32), x[mask] - zero[row])
    np.testing.assert_array_equal(encoded.decode()[mask], (x[mask] - zero[row]) + zero[row])
    operand = encoded.operand()
    np.testing.assert_array_equal(operand.units[mask], zero[row])  # the dense part keeps that entry


def test_upstream_gives_zeros_and_outliers_no_weight(heavy):
    x = heavy((4, 64))
    x[:, ::3] = 0
    x[2] = 0
    fmt = make("squeezellm3:mode=upstream")
    tables = fmt.calibrate(x)
    bound = tables[0, -1]
    counted = ((x != 0) & (np.abs(x) <= bound)).astype(np.float32)
    dense = np.where(np.abs(x) <= bound, x, np.float32(0))
    np.testing.assert_array_equal(tables[:, :8], cluster_rows(dense, 8, counted).astype(np.float32))
    assert not tables[2, :8].any()  # a row without weight counts all alike


def test_upstream_keeps_what_is_strictly_above_the_last_sensitive_one(heavy):
    x, sensitivity = heavy((20, 50)), np.random.default_rng(3).random((20, 50)).astype(np.float32)
    fmt = make("squeezellm4:mode=upstream,range=1000,sensitive=0.01")
    top = np.sort(sensitivity.reshape(-1))[::-1]
    np.testing.assert_array_equal(outliers_of(fmt.encode(x, weights=sensitivity)), sensitivity > top[9])


def test_figures_of_the_datasheet():
    # D1: 4.06 and 3.03 dense at K = 4096 (b + 16 * 2**b / K); C9: 3.24 and 4.27 with 0.45 % of 16 + 16..32 bits
    dense = "outliers=0,sensitive=0"
    pointers = 32 * 4097 / 4096**2
    assert make(f"squeezellm4:{dense}").bits_per_element() - pointers == pytest.approx(4.0625)
    assert make(f"squeezellm3:{dense}").bits_per_element() - pointers == pytest.approx(3.03125)
    assert make("squeezellm4").bits_per_element() == pytest.approx(4.0625 + 0.0045 * 32 + pointers, abs=1e-5)
    assert 3.17 < make("squeezellm3").bits_per_element() < 3.24 < 3.26


def test_weights_matter_and_are_checked(heavy):
    x = heavy((4, 64))
    fmt = make("squeezellm3")
    skewed = np.where(x > 0, np.float32(100), np.float32(0.01))
    assert not np.array_equal(fmt.calibrate(x), fmt.calibrate(x, weights=skewed))
    error = np.abs(fmt.quantize(x, weights=skewed) - x)
    assert error[x > 0].mean() < error[x < 0].mean()
    with pytest.raises(MacloomError, match=r"weights: must have the tensor's shape \(4, 64\), not \(64,\)"):
        fmt.calibrate(x, weights=np.ones(64))
    for bad in (-1.0, np.nan):
        with pytest.raises(MacloomError, match="weights: must be finite and not negative"):
            fmt.encode(x, weights=np.full((4, 64), bad))
    with pytest.raises(MacloomError, match=r"scale: must have shape \(4, 10\) for a tensor of \(4, 64\), not \(10,\)"):
        fmt.encode(x, scale=fmt.calibrate(x)[0], weights=np.ones((4, 64)))


def test_codes_lie_as_the_released_kernels_read_them(heavy):
    """Three words of 32 bits hold 32 indices of 3 bits (C9 of the datasheet), eight indices of 4 bits fill one."""
    for width in (3, 4):
        encoded = make(f"squeezellm{width}:mode=upstream").encode(heavy((2, 64)))
        words = encoded.codes.view("<u4")
        for row, index in zip(words, encoded.elements.astype(int), strict=True):
            if width == 4:
                want = [sum(index[8 * i + j] << (4 * j) for j in range(8)) for i in range(8)]
            else:
                want = []
                for v in index.reshape(2, 32):
                    first = sum(v[j] << (3 * j) for j in range(10)) | (v[10] & 3) << 30
                    second = v[10] >> 2 | sum(v[11 + j] << (3 * j + 1) for j in range(10)) | (v[21] & 1) << 31
                    third = v[21] >> 1 | sum(v[22 + j] << (3 * j + 2) for j in range(10))
                    want += [first, second, third]
            assert row.tolist() == want
