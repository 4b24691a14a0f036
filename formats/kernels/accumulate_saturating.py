"""Registers that saturate after every product: one vector of outputs for each instruction.

A block of outputs, some rows by `VECTORS` vectors of columns, stays in processor registers while K goes by. Sums
are float32 or float64 where those hold them exactly, or int16, whose saturating addition does half of the work.
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from macloom.formats.kernels.accumulate import wide_vectors
from macloom.formats.kernels.accumulate_vectors import VECTOR_BYTES, call_intrinsic, fused, load, spread, store

VECTORS = 4
# Products between two looks at whether a block still has outputs to watch; as many rows of B fill half the first cache.
STRETCH = 64


def _unclamped(builder: Any, state: Any, x: Any, y: Any) -> Any:
    if isinstance(state.type.element, ir.IntType):
        return builder.add(state, builder.mul(x, y))
    return fused(builder, x, y, state)


def _clamped(builder: Any, value: Any, low: Any, high: Any) -> Any:
    value = builder.select(builder.fcmp_ordered("<", value, high), value, high)
    return builder.select(builder.fcmp_ordered(">", value, low), value, low)


@intrinsic
def stepped(typingctx, state, x, y, low, high):
    """Return the state after one more product, clamped; int16 states end at -2**15, whatever `low` is."""

    def generate(context, builder, sig, args):
        state, x, y, low, high = args
        if isinstance(state.type.element, ir.IntType):
            total = call_intrinsic(builder, "sadd.sat", [state, builder.mul(x, y)])
            return builder.select(builder.icmp_signed("<", total, high), total, high)
        return _clamped(builder, _unclamped(builder, state, x, y), low, high)

    return state(state, x, y, low, high), generate


@intrinsic
def watched(typingctx, mark, before, x, y, after):
    """Return integers that keep the bits of `mark` and get some where the step from `before` to `after` clamped."""

    def generate(context, builder, sig, args):
        mark, before, x, y, after = args
        total = builder.bitcast(_unclamped(builder, before, x, y), mark.type)
        return builder.or_(mark, builder.xor(total, builder.bitcast(after, mark.type)))

    return mark(mark, before, x, y, after), generate


@intrinsic
def all_marked(typingctx, mark):
    """Say whether no element is 0."""

    def generate(context, builder, sig, args):
        kind = ir.IntType(args[0].type.count)
        some = builder.icmp_unsigned("!=", args[0], ir.Constant(args[0].type, None))
        return builder.icmp_unsigned("==", builder.bitcast(some, kind), kind((1 << kind.width) - 1))

    return types.boolean(mark), generate


@njit(forceinline=True)
def _load_four(array, index, size):
    return load(array, index), load(array, index + size), load(array, index + 2 * size), load(array, index + 3 * size)


@njit(forceinline=True)
def _store_four(array, index, size, values):
    v0, v1, v2, v3 = values
    store(array, index, v0)
    store(array, index + size, v1)
    store(array, index + 2 * size, v2)
    store(array, index + 3 * size, v3)


@njit(forceinline=True)
def _step_four(states, x, right, low, high):
    s0, s1, s2, s3 = states
    b0, b1, b2, b3 = right
    return (
        stepped(s0, x, b0, low, high),
        stepped(s1, x, b1, low, high),
        stepped(s2, x, b2, low, high),
        stepped(s3, x, b3, low, high),
    )


@njit(forceinline=True)
def _watch_four(marks, before, x, right, after):
    f0, f1, f2, f3 = marks
    s0, s1, s2, s3 = before
    b0, b1, b2, b3 = right
    t0, t1, t2, t3 = after
    return (
        watched(f0, s0, x, b0, t0),
        watched(f1, s1, x, b1, t1),
        watched(f2, s2, x, b2, t2),
        watched(f3, s3, x, b3, t3),
    )


@njit(forceinline=True)
def _all_marked(mark, index, size):
    f0, f1, f2, f3 = _load_four(mark, index, size)
    return all_marked(f0) & all_marked(f1) & all_marked(f2) & all_marked(f3)


@njit(forceinline=True)
def _step_rows(a, panel, start, stop, low, high, state, width, left, rows):
    """Go through a stretch of K for four rows and one panel of columns."""
    size = panel.shape[1] // 4
    m0, m1, m2, m3 = rows
    i0, i1, i2, i3 = m0 * width + left, m1 * width + left, m2 * width + left, m3 * width + left
    s0, s1 = _load_four(state, i0, size), _load_four(state, i1, size)
    s2, s3 = _load_four(state, i2, size), _load_four(state, i3, size)
    for k in range(start, stop):
        right = _load_four(panel, k * panel.shape[1], size)
        s0 = _step_four(s0, spread(a[m0, k]), right, low, high)
        s1 = _step_four(s1, spread(a[m1, k]), right, low, high)
        s2 = _step_four(s2, spread(a[m2, k]), right, low, high)
        s3 = _step_four(s3, spread(a[m3, k]), right, low, high)
    _store_four(state, i0, size, s0)
    _store_four(state, i1, size, s1)
    _store_four(state, i2, size, s2)
    _store_four(state, i3, size, s3)


@njit(forceinline=True)
def _watch_rows(a, panel, start, stop, low, high, state, mark, width, left, rows):
    """Do the same for two rows and mark what is clamped."""
    size = panel.shape[1] // 4
    m0, m1 = rows
    i0, i1 = m0 * width + left, m1 * width + left
    s0, s1 = _load_four(state, i0, size), _load_four(state, i1, size)
    f0, f1 = _load_four(mark, i0, size), _load_four(mark, i1, size)
    for k in range(start, stop):
        right = _load_four(panel, k * panel.shape[1], size)
        x0, x1 = spread(a[m0, k]), spread(a[m1, k])
        t0 = _step_four(s0, x0, right, low, high)
        t1 = _step_four(s1, x1, right, low, high)
        f0, f1 = _watch_four(f0, s0, x0, right, t0), _watch_four(f1, s1, x1, right, t1)
        s0, s1 = t0, t1
    _store_four(state, i0, size, s0)
    _store_four(state, i1, size, s1)
    _store_four(mark, i0, size, f0)
    _store_four(mark, i1, size, f1)


@njit(cache=True, nogil=True)
def saturate_each(a, panels, start, stop, low, high, state, mark):
    """Add products to the state one after the other in ascending order of K, and clamp after each.

    Rows are taken four at a time; where fewer are left, the last one is done again, from the same state.

    Args:
        a: (M, K) float32, float64 or int16.
        panels: B of that type, (panels, K, columns), `panel_columns` of them; see `panels_of`.
        start, stop: stretch of K.
        low, high: ends of the register in that type; int16 states end at -2**15, whatever `low` is.
        state: of that type, (M, panels * columns).
        mark: integers of its size, (M, panels * columns); they become other than 0 where a sum was clamped.
    """
    wide_vectors()
    width, last = state.shape[1], a.shape[0] - 1
    least, most = spread(low), spread(high)
    for number in range(panels.shape[0]):
        panel, left = panels[number], number * panels.shape[2]
        size = panels.shape[2] // 4
        for first in range(start, stop, STRETCH):
            end = min(first + STRETCH, stop)
            for m in range(0, a.shape[0], 4):
                m1, m2, m3 = min(m + 1, last), min(m + 2, last), min(m + 3, last)
                closed = _all_marked(mark, m * width + left, size) & _all_marked(mark, m1 * width + left, size)
                closed &= _all_marked(mark, m2 * width + left, size) & _all_marked(mark, m3 * width + left, size)
                if closed:
                    _step_rows(a, panel, first, end, least, most, state, width, left, (m, m1, m2, m3))
                else:
                    _watch_rows(a, panel, first, end, least, most, state, mark, width, left, (m, m1))
                    if m2 > m1:
                        _watch_rows(a, panel, first, end, least, most, state, mark, width, left, (m2, m3))


def panel_columns(dtype: Any) -> int:
    """Return how many columns a panel has."""
    return VECTORS * VECTOR_BYTES // np.dtype(dtype).itemsize


def panels_of(b: np.ndarray) -> np.ndarray:
    """Return B, (N, K), as panels of its columns, (panels, K, columns), with zeros after the last one."""
    columns = panel_columns(b.dtype)
    count = -(-len(b) // columns)
    padded = np.zeros((count * columns, b.shape[1]), b.dtype)
    padded[: len(b)] = b
    return np.ascontiguousarray(padded.reshape(count, columns, b.shape[1]).transpose(0, 2, 1))
