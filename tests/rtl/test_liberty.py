"""Mapping to a Liberty file: area and delay equal a count and a timing analysis of the netlist made here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from macloom.errors import MacloomError
from macloom.formats import get_format
from macloom.rtl import yosys
from macloom.rtl.catalog import build
from macloom.rtl.liberty import Mapped, map_to_library

LIBRARY = Path(__file__).parent / "small.lib"
AREAS = {"INV": 1.0, "BUF": 1.5, "NAND2": 2.0, "NOR2": 2.0, "DFF": 6.0}
# Delay in ps of a gate that drives one input; each further input adds about 1 ps.
DELAYS = {"INV": 10, "BUF": 15, "NAND2": 20, "NOR2": 20}

pytestmark = pytest.mark.skipif(not yosys.available(), reason="yosys is not installed")


def longest_path(module: dict[str, Any]) -> float:
    """Return the latest arrival over all nets in ps, each gate loaded by the inputs that it drives."""
    loads: dict[Any, int] = {}
    makers: dict[Any, dict[str, Any]] = {}
    for cell in module["cells"].values():
        for pin, (net,) in cell["connections"].items():
            if pin == "Y":
                makers[net] = cell
            elif pin != "Q":
                loads[net] = loads.get(net, 0) + 1
    arrivals: dict[Any, float] = {}

    def arrival(net: Any) -> float:
        if net not in makers:
            return 0.0
        if net not in arrivals:
            cell = makers[net]
            before = max(arrival(cell["connections"][pin][0]) for pin in ("A", "B") if pin in cell["connections"])
            arrivals[net] = before + DELAYS[cell["type"]] + (loads.get(net, 0) - 1)
        return arrivals[net]

    return max((arrival(net) for net in makers), default=0.0)


@pytest.mark.parametrize(
    ("name", "kind"), [("fp8_e4m3", "decoder"), ("ovp4", "decoder"), ("fp4_e2m1", "encoder"), ("int4", "pe")]
)
@pytest.mark.parametrize("style", ["alumacc", "noalumacc"])
def test_area_and_delay_equal_those_of_the_netlist(name: str, kind: str, style: str) -> None:
    mapped = map_to_library(build(get_format(name), kind), LIBRARY, style)
    assert mapped.area == sum(AREAS[cell] * count for cell, count in mapped.cells.items())
    assert ("DFF" in mapped.cells) == (kind == "pe")
    if mapped.delay_s is not None:  # abc's output is lost in the WebAssembly wheel
        assert mapped.delay_s * 1e12 == pytest.approx(longest_path(dict(mapped.module)), rel=0.02, abs=1.5)
    assert mapped.to_dict()["library"] == "small.lib"
    assert "module" not in mapped.to_dict()


def test_a_larger_unit_has_more_area_and_delay() -> None:
    def mapped(name: str) -> Mapped:
        return map_to_library(build(get_format(name), "pe"), LIBRARY)

    small, large = mapped("int4"), mapped("int8")
    assert large.area > 1.5 * small.area


def test_wires_alone_have_no_area() -> None:
    mapped = map_to_library(build(get_format("int4"), "decoder"), LIBRARY)
    assert (mapped.area, mapped.delay_s, mapped.cells) == (0.0, None, {})


def test_libraries_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    unit = build(get_format("fp4_e2m1"), "decoder")
    with pytest.raises(MacloomError, match=r"rtl.liberty: cannot read .*none.lib"):
        map_to_library(unit, tmp_path / "none.lib")
    bad = tmp_path / "bad.lib"
    bad.write_text("not a library\n")
    with pytest.raises(MacloomError, match=r"must be a Liberty file, with a library"):
        map_to_library(unit, bad)
    text = LIBRARY.read_text()
    bad.write_text(text[: text.index("  cell (BUF)")] + "}\n")
    with pytest.raises(MacloomError, match="a library needs at least three kinds of gates"):
        map_to_library(unit, bad)
    with pytest.raises(MacloomError, match="rtl.style: must be one of alumacc, noalumacc, not 'best'"):
        map_to_library(unit, LIBRARY, "best")
    bad.write_text(text[: text.index("  cell (DFF)")] + "}\n")
    with pytest.raises(MacloomError, match="D flip-flop"):
        map_to_library(build(get_format("int4"), "pe"), bad)
