"""Closed-form cycles and accesses against SCALE-Sim and against numbers worked out by hand."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from macloom.arch import Dataflow
from macloom.sim.systolic import array_cycles, buffer_accesses, folds, mapping_efficiency, utilisation

GOLDEN = Path(__file__).parents[1] / "golden" / "scalesim_gemm.csv"
ROWS = list(csv.DictReader(GOLDEN.read_text(encoding="utf-8").splitlines()))
OPT_LAYER = {  # OPT-6.7B, prefill 2048: (M, N, K) and how often a decoder layer has it
    "qkvo": (2048, 4096, 4096, 4),
    "fc1": (2048, 16384, 4096, 1),
    "fc2": (2048, 4096, 16384, 1),
    "scores": (2048, 2048, 128, 32),
    "values": (2048, 128, 2048, 32),
}


def scalesim_report(dataflow, m, n, k, rows, cols):
    """What SCALE-Sim v3 prints for a dense product without stalls.

    It differs from the product on purpose: the index of the last cycle instead of their number, no
    drain of OS sums, R + C writes too many per OS fold, no read-back of partial sums, and C - 1
    cycles counted twice in the compute utilisation of WS and IS.
    """
    cycles = array_cycles(dataflow, m, n, k, rows, cols, shift_out=False)
    accesses = buffer_accesses(dataflow, m, n, k, rows, cols)
    is_os = dataflow is Dataflow.OS
    per_fold = cycles.total // cycles.folds + (0 if is_os else cols - 1)
    return {
        "total_cycles": cycles.total - 1,
        "sram_if_reads": accesses.a_reads,
        "sram_fl_reads": accesses.b_reads,
        "sram_of_writes": accesses.out_writes + (cycles.folds * (rows + cols) if is_os else 0),
        "mapping_eff": 100 * mapping_efficiency(dataflow, m, n, k, rows, cols),
        "compute_util": 100 * utilisation(m * n * k, cycles.folds * per_fold, rows, cols),
        "overall_util": 100 * utilisation(m * n * k, cycles.total - 1, rows, cols),
    }


def sizes(row):
    return Dataflow(row["dataflow"]), *(int(row[c]) for c in ("M", "N", "K", "R", "C"))


@pytest.mark.parametrize("row", ROWS, ids=lambda r: f"{r['name']}-{r['R']}x{r['C']}-{r['dataflow']}")
def test_counts_equal_scalesim(row):
    assert row["stall_cycles"] == "0"
    report = scalesim_report(*sizes(row))
    compared = [c for c in report if row[c]]
    assert "total_cycles" in compared
    for column in compared:
        assert float(row[column]) == pytest.approx(report[column], rel=1e-9, abs=0), column


def test_the_sample_covers_all_dataflows_and_uneven_arrays():
    assert len(ROWS) <= 60
    assert {r["dataflow"] for r in ROWS} == {"os", "ws", "is"}
    assert {(r["R"], r["C"]) for r in ROWS} >= {("8", "16"), ("16", "4"), ("128", "128")}


# SCALE-Sim cycles (the index of the last cycle) of one product, from the closed form of its paper.
OPT_CYCLES = {
    32: {
        "qkvo": (34062335, 35094527, 34324479),
        "fc1": (136249343, 140378111, 134987775),
        "fc2": (134725631, 140378111, 137297919),
        "scores": (778239, 548351, 548351),
        "values": (540159, 548351, 909311),
    },
    64: {
        "qkvo": (8646655, 9166847, 8777727),
        "fc1": (34586623, 36667391, 33943551),
        "fc2": (33812479, 36667391, 35110911),
        "scores": (260095, 143231, 143231),
        "values": (139135, 143231, 325631),
    },
    128: {
        "qkvo": (2227199, 2488319, 2292735),
        "fc1": (8908799, 9953279, 8584191),
        "fc2": (8518655, 9953279, 9170943),
        "scores": (97791, 38879, 38879),
        "values": (36831, 38879, 130559),
    },
}
OPT_TOTALS = {
    32: (449413050, 456228794, 456228794),
    64: (115761082, 119168954, 119168954),
    128: (30644154, 32348090, 32348090),
}


@pytest.mark.parametrize("edge", OPT_CYCLES)
def test_opt_layer_cycles(edge):
    for column, dataflow in enumerate(Dataflow):
        total = 0
        for name, (m, n, k, count) in OPT_LAYER.items():
            cycles = array_cycles(dataflow, m, n, k, edge, edge, shift_out=False).total - 1
            assert cycles == OPT_CYCLES[edge][name][column], (dataflow, name)
            total += count * cycles
        assert total == OPT_TOTALS[edge][column]


def test_phases_by_hand():
    # OS, 5 x 7 outputs on 4 x 3 elements: 2 * 3 folds of (4 + 3 - 2) + 10 + 4 cycles.
    cycles = array_cycles(Dataflow.OS, 5, 7, 10, 4, 3)
    assert (cycles.folds, cycles.fill, cycles.steady, cycles.drain) == (6, 30, 60, 24)
    # The same with shadow registers: folds 10 apart, then one skew and one drain.
    cycles = array_cycles(Dataflow.OS, 5, 7, 10, 4, 3, shadow_registers=True)
    assert (cycles.fill, cycles.steady, cycles.drain) == (5, 60, 4)
    # WS with T = 5 on 8 rows: every fold but the last waits 3 cycles for the next weights.
    cycles = array_cycles(Dataflow.WS, 5, 3, 24, 8, 3, shadow_registers=True)
    assert (cycles.folds, cycles.fill, cycles.steady, cycles.drain) == (3, 15 + 2 * 3, 15, 2)


def test_arrays_of_sizes_equal_one_call_per_size():
    rng = np.random.default_rng(0)
    m, n, k = rng.integers(1, 3000, (3, 200))
    r, c = rng.integers(1, 129, (2, 200))
    points = list(zip(*(x.tolist() for x in (m, n, k, r, c)), strict=True))
    for dataflow in Dataflow:
        for shadow in (False, True):
            many = array_cycles(dataflow, m, n, k, r, c, shadow_registers=shadow)
            one = [array_cycles(dataflow, *p, shadow_registers=shadow) for p in points]
            assert many.total.tolist() == [x.total for x in one]
            assert many.fill.tolist() == [x.fill for x in one]
            assert all(isinstance(x.total, int) for x in one)
            assert all(x.total == x.fill + x.steady + x.drain for x in one)
        reads = buffer_accesses(dataflow, m, n, k, r, c)
        assert reads.a_reads.tolist() == [buffer_accesses(dataflow, *p).a_reads for p in points]


def test_shadow_registers_never_cost_cycles_and_never_beat_the_peak():
    rng = np.random.default_rng(2)
    m, n, k = rng.integers(1, 400, (3, 500))
    r, c = rng.integers(1, 40, (2, 500))
    for dataflow in Dataflow:
        plain = array_cycles(dataflow, m, n, k, r, c).total
        shadow = array_cycles(dataflow, m, n, k, r, c, shadow_registers=True).total
        assert (shadow <= plain).all()
        assert (utilisation(m * n * k, shadow, r, c) <= 1).all()
        assert (folds(dataflow, m, n, k, r, c).total >= 1).all()


def test_unknown_dataflow():
    with pytest.raises(ValueError, match="'rs' is not a valid Dataflow"):
        folds("rs", 1, 1, 1, 1, 1)  # type: ignore[arg-type]
