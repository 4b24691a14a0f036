"""Codebooks against the published tables and decision points, and against brute force."""

# Lists stand for arrays and strings for enumerations; numpy's stubs do not know float32 of a list.
# pyright: reportArgumentType=false, reportIndexIssue=false
from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import Codebook, fit_codebook, get_format
from macloom.formats.elements.codebook import FP4_POINTS, NF4_LEVELS, NF4_POINTS, Mode, af4, fp4_bnb, nf4
from macloom.formats.elements.minifloat import FP16, FP32

Around = Callable[[np.ndarray], np.ndarray]


def bnb_nf4(x: np.float32) -> int:
    """bitsandbytes' tree of comparisons, `x > point` upward, as a count."""
    return sum(bool(x > np.float32(p)) for p in NF4_POINTS)


def bnb_fp4(x: np.float32) -> int:
    ascending = (0, 1, 6, 7, 4, 5, 2, 3)
    return ascending[sum(bool(abs(x) > np.float32(p)) for p in FP4_POINTS)] + (8 if x < 0 else 0)


def test_nf4_levels_are_quantiles_of_the_normal_distribution() -> None:
    quantile, offset = NormalDist().inv_cdf, 0.9677083
    positive = [quantile(p) for p in np.linspace(offset, 0.5, 9)[:-1]]
    negative = [-quantile(p) for p in np.linspace(offset, 0.5, 8)[:-1]]
    levels = np.sort([*positive, *negative, 0.0]) / max(positive)
    np.testing.assert_allclose(NF4_LEVELS, levels, atol=2e-7)
    assert nf4().values.tolist() == list(NF4_LEVELS)


def test_nf4_takes_the_nearest_value_and_the_lower_at_a_tie(float32_around: Around) -> None:
    book = nf4()
    levels = book.values
    x = float32_around((levels[1:] + levels[:-1]) / 2).clip(-1, 1)
    distance = np.abs(x.astype(np.float64)[:, None] - levels)
    np.testing.assert_array_equal(book.encode(x), distance.argmin(axis=1))  # the first of two equal ones


def test_upstream_decides_as_the_released_trees(float32_around: Around) -> None:
    for make, tree, points in ((nf4, bnb_nf4, NF4_POINTS), (fp4_bnb, bnb_fp4, FP4_POINTS)):
        x = float32_around(np.concatenate((points, np.negative(points))))
        x = x[~((x == 0) & np.signbit(x))]  # an input of -0 keeps its sign here
        np.testing.assert_array_equal(make(Mode.UPSTREAM).encode(x), [tree(v) for v in x])


def test_upstream_and_paper_differ_for_six_numbers_of_nf4() -> None:
    nearest = np.asarray(NF4_POINTS, np.float32)
    below, above = (np.nextafter(nearest, np.float32(end)) for end in (-2, 2))
    x = np.concatenate((below, nearest, above))
    assert int(np.sum(nf4().encode(x) != nf4(Mode.UPSTREAM).encode(x))) == 6


def test_fp4_values_by_code() -> None:
    twelfths = (fp4_bnb().values * 12).astype(np.float32)
    np.testing.assert_allclose(twelfths, [0, 0.0625, 8, 12, 4, 6, 2, 3, 0, -0.0625, -8, -12, -4, -6, -2, -3], rtol=1e-6)
    assert fp4_bnb().negative_zero_code == 8
    np.testing.assert_allclose(fp4_bnb().values[1], 0.00520833, atol=1e-8)


def test_fp4_ties_go_towards_zero() -> None:
    book = fp4_bnb()
    values = book.encodable[0]
    for lower, upper in pairwise(values.tolist()):
        tie = (lower + upper) / 2
        assert book.decode(book.encode(np.float64([tie])))[0] == np.float32(min(lower, upper, key=abs))


def test_af4_is_stored_descending() -> None:
    values = af4().values
    assert values[0] == 1
    assert values[15] == -1
    assert np.all(np.diff(values) < 0)
    np.testing.assert_allclose(values[[1, 7, 8, 9]], [0.72424863, 0.04273164, 0, -0.04934812], rtol=1e-7)


@pytest.mark.parametrize("name", ["nf4", "fp4_bnb", "af4"])
def test_blocks_of_64_with_the_first_element_high(name: str) -> None:
    fmt = get_format(name)
    x = np.random.default_rng(3).normal(size=(3, 128)).astype(np.float32)
    encoded = fmt.encode(x)
    np.testing.assert_array_equal(encoded.scales, np.abs(x).reshape(3, 2, 64).max(axis=2))
    np.testing.assert_array_equal(encoded.codes[:, 0], encoded.elements[:, 0] << 4 | encoded.elements[:, 1])
    assert fmt.bits_per_element() == 4.5
    assert fmt.block == 64
    levels = fmt.element.values
    nearest = np.abs((x / np.repeat(encoded.scales, 64, axis=1))[..., None] - levels).argmin(axis=2)
    np.testing.assert_array_equal(levels[encoded.elements], levels[nearest])
    assert np.all(fmt.quantize(np.zeros((1, 64), np.float32)) == 0)


def test_block_size_and_granularity_options() -> None:
    assert get_format("nf4:block=32").block == 32
    assert get_format("nf4:group=16").block == 16
    assert get_format("nf4:channel").block is None
    assert get_format("nf4:block=32,scale=fp16").bits_per_element() == 4.5


def test_the_table_decides_what_is_multiplied() -> None:
    assert get_format("nf4").operand == FP16.operand
    half = nf4().operand_values
    np.testing.assert_array_equal(half, np.float16(NF4_LEVELS).astype(np.float64))
    exact = nf4(table=FP32)
    np.testing.assert_array_equal(exact.operand_values, NF4_LEVELS)
    assert exact.operand == FP32.operand
    eight = get_format("nf4:table=int8").element
    np.testing.assert_array_equal(eight.units[0], np.clip(np.rint(np.float64(NF4_LEVELS) * 128), -127, 127))
    assert eight.operand.integer_bits == 8


def test_codes_beyond_the_list_are_not_used() -> None:
    book = Codebook(label="five", levels=(1, 2, 3, 4, 5))
    assert book.bits == 3
    assert np.all(np.isnan(book.values[5:]))
    assert book.encode([9.0])[0] == 4


def test_a_fitted_codebook_is_a_fixed_point_and_beats_uniform_levels() -> None:
    x = np.random.default_rng(0).normal(size=4000)
    book = fit_codebook(x, 3)
    codes = book.encode(x)
    for code in range(8):
        np.testing.assert_allclose(book.levels[code], x[codes == code].mean(), atol=1e-4)
    uniform = np.linspace(x.min(), x.max(), 8)
    plain = np.square(x - uniform[np.abs(x[:, None] - uniform).argmin(axis=1)]).mean()
    assert np.square(x - book.quantize(x)).mean() < 0.8 * plain
    assert np.square(x - book.quantize(x)).mean() == pytest.approx(0.0345, rel=0.05)  # Max 1960: 0.03454 for N(0, 1)


def test_weights_count_as_repetitions() -> None:
    rng = np.random.default_rng(5)
    x, weights = rng.normal(size=300), rng.integers(1, 5, 300)
    np.testing.assert_allclose(
        fit_codebook(x, 2, weights=weights).levels, fit_codebook(np.repeat(x, weights), 2).levels, atol=1e-6
    )


def test_few_distinct_values_give_few_levels() -> None:
    assert fit_codebook(np.array([3.0, 3, 1, 1, 1, 2]), 4).levels == (1, 2, 3)


@pytest.mark.parametrize("build, message", [
    (lambda: Codebook(label="x", levels=(1.0,)), "codebook.levels: must be 2 to 65536 finite values"),
    (lambda: Codebook(label="x", levels=(1.0, np.nan)), "codebook.levels: must be 2 to 65536 finite values"),
    (lambda: Codebook(label="x", levels=(1.0, 1.0 + 1e-12)), "codebook.levels: must be distinct as float32 values"),
    (lambda: Codebook(label="x", levels=(0, 1, 2), points=(0.5,)), "codebook.points: must be 2 for these levels"),
    (lambda: Codebook(label="x", levels=(0, 1), points=(2,)), "codebook.points: must lie between 0 and 1 there, not 2"),
    (lambda: Codebook(label="x", levels=(0, 1), ties="up"), "codebook.ties: unknown name 'up'"),
    (lambda: Codebook(label="x", levels=(1.0, 1e-9), table=FP16), "codebook.table: must be a format with room"),
    (lambda: fit_codebook(np.ones(9), 2), "fit_codebook: the data must hold at least two distinct values"),
    (lambda: fit_codebook(np.ones(9), 2, weights=np.ones(8)), "weights: must be positive and of the data's shape (9,)"),
    (lambda: get_format("nf4:block=32,tensor"), "name one granularity, not block and tensor"),
    (lambda: get_format("nf4:mode=bnb"), "format option mode: unknown name 'bnb'"),
    (lambda: get_format("af4:mode=upstream"), "format 'af4', option: unknown name 'mode'"),
])  # fmt: skip
def test_bad_parameters(build, message: str) -> None:
    with pytest.raises(MacloomError) as failure:
        build()
    assert message in str(failure.value)
