"""Energies add over parts and remember how weak their weakest constant is."""

from __future__ import annotations

import pytest

from macloom.arch import Provenance, Quantity
from macloom.sim import Energy
from macloom.sim.energy import NOTHING, cheapest_mac_j, energy_of, vector_energy
from macloom.sim.vector import Operations


def test_components_add_and_kinds_weaken():
    first = energy_of(
        mac_j=Quantity(value=1.0, kind=Provenance.PUBLISHED),
        sram_j=Quantity(value=2.0, kind=Provenance.ESTIMATED, extrapolated=True),
        dram_j=NOTHING,
    )
    second = energy_of(mac_j=Quantity(value=0.5, kind=Provenance.SCALED))
    both = first + 2 * second
    assert both.parts == {"mac_j": 2.0, "decoder_j": 0.0, "sram_j": 2.0, "dram_j": 0.0, "vector_j": 0.0}
    assert both.total_j == 4.0
    assert both.kinds == {"mac_j": Provenance.SCALED, "sram_j": Provenance.ESTIMATED}
    assert both.extrapolated == {"sram_j"}
    assert both.to_dict()["kinds"] == {"mac_j": "scaled", "sram_j": "estimated"}
    assert both.to_dict()["total_j"] == 4.0


def test_nothing_is_free_of_provenance():
    assert Energy() + Energy() == Energy()
    assert Energy().kinds == {}


def test_the_cheapest_mac(machine):
    assert cheapest_mac_j(machine()) == pytest.approx(0.3e-12)
    # Float elements: the multiply and add of the 16-bit vector unit is cheaper than theirs.
    pe = {"significand_bits": 25, "exponent_bits": 8, "accumulator": "float"}
    assert cheapest_mac_j(machine(pe=pe)) == pytest.approx(1.5e-12)


def test_vector_operations(machine):
    energy = vector_energy(machine(), Operations(multiplies=3, adds=2))
    assert energy.value == pytest.approx(3 * 1.1e-12 + 2 * 0.4e-12)
    assert vector_energy(machine(), Operations()) == NOTHING
