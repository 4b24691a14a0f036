"""KVQuant's deployed storage against its released kernels and cache classes, restated loop by loop."""

# Lists stand for arrays; numpy's stubs do not know float32 of a list.
# pyright: reportArgumentType=false, reportIndexIssue=false
from __future__ import annotations

import numpy as np
import pytest
import torch

from macloom.errors import MacloomError
from macloom.formats import Encoded, gemm, get_format
from macloom.formats.outliers.kvquant_deployed import KVQuantDeployed

CHANNELS = 128


def make(text: str) -> KVQuantDeployed:
    fmt = get_format(text)
    assert isinstance(fmt, KVQuantDeployed)
    return fmt


def data(tokens: int = 40, channels: int = CHANNELS, seed: int = 0) -> np.ndarray:
    """Return keys or values whose channels differ in size and centre, with a few large elements, without ties."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(tokens, channels)) * np.where(rng.random((tokens, channels)) < 0.02, 8, 1)
    return (x * np.exp(rng.normal(size=channels)) + rng.normal(size=channels)).astype(np.float32)


def packed(mat: np.ndarray, k: int, column: int, index: int, bits: int) -> None:
    """Add an index to the words, as VecQuant{2,3,4}AppendVec... do."""
    if bits == 3:
        loc, first = k % 32, k // 32 * 3
        if loc == 10:
            mat[first, column] += np.uint32((index << 30) & 0xFFFFFFFF)
            mat[first + 1, column] += np.uint32(index >> 2)
        elif loc == 21:
            mat[first + 1, column] += np.uint32((index << 31) & 0xFFFFFFFF)
            mat[first + 2, column] += np.uint32(index >> 1)
        else:
            mat[first + loc // 11, column] += np.uint32(index << (loc * 3) % 32)
    else:
        each = 32 // bits
        mat[k // each, column] += np.uint32(index << (k % each) * bits)


def kernel_keys(k: np.ndarray, high: np.ndarray, low: np.ndarray, lut: np.ndarray, lut2: np.ndarray, bits: int):
    """QuantK.load_lookup_table and QuantK.parallel_pack; k is channels x tokens."""
    channels, tokens = k.shape
    upper, lower = torch.tensor(high).half(), torch.tensor(low).half()
    offset, radius = (upper + lower) / 2, (upper - lower) / 2
    tables = [
        np.stack([(torch.tensor(t) * radius[c].item() + offset[c].item()).numpy() for c in range(channels)])
        for t in (lut, lut2)
    ]
    upper, lower = upper.float().numpy(), lower.float().numpy()
    mat = np.zeros((channels // 32 * bits, tokens), np.uint32)
    rescaled = np.empty_like(k)
    for c in range(channels):
        reach, zero = np.float32(upper[c] - lower[c]) / np.float32(2), np.float32(upper[c] + lower[c]) / np.float32(2)
        for t in range(tokens):
            rescaled[c, t] = (k[c, t] - zero) / reach
            smallest, best = 0, abs(k[c, t] - tables[0][c, 0])
            for v in range(1, 1 << bits):
                distance = abs(k[c, t] - tables[0][c, v])
                if distance < best:
                    smallest, best = v, distance
            packed(mat, c, t, smallest, bits)
    count = int(((1 - 0.99) / 2) * channels) + 1
    scaled, given = torch.from_numpy(rescaled.T.copy()), torch.from_numpy(k.T.copy())
    top, top_index = torch.topk(scaled, count, dim=-1)
    bottom, bottom_index = torch.topk(scaled, count, dim=-1, largest=False)
    rows, table = torch.arange(tokens).unsqueeze(1), torch.from_numpy(tables[1])
    upper_values = given[rows, top_index] - table[top_index, -1]
    lower_values = given[rows, bottom_index] - table[bottom_index, 0]
    zeros = torch.cat((top <= 1, bottom >= -1), dim=-1)
    indices, order = torch.cat((top_index, bottom_index), dim=-1).sort(dim=-1)
    values = torch.cat((upper_values, lower_values), dim=-1)[rows, order]
    values[zeros[rows, order]] = 0
    return mat, tables[1], values.numpy(), indices.numpy()


def kernel_values(v: np.ndarray, lut: np.ndarray, lut2: np.ndarray, bits: int):
    """QuantV.parallel_pack; v is tokens x channels."""
    tokens, channels = v.shape
    count = int(((1 - 0.99) / 2) * channels) + 2
    top, top_index = torch.topk(torch.from_numpy(v), count, dim=-1)
    bottom, bottom_index = torch.topk(torch.from_numpy(v), count, dim=-1, largest=False)
    high, low = top[:, -1], bottom[:, -1]
    offset, radius = (high + low) / 2, (high - low) / 2
    tables = [torch.tensor(t).unsqueeze(0) * radius.unsqueeze(-1) + offset.unsqueeze(-1) for t in (lut, lut2)]
    mat = np.zeros((channels // 32 * bits, tokens), np.uint32)
    middle = {4: 7, 3: 3, 2: 1}[bits]
    for t in range(tokens):
        for c in range(channels):
            smallest = int(np.abs(v[t, c] - tables[0][t].numpy()).argmin())
            if v[t, c] < low[t].item() or v[t, c] > high[t].item():
                smallest = middle
            packed(mat, c, t, smallest, bits)
    values = torch.cat((top[:, :-1], bottom[:, :-1]), dim=-1) - tables[1][:, middle].unsqueeze(-1)
    indices, order = torch.cat((top_index[:, :-1], bottom_index[:, :-1]), dim=-1).sort()
    return mat, tables[1].numpy(), values[torch.arange(tokens).unsqueeze(1), order].numpy(), indices.numpy()


@pytest.mark.parametrize("qnorm", ["off", "on"])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_keys_equal_the_released_cache(bits: int, qnorm: str) -> None:
    x, fmt = data(), make(f"kvquant{bits}:storage=deployed,qnorm={qnorm}")
    scale = fmt.calibrate(x)
    low, high = scale[:CHANNELS], scale[CHANNELS : 2 * CHANNELS]
    lut, lut2 = np.split(scale[2 * CHANNELS :], 2)
    mat, tables, values, indices = kernel_keys(np.ascontiguousarray(x.T), high, low, lut, lut2, bits)
    encoded = fmt.encode(x, scale)
    assert encoded.side is not None
    np.testing.assert_array_equal(encoded.codes.view("<u4"), mat)
    np.testing.assert_array_equal(encoded.scales, tables)
    np.testing.assert_array_equal(encoded.side["channels"], indices)
    np.testing.assert_array_equal(encoded.side["values"], values)
    assert np.count_nonzero(values) > 20


@pytest.mark.parametrize("qnorm", ["off", "on"])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_values_equal_the_released_cache(bits: int, qnorm: str) -> None:
    x, fmt = data(seed=1), make(f"kvquant{bits}:storage=deployed,role=value,qnorm={qnorm}")
    scale = fmt.calibrate(x)
    mat, tables, values, indices = kernel_values(x, scale[: len(scale) // 2], scale[len(scale) // 2 :], bits)
    encoded = fmt.encode(x, scale)
    assert encoded.side is not None
    np.testing.assert_array_equal(encoded.codes.view("<u4"), mat)
    np.testing.assert_array_equal(encoded.scales, tables)
    np.testing.assert_array_equal(encoded.side["channels"], indices)
    np.testing.assert_array_equal(encoded.side["values"], values)


@pytest.mark.parametrize("role", ["key", "value"])
def test_decoding_is_a_look_up_and_an_addition(role: str) -> None:
    x, fmt = data(), make(f"kvquant3:storage=deployed,role={role}")
    encoded = fmt.encode(x)
    assert encoded.side is not None
    want = np.empty_like(x)
    for t in range(len(x)):
        for c in range(CHANNELS):
            table = encoded.scales[c if role == "key" else t]
            want[t, c] = table[encoded.elements[t, c]]
        for c, value in zip(encoded.side["channels"][t], encoded.side["values"][t], strict=True):
            want[t, c] += value
    np.testing.assert_array_equal(encoded.decode(), want)
    np.testing.assert_array_equal(fmt.quantize(x), want)
    # Stored outliers come back but for two roundings.
    if role == "value":
        rows = np.arange(len(x))[:, None]
        kept = encoded.side["channels"].astype(int)
        np.testing.assert_allclose(want[rows, kept], x[rows, kept], rtol=1e-5, atol=1e-5)


def test_size_is_that_of_the_buffers() -> None:
    """QuantK allocates (heads, head_dim / 32 * bits, tokens) words and (tokens, 42) values and indices for 4096."""
    fmt = make("kvquant4:storage=deployed")
    assert fmt.kept(4096) == 21
    tokens = 1000
    words, lists, tables = 4096 // 32 * 4 * tokens * 32, tokens * 42 * (32 + 32), 4096 * 16 * 32
    assert fmt.storage_bits((tokens, 4096)) == words + lists + tables
    values = make("kvquant4:storage=deployed,role=value")
    assert values.storage_bits((tokens, 4096)) == words + lists + tokens * 16 * 32
    x = data(8)
    encoded = fmt.encode(x)
    assert encoded.side is not None
    stored = encoded.codes.nbytes + encoded.scales.nbytes + sum(a.nbytes for a in encoded.side.values())
    assert encoded.bits == 8 * stored


@pytest.mark.parametrize("text", ["", ",role=value", ",cap=4"])
@pytest.mark.parametrize("shape", [(24, 64), (2, 3, 8, 32)])
def test_packed_words_and_turned_tensors_read_back(text: str, shape: tuple[int, ...]) -> None:
    x = data(int(np.prod(shape[:-1])), shape[-1]).reshape(shape)
    fmt = make(f"kvquant3:storage=deployed{text}")
    encoded = fmt.encode(x)
    back = fmt.from_packed(encoded.codes, encoded.scales, shape, side=encoded.side)
    np.testing.assert_array_equal(back.decode(), encoded.decode())
    turned = make(f"kvquant3:storage=deployed{text},transposed=on").encode(np.swapaxes(x, -1, -2).copy())
    np.testing.assert_array_equal(np.swapaxes(turned.decode(), -1, -2), encoded.decode())
    np.testing.assert_array_equal(turned.codes, encoded.codes)
    assert turned.bits == encoded.bits


def test_products_are_those_of_decoded_values() -> None:
    fmt, x = make("kvquant4:storage=deployed"), data(16)
    queries = data(5, seed=3)
    encoded = fmt.encode(x)
    product = gemm(get_format("fp32").encode(queries), encoded)
    np.testing.assert_allclose(product, queries @ encoded.decode().T, rtol=1e-4, atol=1e-3)


def test_values_that_tie_with_the_end_of_the_range_count_once() -> None:
    """The released code would add such a value to its own table entry; see the docstring."""
    x = np.tile(np.arange(32, dtype=np.float32), (1, 1))
    x[0, 20:] = 19.0
    encoded = make("kvquant4:storage=deployed,role=value").encode(x)
    assert np.abs(encoded.decode() - x).max() < 19 / 8


def test_mutant_with_other_middle_entry_fails() -> None:
    x, fmt = data(seed=1), make("kvquant3:storage=deployed,role=value")
    encoded = fmt.encode(x)
    wrong = Encoded(
        fmt, x.shape, np.where(encoded.elements == 3, 4, encoded.elements), encoded.scales, side=encoded.side
    )
    assert np.abs(wrong.decode() - x).max() > np.abs(encoded.decode() - x).max()


@pytest.mark.parametrize(
    "text, message",
    [
        ("kvquant4:storage=deployed,layout=csr", "format option layout: does not apply to storage=deployed"),
        ("kvquant4:storage=deployed,mode=paper", "format option mode: does not apply to storage=deployed"),
        ("kvquant4:storage=deployd", "format option storage: unknown name 'deployd'; did you mean 'deployed'"),
    ],
)
def test_options_that_do_not_fit(text: str, message: str) -> None:
    with pytest.raises(MacloomError, match=message):
        get_format(text)


def test_errors() -> None:
    fmt = make("kvquant4:storage=deployed")
    with pytest.raises(MacloomError, match="stores whole words of 32 channels, which 40 are not"):
        fmt.encode(np.ones((4, 40), np.float32))
    with pytest.raises(MacloomError, match="must leave two of 32 channels inside, which 2 x 16 does not"):
        make("kvquant4:storage=deployed,cap=16").encode(data(4, 32))
    with pytest.raises(MacloomError, match="the deployed kernels have 2, 3 or 4 bits, not 5"):
        KVQuantDeployed(name="x", width=5)
    encoded = fmt.encode(data(4, 32))
    with pytest.raises(MacloomError, match=r"codes: must have shape \(4, 16\) for a tensor of \(4, 32\), not \(4, 4\)"):
        fmt.from_packed(encoded.codes[:, :4], encoded.scales, (4, 32), side=encoded.side)
    with pytest.raises(MacloomError, match="needs the side data of the encoded tensor"):
        fmt.from_packed(encoded.codes, encoded.scales, (4, 32))
    with pytest.raises(MacloomError, match=r"side: must hold values and channels below 32 of shape \(4, 2\)"):
        fmt.from_packed(encoded.codes, encoded.scales, (4, 32), side={})
    with pytest.raises(MacloomError, match=r"scales: must hold tables of shape \(32, 16\)"):
        fmt.from_packed(encoded.codes, encoded.scales[:3], (4, 32), side=encoded.side)
