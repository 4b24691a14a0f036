"""VPTQ's layout against its released decoder, and its calibration against the optimal-brain update."""

# Lists stand for arrays; numpy's stubs do not know float32 of a list.
# pyright: reportArgumentType=false, reportIndexIssue=false
from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from macloom.errors import MacloomError
from macloom.formats import Encoded, VectorCodebook, Vptq, gemm, get_format
from macloom.formats.tensors.vptq_books import prepared

SMALL = "vector=4,centroids=16"


def make(text: str) -> Vptq:
    fmt = get_format(text)
    assert isinstance(fmt, Vptq)
    return fmt


def weights(rows: int = 24, columns: int = 20, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


def hessian(columns: int = 20, seed: int = 1, dead: int | None = None) -> np.ndarray:
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(60, columns)) * np.exp(rng.normal(size=columns))
    inputs[:, 1::2] += 0.7 * inputs[:, ::2]
    if dead is not None:
        inputs[:, dead] = 0
    return (inputs.T @ inputs).astype(np.float32)


def released_dequant(fmt: Vptq, encoded: Encoded) -> np.ndarray:
    """`vptq.ops.dequant` (microsoft/VPTQ@950716d) in torch, on the stored arrays; float16 throughout."""
    rows, columns, outlier_size, group_size = fmt._split(encoded.shape)
    side, flat = encoded.side or {}, torch.from_numpy(np.array(encoded.scales)).half()
    weight_scale, weight_bias = torch.ones(columns).half(), torch.zeros(columns).half()
    if fmt.norm:
        weight_scale, weight_bias, flat = flat[:columns], flat[columns : 2 * columns], flat[2 * columns :]
    outlier_centroids = None
    if outlier_size:
        cut = fmt.outlier_entries * fmt.outlier_width
        outlier_centroids, flat = flat[:cut].view(1, fmt.outlier_entries, fmt.outlier_width), flat[cut:]
    width, entries, residual = fmt.book.width, fmt.book.entries, fmt.book.residual
    books = flat.view(fmt.groups, (entries + residual) * width)
    centroids = books[:, : entries * width].reshape(fmt.groups, entries, width)
    merged = torch.from_numpy(encoded.elements.astype(np.int64)).view(-1, fmt.groups, group_size).permute(1, 0, 2)
    indices = merged & (entries - 1)

    def gather(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        index = index.unsqueeze(-1).expand(-1, -1, -1, width).reshape(fmt.groups, -1, width)
        chosen = torch.gather(table, 1, index).view(fmt.groups, -1, group_size, width).permute(0, 1, 3, 2)
        return chosen.reshape(fmt.groups, -1, group_size).permute(1, 0, 2).reshape(-1, fmt.groups * group_size)

    weight = gather(centroids, indices)
    if residual:
        weight = weight + gather(
            books[:, entries * width :].reshape(fmt.groups, residual, width), merged >> fmt.book.index_bits
        )
    weight = weight[:rows]
    if outlier_centroids is not None:
        index = torch.from_numpy(side["outliers"].astype(np.int64))[None, :, :, None]
        index = index.expand(-1, -1, -1, fmt.outlier_width).reshape(1, -1, fmt.outlier_width)
        chosen = torch.gather(outlier_centroids, 1, index).reshape(1, -1, outlier_size, fmt.outlier_width)
        weight = torch.cat([chosen.permute(0, 1, 3, 2).reshape(-1, outlier_size)[:rows], weight], dim=1)
    if fmt.permute:
        weight = weight[:, torch.argsort(torch.from_numpy(side["order"].astype(np.int64)))]
    if fmt.norm:
        weight = weight * weight_scale + weight_bias
    return weight.float().numpy()


LAYOUTS = [
    f"vptq:{SMALL},groups=2",
    f"vptq:{SMALL},permute=on",
    f"vptq:{SMALL},outliers=0.1,outlier_centroids=8",
    f"vptq:{SMALL},residual=4,outliers=0.12,outlier_centroids=8,outlier_vector=2,permute=on,groups=3",
    f"vptq:{SMALL},norm=on,residual=8,groups=2",
    "vptq:vector=5,centroids=8,permute=on,norm=on,outliers=0.2,outlier_vector=3,outlier_centroids=4",
]


@pytest.mark.parametrize("with_hessian", [False, True])
@pytest.mark.parametrize("text", LAYOUTS)
def test_values_equal_the_released_decoder(text: str, with_hessian: bool) -> None:
    fmt, x = make(text), weights()
    encoded = fmt.encode(x, hessian=hessian() if with_hessian else None)
    np.testing.assert_array_equal(encoded.decode(), released_dequant(fmt, encoded))
    back = fmt.from_packed(encoded.codes, encoded.scales, x.shape, side=encoded.side)
    np.testing.assert_array_equal(back.decode(), encoded.decode())
    np.testing.assert_array_equal(fmt.quantize(x, hessian=hessian() if with_hessian else None), encoded.decode())


@pytest.mark.parametrize("text", LAYOUTS)
def test_size_is_that_of_the_released_buffers(text: str) -> None:
    """VQuantLinear: packed indices in int32 words, 16-bit outlier indices, places, and float16 tables."""
    fmt, (rows, columns) = make(text), (24, 20)
    _, _, outlier_size, group_size = fmt._split((rows, columns))
    book, total = fmt.book, fmt.book.code_bits
    bits = fmt.groups * math.ceil(rows / book.width) * math.ceil(group_size * total / 32) * 32
    bits += fmt.groups * (book.entries + book.residual) * book.width * 16
    if outlier_size:
        bits += math.ceil(rows / fmt.outlier_width) * outlier_size * 16 + fmt.outlier_entries * fmt.outlier_width * 16
    bits += 16 * columns * fmt.permute + 2 * 16 * columns * fmt.norm
    encoded = fmt.encode(weights())
    stored = encoded.codes.nbytes + sum(array.nbytes for array in (encoded.side or {}).values())
    assert encoded.bits == bits == fmt.storage_bits((rows, columns)) == 8 * stored + 16 * encoded.scales.size


def test_one_group_without_anything_else_is_the_plain_codebook() -> None:
    x = weights()
    plain = VectorCodebook(name="p", width=4, entries=16, residual=4)
    np.testing.assert_array_equal(make(f"vptq:{SMALL},residual=4,groups=1").quantize(x), plain.quantize(x))


def optimal_brain(fmt: Vptq, x: np.ndarray, h: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Encode columns in order; after each, move the rest by the exact minimiser, from the inverse of what is left."""
    books = fmt._books(scale, x.shape)
    columns = x.shape[1]
    work = prepared(x, books.order, books.gain, books.shift, h).astype(np.float64)
    h = h.astype(np.float64)[np.ix_(books.order, books.order)]
    h = h + np.eye(columns) * 0.01 * np.diag(h).mean()
    for j in range(columns):
        _, value = books.encode_column(work[:, j], j)
        inverse = np.linalg.inv(h[j:, j:])
        work[:, j + 1 :] -= np.outer((work[:, j] - value) / inverse[0, 0], inverse[0, 1:])
        work[:, j] = value
    out = np.empty_like(work)
    out[:, books.order] = work
    return out


@pytest.mark.parametrize("text", [LAYOUTS[1], LAYOUTS[2], LAYOUTS[3]])
def test_error_feedback_equals_the_optimal_brain_update(text: str) -> None:
    fmt, x, h = make(text), weights(), hessian()
    scale = fmt.calibrate(x, hessian=h)
    values = fmt.quantize(x, scale, hessian=h)
    np.testing.assert_allclose(values, optimal_brain(fmt, x, h, scale), atol=2e-3)


def proxy(error: np.ndarray, h: np.ndarray) -> float:
    return float(np.einsum("ij,jk,ik->", error, h.astype(np.float64), error))


@pytest.mark.parametrize("text", LAYOUTS)
def test_a_hessian_lowers_the_error_of_the_layer(text: str) -> None:
    fmt, x, h = make(text), weights(48, 20), hessian()
    assert proxy(fmt.quantize(x, hessian=h) - x, h) < proxy(fmt.quantize(x) - x, h)


def test_columns_are_sorted_by_the_diagonal_and_the_first_are_outliers() -> None:
    fmt, x, h = make(f"vptq:{SMALL},permute=on,outliers=0.1,outlier_centroids=16"), weights(16, 20), hessian()
    encoded = fmt.encode(x, hessian=h)
    assert encoded.side is not None
    order = encoded.side["order"].astype(int)
    assert np.all(np.diff(np.diag(h)[order]) <= 0)
    assert fmt.outlier_columns(20) == 2
    # 16 rows in vectors of 4 give 8 outlier vectors for 16 entries: those columns are exact but for float16.
    np.testing.assert_allclose(encoded.decode()[:, order[0]], x[:, order[0]].astype(np.float16), rtol=1e-3)


def test_leftover_columns_of_groups_become_outliers() -> None:
    fmt = make(f"vptq:{SMALL},outliers=0.1,groups=4")
    assert [fmt.outlier_columns(n) for n in (20, 21, 40)] == [4, 5, 4]


def test_dead_inputs_do_no_harm() -> None:
    fmt, x, h = make(f"vptq:{SMALL},permute=on,residual=4"), weights(), hessian(dead=3)
    values = fmt.quantize(x, hessian=h)
    assert np.isfinite(values).all()
    assert proxy(values - x, h) < proxy(x, h)


def test_products_see_decoded_float16_values() -> None:
    fmt, x = make(LAYOUTS[3]), weights()
    encoded, a = fmt.encode(x), weights(5, 20, seed=4)
    np.testing.assert_allclose(
        gemm(get_format("fp16").encode(a), encoded), a.astype(np.float16) @ encoded.decode().T, rtol=2e-3, atol=2e-3
    )


def test_mutant_permutation_is_noticed() -> None:
    fmt, x = make(LAYOUTS[1]), weights()
    encoded = fmt.encode(x, hessian=hessian())
    assert encoded.side is not None
    turned = Encoded(fmt, x.shape, encoded.elements, encoded.scales, side={"order": encoded.side["order"][::-1]})
    assert not np.array_equal(turned.decode(), encoded.decode())


def test_errors() -> None:
    fmt, x = make(f"vptq:{SMALL},permute=on"), weights()
    with pytest.raises(MacloomError, match=r"takes a matrix \(outputs, inputs\), not shape \(4, 4, 4\)"):
        fmt.encode(np.ones((4, 4, 4), np.float32))
    with pytest.raises(MacloomError, match=r"hessian: must be symmetric and 20 x 20, not \(3, 3\)"):
        fmt.encode(x, hessian=np.eye(3))
    with pytest.raises(MacloomError, match="hessian: its diagonal must not be negative"):
        fmt.encode(x, hessian=-np.eye(20))
    with pytest.raises(MacloomError, match=r"scale: must have shape \(84,\) for a tensor of \(24, 20\), not \(3,\)"):
        fmt.encode(x, scale=np.ones(3, np.float32))
    scale = fmt.calibrate(x)
    wrong = scale.copy()
    wrong[0] = wrong[1]
    with pytest.raises(MacloomError, match="scale: must name each of 20 columns once"):
        fmt.encode(x, scale=wrong)
    wrong = scale.copy()
    wrong[-1] = np.float32(0.1)
    with pytest.raises(MacloomError, match="codebooks, gains and shifts must be float16 values"):
        fmt.encode(x, scale=wrong)
    with pytest.raises(MacloomError, match="vptq.groups: must divide 20 columns, which 3 does not"):
        make(f"vptq:{SMALL},groups=3").encode(x)
    with pytest.raises(MacloomError, match="must leave a column for each of 2 groups of 2 columns"):
        make(f"vptq:{SMALL},groups=2,outliers=0.5").encode(weights(8, 2))
    encoded = make(LAYOUTS[2]).encode(x)
    with pytest.raises(MacloomError, match=r"side.outliers: must hold indices below 8 of shape \(6, 2\)"):
        encoded.format.from_packed(encoded.codes, encoded.scales, x.shape, side={})
    with pytest.raises(MacloomError, match="codes: must hold the words of 1 groups, not 2"):
        encoded.format.from_packed(np.repeat(encoded.codes, 2, axis=0), encoded.scales, x.shape, side=encoded.side)
    with pytest.raises(MacloomError, match="needs the side data of the encoded tensor"):
        encoded.format.from_packed(encoded.codes, encoded.scales, x.shape)
    with pytest.raises(MacloomError, match="places have 16 bits, too few for 65537 columns"):
        fmt.storage_bits((4, 65537))
