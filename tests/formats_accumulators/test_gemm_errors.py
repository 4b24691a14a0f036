"""The error report against sums that are done by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import gemm, gemm_errors, get_format

FP16, INT8 = get_format("fp16"), get_format("int8")


def rows(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_an_exact_register_has_no_errors() -> None:
    a, b = FP16.encode(rows(6, 80)), FP16.encode(rows(7, 80, seed=1))
    found = gemm_errors(a, b, "exact")
    assert (found.outputs, found.differing, found.worst_ulp, found.relative) == (42, 0, 0, 0)
    assert (found.order_dependent, found.violations, found.overflows) == (0, 0, 0)
    assert found.raised > 20


def test_errors_equal_the_difference_to_the_exact_product() -> None:
    a, b = FP16.encode(rows(6, 80)), FP16.encode(rows(7, 80, seed=1))
    found = gemm_errors(a, b, "e5m6")
    got, exact = gemm(a, b, "e5m6"), gemm(a, b, "exact")
    ulps = (got.astype(float) - exact) / np.spacing(np.abs(exact))
    assert found.differing == np.count_nonzero(got != exact)
    assert found.worst_ulp == np.abs(ulps).max()
    assert found.mean_ulp == pytest.approx(np.abs(ulps).mean())
    assert found.median_ulp == np.median(np.abs(ulps))
    growth = (got.astype(float) - exact) * np.sign(exact)
    assert found.bias == pytest.approx(growth.sum() / np.abs(exact).astype(float).sum())
    assert found.relative == pytest.approx(
        np.linalg.norm((got - exact).astype(float)) / np.linalg.norm(exact.astype(float))
    )
    assert found.order_dependent > 30


def test_truncation_is_biased_toward_zero_and_rounding_is_not() -> None:
    positive = FP16.encode(np.abs(rows(16, 120)))
    cut, rounded = (
        gemm_errors(positive, positive, f"e8m10{mode}", trials=1, raises=0) for mode in (":toward_zero", "")
    )
    assert cut.toward_zero == 1
    assert cut.bias < -5 * abs(rounded.bias)
    assert cut.bias < -1e-3
    assert 0.2 < rounded.toward_zero < 0.8


def test_a_saturating_register_depends_on_order_and_its_overflows_are_counted() -> None:
    x = np.where(np.arange(60) < 30, 1.0, -1.0)[None].repeat(2, 0).astype(np.float32)
    a, b = INT8.encode(x), INT8.encode(np.ones((2, 60), np.float32))
    found = gemm_errors(a, b, "int16:saturate,every=mac", raises=0)
    assert found.overflows == 4
    assert found.order_dependent == 4
    assert found.differing == 4


def test_a_wrapping_register_is_not_monotonic_and_shows_a_witness() -> None:
    near = INT8.encode(np.array([[127, 127, 3, 3]], np.float32), scale=np.float32(1))
    ones = INT8.encode(np.array([[127, 127, 127, 1]], np.float32), scale=np.float32(1))
    assert gemm(near, ones, "int16:wrap")[0, 0] == 32642  # 32767 fits, and 3 raised to 127 is too much
    assert gemm_errors(near, ones, "int17:wrap", raises=100).violations == 0
    found = gemm_errors(near, ones, "int16:wrap", raises=100)
    assert found.violations > 0
    assert found.violation is not None
    row, column, k, before, after = found.violation
    assert (row, column) == (0, 0)
    assert after < before
    assert 0 <= k < 4


def test_the_report_is_json_and_text() -> None:
    a = INT8.encode(rows(4, 40))
    found = gemm_errors(a, a, "int20:wrap")
    assert json.loads(json.dumps(found.to_dict()))["accumulator"] == "int20:wrap"
    text = found.table()
    assert text.splitlines()[0].split() == ["accumulator", "int20:wrap"]
    assert "of 64 raised products" in text or "raised products lower the result" in text


def test_results_that_are_not_finite_are_left_out() -> None:
    a = FP16.encode(np.full((2, 64), 100, np.float32))
    found = gemm_errors(a, a, "e5m10")
    assert found.overflows == 4
    assert np.isfinite(found.worst_ulp)
    assert found.relative == 0


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(MacloomError, match="gemm: needs shapes"):
        gemm_errors(INT8.encode(rows(2, 3)), INT8.encode(rows(2, 4)), "exact")
