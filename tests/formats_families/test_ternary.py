"""Ternary and binary tensors against their worked example, and the dense packing against base-3 numbers."""

# Lists stand for arrays and strings for enumerations; numpy's stubs do not know float32 of a list.
# pyright: reportArgumentType=false, reportIndexIssue=false
from __future__ import annotations

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import Binary, Granularity, Statistic, StatisticScaled, get_format
from macloom.formats.scales import Grain
from macloom.formats.tensors.statistic import granules, measure

W = np.float32([0.9, -0.05, 0.3, -0.7, 0.12, -0.33, 0.02, 0.5])


@pytest.mark.parametrize("rule, scale", [("mean", 0.365), ("median", 0.315), ("lower_median", 0.30)])
def test_the_worked_example(rule: str, scale: float) -> None:
    fmt = get_format(f"ternary:rule={rule}")
    assert float(fmt.calibrate(W)) == pytest.approx(scale, rel=1e-6)
    np.testing.assert_array_equal(fmt.element.values[fmt.encode(W).elements], [1, 0, 1, -1, 0, -1, 0, 1])
    np.testing.assert_array_equal(np.unique(np.abs(fmt.quantize(W))), np.float32([0, float(fmt.calibrate(W))]))


def test_half_the_scale_is_zero() -> None:
    fmt = get_format("ternary")
    x = np.float32([0.5, -0.5, 0.50001, -0.50001])
    np.testing.assert_array_equal(fmt.quantize(x, scale=np.float32(1)), [0, 0, 1, -1])


def test_share_of_zeros_of_normal_data() -> None:
    x = np.random.default_rng(1).normal(size=200_000).astype(np.float32)
    assert np.mean(get_format("ternary:rule=median").quantize(x) != 0) == pytest.approx(0.736, abs=0.004)
    assert np.mean(get_format("ternary").quantize(x) != 0) == pytest.approx(0.690, abs=0.004)


def test_the_scale_has_a_floor() -> None:
    fmt = get_format("ternary")
    assert float(fmt.calibrate(np.zeros(4, np.float32))) == np.float32(1e-5)
    assert np.all(fmt.quantize(np.zeros(4, np.float32)) == 0)


@pytest.mark.parametrize("length", [1, 4, 5, 6, 23, 40])
def test_five_elements_to_a_byte(length: int) -> None:
    fmt = get_format("ternary:packing=trits,channel")
    x = np.random.default_rng(length).normal(size=(3, length)).astype(np.float32)
    encoded = fmt.encode(x)
    for row, packed in zip(encoded.elements, encoded.codes, strict=True):
        digits = [{0: 0, 1: 1, 3: 2}[int(code)] for code in row]
        numbers = [sum(d * 3**i for i, d in enumerate(digits[k : k + 5])) for k in range(0, length, 5)]
        assert packed.tolist() == numbers
    assert fmt.storage_bits(x.shape) == 3 * 8 * -(-length // 5) + 3 * 32 == encoded.bits
    back = fmt.from_packed(encoded.codes, encoded.scales, x.shape)
    np.testing.assert_array_equal(back.decode(), fmt.quantize(x))


def test_bits_per_element() -> None:
    assert get_format("ternary:packing=trits").storage_bits((10, 4000)) == 10 * 4000 * 1.6 + 32
    assert get_format("ternary").storage_bits((10, 4000)) == 10 * 4000 * 2 + 32
    assert get_format("binary").storage_bits((10, 4000)) == 10 * 4000 + 32


def test_binary_is_the_sign_times_the_mean() -> None:
    fmt = get_format("binary:channel")
    x = np.float32([[1, -3, 0, -0.0], [0.5, 0.5, -0.5, 2.5]])
    np.testing.assert_array_equal(fmt.quantize(x), np.float32([[1, -1, 1, 1], [1, 1, -1, 1]]))
    packed = fmt.encode(x)
    assert packed.codes.tolist() == [[0b0010], [0b0100]]
    np.testing.assert_array_equal(fmt.from_packed(packed.codes, packed.scales, x.shape).decode(), fmt.quantize(x))


def test_statistics_of_every_granularity() -> None:
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for grain, size, axis, expected in (
        (Grain.TENSOR, None, None, x.mean()),
        (Grain.ROW, None, None, x.mean(axis=2)),
        (Grain.GROUP, 2, None, x.reshape(2, 3, 2, 2).mean(axis=3)),
        (Grain.AXIS, None, 1, x.mean(axis=(0, 2))),
        (Grain.AXIS, None, -1, x.mean(axis=(0, 1))),
    ):
        granularity = Granularity(grain=grain, size=size, axis=axis)
        np.testing.assert_allclose(measure(granules(x, granularity, "t"), Statistic.MEAN), expected)
        fmt = StatisticScaled(name="t", element=Binary(), granularity=granularity, statistic=Statistic.MEAN)
        assert fmt.calibrate(x).shape == granularity.scale_shape(x.shape, "t")


def test_statistics() -> None:
    x = np.float32([1, 2, 3, 10])
    results = [float(measure(x, s)) for s in Statistic]
    assert results == [10, np.float32(np.sqrt(114 / 4)), 4, 2.5, 2]


@pytest.mark.parametrize("build, message", [
    (lambda: get_format("ternary:rule=rms"), "format option rule: unknown name 'rms'"),
    (lambda: get_format("ternary:packing=trit"), "format option packing: unknown name 'trit'; did you mean 'trits'"),
    (lambda: StatisticScaled(name="t", element=Binary(), statistic="mode"), "statistic: unknown name 'mode'"),
    (lambda: StatisticScaled(name="t", element=Binary(), statistic="mean", floor=-1.0), "floor: must be a finite"),
    (lambda: get_format("ternary").quantize(np.float32([1, np.nan])), "the tensor holds NaN"),
    (lambda: get_format("ternary:packing=trits").from_packed(np.uint8([[243]]), np.float32(1), (1, 5)),
     "codes: must be below 243, not 243"),
    (lambda: get_format("ternary:packing=trits").from_packed(np.uint8([[1]]), np.float32(1), (1, 6)),
     "codes: must have shape (1, 2) for a tensor of (1, 6), not (1, 1)"),
])  # fmt: skip
def test_bad_input(build, message: str) -> None:
    with pytest.raises(MacloomError) as failure:
        build()
    assert message in str(failure.value)
