"""OLAccel and the generic dense-plus-sparse record, element by element."""

from __future__ import annotations

import math

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import DenseSparse, Grain, Granularity, IntFormat, Scaled, SparseStore, gemm, get_format
from macloom.formats.elements.minifloat import FP16
from macloom.formats.outliers.sparse import Layout


def f32(values: object) -> np.ndarray:
    return np.asarray(values, np.float32)


def quantize(x: np.ndarray, share: float, limit: int) -> np.ndarray:
    """The definition in Python: the scale from the largest inlier, then each element on its own."""
    ordered = sorted(abs(float(v)) for v in x.flat)
    largest = ordered[len(ordered) - 1 - math.floor(share * len(ordered))]
    scale = np.float32(np.float32(largest) / np.float32(7))
    out = []
    for v in x.flat:
        ratio = float(np.float32(v) / scale)
        integer = round(ratio)
        clamped = max(-7, min(7, integer)) if abs(ratio) <= 7.5 else max(-limit, min(limit, integer))
        out.append(np.float32(clamped) * scale)
    return np.array(out, np.float32).reshape(x.shape)


@pytest.mark.parametrize(("text", "limit"), [("olaccel4", 32767), ("olaccel4:outlier=8", 127)])
@pytest.mark.parametrize("shape", [(50,), (20, 33), (4, 5, 6)])
def test_values_are_those_of_the_definition(text, limit, shape, heavy):
    x = heavy(shape)
    np.testing.assert_array_equal(get_format(text).quantize(x), quantize(x, 0.03, limit))


def test_eight_bit_outliers_saturate_at_127_units():
    x = f32([1.0] * 99 + [1000.0])
    fmt = get_format("olaccel4:outlier=8")
    assert fmt.calibrate(x) == np.float32(1 / np.float32(7))
    assert fmt.quantize(x)[-1] == np.float32(127) * np.float32(1 / np.float32(7))
    assert get_format("olaccel4").quantize(x)[-1] == pytest.approx(1000, rel=1e-6)


def test_the_scale_alone_decides_what_an_outlier_is():
    fmt = get_format("olaccel4")
    encoded = fmt.encode(f32([7.5, 7.51, -7.5, -7.51, 0, 100]), scale=np.float32(1))
    assert encoded.side is not None
    assert encoded.side["positions"].tolist() == [1, 3, 5]
    assert encoded.side["values"].astype(np.int16).tolist() == [8, -8, 100]
    assert encoded.elements.tolist() == [7, 0, 9, 0, 0, 0]
    assert encoded.decode().tolist() == [7, 8, -7, -8, 0, 100]
    assert encoded.bits == 6 * 4 + 32 + 3 * (32 + 16)


def test_share_is_per_granule(heavy):
    x = np.abs(heavy((8, 100))) + np.float32(0.5)
    for text, count in (("olaccel4:token,share=0.05", 5), ("olaccel4:group=20,share=0.1", 2)):
        fmt = get_format(text)
        size = 100 if "token" in text else 20
        top = np.sort(x.reshape(-1, size), axis=1)[:, size - 1 - count]
        scales = fmt.calibrate(x).reshape(-1)
        assert len(scales) == len(top)
        np.testing.assert_allclose(scales, top / 7, rtol=1e-3)  # groups store fp16


def test_mostly_zero_tensors_have_no_outliers():
    x = np.zeros(1000, np.float32)
    x[5], x[6] = 14, -3
    encoded = get_format("olaccel4").encode(x)
    assert encoded.decode()[[5, 6, 7]].tolist() == [14, -4, 0]
    assert encoded.side is not None
    assert len(encoded.side["positions"]) == 0


def test_upstream_is_the_outlier_mode_of_ant(heavy):
    x = heavy((30, 40))
    fmt = get_format("olaccel4:mode=upstream,share=0.05")
    encoded = fmt.encode(x)
    threshold = np.percentile(np.abs(x), 95)
    assert encoded.side is not None
    assert len(encoded.side["values"]) == np.sum(np.abs(x) > threshold)
    want = np.rint(x.astype(np.float64) / (threshold / 7)) * (threshold / 7)
    step = (np.abs(x).max() - threshold) / 65535
    outlier = np.abs(x) > threshold
    exact = np.sign(x) * (np.rint((np.abs(x) - threshold) / step) * step + threshold)
    np.testing.assert_allclose(encoded.decode(), np.where(outlier, exact, want), rtol=1e-5, atol=1e-6)
    count = int(outlier.sum())
    assert encoded.bits == 30 * 40 * 4 + 64 + count * 48 + 8 * math.ceil(count / 8)
    assert np.abs(encoded.decode() - x)[outlier].max() < step


def test_upstream_refuses_other_scales(heavy):
    fmt, x = get_format("olaccel4:mode=upstream"), heavy((4, 8))
    with pytest.raises(MacloomError, match=r"scale: must be the dense scale and the step of outliers, not shape \(\)"):
        fmt.encode(x, scale=np.float32(1))
    with pytest.raises(MacloomError, match=r"scale: must be positive and finite, not 0\.0"):
        fmt.encode(x, scale=f32([0, 1]))


def test_float_outliers_over_any_scaled_format(heavy):
    element = get_format("fp4_e2m1").element
    row = Granularity(grain=Grain.ROW)
    fmt = DenseSparse(
        name="own",
        dense=Scaled(name="d", element=element, granularity=row),
        store=SparseStore(value=FP16),
        share=0.1,
        precision=FP16,
    )
    assert fmt.reach == 7  # 6 and half a step of 2
    x = heavy((6, 40))
    encoded = fmt.encode(x)
    scale = fmt.calibrate(x)[:, None]
    inside = np.abs(x) <= 7 * scale
    dense = element.quantize(x / scale) * scale
    np.testing.assert_array_equal(encoded.decode(), np.where(inside, dense, x.astype(np.float16).astype(np.float32)))
    sparse = encoded.operand().sparse
    assert sparse is not None
    assert sparse.precision == FP16
    assert len(sparse.values) == np.sum(~inside)


def test_outliers_are_not_in_the_dense_product():
    fmt = get_format("olaccel4:layout=csr")
    a = fmt.encode(f32([[1, 100, -2]]), scale=np.float32(1))
    b = get_format("int8:token").encode(f32([[127, -1, 3]]))
    assert a.operand().units.tolist() == [[1, 0, -2]]
    assert gemm(a, b).tolist() == [[127 - 6 - 100]]
    assert gemm(b, a).tolist() == [[127 - 6 - 100]]


def test_chunks_of_the_hardware_cost_what_their_fields_take():
    encoded = get_format("olaccel4:layout=chunk,outlier=8").encode(
        f32([[1] * 15 + [20], [2] * 16]), scale=np.float32(1)
    )
    # 32 codes of 4 bits; fp32 scale; two counts of 5 bits in 2 bytes; one place of 4 bits in a byte; one outlier
    assert encoded.bits == 128 + 32 + 16 + 8 + 8
    assert encoded.decode()[0, -1] == 20


def test_wrong_records_are_refused():
    dense = Scaled(name="int4", element=IntFormat(width=4))
    with pytest.raises(MacloomError, match=r"dense_sparse\.share: must be from 0 to below 1, not 1"):
        DenseSparse(name="t", dense=dense, share=1)
    with pytest.raises(MacloomError, match=r"dense_sparse\.store: must have a format for the values of outliers"):
        DenseSparse(name="t", dense=dense, store=SparseStore(layout=Layout.CSR, value=None))
    whole = get_format("fp16")
    assert isinstance(whole, Scaled)
    with pytest.raises(MacloomError, match=r"dense_sparse\.dense: must be a scaled format of at most 16 bits"):
        DenseSparse(name="t", dense=whole)
