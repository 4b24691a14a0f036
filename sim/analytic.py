"""The analytic rung for many design points at once: cycles, and with memory and energy.

`design_cycles` is `macloom.sim.systolic.array_cycles` over arrays of points, millions per second.
`price_points` gives many mapped products what `macloom.simulate(..., fidelity="analytic")` gives each of
them: the bound of the busiest unit, traffic and energy. It shares the simulator's account of a tile and
walks over kinds of tiles (first, middle and last along each axis) instead of tiles.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from macloom._numba import available
from macloom.arch import Dataflow
from macloom.errors import MacloomError, unknown
from macloom.sim.analytic_cost import PointCosts, price_points
from macloom.sim.systolic import array_cycles

__all__ = ["DATAFLOWS", "PointCosts", "design_cycles", "price_points"]

DATAFLOWS = tuple(Dataflow)  # a dataflow in an array is its place here: 0 os, 1 ws, 2 is
BLOCK = 8192  # points at a time, so that their copies stay in the cache


def design_cycles(
    dataflow: Any,
    m: Any,
    n: Any,
    k: Any,
    rows: Any,
    cols: Any,
    *,
    shadow_registers: bool = False,
    shift_out: bool = True,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Return the cycles of every M x N x K product on every array of R x C elements, as int64.

    Arguments are integers or arrays of them, which broadcast against each other; `dataflow` is a name
    or an array of places in `DATAFLOWS`. With `out` nothing of the size of the answer is allocated.
    What is counted, and the switches, are those of `array_cycles`.

    Raises:
        MacloomError: a size below one, an unknown dataflow, or an `out` of another shape or type.

    >>> design_cycles("ws", 2048, 4096, 4096, np.array([32, 64, 128]), np.array([32, 64, 128]))
    array([35094528,  9166848,  2488320])
    >>> design_cycles(np.arange(3), 2048, 2048, 128, 128, 128)
    array([130560,  38880,  38880])
    """
    named = isinstance(dataflow, str)
    if named and dataflow not in list(Dataflow):
        raise unknown("dataflow", dataflow, [d.value for d in Dataflow])
    kind = np.asarray(DATAFLOWS.index(Dataflow(dataflow)) if named else dataflow)
    sizes = {"dataflow": kind}
    sizes |= {
        name: np.asarray(v) for name, v in zip(("m", "n", "k", "rows", "cols"), (m, n, k, rows, cols), strict=True)
    }
    for name, values in sizes.items():
        if values.dtype.kind not in "iu":
            raise MacloomError(f"{name}: must be an integer or an array of integers, not {values.dtype}")
        low, high = (values.min(), values.max()) if values.size else (1, 1)
        if name == "dataflow" and (low < 0 or high >= len(DATAFLOWS)) and values.size:
            raise MacloomError(f"dataflow: must be a place in DATAFLOWS, 0 to 2, not {low if low < 0 else high}")
        if name != "dataflow" and low < 1:
            raise MacloomError(f"{name}: must be positive integers, not {low}")
    shape = np.broadcast_shapes(*(values.shape for values in sizes.values()))
    if out is None:
        out = np.empty(shape, np.int64)
    elif out.shape != shape or out.dtype != np.int64 or not out.flags.c_contiguous:
        raise MacloomError(f"out: must be a contiguous int64 array of shape {shape}, not {out.dtype} of {out.shape}")
    columns = [_column(values, shape) for values in sizes.values()]
    flat = out.reshape(-1)
    cycles = _compiled if available() else _with_numpy
    block = np.empty((len(columns), min(BLOCK, flat.size)), np.int64)
    for start in range(0, flat.size, BLOCK):
        part = flat[start : start + BLOCK]
        for copy, column in zip(block, columns, strict=True):
            copy[: part.size] = column[start : start + BLOCK]
        cycles(block[:, : part.size], shadow_registers, shift_out, part)
    return out


def _compiled(points: np.ndarray, shadow: bool, shift_out: bool, out: np.ndarray) -> None:
    from macloom.sim.analytic_kernel import total_cycles

    total_cycles(*points, shadow, int(shift_out), out)


def _with_numpy(points: np.ndarray, shadow: bool, shift_out: bool, out: np.ndarray) -> None:
    kind, *sizes = points
    for place, dataflow in enumerate(DATAFLOWS):
        at = kind == place
        chosen = (values[at] for values in sizes)
        out[at] = array_cycles(dataflow, *chosen, shadow_registers=shadow, shift_out=shift_out).total


def _column(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return `values` broadcast to `shape` and flat, without a copy where one number stands for all."""
    if values.size == 1:
        size = int(np.prod(shape))
        return np.broadcast_to(values.reshape(()), (size,))
    if values.shape == shape:
        return values.reshape(-1)
    return np.broadcast_to(values, shape).reshape(-1)
