"""Formats whose decoder gives half-precision values: what their multipliers see."""

from __future__ import annotations

import numpy as np

from macloom.formats.elements.minifloat import FP16
from macloom.formats.tensor import Operand


def to_half(values: np.ndarray) -> np.ndarray:
    """Return float32 values rounded to float16, to nearest even; beyond its range the largest one."""
    limit = FP16.max_value
    return np.clip(values, -limit, limit).astype(np.float16).astype(np.float32)


def half_operand(values: np.ndarray) -> Operand:
    """Return float16 values (float32, (..., rows, K)) as an operand without scales."""
    _, unit, largest = FP16.units
    scales = np.ones((*values.shape[:-1], 1), np.float32)
    return Operand(np.ldexp(values, -unit), unit, scales, values.shape[-1], np.float32(1), largest)
