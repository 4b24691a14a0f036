"""LLM.int8(): the datasheet's worked example, columns, and products with exact fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import LlmInt8, gemm, get_format


def make(name: str) -> LlmInt8:
    fmt = get_format(name)
    assert isinstance(fmt, LlmInt8)
    return fmt


def f32(values: object) -> np.ndarray:
    return np.asarray(values, np.float32)


X = f32([[0.5, -7, 1.25], [2, 0.1, -1]])
W = f32([[0.2, -0.4, 0.1], [0.05, 0.3, -0.6]])


@pytest.mark.parametrize("mode", ["paper", "upstream"])
def test_worked_example_of_the_datasheet(mode):
    fmt = make(f"llm_int8:mode={mode},compute=fp32")
    a, b = fmt.encode(X), fmt.encode(W)
    assert a.side is not None
    assert a.side["columns"].tolist() == [1]
    assert a.elements.astype(np.int8).tolist() == [[51, 0, 127], [127, 0, -64]]
    assert b.elements.astype(np.int8).tolist() == [[64, -127, 32], [11, 64, -127]]
    assert (a.operand().units @ b.operand().units.T).tolist() == [[7328, -15568], [6080, 9525]]
    np.testing.assert_allclose(gemm(a, b), [[3.0272, -2.8404], [0.2616, 0.7389]], atol=6e-5)
    exact = X.astype(np.float64) @ W.astype(np.float64).T
    np.testing.assert_allclose(exact, [[3.025, -2.825], [0.26, 0.73]], atol=1e-6)


def test_fp16_weights_at_the_activations_outlier_columns():
    fmt = make("llm_int8")
    a = fmt.encode(X)
    assert a.side is not None
    b = fmt.encode(W, columns=a.side["columns"])
    np.testing.assert_array_equal(b.decode()[:, 1], W[:, 1].astype(np.float16).astype(np.float32))
    exact = X.astype(np.float64) @ W.astype(np.float64).T
    error = [np.abs(gemm(a, other) - exact).max() for other in (fmt.encode(W), b)]
    assert error[1] < error[0] < 0.02
    # outlier column: -7 and fp16(0.1) with fp16(-0.4) and fp16(0.3), float32 products
    h = np.asarray([0.1, -0.4, 0.3], np.float16).astype(np.float32)
    codes_a, codes_b = a.elements.astype(np.int8).astype(int), b.elements.astype(np.int8).astype(int)
    integers = codes_a @ codes_b.T
    want = integers.astype(np.float32) * a.scales[:, None] * b.scales[None, :]
    want = want + np.outer(f32([-7, h[0]]), h[1:]).astype(np.float32)
    np.testing.assert_array_equal(gemm(a, b), want)


def test_rows_scale_by_what_is_outside_the_outlier_columns(heavy):
    x = heavy((20, 64))
    x[3, 10] = 50
    for mode in ("paper", "upstream"):
        fmt = make(f"llm_int8:mode={mode},threshold=20")
        columns = np.flatnonzero((np.abs(x) >= 20).any(axis=0))
        encoded = fmt.encode(x)
        assert encoded.side is not None
        assert encoded.side["columns"].tolist() == columns.tolist()
        assert 10 in columns
        inner = np.abs(x).copy()
        if mode == "paper":
            inner[:, columns] = 0
        else:
            inner[inner >= 20] = 0
        np.testing.assert_array_equal(encoded.scales, inner.max(axis=1) / np.float32(127))
        codes = np.rint(np.delete(x, columns, axis=1).astype(np.float64) / encoded.scales[:, None])
        got = np.delete(encoded.elements, columns, axis=1).astype(np.int8)
        np.testing.assert_array_equal(got, codes)
        np.testing.assert_array_equal(encoded.decode()[:, columns], x[:, columns].astype(np.float16))
        count = len(columns)
        assert encoded.bits == 20 * 64 * 8 + 20 * 32 + count * 16 + 20 * count * 16


def test_modes_differ_where_an_outlier_column_holds_the_largest_inlier():
    x = f32([[7, 0.5], [5, 1]])
    assert make("llm_int8").calibrate(x).tolist() == [np.float32(0.5 / 127), np.float32(1 / 127)]
    assert make("llm_int8:mode=upstream").calibrate(x).tolist() == [np.float32(0.5 / 127), np.float32(5 / 127)]


def test_threshold_zero_and_infinity(heavy):
    x = heavy((5, 12))
    everything = make("llm_int8:threshold=0").encode(x)
    np.testing.assert_array_equal(everything.decode(), x.astype(np.float16).astype(np.float32))
    assert not everything.elements.any()
    assert everything.scales.tolist() == [1] * 5
    nothing, rows = make("llm_int8:threshold=inf").encode(x), get_format("int8:row").encode(x)
    assert nothing.side is not None
    assert nothing.side["columns"].size == 0
    np.testing.assert_array_equal(nothing.decode(), rows.decode())
    assert nothing.bits == rows.bits
    y = get_format("int8:row").encode(heavy((3, 12), 1))
    np.testing.assert_array_equal(gemm(nothing, y), gemm(rows, y))


def test_rows_scale_by_powers_of_two(heavy):
    x = heavy((6, 32))
    factors = f32([1, 2, 4, 0.5, 8, 0.25])[:, None]
    fmt = make("llm_int8:threshold=inf")
    np.testing.assert_array_equal(fmt.quantize(x * factors), fmt.quantize(x) * factors)


def test_integer_products_are_exact_fractions(heavy):
    x, w = heavy((4, 40)), heavy((3, 40), 1)
    fmt = make("llm_int8:threshold=inf")
    a, b = fmt.encode(x), fmt.encode(w)
    got = gemm(a, b)
    for m in range(4):
        for n in range(3):
            total = sum(
                int(p) * int(q)
                for p, q in zip(a.elements[m].astype(np.int8), b.elements[n].astype(np.int8), strict=True)
            )
            exact = Fraction(total) * Fraction(float(a.scales[m])) * Fraction(float(b.scales[n]))
            assert abs(Fraction(float(got[m, n])) - exact) <= abs(exact) * Fraction(1, 2**22)


def test_stated_rate():
    fmt = make("llm_int8:rate=0.01")
    assert fmt.storage_bits((10, 400)) == 10 * 400 * 8 + 10 * 32 + 4 * (16 + 10 * 16)
    assert make("llm_int8").bits_per_element() == pytest.approx(8 + 32 / 4096 + 5 * (16 + 4096 * 16) / 4096**2)


@pytest.mark.parametrize("columns", [[3, 2], [-1], [3], [[0]], [0.5], [1, 1]])
def test_columns_are_checked(columns):
    with pytest.raises(MacloomError, match="columns: must be ascending indices below 3, not"):
        make("llm_int8").encode(X, columns=np.array(columns))


def test_side_data_are_checked():
    fmt = make("llm_int8")
    encoded = fmt.encode(X)
    assert encoded.side is not None
    wrong = {"columns": encoded.side["columns"], "values": encoded.side["values"][:1]}
    with pytest.raises(MacloomError, match=r"side.values: must have shape \(2, 1\), not \(1, 1\)"):
        fmt.from_packed(encoded.codes, encoded.scales, encoded.shape, side=wrong)
    with pytest.raises(MacloomError, match=r"llm_int8\.threshold: must not be negative, not -1"):
        LlmInt8(name="t", threshold=-1)
