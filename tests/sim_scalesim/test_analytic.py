"""The analytic rung over arrays: equal to the closed form point by point, and to `simulate` op by op."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from macloom.arch import Accelerator, load_accelerator
from macloom.errors import MacloomError
from macloom.sim import map_gemm, simulate
from macloom.sim.analytic import DATAFLOWS, design_cycles, price_points
from macloom.sim.fit import UnsupportedFormat
from macloom.sim.systolic import array_cycles
from macloom.workloads import load_recipe, load_workload
from macloom.workloads.ops import Workload

size = st.integers(1, 70)
point = st.tuples(st.integers(0, 2), size, size, size, st.integers(1, 9), st.integers(1, 9))
COUNTS = (
    "cycles",
    "compute_cycles",
    "stall_cycles",
    "vector_cycles",
    "dram_busy_cycles",
    "dram_read_bits",
    "dram_write_bits",
    "sram_bits",
)
JOULES = ("mac_j", "decoder_j", "encoder_j", "sram_j", "dram_j", "vector_j", "leakage_j")


@settings(max_examples=80, deadline=None)
@given(points=st.lists(point, min_size=1, max_size=20), shadow=st.booleans(), shift_out=st.booleans())
def test_points_equal_closed_form_one_by_one(points: list[tuple[int, ...]], shadow: bool, shift_out: bool) -> None:
    found = design_cycles(*np.array(points).T, shadow_registers=shadow, shift_out=shift_out)
    wanted = [
        array_cycles(DATAFLOWS[kind], *sizes, shadow_registers=shadow, shift_out=shift_out).total
        for kind, *sizes in points
    ]
    assert found.tolist() == wanted


def test_points_broadcast_and_fill_out() -> None:
    out = np.empty((3, 4), np.int64)
    rows = np.array([8, 16, 32, 64], np.int32)
    assert design_cycles(np.arange(3)[:, None], 100, 60, 50, rows, 16, out=out) is out
    for i, j in product(range(3), range(4)):
        assert out[i, j] == array_cycles(DATAFLOWS[i], 100, 60, 50, int(rows[j]), 16).total
    assert design_cycles("os", 4, 4, 4, 4, 4).shape == ()
    assert design_cycles("os", np.empty(0, np.int64), 4, 4, 4, 4).shape == (0,)


def test_points_without_numba_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    points = [rng.integers(0, 3, 9000), *rng.integers(1, 300, (5, 9000))]
    compiled = design_cycles(*points, shadow_registers=True)
    monkeypatch.setenv("MACLOOM_NUMBA", "0")
    assert (design_cycles(*points, shadow_registers=True) == compiled).all()


def test_mutant_fill_is_caught() -> None:
    """A fold one cycle longer shows in every point."""
    wrong = [
        array_cycles(flow, 30, 30, 30, 4, 4).total + array_cycles(flow, 30, 30, 30, 4, 4).folds for flow in DATAFLOWS
    ]
    assert (design_cycles(np.arange(3), 30, 30, 30, 4, 4) != wrong).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rs", 1, 1, 1, 1, 1), "dataflow: unknown name 'rs'; did you mean 'ws', 'os', 'is'?"),
        ((np.array([0, 3]), 1, 1, 1, 1, 1), "dataflow: must be a place in DATAFLOWS, 0 to 2, not 3"),
        (("os", 0, 1, 1, 1, 1), "m: must be positive integers, not 0"),
        (("os", 1, 1, 1, 1, np.array([4, -4])), "cols: must be positive integers, not -4"),
        (("os", 1, 1.5, 1, 1, 1), "n: must be an integer or an array of integers, not float64"),
    ],
)
def test_bad_points_are_refused(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(MacloomError) as error:
        design_cycles(*arguments)
    assert str(error.value) == message


def test_bad_out_is_refused() -> None:
    with pytest.raises(MacloomError) as error:
        design_cycles("os", np.arange(1, 4), 1, 1, 1, 1, out=np.empty(2, np.int64))
    assert str(error.value) == "out: must be a contiguous int64 array of shape (3,), not int64 of (2,)"
    with pytest.raises(MacloomError) as error:
        price_points([])
    assert str(error.value) == "points: must hold at least one mapped product, not none"


def machines() -> list[tuple[Accelerator, str]]:
    """Presets, and variations of one: size, dataflow, several arrays, slow memory, ports of their own, latency."""
    base = load_accelerator("int8-sa")
    array = base.array
    slow = replace(base.dram, bandwidth_bits_per_s=base.dram.bandwidth_bits_per_s / 40)
    return [
        (base, "int8"),
        (load_accelerator("olive-sa"), "ovp4"),
        (base, "int4:group=128"),
        (replace(base, array=replace(array, rows=24, cols=40, dataflow="ws", shadow_registers=True)), "int8"),
        (
            replace(base, array=replace(array, rows=16, cols=16, dataflow="is", shadow_registers=False), dram=slow),
            "int8",
        ),
        (replace(base, vector=replace(base.vector, lanes=1)), "int8"),
    ]


def mapped(workload: Workload, chip: Accelerator, recipe: str):
    found = []
    for op in workload.gemms:
        try:
            found.append((map_gemm(op, chip, load_recipe(recipe)), chip))
        except UnsupportedFormat:
            found.append((map_gemm(op, chip, load_recipe(recipe), on_vector_unit=True), chip))
    return found


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("name", ["tiny", "llama-3-8b"])
def test_priced_points_equal_simulate_op_by_op(name: str, phase: str) -> None:
    workload = load_workload(name, phase=phase)
    points, ops = [], []
    for chip, recipe in machines():
        points += mapped(workload, chip, recipe)
        result = simulate(workload, chip, recipe, fidelity="analytic")
        ops += [op for op in result.ops if op.kind == "gemm"]
    found = price_points(points)
    for column in COUNTS:
        assert getattr(found, column).tolist() == [getattr(op, column) for op in ops], column
    for column in JOULES:
        wanted = [getattr(op.energy, column) for op in ops]
        assert getattr(found, column).tolist() == pytest.approx(wanted, rel=1e-12, abs=0), column
    assert found.energy_j.sum() == pytest.approx(sum(op.energy.total_j for op in ops), rel=1e-12)


def test_more_bandwidth_is_never_slower() -> None:
    chip = load_accelerator("int8-sa")
    (op, *_) = load_workload("tiny").gemms
    rates = [chip.dram.bandwidth_bits_per_s * share for share in (1 / 64, 1 / 16, 1 / 4, 1, 4)]
    chips = [replace(chip, dram=replace(chip.dram, bandwidth_bits_per_s=rate)) for rate in rates]
    found = price_points([(map_gemm(op, chip, load_recipe("int8")), chip) for chip in chips])
    assert (np.diff(found.cycles) <= 0).all()
    assert found.cycles[0] > found.cycles[-1]
    dynamic = found.energy_j - found.leakage_j
    assert dynamic == pytest.approx(np.full(len(chips), dynamic[0]))
    assert found.leakage_j / found.leakage_j[0] == pytest.approx(found.cycles / found.cycles[0])
