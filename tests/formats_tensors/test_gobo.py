"""GOBO: the Gaussian test with scipy-free densities, the table, exact bits."""

from __future__ import annotations

import math

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import gemm, get_format


def f32(values: object) -> np.ndarray:
    return np.asarray(values, np.float32)


@pytest.fixture
def weights(heavy):
    """Give weights of the size that layers have."""

    def make(shape: tuple[int, ...] = (64, 96), deviation: float = 0.04) -> np.ndarray:
        return heavy(shape) * np.float32(deviation)

    return make


def log_density(x: np.ndarray) -> np.ndarray:
    mean, deviation = x.astype(np.float64).mean(), x.astype(np.float64).std()
    return -((x - mean) ** 2) / (2 * deviation**2) - math.log(deviation * math.sqrt(2 * math.pi))


@pytest.mark.parametrize("threshold", [-4.0, -1.5, -10.0])
@pytest.mark.parametrize("width", [3, 4])
def test_outliers_are_below_the_threshold_and_exact(threshold, width, weights):
    x = weights()
    fmt = get_format(f"gobo{width}:threshold={threshold:g}")
    encoded = fmt.encode(x)
    outlier = log_density(x) < threshold
    assert encoded.side is not None
    np.testing.assert_array_equal(encoded.side["positions"], np.flatnonzero(outlier))
    np.testing.assert_array_equal(encoded.decode()[outlier], x[outlier])
    table = encoded.scales
    assert table.shape == (1 << width,)
    assert np.all(np.diff(table) > 0)
    nearest = table[np.abs(x[..., None].astype(np.float64) - table).argmin(axis=-1)]
    np.testing.assert_array_equal(encoded.decode()[~outlier], nearest[~outlier])
    count = int(outlier.sum())
    assert encoded.bits == 64 * (96 * width // 8) * 8 + (1 << width) * 32 + count * (32 + 32)


def test_standard_density_does_not_depend_on_the_unit(weights):
    x, fmt = weights(), get_format("gobo3:density=standard")
    z = (x - x.astype(np.float64).mean()) / x.astype(np.float64).std()
    outlier = -(z**2) / 2 - math.log(math.sqrt(2 * math.pi)) < -4
    for factor in (1, 1024, 2.0**-20):
        encoded = fmt.encode(x * np.float32(factor))
        assert encoded.side is not None
        np.testing.assert_array_equal(encoded.side["positions"], np.flatnonzero(outlier))
        np.testing.assert_array_equal(encoded.decode(), fmt.quantize(x) * np.float32(factor))


def test_the_iteration_lowers_the_absolute_error_and_kmeans_the_squared_one():
    x = (np.random.default_rng(5).normal(size=(64, 96)) * 0.04).astype(np.float32)
    error = {fit: np.abs(get_format(f"gobo3:fit={fit}").quantize(x).astype(np.float64) - x) for fit in ("l1", "kmeans")}
    ordered = np.sort(x[log_density(x) >= -4].astype(np.float64))
    means = np.array([b.mean() for b in np.array_split(ordered, 8)])
    start = np.abs(ordered[:, None] - means).min(axis=1).sum()
    assert error["l1"].sum() < start
    assert (error["kmeans"] ** 2).sum() <= (error["l1"] ** 2).sum()


def test_the_default_threshold_has_the_unit_of_the_weights():
    with pytest.raises(MacloomError, match="no element's log density reaches the threshold -4, .*density=standard"):
        get_format("gobo3").encode(f32([[-50, 50], [-49, 51]]))
    assert get_format("gobo3").quantize(f32([[50, 50]])).tolist() == [[50, 50]]


def test_bits_option_and_stated_rate():
    fmt = get_format("gobo3:bits=5,rate=0.01")
    assert fmt.code_bits == 5
    assert fmt.decoder_bits == 5
    assert fmt.storage_bits((100, 80)) == 100 * 80 * 5 + 32 * 32 + 80 * 64
    assert get_format("gobo3").bits_per_element() == pytest.approx(3 + 0.001 * 64, abs=1e-4)


def test_tables_are_checked(weights):
    fmt, x = get_format("gobo3"), weights((4, 8))
    good = fmt.calibrate(x)
    assert good.shape == (10,)
    for change, message in (
        (lambda s: s[:-1], r"scale: must have shape \(10,\) for a tensor of \(4, 8\), not \(9,\)"),
        (lambda s: np.concatenate((s[7::-1], s[8:])), "scale: the tables of format 'gobo3' must ascend"),
        (lambda s: np.concatenate((s[:7], [np.inf], s[8:])), "scale: the tables of format 'gobo3' must be finite"),
        (lambda s: np.concatenate((s[:8], [1, -1])), "the lower bound of format 'gobo3' must not be above"),
    ):
        with pytest.raises(MacloomError, match=message):
            fmt.encode(x, scale=change(good))


def test_products_are_float32_in_ascending_order(heavy, weights):
    x, y = weights((5, 32)), heavy((3, 32), 4)
    a, b = get_format("gobo3").encode(x), get_format("fp32").encode(y)
    left = a.decode().copy()
    assert a.side is not None
    flat = a.side["positions"]
    outliers = np.zeros(left.size, np.float32)
    outliers[flat] = left.reshape(-1)[flat]
    outliers = outliers.reshape(left.shape)
    dense = left - outliers
    want = np.zeros((5, 3), np.float32)
    extra = np.zeros((5, 3), np.float32)
    for k in range(32):
        want += dense[:, k, None] * y[None, :, k]
        extra += outliers[:, k, None] * y[None, :, k]
    np.testing.assert_array_equal(gemm(a, b), want + extra)
