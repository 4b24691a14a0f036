"""Results written past the caches, sixteen at a time, against plain copies and small tensors."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from macloom.formats import get_format, set_threads

pytest.importorskip("numba")

LARGE = (1 << 25) // 4  # float32 elements from which results are streamed, see `stream.STREAM_BYTES`


@lru_cache(maxsize=1)
def copier() -> Callable[..., None]:
    """Return a kernel that copies elements first ... first + count in pieces of a size, through a tile."""
    from numba import njit

    from macloom.formats.kernels.lane_access import put, take
    from macloom.formats.kernels.lanes import LANES
    from macloom.formats.kernels.stream import STRIP, WAITING, base_of, closed, passed

    @njit
    def copy(x, out, first, count, piece, close):
        tile = np.empty(STRIP + WAITING + 64, out.dtype)
        at = first
        for begin in range(first, first + count, piece):
            end = min(begin + piece, first + count)
            base = base_of(out, tile, True, at)
            for i in range(begin, end, LANES):
                put(out, base, i, end, take(x, i, end))
            at = passed(out, tile, True, at, end)
        if close:
            closed(out, tile, True, at, first + count)

    return copy


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.uint16])
def test_streamed_elements_arrive_as_in_a_plain_copy(dtype: type) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 200, 6000).astype(dtype)
    room = np.empty(6000 * x.itemsize + 64, np.uint8)
    for offset in range(0, 64, x.itemsize):  # of the first element within a cache line
        begin = (offset - room.ctypes.data) % 64
        out = room[begin : begin + 6000 * x.itemsize].view(dtype)
        for first, count, piece in ((0, 6000, 512), (7, 5990, 100), (5, 3, 512), (100, 4001, 33), (3, 1100, 512)):
            out[...] = 255
            copier()(x, out, first, count, piece, True)
            assert np.array_equal(out[first : first + count], x[first : first + count])
            assert (out[:first] == 255).all()
            assert (out[first + count :] == 255).all()


def test_what_waits_is_lost_without_closing() -> None:
    """The comparison above would notice elements that never leave the tile."""
    x = np.arange(1, 1001, dtype=np.float32)
    out = np.zeros_like(x)
    copier()(x, out, 0, 1000, 100, False)
    assert not np.array_equal(out, x)
    assert np.array_equal(out[:480], x[:480])


@pytest.fixture(scope="module")
def large() -> np.ndarray:
    rng = np.random.default_rng(1)
    length = 2 * 1037  # rows that begin anywhere in a line
    return (rng.standard_normal((LARGE // length + 3, length)) * 8).astype(np.float32)


def misplaced(x: np.ndarray) -> np.ndarray:
    """Return an empty array that begins 12 bytes into a cache line."""
    room = np.empty(x.nbytes + 128, np.uint8)
    begin = (12 - room.ctypes.data) % 64
    return room[begin : begin + x.nbytes].view(np.float32).reshape(x.shape)


STREAMED = (
    "fp8_e4m3:none",
    "fp8_e4m3:none,rounding=to_odd",
    "mxfp4",
    "int4:row",
    "posit8_1:none",
    "flint4:row",
    "ovp4:row",
)


@pytest.mark.parametrize("text", STREAMED)
def test_large_tensors_round_as_their_rows_do(text: str, large: np.ndarray) -> None:
    fmt, out = get_format(text), misplaced(large)
    scale: Any = np.full(len(large), 0.5, np.float32) if text == "ovp4:row" else None
    fmt.quantize(large, scale=scale, out=out)
    picked = np.r_[0:5, len(large) // 2 - 3 : len(large) // 2 + 3, len(large) - 5 : len(large)]
    few = fmt.quantize(large[picked], scale=None if scale is None else scale[picked])
    assert np.array_equal(out[picked].view(np.uint32), few.view(np.uint32))
    assert np.array_equal(out.view(np.uint32), fmt.encode(large, scale=scale).decode().view(np.uint32))
    in_place = large.copy()
    fmt.quantize(in_place, scale=scale, out=in_place)
    assert np.array_equal(in_place.view(np.uint32), out.view(np.uint32))


def test_parts_of_threads_join_without_gaps(large: np.ndarray) -> None:
    fmt, one, two = get_format("mxfp4"), misplaced(large), misplaced(large)
    try:
        set_threads(1)
        fmt.quantize(large, out=one)
        set_threads(3)
        fmt.quantize(large, out=two)
    finally:
        set_threads(None)
    assert np.array_equal(one.view(np.uint32), two.view(np.uint32))
