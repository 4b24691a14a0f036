"""Codes of any width up to 16 bits, and 32, packed without gaps; every row starts at a byte."""

from __future__ import annotations

import numpy as np

from macloom.formats.threads import run_rows


def packed_row_bytes(length: int, bits: int) -> int:
    """Return how many bytes a row of `length` codes takes."""
    return -(-length * bits // 8)


def largest_code(codes: np.ndarray) -> int:
    """Return the largest of unsigned codes (any shape), 0 of none.

    >>> largest_code(np.array([[3, 14], [15, 9]], np.uint8))
    15
    """
    if codes.dtype not in (np.uint8, np.uint16) or not codes.flags.c_contiguous or codes.size == 0:
        return int(codes.max(initial=0))
    from macloom.formats.kernels.packing import largest_codes

    rows = codes.reshape(-1, codes.shape[-1] if codes.ndim else 1)
    found = np.empty(len(rows), np.uint32)
    run_rows(largest_codes, len(rows), rows.size, rows, found)
    return int(found.max())


def pack(codes: np.ndarray, bits: int, first_high: bool = False) -> np.ndarray:
    """Pack codes (rows x length) into bytes (rows x bytes), the first element in the lowest bits.

    `first_high` puts it into the highest bits instead, which is where outlier-victim pairs have it.

    >>> pack(np.array([[1, 2, 3]]), 4).tolist(), pack(np.array([[1, 2]]), 4, first_high=True).tolist()
    ([[33, 3]], [[18]])
    """
    codes = np.ascontiguousarray(codes)
    if bits == 8:
        return codes.astype(np.uint8, copy=False)
    if bits in (16, 32):
        return codes.astype(f"{'>' if first_high else '<'}u{bits // 8}").view(np.uint8)
    if codes.dtype == np.uint8 and (bits == 4 or (bits < 8 and not first_high)):
        from macloom.formats.kernels.packing import pack_bits, pack_nibbles

        out = np.empty((codes.shape[0], packed_row_bytes(codes.shape[1], bits)), np.uint8)
        if bits == 4:
            run_rows(pack_nibbles, len(codes), codes.size, codes, *((4, 0) if first_high else (0, 4)), out)
        else:
            run_rows(pack_bits, len(codes), codes.size, codes, bits, out)
        return out
    order = "big" if first_high else "little"
    shifts = np.arange(bits)[::-1] if first_high else np.arange(bits)
    stream = (codes[:, :, None] >> shifts.astype(codes.dtype)).astype(np.uint8) & 1
    return np.packbits(stream.reshape(len(codes), -1), axis=1, bitorder=order)


def unpack(packed: np.ndarray, bits: int, length: int, first_high: bool = False) -> np.ndarray:
    """Return the codes (rows x length) that `pack` stored; uint8 to 8 bits, uint16 beyond."""
    packed = np.ascontiguousarray(packed, np.uint8)
    if bits == 8:
        return packed
    if bits in (16, 32):
        return packed.view(f"{'>' if first_high else '<'}u{bits // 8}").astype(f"u{bits // 8}")
    if bits == 4:
        from macloom.formats.kernels.packing import unpack_nibbles

        out = np.empty((packed.shape[0], packed.shape[1] * 2), np.uint8)
        run_rows(unpack_nibbles, len(out), out.size, packed, *((4, 0) if first_high else (0, 4)), out)
        return out[:, :length]
    if bits < 8 and not first_high:
        from macloom.formats.kernels.packing import unpack_bits

        out = np.empty((packed.shape[0], length), np.uint8)
        run_rows(unpack_bits, len(out), out.size, packed, bits, out)
        return out
    order = "big" if first_high else "little"
    stream = np.unpackbits(packed, axis=1, bitorder=order)[:, : length * bits].reshape(len(packed), length, bits)
    shifts = np.arange(bits)[::-1] if first_high else np.arange(bits)
    codes = (stream.astype(np.uint16) << shifts.astype(np.uint16)).sum(axis=2, dtype=np.uint16)
    return codes.astype(np.uint8) if bits <= 8 else codes
