"""Codes by binary search over the points at which they change, which are constants of the circuit."""

from __future__ import annotations

import numpy as np
import pyrtl
from pyrtl import WireVector

from macloom.rtl import wires as w


def interval_search(
    selector: list[WireVector], key: WireVector, starts_of: list[np.ndarray], codes_of: list[np.ndarray], bits: int
) -> WireVector:
    """Return the code of the interval that holds the key, by binary search over the starts of the intervals.

    Args:
        selector: wires that choose among the lists of starts and codes, none for one list.
    """
    depth = max(len(starts) - 1 for starts in starts_of).bit_length()
    full = 1 << depth
    # Intervals that a list does not have repeat its last one.
    starts = [np.concatenate((s, np.full(full - len(s), s[-1]))).tolist() for s in starts_of]
    chosen = [np.concatenate((c, np.full(full - len(c), c[-1]))).tolist() for c in codes_of]
    found: list[WireVector] = []
    for level in range(depth):
        step = full >> (level + 1)
        points = [half[step + 2 * step * k] for half in starts for k in range(1 << level)]
        index = [*selector, *found]
        point = w.table(pyrtl.concat(*index), points, len(key)) if index else w.constant(points[0], len(key))
        found.append(w.inverted(key < point))
    index = [*selector, *found]
    if not index:
        return w.constant(chosen[0][0], bits)
    return w.table(pyrtl.concat(*index), [c for half in chosen for c in half], bits)


def intervals(codes: np.ndarray, defined: np.ndarray | bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Return where runs of one code start, and their codes; undefined inputs continue the run before them."""
    at = np.maximum.accumulate(np.where(defined, np.arange(len(codes)), 0))
    held = codes[at]
    starts = np.flatnonzero(np.concatenate(([True], held[1:] != held[:-1])))
    return starts, held[starts]
