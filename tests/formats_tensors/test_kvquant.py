"""KVQuant by its definition, and against the simulated quantizer of the released code restated in numpy."""

from __future__ import annotations

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import KVQuant, get_format, rotate
from macloom.formats.outliers.cluster import cluster_rows


def make(name: str) -> KVQuant:
    fmt = get_format(name)
    assert isinstance(fmt, KVQuant)
    return fmt


def f32(values: object) -> np.ndarray:
    return np.asarray(values, np.float32)


@pytest.fixture
def keys(heavy):
    """Give 120 tokens of 16 channels, each with its own range."""

    def make() -> np.ndarray:
        rng = np.random.default_rng(7)
        return (heavy((120, 16)) * np.exp(rng.normal(size=16)) + rng.normal(size=16)).astype(np.float32)

    return make


def half(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, np.float16).astype(np.float32)


def outliers_of(encoded) -> np.ndarray:
    mask = np.zeros((int(np.prod(encoded.shape[:-1])), encoded.shape[-1]), bool)
    rows, columns = encoded.side["rows"], encoded.side["columns"]
    for r in range(len(mask)):
        mask[r, columns[rows[r] : rows[r + 1]]] = True
    return mask.reshape(encoded.shape)


def test_keys_of_the_paper_by_definition(keys):
    x, fmt = keys(), make("kvquant3:outliers=0.05")
    low, high = (np.quantile(x, q, axis=0).astype(np.float32) for q in (0.025, 0.975))
    scale = fmt.calibrate(x)
    np.testing.assert_array_equal(scale[:16], low)
    np.testing.assert_array_equal(scale[16:32], high)
    radius, offset = half((high.astype(np.float64) - low) / 2), half((high.astype(np.float64) + low) / 2)
    outlier = (half(x) < low) | (half(x) > high)
    normalised = (x - offset) / radius
    table = half(cluster_rows(normalised.T[~outlier.T][None], 8)[0])
    np.testing.assert_array_equal(scale[32:40], table)
    np.testing.assert_array_equal(scale[40:], table)
    index = np.abs(normalised[..., None].astype(np.float64) - table).argmin(axis=-1)
    want = np.where(outlier, half(x), half(table[index] * radius + offset))
    encoded = fmt.encode(x)
    np.testing.assert_array_equal(encoded.decode(), want)
    np.testing.assert_array_equal(outliers_of(encoded), outlier)
    assert encoded.bits == 120 * 16 * 3 + (2 * 16 + 8) * 16 + 32 * 121 + 32 * int(outlier.sum())


def released(
    inp: np.ndarray, lut: np.ndarray, axis: int, outlier: np.ndarray, maxval: np.ndarray, minval: np.ndarray
) -> np.ndarray:
    """The released simulated quantizer, restated: shift, zero the outliers, divide, nearest, undo."""
    offset, rangeval = (np.expand_dims((maxval + s * minval) / np.float32(2), axis) for s in (1, -1))
    shifted = inp - offset
    kept = shifted * outlier
    scaled = (shifted - kept) / rangeval
    q = lut[np.abs(scaled[..., None] - lut).argmin(axis=-1)] * rangeval
    q[outlier] = 0
    return q + kept + offset


def test_upstream_keys_are_those_of_the_released_quantizer(keys):
    x, fmt = keys(), make("kvquant3:mode=upstream")
    scale = fmt.calibrate(x)
    low, high = (half(np.percentile(x, p, axis=0)) for p in (0.5, 99.5))
    np.testing.assert_array_equal(scale[:32], np.concatenate((low, high)))
    got = fmt.quantize(x, scale=scale)
    want = released(x, scale[32:40], 0, (x < low) | (x > high), high, low)
    np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6)


def test_upstream_values_are_those_of_the_released_quantizer(heavy):
    x, fmt = heavy((30, 64)), make("kvquant4:role=value,mode=upstream")
    scale = fmt.calibrate(x)
    low, high = (np.quantile(x, q, axis=1, keepdims=True) for q in (0.005, 0.995))
    outlier = (x <= low) | (x >= high)
    median = np.sort(x, axis=1)[:, 31:32]  # torch.median takes the lower one
    inner = np.where(outlier, median, x)
    want = released(x, scale[:16], 1, outlier, inner.max(axis=1), inner.min(axis=1))
    np.testing.assert_allclose(fmt.quantize(x, scale=scale), want, rtol=2e-6, atol=2e-6)


def test_values_find_the_range_of_each_token():
    x = f32([[0, 1, 2, 3, 100], [0, -1, -2, -3, -4]])
    encoded = make("kvquant2:role=value,outliers=0.3").encode(x)
    np.testing.assert_array_equal(outliers_of(encoded), [[1, 0, 0, 0, 1], [1, 0, 0, 0, 1]])
    assert encoded.scales[:4].tolist() == [1, 1, 2, -2]  # radius 1 and 1, offset 2 and -2
    np.testing.assert_array_equal(encoded.decode(), x)


def test_static_bounds_serve_other_tokens_and_later_ones_change_nothing(keys):
    fmt, x = make("kvquant4"), keys()
    scale = fmt.calibrate(x)
    whole = fmt.quantize(x, scale=scale)
    np.testing.assert_array_equal(fmt.quantize(x[:17], scale=scale), whole[:17])


def test_channels_are_independent(keys):
    fmt, x = make("kvquant4"), keys()
    order = np.random.default_rng(0).permutation(16)
    np.testing.assert_array_equal(fmt.quantize(x[:, order]), fmt.quantize(x)[:, order])
    scale = fmt.calibrate(x)
    factors = np.exp2(np.arange(16) % 5 - 2).astype(np.float32)
    scaled = np.concatenate((scale[:16] * factors, scale[16:32] * factors, scale[32:]))
    np.testing.assert_array_equal(
        make("kvquant4").quantize(x * factors, scale=scaled), fmt.quantize(x, scale=scale) * factors
    )


def test_indices_grow_with_the_value(heavy):
    fmt = make("kvquant4:outliers=0")
    x = np.sort(heavy((200, 1)), axis=0)
    codes = fmt.encode(x).elements[:, 0].astype(int)
    assert np.all(np.diff(codes) >= 0)
    assert codes[0] == 0
    assert codes[-1] == 15


def test_qnorm_restores_mean_and_deviation_of_the_inliers(heavy):
    x = heavy((200, 16))
    plain, normed = (make(f"kvquant2:table=fp32,value=fp32,qnorm={q}") for q in ("off", "on"))
    scale = normed.calibrate(x)
    np.testing.assert_array_equal(scale[:36], plain.calibrate(x)[:36])
    encoded = normed.encode(x, scale=scale)
    np.testing.assert_array_equal(encoded.elements, plain.encode(x).elements)
    inside = ~outliers_of(encoded)
    radius, offset = encoded.scales[:16], encoded.scales[16:32]
    for got, want in (((encoded.decode() - offset) / radius, (x - offset) / radius),):
        assert got[inside].mean() == pytest.approx(want[inside].mean(), abs=1e-5)
        assert got[inside].std() == pytest.approx(want[inside].std(), rel=1e-5)
    assert plain.quantize(x)[inside].std() < x[inside].std()


def test_the_cap_keeps_the_largest_on_each_side():
    x = np.zeros((4, 40), np.float32)
    x[:, :] = np.linspace(-1, 1, 40)
    x[1, 3:8] = [50, 10, 40, -30, -60]
    fmt = make("kvquant4:role=value,outliers=0.2,cap=2")
    mask = outliers_of(fmt.encode(x))
    assert np.flatnonzero(mask[1]).tolist() == [3, 5, 6, 7]
    assert mask[0].sum() == 4
    assert np.flatnonzero(mask[0]).tolist() == [0, 1, 38, 39]
    assert outliers_of(make("kvquant4:role=value,outliers=0.2,cap=0").encode(x)).sum() == 0


def test_first_tokens_are_kept_in_fp16(heavy):
    x = heavy((2, 10, 16))
    x[:, :2] *= 100
    fmt = make("kvquant2:first=2")
    encoded = fmt.encode(x)
    np.testing.assert_array_equal(encoded.decode()[:, :2], half(x[:, :2]))
    assert not outliers_of(encoded)[:, :2].any()
    np.testing.assert_array_equal(fmt.calibrate(x), fmt.calibrate(np.concatenate((x[:, :2] * 3, x[:, 2:]), axis=1)))
    assert encoded.side is not None
    assert encoded.side["first"].nbytes == 2 * 2 * 16 * 2


@pytest.mark.parametrize("options", ["role=value", "role=key,first=3,cap=1", "role=value,mode=upstream,first=1,cap=1"])
@pytest.mark.parametrize("shape", [(20, 16), (2, 3, 12, 8)])
def test_transposed_tensors_give_the_transposed_values(heavy, options, shape):
    x = heavy(shape)
    plain, turned = make(f"kvquant3:{options}"), make(f"kvquant3:{options},transposed=on")
    y = np.ascontiguousarray(np.swapaxes(x, -1, -2))
    # The codebook is the same up to the order in which float64 sums run.
    np.testing.assert_allclose(turned.calibrate(y), plain.calibrate(x), rtol=2**-9)
    scale = plain.calibrate(x)
    got, want = turned.encode(y, scale=scale), plain.encode(x, scale=scale)
    np.testing.assert_array_equal(np.swapaxes(got.decode(), -1, -2), want.decode())
    np.testing.assert_array_equal(got.scales, want.scales)
    again = turned.from_packed(got.codes, got.scales, got.shape, side=got.side)
    np.testing.assert_array_equal(again.decode(), got.decode())


def test_sensitivity_moves_the_table(keys):
    x, fmt = keys(), make("kvquant2:outliers=0,table=fp32,value=fp32")
    weights = np.where(x > np.median(x, axis=0), np.float32(1), np.float32(0))
    error = [np.abs(fmt.quantize(x, scale=fmt.calibrate(x, weights=w)) - x) for w in (None, weights)]
    assert (error[1] ** 2 * weights).sum() < (error[0] ** 2 * weights).sum()
    with pytest.raises(MacloomError, match=r"weights: must have the tensor's shape \(120, 16\), not \(16,\)"):
        fmt.encode(x, weights=np.ones(16))
    with pytest.raises(MacloomError, match="weights: must be finite and not negative"):
        fmt.encode(x, weights=-np.ones((120, 16)))


def test_figures_of_the_datasheet():
    # B10: 3 + 0.01 * (16 + 16) = 3.32, with pointers 32 / 4096 and scales 3.33 to 3.35; 4.33 and 2.33
    for width in (2, 3, 4):
        assert 0.33 < make(f"kvquant{width}").bits_per_element() - width < 0.35


def test_rotation_of_exact_keys_and_of_decoded_ones(heavy):
    x, positions = heavy((9, 16)).astype(np.float32), np.arange(9) + 100
    turned = rotate(x, positions)
    angle = positions[:, None] / 10000 ** (np.arange(8) / 8)
    z = (x[:, :8] + 1j * x[:, 8:]) * np.exp(1j * angle)
    np.testing.assert_allclose(turned, np.concatenate((z.real, z.imag), axis=1), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(turned, axis=1), np.linalg.norm(x, axis=1), rtol=1e-6)
    moved = rotate(turned, -positions)
    np.testing.assert_allclose(moved, x, rtol=1e-5, atol=1e-5)
    fmt = make("kvquant4")
    error = np.linalg.norm(rotate(fmt.quantize(x), positions) - turned)
    assert error == pytest.approx(np.linalg.norm(fmt.quantize(x) - x), rel=1e-5)  # rotation keeps the error's size
    with pytest.raises(MacloomError, match="rotate: needs an even number of channels, not 15"):
        rotate(x[:, :15], positions)
    with pytest.raises(MacloomError, match=r"rotate: needs one position for each of 9 tokens, not shape \(3,\)"):
        rotate(x, positions[:3])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s[1:], r"scale: must have shape \(48,\) for a tensor of \(120, 16\), not \(47,\)"),
        (lambda s: np.concatenate((s[16:32], s[:16], s[32:])), "scale: the low bounds of format 'kvquant3' must not"),
        (lambda s: np.concatenate((s[:32], s[39:31:-1], s[40:])), "scale: the table of format 'kvquant3' must ascend"),
        (lambda s: np.where(np.arange(48) == 4, np.nan, s), "scale: the bounds and tables of format 'kvquant3' must"),
    ],
)
def test_scales_are_checked(change, message, keys):
    fmt, x = make("kvquant3"), keys()
    with pytest.raises(MacloomError, match=message):
        fmt.encode(x, scale=change(fmt.calibrate(x)))


def test_wrong_records_are_refused(keys):
    with pytest.raises(MacloomError, match=r"kvquant\.outliers: must be from 0 to below 1, not 1"):
        KVQuant(name="t", width=3, outliers=1)
    with pytest.raises(MacloomError, match=r"kvquant\.width: must be an integer from 2 to 8, not 1"):
        KVQuant(name="t", width=1)
    encoded = make("kvquant3").encode(keys())
    with pytest.raises(MacloomError, match=r"scales: must have shape \(40,\) for a tensor of \(120, 16\), not \(39,\)"):
        encoded.format.from_packed(encoded.codes, encoded.scales[1:], encoded.shape, side=encoded.side)
