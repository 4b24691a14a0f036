"""Energies add over parts and remember how weak their weakest constant is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from macloom.arch import Provenance, Quantity, load_accelerator, load_technology
from macloom.sim import Energy, simulate
from macloom.sim.energy import NOTHING, cheapest_mac_j, energy_of, vector_energy
from macloom.sim.vector import Operations
from macloom.workloads import load_recipe, load_workload


def test_components_add_and_kinds_weaken():
    first = energy_of(
        mac_j=Quantity(value=1.0, kind=Provenance.PUBLISHED),
        sram_j=Quantity(value=2.0, kind=Provenance.ESTIMATED, extrapolated=True),
        dram_j=NOTHING,
    )
    second = energy_of(mac_j=Quantity(value=0.5, kind=Provenance.SCALED))
    both = first + 2 * second
    assert {name: j for name, j in both.parts.items() if j} == {"mac_j": 2.0, "sram_j": 2.0}
    assert set(both.parts) == {f"{n}_j" for n in ("mac", "decoder", "encoder", "sram", "dram", "vector", "leakage")}
    assert both.total_j == 4.0
    assert both.kinds == {"mac_j": Provenance.SCALED, "sram_j": Provenance.ESTIMATED}
    assert both.extrapolated == {"sram_j"}
    assert both.to_dict()["kinds"] == {"mac_j": "scaled", "sram_j": "estimated"}
    assert both.to_dict()["total_j"] == 4.0


def test_nothing_is_free_of_provenance():
    assert Energy() + Energy() == Energy()
    assert Energy().kinds == {}


def test_the_cheapest_mac(machine):
    # The element of 4-bit floats switches least of all generated ones, 74.2 of the 581.4 gate inputs of int8's.
    assert cheapest_mac_j(machine()) == pytest.approx(74.2 / 581.4 * 0.3e-12)
    # Float elements have no row in the table: the multiply and add of the 16-bit vector unit is cheaper than theirs.
    pe = {"significand_bits": 25, "exponent_bits": 8, "accumulator": "float"}
    assert cheapest_mac_j(machine(pe=pe)) == pytest.approx(1.5e-12)


def test_vector_operations(machine):
    energy = vector_energy(machine(), Operations(multiplies=3, adds=2))
    assert energy.value == pytest.approx(3 * 1.1e-12 + 2 * 0.4e-12)
    assert vector_energy(machine(), Operations()) == NOTHING


def test_bounds_add_up_by_component_and_enclose_the_value() -> None:
    narrow = energy_of(mac_j=Quantity(value=1.0, kind=Provenance.SCALED, low=0.5))
    wide = energy_of(
        mac_j=Quantity(value=2.0, kind=Provenance.PUBLISHED),
        dram_j=Quantity(value=3.0, kind=Provenance.PUBLISHED, low=2.0, high=7.0),
    )
    both = narrow + 2 * wide
    assert (both.low_j, both.total_j, both.high_j) == (0.5 + 4.0 + 4.0, 11.0, 5.0 + 14.0)
    assert both.low == {"mac_j": 4.5, "dram_j": 4.0}
    assert both.high == {"dram_j": 14.0}
    assert both.to_dict()["high_j"] == 19.0


def test_a_simulation_carries_the_spread_of_its_technology() -> None:
    workload = load_workload("tiny", phase="prefill", sequence=16)
    result = simulate(workload, "olive-sa", "ovp4")
    totals = result.totals()
    assert totals["energy_low_j"] < totals["energy_j"] < totals["energy_high_j"]
    assert totals["energy_low_j"] == pytest.approx(sum(op.energy.low_j for op in result.ops))
    # 45 nm prints one value for every operation: of int8 only DRAM and leakage have a range.
    exact = replace(load_accelerator("int8-sa"), technology=load_technology("45nm"))
    plain = simulate(workload, exact, load_recipe("int8")).energy
    assert set(plain.low) - {"encoder_j"} == {"leakage_j"}
    assert set(plain.high) - {"encoder_j"} == {"leakage_j", "dram_j"}
