"""Operations on sixteen lanes against numpy."""

# pyright: reportCallIssue=false
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

numba = pytest.importorskip("numba")

from macloom.formats.kernels import lane_access, lanes  # noqa: E402

RNG = np.random.default_rng(0)
SPECIALS = np.array([0, 0x80000000, 0x7F800000, 0xFF800000, 0x7FC00000, 1, 0x3F800000, 0xFFFFFFFF], np.uint32)
WORDS = np.concatenate((SPECIALS, SPECIALS[::-1], RNG.integers(0, 1 << 32, 64, dtype=np.uint32)))
OTHERS = np.concatenate((np.tile(SPECIALS, 2), np.roll(WORDS[16:], 5)))


def bits(x: np.ndarray) -> np.ndarray:
    return x.view(np.uint32)


def through(function: Any, *arrays: np.ndarray) -> np.ndarray:
    """Apply a compiled function of lanes to arrays, sixteen elements after the other, with a tail."""
    take, put, address, count = lane_access.take, lane_access.put, lane_access.address, lanes.LANES

    @numba.njit
    def run(a, b, out):
        for i in range(0, len(out), count):
            put(out, address(out), i, len(out), function(take(a, i, len(out)), take(b, i, len(out))))

    out = np.empty(len(arrays[0]) - 3, arrays[0].dtype)
    run(*arrays, out)
    return out


OPERATIONS = {
    "sum": (lambda a, b: a + b, lambda a, b: a + b),
    "difference": (lambda a, b: a - b, lambda a, b: a - b),
    "and": (lambda a, b: a & b, lambda a, b: a & b),
    "or and exclusive or": (lambda a, b: (a | b) ^ np.uint32(0x55), lambda a, b: (a | b) ^ np.uint32(0x55)),
    "shifts": (
        lambda a, b: (a >> (b & np.uint32(31))) + (b << np.uint32(3)),
        lambda a, b: (a >> (b & np.uint32(31))) + (b << np.uint32(3)),
    ),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_words_compute_as_numpys_do(name: str) -> None:
    function, model = OPERATIONS[name]
    got = through(numba.njit(function), WORDS, OTHERS)
    assert np.array_equal(got, model(WORDS, OTHERS)[:-3])


def test_floats_compute_as_numpys_do() -> None:
    most, least, chosen = lanes.most, lanes.least, lanes.chosen

    @numba.njit
    def mixed(a, b):
        return chosen(a <= b, most(a / b, np.float32(-2.5)) * b, least(a, np.float32(7)) - b)

    a, b = WORDS[16:].view(np.float32), OTHERS[16:].view(np.float32)
    with np.errstate(all="ignore"):
        quotient = a / b
        want = np.where(
            a <= b, np.where(quotient > np.float32(-2.5), quotient, np.float32(-2.5)) * b, np.where(a < 7, a, 7) - b
        ).astype(np.float32)
    got = through(mixed, a, b)
    same = (bits(got) == bits(want[:-3])) | (np.isnan(got) & np.isnan(want[:-3]))
    assert same.all()


def test_lanes_meet_their_neighbours_and_the_largest() -> None:
    rows = RNG.integers(0, 1 << 32, 256, dtype=np.uint32)
    table = RNG.standard_normal(300).astype(np.float32)

    @numba.njit
    def run(rows, table, out, swapped_out, gathered, truths):
        tops = lanes.highest_of_rows(rows)
        lane_access.put(out, lane_access.address(out), 0, 16, tops)
        first = lane_access.take(rows, 0, 16)
        lane_access.put(swapped_out, lane_access.address(swapped_out), 0, 16, lanes.swapped(first))
        lane_access.put(
            gathered, lane_access.address(gathered), 0, 16, lane_access.gather(table, first >> np.uint32(24))
        )
        truths[0] = lanes.every(first >= np.uint32(0))
        truths[1] = lanes.every(first < tops)
        return lanes.highest(tops)

    tops, turned = np.empty((2, 16), np.uint32)
    found, truths = np.empty(16, np.float32), np.zeros(2, np.bool_)
    assert run(rows, table, tops, turned, found, truths) == rows.max()
    assert np.array_equal(tops, rows.reshape(16, 16).max(axis=1))
    assert np.array_equal(turned, rows[:16].reshape(-1, 2)[:, ::-1].reshape(-1))
    assert np.array_equal(found, table[rows[:16] >> np.uint32(24)])
    assert truths.tolist() == [True, bool((rows[:16] < tops).all())]
