"""Packing against big Python integers: element i at bits [i * bits, (i + 1) * bits) of its row."""

from __future__ import annotations

import numpy as np
import pytest

from macloom.formats.packing import pack, packed_row_bytes, unpack


@pytest.mark.parametrize("bits", [*range(1, 17), 32])
@pytest.mark.parametrize("first_high", [False, True])
@pytest.mark.parametrize("length", [1, 2, 5, 8, 33])
def test_rows_pack_like_one_long_integer(bits: int, first_high: bool, length: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 1 << bits, (3, length), dtype=np.uint64)
    codes = codes.astype(np.uint8 if bits <= 8 else np.uint16 if bits <= 16 else np.uint32)
    packed = pack(codes, bits, first_high)
    size = packed_row_bytes(length, bits)
    assert packed.shape == (3, size)
    assert packed.dtype == np.uint8
    for row, stored in zip(codes.tolist(), packed.tolist(), strict=True):
        if first_high:
            whole = 0
            for code in row:
                whole = whole << bits | code
            want = (whole << (8 * size - bits * length)).to_bytes(size, "big")
        else:
            want = sum(code << (i * bits) for i, code in enumerate(row)).to_bytes(size, "little")
        assert bytes(stored) == want
    again = unpack(packed, bits, length, first_high)
    np.testing.assert_array_equal(again, codes)
    assert again.dtype == codes.dtype


@pytest.mark.parametrize("bits, length, size", [(3, 1, 1), (3, 3, 2), (4, 5, 3), (6, 4, 3), (8, 5, 5), (16, 3, 6)])
def test_row_bytes_by_hand(bits: int, length: int, size: int) -> None:
    assert packed_row_bytes(length, bits) == size
