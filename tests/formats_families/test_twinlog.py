"""Twin-log tensors: the worked example of the released code, and what the paper form must satisfy."""

# Lists stand for arrays and strings for enumerations; numpy's stubs do not know float32 of a list.
# pyright: reportArgumentType=false, reportIndexIssue=false
from __future__ import annotations

import math

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import TwinLog, get_format
from macloom.formats.elements.codebook import Mode
from macloom.formats.elements.minifloat import FP16
from macloom.formats.tensors.twinlog import OFFSETS, QUANTILES

PAPER = TwinLog(name="twinlog3", width=3)
UPSTREAM = TwinLog(name="twinlog3u", width=3, mode=Mode.UPSTREAM)
WEIGHTS = np.float32([0.5, -0.25, 0.03, -0.01, 0.12, -0.4, 0.002, 0])


def released(w: np.ndarray, b: int, offset: float, quantiles: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """The released quantizer of one row, lane by lane: parameters and values."""
    parameters, values = [], np.zeros(len(w))
    for sign, quantile, top in ((1, quantiles[0], 2 ** (b - 1) - 1), (-1, quantiles[1], 2 ** (b - 1))):
        lanes = [math.log2(abs(float(v)) + offset) if v * sign > 0 else 0.0 for v in w]
        ordered = sorted(lanes)
        high = ordered[round(quantile * (len(lanes) - 1))]
        step = (high - ordered[0]) / 2 ** (b - 1)
        z = round(ordered[0] / step)
        for i, v in enumerate(w):
            if v * sign > 0:
                q = min(max(round(lanes[i] / step) - z, 0), top)
                values[i] = sign * (2 ** ((q + z) * step) - offset)
        parameters += [step, z]
    return np.array([*parameters, offset]), values


@pytest.mark.parametrize("offset, steps, values", [
    (0.01, (1.5952, 1.4110), (0.3210, -0.3661, 0.0263, -0.0100, 0.0995, -0.3661, 0.0020, 0)),
    (0.0, (2.2414, 1.6610), (0.2115, -0.3162, 0.0447, -0.0100, 0.2115, -0.3162, 0.0020, 0)),
])  # fmt: skip
def test_the_worked_example_of_the_released_code(offset: float, steps, values) -> None:
    parameters, expected = released(WEIGHTS, 3, offset, (0.99, 0.99))
    np.testing.assert_allclose(expected, values, atol=6e-5)
    np.testing.assert_allclose(parameters, [steps[0], -4, steps[1], -4, offset], atol=6e-5)
    got = UPSTREAM.quantize(WEIGHTS, scale=parameters.astype(np.float32))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-9)


def test_upstream_codes_are_zero_then_positive_then_negative() -> None:
    parameters, _ = released(WEIGHTS, 3, 0.01, (0.99, 0.99))
    assert UPSTREAM.encode(WEIGHTS, scale=parameters).elements.tolist() == [4, 8, 2, 5, 3, 8, 1, 0]
    assert UPSTREAM.code_bits == 4  # 10 values do not fit 3 bits


def test_upstream_calibration_is_the_joint_search() -> None:
    w = np.random.default_rng(2).normal(scale=0.1, size=48).astype(np.float32)
    best = min(
        (float(np.square(released(w, 4, o, (p, n))[1] - w).sum()), o, p, n)
        for o in OFFSETS for p in QUANTILES for n in QUANTILES
    )  # fmt: skip
    fmt = TwinLog(name="t", width=4, mode=Mode.UPSTREAM)
    np.testing.assert_allclose(np.square(fmt.quantize(w) - w).sum(), best[0], rtol=1e-4)
    assert fmt.calibrate(w)[4] == np.float32(best[1])


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(4).normal(size=(6, 200)).astype(np.float32)


@pytest.mark.parametrize("width", [3, 4, 6])
def test_signs_stay_and_codes_fit(width: int, rows: np.ndarray) -> None:
    fmt = TwinLog(name="t", width=width)
    encoded = fmt.encode(rows)
    assert int(encoded.elements.max()) < 1 << width
    got = encoded.decode()
    np.testing.assert_array_equal(np.sign(got), np.sign(rows))
    np.testing.assert_array_equal(got, fmt.quantize(rows))
    np.testing.assert_array_equal(fmt.quantize(got, scale=encoded.scales), got)
    np.testing.assert_array_equal(fmt.from_packed(encoded.codes, encoded.scales, rows.shape).decode(), got)
    assert encoded.bits == 6 * (200 * width + 64)


def test_larger_magnitudes_take_no_smaller_values(rows: np.ndarray) -> None:
    got = PAPER.quantize(rows)
    for row, values in zip(rows, got, strict=True):
        assert np.all(np.diff(values[np.argsort(row)]) >= 0)


def test_relative_error_within_the_range(rows: np.ndarray) -> None:
    fmt = TwinLog(name="t", width=5)
    scale = fmt.calibrate(rows, clip=1.0)
    got = fmt.quantize(rows, scale=scale).astype(np.float64)
    step = np.where(rows > 0, scale[:, 0:1], scale[:, 2:3]).astype(np.float64)
    error = np.abs(got / rows - 1)
    # The integer z moves the grid by half a step at most, which may cost as much at either end.
    inner = (np.abs(got) > np.abs(got).min(axis=1, keepdims=True) * 1.5) & (np.abs(rows) < 1.5)
    assert np.all(error[inner] <= (np.exp2(step / 2) - 1)[inner] * (1 + 1e-5))


def test_paper_decisions_are_halfway_in_the_logarithm() -> None:
    scale = np.float32([0.5, -6, 1.0, -3, 0])
    points = np.exp2((np.arange(3) + 0.5 - 6) * 0.5)
    x = np.float32(np.concatenate((points * 0.9999, points * 1.0001, [1e-9, 5.0])))
    np.testing.assert_array_equal(PAPER.encode(x, scale=scale).elements, [0, 1, 2, 1, 2, 3, 0, 3])
    assert PAPER.encode(np.float32([-0.17, -0.18, -9]), scale=scale).elements.tolist() == [4, 5, 7]
    assert PAPER.encode(np.float32([0.0, -0.0]), scale=scale).elements.tolist() == [0, 0]


def test_the_search_beats_the_whole_range(rows: np.ndarray) -> None:
    fmt = get_format("twinlog4")
    searched = np.square(fmt.quantize(rows) - rows).sum()
    assert searched < 0.8 * np.square(fmt.quantize(rows, clip=1.0) - rows).sum()


@pytest.mark.parametrize("fmt", [PAPER, UPSTREAM], ids=["paper", "upstream"])
def test_rows_of_one_sign_or_of_zeros(fmt: TwinLog) -> None:
    x = np.float32([[1, 2, 3, 4], [-1, -2, -3, -4], [0, 0, 0, 0], [0.3, 0.3, 0.3, 0.3]])
    got = fmt.quantize(x)
    assert np.all(np.isfinite(got))
    assert np.all(np.sign(got[:2]) == np.sign(x[:2]))
    assert np.all(np.abs(got[2]) < 1e-30)
    if fmt is PAPER:
        np.testing.assert_allclose(got[3], 0.3, rtol=1e-3)


def test_multipliers_see_the_row_table_in_half_precision(rows: np.ndarray) -> None:
    encoded = PAPER.encode(rows)
    operand = encoded.operand()
    values = encoded.decode()
    largest = operand.scales[:, :1]
    assert np.all(largest >= np.abs(values).max(axis=1, keepdims=True))
    half = np.float16(values / largest).astype(np.float64)
    np.testing.assert_array_equal(np.ldexp(operand.units.astype(np.float64), operand.unit_exponent), half)
    assert PAPER.operand == FP16.operand


def test_the_element_is_a_row_whose_parameters_are_one() -> None:
    element = get_format("twinlog4").element
    scale = np.float32([1, -7, 1, -7, 0])
    codes = np.arange(16)
    encoded = get_format("twinlog4").encode(np.float32(element.values), scale=scale)
    np.testing.assert_array_equal(encoded.elements, codes)
    np.testing.assert_array_equal(encoded.decode(), element.values)


@pytest.mark.parametrize("build, message", [
    (lambda: TwinLog(name="t", width=8), "twinlog.width: must be an integer from 2 to 7, not 8"),
    (lambda: TwinLog(name="t", width=4, mode="code"), "twinlog.mode: unknown name 'code'"),
    (lambda: get_format("twinlog4:mode=code"), "format option mode: unknown name 'code'"),
    (lambda: PAPER.calibrate(WEIGHTS, clip=1.5), "clip: must be above 0 and at most 1, not 1.5"),
    (lambda: PAPER.encode(WEIGHTS, scale=np.float32([1, 0, 1, 0])), "scale: must have shape (5,) for a tensor of (8,)"),
    (lambda: PAPER.encode(WEIGHTS, scale=np.float32([0, 0, 1, 0, 0])), "takes finite parameters and positive steps"),
    (lambda: PAPER.encode(np.float32([1, np.inf])), "the tensor holds infinity"),
    (lambda: UPSTREAM.from_packed(np.uint8([[0xFF]]), np.float32([[1, 0, 1, 0, 0]]), (1, 2)).decode(),
     "code 15 is not in [0, 10)"),
])  # fmt: skip
def test_bad_input(build, message: str) -> None:
    with pytest.raises(MacloomError) as failure:
        build()
    assert message in str(failure.value)
