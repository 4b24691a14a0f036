"""One faulty unit of every group that is verified: PyRTL's vectors and Verilator must both reject it.

A new kind of unit or group joins by itself; one whose faults its own vectors do not show fails here.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from macloom.explore.verify_rtl import catalog_units
from macloom.explore.verify_rtl_units import GROUPS
from macloom.rtl import verilator
from macloom.rtl.export import verilog
from macloom.rtl.mutants import mutant, mutated
from macloom.rtl.unit import Unit

KINDS = ("decoder", "encoder", "pe")
VECTORS = 1500


def smallest(units: list[Unit]) -> Unit:
    """The unit with the fewest input bits, beyond those of a few gates."""
    return min((unit for unit in units if unit.input_bits > 3), key=lambda unit: unit.input_bits)


def unit_of(name: str) -> Unit:
    return smallest(catalog_units(name) if name in KINDS else GROUPS[name][0]())


@pytest.fixture(scope="module")
def tried() -> dict[str, tuple[Unit, int, int]]:
    """By group: its smallest unit, the place of a fault in it, and the number of vectors that show it."""
    units = {name: unit_of(name) for name in (*KINDS, *GROUPS)}
    return {name: (unit, *mutant(unit, VECTORS)) for name, unit in units.items()}


@pytest.mark.parametrize("name", [*KINDS, *GROUPS])
def test_the_vectors_of_every_group_show_a_fault(name, tried):
    unit, _, wrong = tried[name]
    assert 0 < wrong <= max(VECTORS, 1 << min(unit.input_bits, 16))


@pytest.mark.skipif(not verilator.available(), reason="verilator, g++, make or perl is missing")
def test_verilator_fails_a_mutant_of_every_group(tried):
    units, texts = [], []
    for number, (unit, place, _) in enumerate(tried.values()):
        units.append(replace(unit, module=f"mutant_{number}"))
        texts.append(verilog(units[-1], mutated(unit, place)))
    right = tried["decoder"][0]  # the others pass in the tests of their own
    verdicts = verilator.cross_simulate([*units, right], texts=[*texts, verilog(right)], count=VECTORS)
    assert {module: verdict.split()[0] for module, verdict in verdicts.items()} == {
        right.module: "PASS",
        **{unit.module: "FAIL" for unit in units},
    }
