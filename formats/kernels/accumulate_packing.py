"""Operands of products in the layout and type that a loop reads: panels of columns, and bytes, four to a word."""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

import numpy as np
from numba import njit

from macloom.formats.kernels.accumulate import wide_vectors
from macloom.formats.kernels.primitives import bits_of
from macloom.formats.threads import run_rows

# Elements of K that are packed at a time, so that what is read and what is written stay in the first cache.
PACKED = 16
# Makes bytes of A unsigned, as the instruction takes them; see `begin_sums`.
OFFSET = 128
# Numbers from here on have steps of 1 in float32, also with a byte subtracted; its own last byte is zero.
LAST_BIT_1 = 1.5 * 2**23


@njit(cache=True, nogil=True)
def pack_columns(start, stop, b, panels):
    """Copy columns of B, (batch, N, K), to panels (batch, panels, K, columns), start to stop of all batches' panels."""
    width, depth = panels.shape[3], panels.shape[2]
    for index in range(start, stop):
        batch, number = index // panels.shape[1], index % panels.shape[1]
        right, panel = b[batch], panels[batch, number]
        left = number * width
        some = min(width, right.shape[0] - left)
        for first in range(0, depth, PACKED):
            last = min(first + PACKED, depth)
            for n in range(some):
                row = right[left + n]
                for k in range(first, last):
                    panel[k, n] = row[k]
            for k in range(first, last):
                for n in range(some, width):
                    panel[k, n] = 0


@njit(cache=True, nogil=True)
def _bytes(start, stop, units, offset, out):
    """Write integers plus an offset as bytes, and zeros up to the end of each row.

    Args:
        offset: more than a multiple of 256 that makes float32's last bit 1: the sum's last byte is what is wanted.
    """
    wide_vectors()
    for m in range(start, stop):
        row, line = units[m], out[m]
        for k in range(len(row)):
            line[k] = np.uint8(bits_of(row[k] + offset) & np.uint32(255))
        for k in range(len(row), len(line)):
            line[k] = 0


@njit(cache=True, nogil=True)
def begin_sums(start, stop, b, segment, begins):
    """Write -OFFSET times the sums of B, (batch, N, K), over segments: what A's offset adds to its products."""
    wide_vectors()
    for index in range(start, stop):
        batch, n = index // b.shape[1], index % b.shape[1]
        row, column = b[batch, n], begins[batch]
        for number in range(begins.shape[1]):
            total = np.int32(0)
            for k in range(number * segment, min((number + 1) * segment, len(row))):
                total += np.int32(row[k])
            column[number, n] = -OFFSET * total


def words_of(units: np.ndarray, offset: int) -> np.ndarray:
    """Return integers plus an offset as bytes, four to a word of int32, with zeros where the last one is not filled."""
    depth = units.shape[-1]
    out = np.empty((*units.shape[:-1], -(-depth // 4) * 4), np.uint8)
    flat = np.ascontiguousarray(units).reshape(-1, depth)
    run_rows(_bytes, len(flat), flat.size, flat, np.float32(LAST_BIT_1 + offset), out.reshape(len(flat), -1))
    return out.view(np.int32)


def turned(x: np.ndarray, width: int) -> np.ndarray:
    """Return (batch, columns, n) as (batch, n, columns) with zeros up to `width` columns."""
    out = np.zeros((x.shape[0], x.shape[2], width), x.dtype)
    out[:, :, : x.shape[1]] = np.swapaxes(x, 1, 2)
    return out
