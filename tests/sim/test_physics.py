"""Forged results that break one law each, and what the check says."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from macloom.sim import Energy, ImpossibleResult, check_physical, simulate
from macloom.sim.physics import LAWS


@pytest.fixture
def honest(machine, workload):
    return simulate(workload, machine(), "int8:token")


def forge(result, name, **changes):
    ops = tuple(replace(op, **changes) if op.name == name else op for op in result.ops)
    return replace(result, ops=ops)


def test_an_honest_result_passes_every_law(honest):
    checks = check_physical(honest)
    assert [c.name for c in checks] == list(LAWS)
    assert all(c.cases == len(honest.ops) for c in checks)
    assert all(0 < c.closest <= 1 for c in checks)


def fewer_cycles(op):
    """Half the array cycles that the MACs need at the peak of 16 per cycle."""
    cycles = op.macs // 32
    stall = op.cycles - op.vector_cycles - cycles
    return {
        "compute_cycles": cycles,
        "fill_cycles": 0,
        "drain_cycles": 0,
        "steady_cycles": cycles,
        "stall_cycles": stall,
    }


FORGERIES = {
    "rate at most the peak of the elements or lanes": fewer_cycles,
    "DRAM traffic at most bandwidth times time": lambda op: {"dram_read_bits": op.cycles * 64},
    "energy at least that of the cheapest MACs and the compulsory DRAM traffic": lambda op: {
        "energy": Energy(mac_j=op.energy.mac_j, dram_j=op.energy.dram_j * 0.5)
    },
    "DRAM traffic at least each tensor once": lambda op: {"dram_read_bits": op.dram_read_bits - 1},
    "cycles are the sum of their parts": lambda op: {"stall_cycles": op.stall_cycles + 1},
    "stalls are the sum of their causes": lambda op: {"b_stall_cycles": op.b_stall_cycles + 1},
    "no unit is busy for longer than the operation takes": lambda op: {"dram_busy_cycles": op.cycles + 1},
}


@pytest.mark.parametrize("law", LAWS)
def test_each_law_catches_its_forgery(honest, law):
    op = next(op for op in honest.ops if op.name == "up_proj")
    forged = forge(honest, "up_proj", **FORGERIES[law](op))
    message = (
        f"internal fault: 'small' on 'test', operation 'up_proj': the law '{law}' is broken, at [0-9.einf+]+ of its "
        "bound; please report this with the inputs"
    )
    with pytest.raises(ImpossibleResult, match=message):
        check_physical(forged)


def test_fused_elements_count_in_the_peak(honest):
    # A product on four elements has a quarter of the peak.
    with pytest.raises(ImpossibleResult, match="rate at most the peak"):
        check_physical(forge(honest, "up_proj", pes_per_mac=4))


def test_the_vector_unit_has_a_peak(honest):
    op = next(op for op in honest.ops if op.name == "norm")
    with pytest.raises(ImpossibleResult, match=re.escape("operation 'norm': the law 'rate at most the peak")):
        check_physical(forge(honest, "norm", vector_operations=op.cycles * 8 + 1))


def test_an_energy_that_is_not_a_number_is_refused(honest):
    with pytest.raises(ImpossibleResult, match="energy at least"):
        check_physical(forge(honest, "up_proj", energy=Energy(mac_j=float("nan"))))


def test_simulate_runs_the_check(machine, workload, monkeypatch):
    monkeypatch.setitem(LAWS, "DRAM traffic at least each tensor once", lambda op, result: 2.0)
    with pytest.raises(ImpossibleResult, match="'DRAM traffic at least each tensor once' is broken, at 2 of its bound"):
        simulate(workload, machine(), "int8:token")
