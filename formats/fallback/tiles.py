"""Rows cut into pieces that fit the cache, and the few buffers that they need."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

TILE = 1 << 16  # elements: a few buffers of so many float32 stay in the second-level cache
MAGNITUDE, SIGN, EXPONENT = np.uint32(0x7FFFFFFF), np.uint32(0x80000000), np.uint32(0x7F800000)


@dataclass(frozen=True)
class Piece:
    """`segments` whole segments of `size` elements each, or part of one, in each of some rows.

    Attributes:
        row, rows: the first row, and how many.
        segment, segments: the first segment, and how many.
        column: where in a row the piece begins.
        size: elements of a segment that belong to it.
    """

    row: int
    rows: int
    segment: int
    segments: int
    column: int
    size: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.rows, self.segments, self.size

    @property
    def count(self) -> int:
        return self.rows * self.segments * self.size

    def of(self, array: np.ndarray) -> np.ndarray:
        """Return this piece of a contiguous matrix: a view, rows x segments x size."""
        width, item = array.shape[1], array.itemsize
        offset = (self.row * width + self.column) * item
        strides = (width * item, self.size * item, item)
        return np.ndarray(self.shape, array.dtype, array, offset, strides)

    def per_segment(self, array: np.ndarray) -> np.ndarray:
        """Return what a matrix rows x segments holds for this piece, to be spread over its elements."""
        return array[self.row : self.row + self.rows, self.segment : self.segment + self.segments, None]


def pieces(start: int, stop: int, length: int, segments: int, block: int) -> Iterator[Piece]:
    """Yield the rows [start, stop) in pieces of at most `TILE` elements, unless one segment has more.

    The last of a row's segments may be shorter than `block`; a segment longer than a tile comes in parts.
    """
    whole = length // block if segments > 1 else int(length == block)
    tail = length - whole * block
    size = length if segments == 1 else block
    if length <= TILE:
        for row in range(start, stop, max(1, TILE // length)):
            rows = min(max(1, TILE // length), stop - row)
            if segments == 1:
                yield Piece(row, rows, 0, 1, 0, length)
                continue
            yield Piece(row, rows, 0, whole, 0, block)
            if tail:
                yield Piece(row, rows, whole, 1, whole * block, tail)
        return
    for row in range(start, stop):
        if size <= TILE:
            for segment in range(0, whole, TILE // size):
                yield Piece(row, 1, segment, min(TILE // size, whole - segment), segment * size, size)
            if tail:
                yield Piece(row, 1, whole, 1, whole * block, tail)
            continue
        for segment in range(segments):
            end = min((segment + 1) * size, length)
            for column in range(segment * size, end, TILE):
                yield Piece(row, 1, segment, 1, column, min(TILE, end - column))


class Buffers:
    """Reused memory of one tile for each of several intermediate results."""

    def __init__(self, count: int) -> None:
        self.floats = [np.empty(TILE, np.float32) for _ in range(count)]

    def shaped(self, piece: Piece) -> list[np.ndarray]:
        """Return the float32 buffers in the shape of a piece."""
        return [buffer[: piece.count].reshape(piece.shape) for buffer in self.floats]


def note_largest(values: np.ndarray, scratch: np.ndarray, piece: Piece, worst: np.ndarray) -> None:
    """Raise worst[r] to the bits of the largest magnitude of each row of a piece."""
    bits = np.bitwise_and(values.view(np.uint32), MAGNITUDE, out=scratch.view(np.uint32))
    rows = slice(piece.row, piece.row + piece.rows)
    np.maximum(worst[rows], bits.reshape(piece.rows, -1).max(axis=1), out=worst[rows])
