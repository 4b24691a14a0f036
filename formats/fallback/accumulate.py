"""Registers of a fixed width; see `macloom.formats.kernels.accumulate`, whose docstrings say what is what."""

from __future__ import annotations

import numpy as np


def drain(sums, unit, scales_a, scales_b, out):
    """Add float32(sum * unit) * scale_a * scale_b to out (M, N), each step rounded to float32."""
    with np.errstate(all="ignore"):
        whole = (np.asarray(sums, np.float64) * unit).astype(np.float32)
        out += (whole * scales_a[:, None]) * scales_b[None]


def wrap(sums, bits, where):
    """Return int64 sums modulo 2**bits, as signed integers, and set `where` for those that change."""
    half = np.int64(1) << np.int64(bits - 1)
    value = np.asarray(sums).astype(np.int64)
    out = ((value + half) & ((half << 1) - 1)) - half
    where |= out != value
    return out


def wrap_int32(sums, bits, where):
    """Do what `wrap` does in place, for int32 sums and at most 31 bits."""
    sums[:] = wrap(sums, bits, where)


def add_clamped_int32(state, sums, low, high, where):
    """Do what `add_clamped` does for int32 states and sums of at most 2**30."""
    value = state + sums
    np.clip(value, low, high, out=state)
    where |= state != value


def add_clamped(state, sums, low, high, where):
    """Add the sums of one chunk to the state in place, clamp it, and set `where` for what was clamped."""
    value = state + sums
    np.clip(value, low, high, out=state)
    where |= state != value


def add_where_safe(state, sums, magnitudes, low, high, doubtful):
    """Add the sums of a stretch of K where no partial sum can leave the register; return how many were left alone."""
    up = state + ((magnitudes + sums) >> 1)
    down = state + ((sums - magnitudes) >> 1)
    unsafe = (up > high) | (down < low)
    np.add(state, sums, out=state, where=~unsafe)
    places = np.flatnonzero(unsafe)
    kept = places[: len(doubtful)]
    doubtful[: len(kept)] = kept
    return len(places)


def saturate_some(a, b, low, high, state, hit, places):
    """Add products one after the other and clamp after each, for a few entries of the state, by their flat indices."""
    rows, columns = np.divmod(np.asarray(places, np.int64), state.shape[1])
    value = state[rows, columns].astype(np.int64)
    beyond = np.zeros(len(value), bool)
    for k in range(a.shape[1]):
        total = value + a[rows, k].astype(np.int64) * b[columns, k]
        value = np.clip(total, low, high)
        beyond |= value != total
    state[rows, columns] = value
    hit[rows, columns] |= beyond
