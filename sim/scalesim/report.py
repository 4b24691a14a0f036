"""From what the buffers saw to the columns of SCALE-Sim's reports."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from macloom.arch.array import Dataflow
from macloom.sim.scalesim.geometry import Geometry
from macloom.sim.scalesim.records import Layer, Report
from macloom.sim.systolic import buffer_accesses


class Track(NamedTuple):
    """One operand's traffic: first and last cycle at its SRAM, first and last cycle at DRAM, values moved there."""

    sram_start: int
    sram_stop: int
    dram_start: int
    dram_stop: int
    dram_count: int


def report_of(
    layer: Layer, shape: Geometry, total: int, stalls: int, ifmap: Track, weights: Track, ofmap: Track
) -> Report:
    """Return the report of a layer that finished its last write in cycle `total` after `stalls` stalled cycles.

    One product on one element ends in cycle 0: what SCALE-Sim divides by that, and fails, is infinite here.
    """
    accesses = buffer_accesses(shape.dataflow, shape.m, shape.n, shape.k, shape.rows, shape.cols)
    ifmap_reads = accesses.a_reads
    if layer.sparsity is not None and shape.dataflow is Dataflow.WS:
        ifmap_reads = _repeated_reads(shape, layer.sparsity[1] / layer.sparsity[0])
    writes = accesses.out_writes
    if shape.dataflow is Dataflow.OS:
        writes += shape.folds * (shape.rows + shape.cols)
    mapping, compute = fold_averages(shape)
    elements = shape.rows * shape.cols
    return Report(
        macs=layer.macs,
        total_cycles_incl_prefetch=ofmap.dram_stop - min(ifmap.dram_start, weights.dram_start),
        total_cycles=total,
        compute_cycles=total - stalls,
        stall_cycles=stalls,
        overall_util=_quotient(layer.macs * 100, total * elements),
        mapping_eff=mapping * 100,
        compute_util=compute * 100,
        avg_sram_bw_ifmap=_quotient(ifmap_reads, total),
        avg_sram_bw_filter=_quotient(accesses.b_reads, total),
        avg_sram_bw_ofmap=_quotient(writes, total),
        avg_dram_bw_ifmap=_per_cycle(ifmap),
        avg_dram_bw_filter=_per_cycle(weights),
        avg_dram_bw_ofmap=_per_cycle(ofmap),
        sram_if_start=ifmap.sram_start,
        sram_if_stop=ifmap.sram_stop,
        sram_if_reads=ifmap_reads,
        sram_fl_start=weights.sram_start,
        sram_fl_stop=weights.sram_stop,
        sram_fl_reads=accesses.b_reads,
        sram_of_start=ofmap.sram_start,
        sram_of_stop=ofmap.sram_stop,
        sram_of_writes=writes,
        dram_if_start=ifmap.dram_start,
        dram_if_stop=ifmap.dram_stop,
        dram_if_reads=ifmap.dram_count,
        dram_fl_start=weights.dram_start,
        dram_fl_stop=weights.dram_stop,
        dram_fl_reads=weights.dram_count,
        dram_of_start=ofmap.dram_start,
        dram_of_stop=ofmap.dram_stop,
        dram_of_writes=ofmap.dram_count,
    )


def _per_cycle(track: Track) -> float:
    return track.dram_count / (track.dram_stop - track.dram_start + 1)


def _quotient(value: float, total: int) -> float:
    return value / total if total else math.inf


def _repeated_reads(shape: Geometry, times: float) -> float:
    """Return the input reads of a sparse layer in WS, in which SCALE-Sim counts every value `times` over."""
    rows = np.array([shape.rows] * (shape.row_folds - 1) + [shape.last_rows])
    return running_sum(np.tile(shape.stream * rows * times, shape.col_folds))


def running_sum(values: np.ndarray) -> float:
    """Return the sum of floats, rounded after each of them as Python's loops do it, not pairwise as numpy does."""
    return float(np.cumsum(values)[-1])


def fold_averages(shape: Geometry) -> tuple[float, float]:
    """Return mapping efficiency and compute utilisation, averaged over folds as SCALE-Sim averages them.

    Its fold of WS and IS lasts C - 1 cycles too long here. Sums run fold by fold as SCALE-Sim's do, so
    that they round alike; beyond a million folds the quotient of the sums stands in.
    """
    elements = shape.rows * shape.cols
    cycles = shape.fold_cycles + (0 if shape.dataflow is Dataflow.OS else shape.cols - 1)
    rows = [shape.rows] * (shape.row_folds - 1) + [shape.last_rows]
    cols = [shape.cols] * (shape.col_folds - 1) + [shape.last_cols]
    if shape.folds > 1_000_000:
        used = sum(rows) * sum(cols)
        return used / (shape.folds * elements), used * shape.stream / (shape.folds * elements * cycles)
    used = np.multiply.outer(cols, rows).ravel()
    compute = used * shape.stream / (elements * cycles)
    return running_sum(used / elements) / shape.folds, running_sum(compute) / shape.folds
