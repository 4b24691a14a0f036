"""What holds for every dense-plus-sparse format: exact bits, packing, shapes, products, refusals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from macloom.errors import MacloomError
from macloom.formats import gemm, get_format, set_threads
from macloom.formats.outliers.sparse import all_values, dense_values, round_to
from macloom.formats.tensor import Encoded

NAMES = (
    "olaccel4",
    "olaccel4:layout=csr,outlier=8,channel",
    "olaccel4:layout=chunk,token,scale=fp16",
    "olaccel4:mode=upstream",
    "gobo3:density=standard",
    "gobo4:density=standard,layout=chunk,chunk=10,fit=kmeans",
    "squeezellm4",
    "squeezellm3:mode=upstream",
    "squeezellm4:layout=coordinate,value=fp32,outliers=0.05",
    "kvquant4",
    "kvquant3:role=value",
    "kvquant2:qnorm=on,first=1",
    "kvquant3:mode=upstream,outliers=0.1",
    "kvquant4:role=value,mode=upstream,cap=1,first=2",
    "kvquant3:role=value,transposed=on",
    "llm_int8",
    "llm_int8:mode=upstream,threshold=3",
    "biscaled6",
    "biscaled6:layout=csr,share=0.2,shift=3",
)
SHAPES = ((), (1,), (1, 1), (7,), (3, 1), (5, 33), (2, 3, 48), (64, 65))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_packed_codes_scales_and_side_are_everything_and_their_size_is_bits(name, shape, heavy):
    fmt, x = get_format(name), heavy(shape)
    encoded = fmt.encode(x)
    values = encoded.decode()
    assert values.shape == shape
    assert values.dtype == np.float32
    np.testing.assert_array_equal(fmt.quantize(x).view(np.uint32), values.view(np.uint32))
    again = fmt.from_packed(encoded.codes.copy(), encoded.scales.copy(), shape, side=dict(encoded.side or {}))
    np.testing.assert_array_equal(again.decode().view(np.uint32), values.view(np.uint32))
    assert encoded.side is not None
    side = sum(8 * array.nbytes for array in encoded.side.values())
    assert encoded.bits == again.bits == 8 * encoded.codes.nbytes + fmt.scale_bits(shape or (1,)) + side


@pytest.mark.parametrize("name", NAMES)
def test_scales_take_the_bits_of_the_numbers_in_them(name, heavy):
    fmt = get_format(name)
    encoded = fmt.encode(heavy((6, 64)))
    entry = {"biscaled6": 8, "squeezellm4": 16, "kvquant2": 16, "kvquant4": 16, "kvquant3": 16}
    width = entry.get(name.split(":")[0], 32)
    width = 16 if "fp16" in name else 32 if "upstream" in name else width
    assert fmt.scale_bits((6, 64)) == encoded.scales.size * width


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_zeros_and_constants(name, shape):
    fmt = get_format(name)
    assert not np.any(fmt.quantize(np.zeros(shape, np.float32)))
    for value in (1.0, -0.375, 1e-20, -3e38):
        values = fmt.quantize(np.full(shape, value, np.float32))
        assert np.all(np.isfinite(values))
        assert np.all(values * np.sign(value) >= 0)
        if abs(value) in (1.0, 0.375) and not name.startswith("olaccel4"):
            np.testing.assert_allclose(values, value, rtol=2**-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_calibrated_scale_serves_other_calls_and_out_receives_the_values(name, heavy):
    fmt, x = get_format(name), heavy((9, 40))
    scale = fmt.calibrate(x)
    want = fmt.quantize(x)
    np.testing.assert_array_equal(fmt.quantize(x, scale=scale), want)
    np.testing.assert_array_equal(fmt.quantize(x, clip=0.5), fmt.quantize(x, scale=fmt.calibrate(x, clip=0.5)))
    assert not np.array_equal(fmt.quantize(x, clip=0.5), want)
    out = np.empty_like(x)
    assert fmt.quantize(x, out=out) is out
    np.testing.assert_array_equal(out, want)
    for made in (fmt.quantize(torch.from_numpy(x)), fmt.encode(torch.from_numpy(x)).decode()):
        assert isinstance(made, torch.Tensor)
        np.testing.assert_array_equal(made.numpy(), want)


@pytest.mark.parametrize("name", [n for n in NAMES if "role=value" not in n and "qnorm" not in n and "cap" not in n])
def test_quantized_values_are_their_own_quantization(name, heavy):
    fmt, x = get_format(name), heavy((12, 50))
    scale = fmt.calibrate(x)
    once = fmt.quantize(x, scale=scale)
    twice = fmt.quantize(once, scale=scale)
    if name.startswith("squeezellm3:mode=upstream") or "kvquant3:mode=upstream" in name:
        np.testing.assert_allclose(twice, once, rtol=3e-6)  # x - z + z rounds twice
    else:
        np.testing.assert_array_equal(twice, once)


@pytest.mark.parametrize("name", NAMES)
def test_bad_tensors_are_refused(name, heavy):
    fmt, x = get_format(name), heavy((4, 32))
    for bad in (math.nan, math.inf, -math.inf):
        y = x.copy()
        y[2, 3] = bad
        what = "NaN" if math.isnan(bad) else "infinity"
        for call in (fmt.encode, fmt.quantize, fmt.calibrate, lambda v: fmt.quantize(v, scale=fmt.calibrate(x))):
            with pytest.raises(MacloomError, match=f"the tensor holds {what}"):
                call(y)
    with pytest.raises(MacloomError, match="must hold at least one element"):
        fmt.encode(np.empty((0, 4)))
    with pytest.raises(MacloomError, match="scale"):
        fmt.encode(x, scale=np.ones((9, 9, 9)))
    for clip in (-1.0, 0.0, math.nan):
        with pytest.raises(MacloomError, match="clip: must be positive and finite"):
            fmt.quantize(x, clip=clip)
        with pytest.raises(MacloomError, match="clip: must be positive and finite"):
            fmt.encode(x, scale=fmt.calibrate(x), clip=clip)
    for call in (fmt.encode, fmt.quantize):
        with pytest.raises(MacloomError, match=r"takes no rng; only rounding=stochastic draws"):
            call(x, rng=np.random.default_rng(0))
    encoded = fmt.encode(x)
    with pytest.raises(MacloomError, match="needs the side data"):
        fmt.from_packed(encoded.codes, encoded.scales, encoded.shape)
    with pytest.raises(MacloomError, match="codes: must have shape"):
        fmt.from_packed(encoded.codes[:, :-1], encoded.scales, encoded.shape, side=encoded.side)
    assert encoded.side is not None
    for key in encoded.side:
        broken = {k: v for k, v in encoded.side.items() if k != key}
        with pytest.raises(MacloomError, match="side"):
            fmt.from_packed(encoded.codes, encoded.scales, encoded.shape, side=broken)
        longer = {**encoded.side, key: np.concatenate((encoded.side[key].reshape(-1),) * 2)}
        if encoded.side[key].size:
            with pytest.raises(MacloomError, match=r"side|columns"):
                fmt.from_packed(encoded.codes, encoded.scales, encoded.shape, side=longer)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(3, 300), (2, 20, 33), (70,)])
def test_storage_bits_is_the_size_at_the_number_of_outliers(name, shape, heavy):
    """The formula for `count` outliers gives the bytes that storing so many took, and grows with the tensor."""
    fmt: Any = get_format(name)
    encoded = fmt.encode(heavy(shape))
    assert fmt.storage_bits(shape) < fmt.storage_bits((16, 512))
    rest = encoded.bits - (fmt.storage_bits(shape) - fmt.side_bits(shape))
    rows = math.prod(shape[:-1])
    assert encoded.side is not None
    if "columns" in encoded.side and "rows" not in encoded.side:
        count = len(encoded.side["columns"])
        assert rest == count * (16 + 16 * rows)
        return
    _, columns = fmt.store.positions(encoded.side, rows, shape[-1])
    extra = {"signs": -(-len(columns) // 8) * 8, "first": 16 * len(encoded.side.get("first", ()))}
    assert rest == fmt.store.bits(rows, shape[-1], len(columns)) + sum(extra[k] for k in encoded.side if k in extra)


def ordered_products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return sums over K of float32 products, added in float32 in ascending order; zeros in `a` are skipped."""
    total = np.zeros((len(a), len(b)), np.float32)
    for k in range(a.shape[1]):
        total += np.where((a[:, k] != 0)[:, None], a[:, k, None] * b[None, :, k], np.float32(0))
    return total


def expected(a: Encoded, b: Encoded) -> np.ndarray:
    """Compose the product from decoded parts: dense, then A's outliers with B, then B's with A's dense part."""
    left, right = a.operand(), b.operand()
    dense = dense_values(left).astype(np.float64) @ dense_values(right).astype(np.float64).T
    result = dense.astype(np.float32)
    for sparse, own, other in (
        (left.sparse, all_values(left) - dense_values(left), all_values(right)),
        (right.sparse, all_values(right) - dense_values(right), dense_values(left)),
    ):
        if sparse is not None:
            part = ordered_products(own, round_to(sparse.precision, other))
            result = result + (part if sparse is left.sparse else part.T)
    return result


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("other", ["int8:token", "fp16", "olaccel4", "squeezellm4"])
def test_gemm_is_dense_plus_sparse_in_the_stated_order(name, other, heavy):
    a, b = get_format(name).encode(heavy((7, 64))), get_format(other).encode(heavy((5, 64), 1))
    for left, right in ((a, b), (b, a)):
        got, want = gemm(left, right), expected(left, right)
        magnitude = np.abs(left.decode()).astype(np.float64) @ np.abs(right.decode()).astype(np.float64).T
        assert np.max(np.abs(got - want) / magnitude) < 2**-19  # float32 sums of 64 products
        near = left.decode().astype(np.float64) @ right.decode().astype(np.float64).T
        assert np.max(np.abs(got - near) / magnitude) < 2**-9  # 16-bit multiplicands of outliers


def test_gemm_with_integer_parts_is_bit_exact(heavy):
    fmt: Any = get_format("llm_int8:threshold=6")
    a, b = fmt.encode(heavy((6, 48))), fmt.encode(heavy((4, 48), 2))
    left, right = a.operand(), b.operand()
    integers = left.units.astype(np.int64) @ right.units.astype(np.int64).T
    want = integers.astype(np.float32) * left.scales * right.scales.T
    assert left.sparse is not None
    assert right.sparse is not None
    want = want + ordered_products(all_values(left) - dense_values(left), round_to(fmt.compute, all_values(right)))
    want = want + ordered_products(all_values(right) - dense_values(right), round_to(fmt.compute, dense_values(left))).T
    np.testing.assert_array_equal(gemm(a, b), want)


@pytest.mark.parametrize("name", ["olaccel4:token", "squeezellm4", "kvquant4:role=value,value=fp32", "llm_int8"])
def test_gemm_of_batches_equals_that_of_each_matrix(name, heavy):
    fmt: Any = get_format(name)
    x, y = heavy((2, 3, 40, 16)), heavy((2, 3, 5, 16), 1)
    columns = {} if name != "llm_int8" else {"columns": np.array([3, 8])}
    tables = fmt.calibrate(x) if "kvquant" in name else None
    got = gemm(get_format("int8:token").encode(y), fmt.encode(x, scale=tables, **columns))
    assert got.shape == (2, 3, 5, 40)
    for i in range(2):
        for j in range(3):
            if name == "squeezellm4":  # its outliers are those of the whole tensor
                tables = fmt.calibrate(x)[i, j]
            single = gemm(get_format("int8:token").encode(y[i, j]), fmt.encode(x[i, j], scale=tables, **columns))
            np.testing.assert_array_equal(got[i, j], single)


def test_gemm_does_not_depend_on_the_number_of_threads(heavy):
    a, b = get_format("olaccel4:token").encode(heavy((128, 1024))), get_format("llm_int8").encode(heavy((96, 1024), 1))
    results = []
    try:
        for count in (1, 2):
            set_threads(count)
            results.append(gemm(a, b))
    finally:
        set_threads(None)
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("accumulator", ["fp32", "exact", "int32"])
def test_gemm_takes_accumulators_for_the_dense_part(accumulator, heavy):
    a, b = get_format("olaccel4").encode(heavy((6, 48))), get_format("olaccel4").encode(heavy((4, 48), 2))
    np.testing.assert_allclose(gemm(a, b, accumulator), gemm(a, b), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gobo3:thresold=-4", "did you mean 'threshold'"),
        ("gobo3:threshold=low", "format option threshold: must be a number, not 'low'"),
        ("gobo3:rate=1", "format option rate: must be from 0 to below 1, not '1'"),
        ("gobo3:bits=9", "table.width: must be an integer from 2 to 8, not 9"),
        ("gobo3:fit=l2", "format option fit: unknown name 'l2'"),
        ("olaccel4:outlier=12", "format option outlier: must be 8 or 16 bits, not 12"),
        ("olaccel4:mode=upstream,token", "format option token: does not apply to mode=upstream"),
        ("olaccel4:chunk=0", "sparse.chunk: must be a positive integer, not 0"),
        ("squeezellm4:range=2", "format option range: applies to mode=upstream"),
        ("squeezellm4:mode=upstream,outliers=0.1", "format option outliers: applies to mode=paper"),
        ("squeezellm4:table=fp8", "format option table: unknown name 'fp8'"),
        ("kvquant4:cap=-1", "kvquant.cap: must not be negative, not -1"),
        ("kvquant4:first=-1", "kvquant.first: must not be negative, not -1"),
        ("kvquant4:role=query", "format option role: unknown name 'query'"),
        ("llm_int8:threshold=-1", "format option threshold: must not be negative, not '-1'"),
        ("biscaled6:shift=0", "biscaled.shift: must be an integer from 1 to 16, not 0"),
        ("biscaled6:share=-0.5", "format option share: must be from 0 to below 1, not '-0.5'"),
    ],
)
def test_wrong_options_are_named(text, message):
    with pytest.raises(MacloomError, match=message):
        get_format(text)


@pytest.mark.parametrize("name", NAMES)
def test_names_round_trip_and_formats_are_hashable(name):
    fmt = get_format(name)
    assert fmt.name == name
    assert get_format(fmt.name) is fmt
    assert isinstance(hash(fmt), int)
    assert fmt.operand.significand_bits >= 4
    assert fmt.max_unit < 1 << (fmt.operand.integer_bits - 1)
