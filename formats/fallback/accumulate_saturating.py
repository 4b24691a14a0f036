"""Registers that saturate after every product; see `macloom.formats.kernels.accumulate_saturating`."""

from __future__ import annotations

import numpy as np

# Columns of outputs that are gone through together; the compiled loops have fewer.
COLUMNS = 256


def saturate_each(a, panels, start, stop, low, high, state, mark):
    """Add products to the state one after the other in ascending order of K, and clamp after each."""
    wide = np.int32 if state.dtype == np.int16 else state.dtype
    bottom = np.iinfo(np.int16).min if state.dtype == np.int16 else low
    for number, panel in enumerate(panels):
        columns = slice(number * panels.shape[2], (number + 1) * panels.shape[2])
        register, flags = state[:, columns].astype(wide), mark[:, columns]
        product, kept = np.empty_like(register), np.empty_like(register)
        for k in range(start, stop):
            np.multiply(a[:, k, None], panel[k], out=product, dtype=wide)
            np.add(register, product, out=register)
            np.clip(register, bottom, high, out=kept)
            flags[kept != register] = 1
            register, kept = kept, register
        state[:, columns] = register


def panel_columns(dtype):
    """Return how many columns a panel has."""
    return COLUMNS


def panels_of(b):
    """Return B, (N, K), as panels of its columns, (panels, K, columns), with zeros after the last one."""
    count = -(-len(b) // COLUMNS)
    padded = np.zeros((count * COLUMNS, b.shape[1]), b.dtype)
    padded[: len(b)] = b
    return np.ascontiguousarray(padded.reshape(count, COLUMNS, b.shape[1]).transpose(0, 2, 1))
