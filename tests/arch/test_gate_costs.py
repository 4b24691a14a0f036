"""The committed table of gate counts."""

from __future__ import annotations

from pathlib import Path

import pytest

import macloom.arch.gate_costs as gates
from macloom.arch import Provenance
from macloom.arch.gate_costs import gate_costs, load_gate_costs, load_unit_costs, row_of
from macloom.errors import MacloomError
from macloom.formats import get_format


def test_every_row_with_an_element_is_a_format_of_the_catalog_and_figures_are_in_order() -> None:
    table = load_gate_costs()
    elements = {name: units for name, units in table.items() if "decoder" in units and "mac" in units}
    assert len(elements) > 15
    assert all(get_format(name).name == name for name in elements)
    for units in table.values():
        for cost in units.values():
            assert cost.kind is Provenance.ESTIMATED
            for low, high in (cost.transistors, cost.depth, cost.switching):
                assert 0 <= low <= high


def test_what_needs_less_hardware_costs_less() -> None:
    mac = {name: units["mac"].transistors[1] for name, units in load_gate_costs().items() if "mac" in units}
    assert mac["ternary"] < mac["pot4"] < mac["int4"] < mac["ovp4"] < mac["int8"] < mac["ovp8"] < mac["nf4"]


def test_units_of_several_elements_say_how_many_they_take() -> None:
    units = load_unit_costs()
    blocks = {"mxfp4": 32, "mxfp6_e2m3": 32, "mxfp8_e4m3": 32, "mxfp8_e5m2": 32, "mxint8": 32, "bfp4": 32, "nvfp4": 16}
    assert {name: units[f"{name} block:fp32"].elements for name in blocks} == blocks
    assert units["mxfp4 block:fp32"].flip_flops == 32
    # A product of a dot unit needs a multiplier at least, and no register of its own.
    for name, product in (("mxint8 block:fp32", "int8 product"), ("bfp4 block:fp32", "int4 product")):
        assert units[name].transistors[0] / units[name].elements > 0.8 * units[product].transistors[0]
    assert load_gate_costs()["int8"]["mac"].elements == 1


def test_a_ratio_spans_both_styles() -> None:
    costs = load_gate_costs()
    low, high = costs["posit8_0"]["encoder"].ratio(costs["fp8_e4m3"]["encoder"])
    assert low < high


def test_an_unknown_format_names_the_nearest() -> None:
    with pytest.raises(MacloomError, match="gate costs: unknown name 'ovp5'; did you mean 'ovp8', 'ovp4'"):
        gate_costs("ovp5")


def test_rows_are_found_by_the_meaning_of_codes() -> None:
    found = {
        n: row_of(get_format(n)) for n in ("mxfp4", "nvfp4", "bfp8", "mxint8", "mxfp8_e5m2", "fp16", "ovp8", "uint8")
    }
    assert found == {
        "mxfp4": "fp4_e2m1", "nvfp4": "fp4_e2m1", "bfp8": "int8", "mxint8": "int8", "mxfp8_e5m2": "fp8_e5m2",
        "fp16": None, "ovp8": "ovp8", "uint8": None,
    }  # fmt: skip
    assert row_of(get_format("mxfp4"), "no such unit") is None


def test_further_rows_and_units_are_read_past(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = "".join(f"{figure}_{style} = 7\n" for figure in gates.FIGURES for style in gates.STYLES)
    text = f'[costs."a dot unit".mac]\n{row}[costs."mxfp4".block-encoder]\n{row}[costs."int8".notes]\nlatency = 3\n'
    path = tmp_path / "rtl_costs.toml"
    path.write_text(gates.TABLE.read_text() + "\n" + text)
    monkeypatch.setattr(gates, "TABLE", path)
    cached = (gates._document, gates.load_gate_costs, gates.load_unit_costs, gates._row_of)
    for function in cached:
        function.cache_clear()
    try:
        assert row_of(get_format("mxfp4")) == "fp4_e2m1"
        assert row_of(get_format("mxfp4"), "block-encoder") == "mxfp4"
        assert row_of(get_format("int8")) == "int8"
        assert "notes" not in gates.gate_costs("int8")
        assert gates.gate_costs("a dot unit")["mac"].transistors == (7.0, 7.0)
    finally:
        monkeypatch.undo()
        for function in cached:
            function.cache_clear()
