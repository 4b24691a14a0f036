"""The committed table of gate counts."""

from __future__ import annotations

import pytest

from macloom.arch import Provenance
from macloom.arch.gate_costs import gate_costs, load_gate_costs
from macloom.errors import MacloomError
from macloom.formats import get_format


def test_every_row_is_a_format_of_the_catalog_with_figures_in_order() -> None:
    table = load_gate_costs()
    assert len(table) > 15
    for name, units in table.items():
        assert get_format(name).name == name
        assert {"decoder", "mac"} <= set(units)
        for cost in units.values():
            assert cost.kind is Provenance.ESTIMATED
            for low, high in (cost.transistors, cost.depth, cost.switching):
                assert 0 <= low <= high


def test_what_needs_less_hardware_costs_less() -> None:
    mac = {name: units["mac"].transistors[1] for name, units in load_gate_costs().items()}
    assert mac["ternary"] < mac["pot4"] < mac["int4"] < mac["ovp4"] < mac["int8"] < mac["ovp8"] < mac["nf4"]


def test_a_ratio_spans_both_styles() -> None:
    costs = load_gate_costs()
    low, high = costs["posit8_0"]["encoder"].ratio(costs["fp8_e4m3"]["encoder"])
    assert low < high


def test_an_unknown_format_names_the_nearest() -> None:
    with pytest.raises(MacloomError, match="gate costs: unknown name 'ovp5'; did you mean 'ovp8', 'ovp4'"):
        gate_costs("ovp5")
