"""OLAccel's chunks, read back by a scalar decoder that knows the fields only."""

from __future__ import annotations

import math

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import Encoded, IntFormat, Scaled, SparseStore, gemm, get_format
from macloom.formats.outliers.olaccel_chunks import ChunkedOutliers, overflow_share


def bits_at(data: np.ndarray, start: int, width: int) -> int:
    """Bits `start` to `start + width` of bytes, the lowest first, as an integer."""
    return int.from_bytes(bytes(data), "little") >> start & ((1 << width) - 1)


def reference(encoded: Encoded) -> list[list[int]]:
    """Read every integer of a tensor out of its packed bytes, chunk by chunk."""
    fmt, side = encoded.format, encoded.side
    assert isinstance(fmt, ChunkedOutliers)
    assert side is not None
    rows, length = int(np.prod(encoded.shape[:-1])), encoded.shape[-1]
    codes = encoded.codes.reshape(rows, -1)
    out = []
    for r in range(rows):
        row = []
        for k in range(length):
            c = r * math.ceil(length / fmt.chunk) + k // fmt.chunk
            pointer = bits_at(side["pointers"], c * fmt.pointer, fmt.pointer)
            low = bits_at(codes[r], 4 * k, 4)
            high = 15 if low > 7 else 0
            if pointer:
                chunk = side["overflow"][int(side["starts"][r]) + pointer - 1]
                high = bits_at(chunk, 4 * (k % fmt.chunk), 4)
            elif bits_at(side["places"], c * fmt.place_bits, fmt.place_bits) == k % fmt.chunk:
                high = bits_at(side["tops"], 4 * c, 4)
            value = high << 4 | low
            row.append(value - 256 if value > 127 else value)
        out.append(row)
    return out


@pytest.mark.parametrize("text", ["", ",share=0.2", ",share=0", ",chunk=8,pointer=5", ",token,share=0.1", ",group=16"])
@pytest.mark.parametrize("shape", [(48,), (6, 40), (2, 3, 112)])
def test_scalar_decoder_reads_the_integers(text: str, shape: tuple[int, ...], heavy) -> None:
    if "group" in text and shape[-1] % 16:
        shape = (*shape[:-1], 64)
    fmt = get_format(f"olaccel4:layout=overflow{text}")
    assert isinstance(fmt, ChunkedOutliers)
    encoded = fmt.encode(heavy(shape))
    integers = np.array(reference(encoded), np.int64)
    scales = fmt.dense._row_scales(np.asarray(encoded.scales), shape)
    spread = np.repeat(scales, shape[-1] // scales.shape[1], axis=1)
    want = (integers.astype(np.float32) * spread).reshape(shape)
    np.testing.assert_array_equal(encoded.decode(), want)


@pytest.mark.parametrize("text", ["", ",share=0.2", ",token", ",group=16"])
def test_values_equal_those_of_the_coordinate_list(text: str, heavy) -> None:
    x = heavy((8, 96))
    chunks, list_ = get_format(f"olaccel4:layout=overflow{text}"), get_format(f"olaccel4:outlier=8{text}")
    np.testing.assert_array_equal(chunks.calibrate(x), list_.calibrate(x))
    np.testing.assert_array_equal(chunks.quantize(x), list_.quantize(x))
    other = get_format("int8:token").encode(heavy((5, 96)))
    np.testing.assert_array_equal(gemm(chunks.encode(x), other), gemm(list_.encode(x), other))


def test_eighty_bits_for_each_chunk_and_each_overflow_chunk() -> None:
    """Park et al.: 16 weights of 4 bits, a pointer of 8, a place of 4 and four high bits make 80."""
    fmt = get_format("olaccel4:layout=overflow")
    assert isinstance(fmt, ChunkedOutliers)
    x = np.zeros((4, 64), np.float32)
    x[0, [3, 9]], x[1, 20], x[2, [33, 34, 35]], x[3] = 50, -60, 70, 1
    encoded = fmt.encode(x, scale=np.float32(1))
    assert encoded.side is not None
    assert fmt.extra_passes(encoded) == 2 == len(encoded.side["overflow"])
    chunks, pointers_of_rows = 16, 5
    assert encoded.bits == 80 * chunks + 80 * 2 + 32 * pointers_of_rows + 32
    np.testing.assert_array_equal(encoded.decode(), x)


def test_stated_size_is_that_of_independent_outliers() -> None:
    fmt = get_format("olaccel4:layout=overflow,share=0.03")
    x = np.random.default_rng(0).normal(size=(256, 512)).astype(np.float32)
    assert overflow_share(0.03, 16) == pytest.approx(1 - 0.97**16 - 16 * 0.03 * 0.97**15)
    assert isinstance(fmt, ChunkedOutliers)
    encoded = fmt.encode(x)
    assert encoded.bits < fmt.storage_bits(x.shape)  # up to 7.5 steps are no outliers, so that they are fewer
    share = float(np.mean(np.abs(x) > 7.5 * encoded.scales))
    at_share = get_format(f"olaccel4:layout=overflow,share={share}")
    assert encoded.bits / at_share.storage_bits(x.shape) == pytest.approx(1, abs=0.005)
    back = fmt.from_packed(encoded.codes, encoded.scales, x.shape, side=encoded.side)
    np.testing.assert_array_equal(back.decode(), encoded.decode())
    assert back.bits == encoded.bits


def test_a_pointer_that_does_not_reach_is_an_error() -> None:
    x = np.tile(np.array([9, 9] + 14 * [1], np.float32), (1, 4))
    with pytest.raises(
        MacloomError,
        match=r"row 0 needs 4 overflow chunks, but 2-bit pointers reach 3; use 'pointer=3' or a smaller 'share'",
    ):
        get_format("olaccel4:layout=overflow,pointer=2").encode(x, scale=np.float32(1))
    assert get_format("olaccel4:layout=overflow,pointer=3").encode(x, scale=np.float32(1)).decode()[0, 0] == 9


@pytest.mark.parametrize(
    "text, message",
    [
        ("olaccel4:pointer=4", "format option pointer: belongs to layout=overflow"),
        (
            "olaccel4:layout=overflow,outlier=16",
            "'overflow' has outliers of 8 bits in the paper's form, not outlier=16",
        ),
        ("olaccel4:layout=overflow,mode=upstream", "in the paper's form, not mode=upstream"),
        ("olaccel4:layout=overflow,chunk=12", r"olaccel\.chunk: must be a power of two from 2 to 32768, not 12"),
        ("olaccel4:layout=overflow,pointer=17", r"olaccel\.pointer: must be from 1 to 16 bits, not 17"),
    ],
)
def test_options_that_do_not_fit(text: str, message: str) -> None:
    with pytest.raises(MacloomError, match=message):
        get_format(text)


def test_wrong_side_data_are_refused() -> None:
    fmt = get_format("olaccel4:layout=overflow")
    x = np.zeros((2, 32), np.float32)
    x[0, :2] = 20
    encoded = fmt.encode(x, scale=np.float32(1))
    assert encoded.side is not None
    for key, value, message in (
        ("places", np.zeros(1, np.uint8), r"side\.places: must hold 4 fields of 4 bits, not 1 bytes"),
        ("starts", np.zeros(3, np.uint32), r"side\.starts: must be where the overflow lists of 2 rows start"),
        ("overflow", np.zeros((0, 10), np.uint8), r"side\.overflow: must hold 1 chunks of 10 bytes"),
    ):
        with pytest.raises(MacloomError, match=message):
            fmt.from_packed(encoded.codes, encoded.scales, x.shape, side={**encoded.side, key: value})
    with pytest.raises(MacloomError, match="'overflow' has 4-bit integers with outliers of 8 bits"):
        ChunkedOutliers(
            name="x",
            dense=Scaled(name="int4", element=IntFormat(width=4)),
            store=SparseStore(value=IntFormat(width=16)),
        )


def test_mutant_without_high_bits_of_overflow_chunks_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    fmt = get_format("olaccel4:layout=overflow")
    x = np.zeros((1, 16), np.float32)
    x[0, :2] = 20
    encoded = fmt.encode(x, scale=np.float32(1))
    assert encoded.side is not None
    encoded.side["overflow"][:] = 0
    assert not np.array_equal(encoded.decode(), x)
