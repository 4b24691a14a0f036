"""An encoder as a step function of the float32 patterns in ascending order, found with the scalar reference.

Rounding is monotone, so that between two inputs of one sign and of equal code no other code can lie
(zeros are evaluated by themselves). Halving the intervals whose ends differ therefore finds every input at
which the code changes, with some thirty exact evaluations for each step; what lies between is known
without evaluating it.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise

import numpy as np

from macloom.formats.element import ElementFormat
from macloom.formats.policy import Overflow, Rounding
from macloom.formats.reference import encode_reference

# Ranks of -infinity, -0, +0 and +infinity: the place of a pattern in ascending order, NaN left out.
LOWEST, MINUS_ZERO, ZERO, HIGHEST = -0x7F800001, -1, 0, 0x7F800000


def ranks_of(patterns: np.ndarray) -> np.ndarray:
    """Return the ranks (int64) of float32 bit patterns (uint32), which are no NaN.

    >>> ranks_of(np.array([-np.inf, -0.0, 0.0, np.inf], np.float32).view(np.uint32)).tolist() == [
    ...     LOWEST, MINUS_ZERO, ZERO, HIGHEST]
    True
    """
    magnitude = (patterns & np.uint32(0x7FFFFFFF)).astype(np.int64)
    return np.where(patterns >> np.uint32(31) != 0, -1 - magnitude, magnitude)


def patterns_of(ranks: np.ndarray) -> np.ndarray:
    """Return the bit patterns (uint32) of ranks."""
    ranks = np.asarray(ranks, np.int64)
    return np.where(ranks < 0, 0x80000000 + (-1 - ranks), ranks).astype(np.uint32)


def float_at(rank: int) -> float:
    """Return the float32 of a rank."""
    pattern = rank if rank >= 0 else 0x80000000 - 1 - rank
    return struct.unpack("<f", struct.pack("<I", pattern))[0]


@dataclass(frozen=True, kw_only=True)
class Steps:
    """A function of rank that is codes[i] from firsts[i] until the next.

    Attributes:
        firsts: ascending ranks, int64; the first is `LOWEST`.
        codes: code of each run.
    """

    firsts: np.ndarray
    codes: np.ndarray

    def at(self, patterns: np.ndarray) -> np.ndarray:
        """Return the codes of float32 patterns that are no NaN."""
        return self.codes[np.searchsorted(self.firsts, ranks_of(patterns), side="right") - 1]

    def neighbourhoods(self, distance: int) -> np.ndarray:
        """Return the patterns up to `distance` steps of float32 away from where the code changes."""
        near = self.firsts[:, None] + np.arange(-distance, distance)
        edges = np.array([LOWEST, LOWEST + 1, MINUS_ZERO - 1, MINUS_ZERO, ZERO, ZERO + 1, HIGHEST - 1, HIGHEST])
        return patterns_of(np.clip(np.concatenate((near.reshape(-1), edges)), LOWEST, HIGHEST))

    def runs(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Yield (begin, end, code) of the runs of bit patterns within [start, stop), which share their sign."""
        firsts, codes = self._lists
        low, high = (start, stop) if start < 0x80000000 else (0x80000000 - stop, 0x80000000 - start)
        first = bisect_right(firsts, low) - 1
        while low < high:
            end = min(high, firsts[first + 1]) if first + 1 < len(firsts) else high
            ends = (low, end) if low >= 0 else (0x80000000 - end, 0x80000000 - low)
            yield *ends, codes[first]
            low, first = end, first + 1

    @cached_property
    def _lists(self) -> tuple[list[int], list[int]]:
        return self.firsts.tolist(), self.codes.tolist()


def find_steps(code_of: Callable[[float], int]) -> Steps:
    """Return a monotone encoder of float32 as a step function.

    >>> steps = find_steps(lambda x: int(x > 1))
    >>> steps.codes.tolist(), [float_at(int(rank)) for rank in steps.firsts]
    ([0, 1], [-inf, 1.0000001192092896])
    """
    found: list[tuple[int, int]] = []

    def halve(low: int, high: int, at_low: int, at_high: int) -> None:
        if at_low == at_high:
            return
        if high - low == 1:
            found.append((high, at_high))
            return
        middle = (low + high) // 2
        at_middle = code_of(float_at(middle))
        halve(low, middle, at_low, at_middle)
        halve(middle, high, at_middle, at_high)

    ends = {rank: code_of(float_at(rank)) for rank in (LOWEST, MINUS_ZERO - 1, MINUS_ZERO, ZERO, HIGHEST)}
    for low, high in pairwise(ends):
        halve(low, high, ends[low], ends[high])
    firsts, codes = zip((LOWEST, ends[LOWEST]), *found, strict=True)
    return Steps(firsts=np.array(firsts, np.int64), codes=np.array(codes, np.int64))


def reference_steps(
    element: ElementFormat,
    rounding: Rounding,
    overflow: Overflow = Overflow.SATURATE,
    uniform: Fraction | None = None,
) -> Steps:
    """Return the scalar reference of an element format as a step function; `uniform` is a fixed draw."""
    return find_steps(lambda x: encode_reference(element, x, rounding, overflow, uniform=uniform))
