"""DGQ's two levels of scales: integer arithmetic, storage, and the two-phase search."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import DualGrained, ExactAccumulator, gemm, get_format
from macloom.formats.tensors.dgq import Search

TEXTS = [
    "dgq4:group=16",
    "dgq4:group=16,zeros=none",
    "dgq4:group=16,search=grid",
    "dgq4:group=16,zeros=none,search=grid",
    "dgq4:group=16,scale_bits=8",
    "dgq4:group=16,scale_bits=8,top=20",
    "dgq4:group=16,scale_bits=8,top=127,search=grid",
]


def make(text: str) -> DualGrained:
    fmt = get_format(text)
    assert isinstance(fmt, DualGrained)
    return fmt


def data(rows: int = 6, columns: int = 64, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_t(4, (rows, columns)) * np.exp(rng.normal(size=(rows, 1)))).astype(np.float32)


@pytest.mark.parametrize("text", TEXTS)
def test_values_are_row_scale_times_integers_of_8_bits(text: str) -> None:
    """The definition in fractions: w8 = (q - zero) * group scale, value = row scale * w8."""
    fmt, x = make(text), data()
    encoded = fmt.encode(x)
    scales, values = np.asarray(encoded.scales), encoded.decode()
    for r in range(len(x)):
        for k in range(x.shape[1]):
            row, group, zero = (Fraction(float(v)) for v in scales[r, k // 16])
            w8 = (int(encoded.elements[r, k]) - zero) * group
            assert w8.denominator == 1
            assert abs(w8) <= 127
            assert Fraction(float(values[r, k])) == row * w8
    np.testing.assert_array_equal(fmt.quantize(x), values)


@pytest.mark.parametrize("text", TEXTS)
def test_codes_are_nearest_where_8_bits_allow(text: str) -> None:
    fmt, x = make(text), data()
    encoded = fmt.encode(x)
    scales = np.asarray(encoded.scales, np.float64)
    row, group, zero = (np.repeat(scales[..., i], 16, axis=1) for i in range(3))
    best = np.full(x.shape, np.inf)
    for q in range(16):
        w8 = (q - zero) * group
        best = np.where(np.abs(w8) <= 127, np.minimum(best, np.abs(w8 * row - x)), best)
    np.testing.assert_allclose(np.abs(encoded.decode() - x), best, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("text", TEXTS)
def test_a_row_is_one_integer_product(text: str) -> None:
    a, b = get_format("int8:token").encode(data(3)), make(text).encode(data(5, seed=1))
    operand = b.operand()
    assert operand.scales.shape == (5, 1)
    assert np.abs(operand.units).max() <= 127
    np.testing.assert_allclose(gemm(a, b, "int32"), gemm(a, b, ExactAccumulator()), rtol=1e-6)


@pytest.mark.parametrize("zeros", ["groups", "none"])
@pytest.mark.parametrize("seed", range(4))
def test_grid_never_errs_more_than_extremes(zeros: str, seed: int) -> None:
    x = data(seed=seed)
    grid, plain = make(f"dgq4:group=16,zeros={zeros},search=grid"), make(f"dgq4:group=16,zeros={zeros}")
    errors = [np.square(f.quantize(x).astype(np.float64) - x).sum(axis=1) for f in (grid, plain)]
    assert np.all(errors[0] <= errors[1])
    assert errors[0].sum() < 0.97 * errors[1].sum()
    np.testing.assert_array_equal(grid.calibrate(x, 1.0), plain.calibrate(x, 1.0))


def test_storage() -> None:
    shape = (8, 256)
    groups, rows, elements = 8 * 256 // 16, 8, 8 * 256
    assert make("dgq4:group=16").storage_bits(shape) == 4 * elements + 16 * rows + (4 + 4) * groups
    assert make("dgq4:group=16,zeros=none").storage_bits(shape) == 4 * elements + 16 * rows + 4 * groups
    assert make("dgq4:group=16,scale_bits=8").storage_bits(shape) == 4 * elements + 16 * rows + (8 + 4) * groups


def test_the_default_group_scale_keeps_every_product_within_8_bits() -> None:
    assert make("dgq4").top == 8  # 15 * 8 <= 127
    assert make("dgq4:zeros=none").top == 15  # 8 * 15 <= 127
    assert make("dgq4:scale_bits=8").top == 8
    assert make("dgq4:zeros=none").max_unit == 120


def test_mutant_without_the_limit_of_8_bits_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("macloom.formats.tensors.dgq.LIMIT", 1 << 20)
    fmt = make("dgq4:group=8,scale_bits=8,top=100")
    units = fmt.encode(data(columns=64)).operand().units
    assert np.abs(units).max() > 127


@pytest.mark.parametrize(
    "text, message",
    [
        ("dgq4:top=17", "dgq.top: must be from 1 to 16, which 4 bits hold, not 17"),
        ("dgq4:scale_bits=8,top=128", "dgq.top: must be from 1 to 127, which 8 bits hold, not 128"),
        ("dgq4:scale_bits=6", "dgq.scale_bits: must be 4 or 8, not 6"),
        ("dgq4:search=gird", "format option search: unknown name 'gird'; did you mean 'grid'"),
    ],
)
def test_options_that_do_not_fit(text: str, message: str) -> None:
    with pytest.raises(MacloomError, match=message):
        get_format(text)


def test_zero_points_of_symmetric_groups_are_fixed() -> None:
    fmt, x = make("dgq4:group=16,zeros=none"), data(1, 16)
    scale = fmt.calibrate(x)
    assert scale[..., 2].tolist() == [[8.0]]
    wrong = scale.copy()
    wrong[..., 2] = 3
    with pytest.raises(MacloomError, match="scale: zero points must be 8 without zero points of groups"):
        fmt.encode(x, scale=wrong)
    assert fmt.search is Search.EXTREMES
