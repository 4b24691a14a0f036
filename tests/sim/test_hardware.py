"""Gate counts in the simulator: energy and area by format, as the table says, and where it says nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import macloom.arch.gate_costs as gates
from macloom.arch import int8_mac_energy_j, leakage_w, load_accelerator, load_technology
from macloom.errors import MacloomError
from macloom.formats import get_format
from macloom.sim import Result, mapping_of, simulate
from macloom.sim import energy as joules
from macloom.sim.hardware import BY_WIDTHS, ON_LANES, hardware_of
from macloom.sim.simulate import _price
from macloom.workloads import load_recipe, load_workload
from macloom.workloads.ops import Gemm, Vector, VectorKind, Workload

PRODUCT = Gemm(name="q_proj", m=8, n=64, k=64)
NORM = Vector(name="norm", kind=VectorKind.RMS_NORM, rows=8, width=64)
SMALL = Workload(name="one", phase="prefill", ops=(NORM, PRODUCT), parameters=4096, kv_elements=0, tokens=8)
MACS = PRODUCT.macs


def run(accelerator: str, recipe: str) -> Result:
    return simulate(SMALL, accelerator, load_recipe(recipe))


def int8_mac_j() -> float:
    return int8_mac_energy_j(load_technology("22nm")).value


@pytest.fixture
def other_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the committed table that the test may edit before it calls `reread`."""
    path = tmp_path / "rtl_costs.toml"
    path.write_text(gates.TABLE.read_text())
    monkeypatch.setattr(gates, "TABLE", path)
    yield path
    monkeypatch.undo()
    reread()


def reread() -> None:
    parts = (gates._document, gates.load_gate_costs, gates._row_of, gates._meaning)
    for cached in (*parts, joules._leakage, joules.cheapest_mac_j, _price):
        cached.cache_clear()


@pytest.mark.parametrize(
    ("accelerator", "recipe", "row"),
    [("olive-sa", "ovp4", "ovp4"), ("olive-sa", "mxfp4", "fp4_e2m1"), ("int8-sa", "int8", "int8"),
     ("int8-sa", "int4:group=32", "int4"), ("olive-sa", "flint4", "flint4")],
)  # fmt: skip
def test_a_multiply_switches_what_its_row_of_the_table_says(accelerator: str, recipe: str, row: str) -> None:
    cost, base = gates.gate_costs(row)["mac"], gates.base_cost()
    ratio = sum(cost.switching) / sum(base.switching)
    result = run(accelerator, recipe)
    mac = result.ops[1].energy
    assert mac.mac_j == pytest.approx(MACS * ratio * int8_mac_j())
    assert mac.low_j <= mac.total_j <= mac.high_j
    name = load_recipe(recipe).weight.name
    assert result.hardware.priced[f"{name} x {name}"] == f"gates of {row} mac"


def test_ovp4_int8_and_mxfp4_differ_as_the_table_says() -> None:
    ovp4, mxfp4 = (run("olive-sa", recipe).ops[1] for recipe in ("ovp4", "mxfp4"))
    int8 = run("int8-sa", "int8").ops[1]
    table = {name: sum(gates.gate_costs(name)["mac"].switching) for name in ("ovp4", "fp4_e2m1", "int8")}
    assert ovp4.energy.mac_j / int8.energy.mac_j == pytest.approx(table["ovp4"] / table["int8"])
    assert mxfp4.energy.mac_j / int8.energy.mac_j == pytest.approx(table["fp4_e2m1"] / table["int8"])
    # A pair decoder reads two codes at once; an element decoder one.
    reads = {"ovp4": 2, "mxfp4": 1}
    decoders = {
        name: sum(gates.gate_costs(row)["decoder"].switching) for name, row in (("ovp4", "ovp4"), ("mxfp4", "fp4_e2m1"))
    }
    found = ovp4.energy.decoder_j / mxfp4.energy.decoder_j
    assert found == pytest.approx(decoders["ovp4"] / reads["ovp4"] / decoders["mxfp4"], rel=1e-6)
    assert int8.energy.decoder_j == 0.0


def test_encoders_take_rounding_off_the_lanes_but_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with_row = run("int8-sa", "int8").ops[0]
    monkeypatch.setattr(joules, "row_of", lambda fmt, unit="mac": None)
    without = run("int8-sa", "int8").ops[0]
    assert (with_row.cycles, with_row.vector_operations) == (without.cycles, without.vector_operations)
    assert without.energy.encoder_j == 0.0
    cost, base = gates.gate_costs("int8")["encoder"], gates.base_cost()
    each = int8_mac_j() * sum(cost.switching) / sum(base.switching)
    assert with_row.energy.encoder_j == pytest.approx(NORM.rows * NORM.width * each)
    # Round and clamp: two adds of each element are no longer the lanes'.
    add = load_technology("22nm").constant("fp16_add").value
    assert without.energy.vector_j - with_row.energy.vector_j == pytest.approx(NORM.rows * NORM.width * 2 * add)


def test_a_product_without_a_row_is_estimated_by_widths_and_says_so() -> None:
    result = run("int8-sa", "int7")
    assert result.hardware.priced["int7 x int7"] == BY_WIDTHS
    assert result.hardware.priced["int7 encoder"] == ON_LANES
    assert result.ops[1].energy.mac_j == pytest.approx(MACS * int8_mac_j())
    mixed = simulate(SMALL, "int8-sa", replace(load_recipe("int8"), weight=get_format("int4")))
    assert mixed.hardware.priced["int8 x int4"] == BY_WIDTHS
    fused = run("olive-sa", "int8")
    assert fused.hardware.priced["int8 x int8"] == BY_WIDTHS
    assert fused.energy.kinds["mac_j"].value == "estimated"


def test_a_missing_row_falls_back(other_table: Path) -> None:
    before = run("olive-sa", "ovp4")
    text = other_table.read_text()
    cut = text[text.index('[costs."fp4_e2m1".mac]') : text.index('[costs."fp6_e2m3".decoder]')]
    other_table.write_text(text.replace(cut, ""))
    reread()
    result = run("olive-sa", "mxfp4")
    assert result.hardware.priced["mxfp4 x mxfp4"] == BY_WIDTHS
    assert result.hardware.priced["mxfp4 decoder"] == "gates of fp4_e2m1 decoder"
    assert run("olive-sa", "ovp4").energy == before.energy


def test_a_mutated_table_changes_energy_and_area(other_table: Path) -> None:
    honest = run("olive-sa", "ovp4")
    text = other_table.read_text()
    start = text.index('[costs."ovp4".decoder]')
    end = text.index('[costs."ovp4:normal=flint4".decoder]')
    row = text[start:end]
    doubled = "\n".join(
        f"{line.split(' = ')[0]} = {2 * float(line.split(' = ')[1])}"
        if line.startswith(("switching", "transistors"))
        else line
        for line in row.split("\n")
    )
    other_table.write_text(text.replace(row, doubled))
    reread()
    mutant = run("olive-sa", "ovp4")
    assert mutant.energy.mac_j == pytest.approx(2 * honest.energy.mac_j)
    assert mutant.energy.decoder_j == pytest.approx(2 * honest.energy.decoder_j)
    for unit in ("row decoder", "column decoder"):
        assert mutant.hardware.area_mm2(unit) == pytest.approx(2 * honest.hardware.area_mm2(unit))
    assert mutant.hardware.area_mm2("element") > 1.4 * honest.hardware.area_mm2("element")
    assert mutant.energy.leakage_j > honest.energy.leakage_j
    assert mutant.energy.dram_j == honest.energy.dram_j


def test_area_counts_elements_decoders_encoders_and_buffers() -> None:
    parts = {part.unit: part for part in run("olive-sa", "mxfp4").hardware.parts}
    counts = {"element": 4096, "row decoder": 64, "column decoder": 64, "encoder": 64}
    assert {unit: parts[unit].count for unit in counts} == counts
    assert [unit for unit in parts if unit.startswith("buffer")] == [
        "buffer operand_a",
        "buffer operand_b",
        "buffer output",
    ]
    whole = run("olive-sa", "mxfp4").to_dict()["area"]
    assert whole["total_mm2"] == pytest.approx(sum(part["total_mm2"] for part in whole["parts"]))
    assert whole["low_mm2"] < whole["total_mm2"] < whole["high_mm2"]
    assert all(part["kind"] in ("scaled", "estimated") and part["origin"] for part in whole["parts"])
    assert "vector unit: no source for its area" in whole["missing"]
    json.dumps(whole, allow_nan=False)


def test_fused_operands_need_half_the_decoders() -> None:
    parts = {part.unit: part for part in run("olive-sa", "ovp8").hardware.parts}
    assert parts["row decoder"].count == parts["column decoder"].count == 32  # as OliVe counts them


def test_a_technology_without_areas_lists_what_it_does_not_know() -> None:
    full = load_accelerator("int8-sa")
    constants = {n: c for n, c in full.technology.constants.items() if n not in ("int8_mac_area", "sram_area")}
    bare = replace(full, technology=replace(full.technology, constants=constants))
    hardware = hardware_of(SMALL, bare, load_recipe("int8"))
    assert hardware.total_mm2 == 0.0
    assert "element: technology '22nm' has no area" in hardware.missing
    assert set(leakage_w(bare)) == {"buffers"}


def test_results_of_both_phases_share_one_machine() -> None:
    prefill, decode = (
        simulate(load_workload("tiny", phase=phase), "olive-sa", "ovp4") for phase in ("prefill", "decode")
    )
    assert (prefill + decode).hardware == prefill.hardware


def test_leakage_is_power_times_time_and_energy_the_sum_of_its_parts() -> None:
    result = simulate("tiny", "olive-sa", "ovp4")
    watts = sum(power.value for power in leakage_w(result.accelerator).values())
    assert result.energy.leakage_j == pytest.approx(result.seconds * watts)
    assert result.totals()["leakage_w"] == pytest.approx(watts)
    assert result.totals()["power_w"] == pytest.approx(result.energy_j / result.seconds)
    for energy in (result.energy, *(op.energy for op in result.ops)):
        assert energy.total_j == pytest.approx(sum(energy.parts.values()))
        assert energy.low_j <= energy.total_j <= energy.high_j


def test_time_saved_by_prefetch_does_not_leak() -> None:
    plain, ahead = (simulate("tiny", "olive-sa", "ovp4", prefetch=prefetch) for prefetch in (False, True))
    assert ahead.cycles < plain.cycles
    assert ahead.energy.leakage_j / plain.energy.leakage_j == pytest.approx(ahead.cycles / plain.cycles)
    assert ahead.energy.total_j - ahead.energy.leakage_j == pytest.approx(plain.energy.total_j - plain.energy.leakage_j)
    assert mapping_of(ahead) == mapping_of(plain)


def test_an_unknown_row_says_what_writes_the_table() -> None:
    with pytest.raises(MacloomError, match="benchmarks/rtl_cost.py writes the table"):
        gates.gate_costs("int9")
