"""Gate counts: gates compute the unit, counts are those of the netlist, the committed page is that of the table."""

from __future__ import annotations

import copy
import importlib.util
import re
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from macloom.arch.gate_costs import NOISE, TABLE
from macloom.errors import MacloomError
from macloom.formats import get_format
from macloom.formats.accumulator import IntegerAccumulator
from macloom.rtl import yosys
from macloom.rtl.catalog import build
from macloom.rtl.cost import CONFLICTS, STYLES, YOSYS_CONFLICTS, Netlist, gate_outputs, switching, synthesize
from macloom.rtl.export import verilog
from macloom.rtl.pe.mac import Mac, mac_step, operand_ports
from macloom.rtl.simulation import mismatches, some_inputs
from macloom.rtl.unit import Port, Unit

ROOT = Path(__file__).resolve().parents[2]
needs_yosys = pytest.mark.skipif(not yosys.available(), reason="yosys is not installed")


def small_step() -> Unit:
    ports = operand_ports(get_format("int4"))
    return mac_step(Mac(a=ports, b=ports, accumulator=IntegerAccumulator(bits=10)))


def longest(netlist: Netlist) -> int:
    """Return the gates on the longest path, by walking back from every gate."""
    makers = {cell["connections"]["Y"][0]: cell for cell in netlist.module["cells"].values()}
    depths: dict[object, int] = {}

    def depth(net: object) -> int:
        if net not in makers:
            return 0
        if net not in depths:
            pins = makers[net]["connections"]
            depths[net] = 1 + max(depth(pins[pin][0]) for pin in ("A", "B") if pin in pins)
        return depths[net]

    return max(map(depth, makers))


@needs_yosys
@pytest.mark.parametrize("style", list(STYLES))
def test_gates_equal_the_software_and_are_counted_as_the_netlist_has_them(style: str) -> None:
    for unit in (build(get_format("ovp4"), "decoder"), build(get_format("fp4_e2m1"), "encoder"), small_step()):
        netlist = synthesize(unit, style)
        inputs = some_inputs(unit, 3000)
        assert not len(mismatches(unit, inputs, gate_outputs(netlist, unit, inputs))), unit.module
        kinds = [cell["type"] for cell in netlist.module["cells"].values()]
        assert netlist.cells == len(kinds)
        assert netlist.transistors == sum({"$_NOT_": 2, "$_NAND_": 4, "$_NOR_": 4}[kind] for kind in kinds)
        assert netlist.depth == longest(netlist)
        assert netlist.flip_flops == 0


@needs_yosys
def test_a_mutant_gate_is_noticed() -> None:
    unit = build(get_format("ovp4"), "decoder")
    netlist = synthesize(unit)
    module = copy.deepcopy(dict(netlist.module))
    next(cell for cell in module["cells"].values() if cell["type"] == "$_NAND_")["type"] = "$_NOR_"
    inputs = some_inputs(unit, 256)
    assert len(mismatches(unit, inputs, gate_outputs(replace(netlist, module=module), unit, inputs)))


@needs_yosys
def test_with_abcs_own_limit_the_gates_are_those_of_yosys_own_scripts() -> None:
    unit = build(get_format("fp4_e2m1"), "encoder")
    script = (
        f"read_verilog unit.v\nsynth -flatten -top {unit.module}\nabc -g cmos2\nopt_clean -purge\n"
        "tee -o stat.txt stat -tech cmos"
    )
    stat = yosys.run(script, {"unit.v": verilog(unit)}, ("stat.txt",))["stat.txt"]
    found = re.search(r"transistors:\s+(\d+)", stat)
    assert found
    assert synthesize(unit, conflicts=YOSYS_CONFLICTS).transistors == int(found[1])
    assert synthesize(unit).transistors == pytest.approx(int(found[1]), rel=0.05)


@needs_yosys
def test_registers_are_counted_apart() -> None:
    netlist = synthesize(build(get_format("int4"), "pe"))
    assert netlist.flip_flops == 32 + 2 * (4 + 1)
    with pytest.raises(MacloomError, match="switching is counted on combinational units, over at least two vectors"):
        switching(netlist, build(get_format("int4"), "pe"), {"clear": np.zeros(3)})


@needs_yosys
def test_switching_counts_the_gate_inputs_that_change() -> None:
    unit = Unit(
        module="gate",
        inputs=(Port(name="a", width=1), Port(name="b", width=1)),
        outputs=(Port(name="y", width=1),),
        circuit=lambda i: {"y": (i["a"] & i["b"]) ^ 1},
        model=lambda i: {"y": 1 - (i["a"] & i["b"])},
    )
    netlist = synthesize(unit)
    assert (netlist.cells, netlist.transistors, netlist.depth) == (1, 4, 1)
    # a changes twice, b once, y once; a, b and y drive one input each.
    inputs = {"a": np.array([0, 1, 1, 0]), "b": np.array([0, 0, 1, 1])}
    assert switching(netlist, unit, inputs) == pytest.approx((2 + 1 + 2) / 3)
    with pytest.raises(MacloomError, match="over at least two vectors"):
        switching(netlist, unit, {"a": np.array([1]), "b": np.array([1])})


@pytest.mark.parametrize(
    ("style", "conflicts", "message"),
    [("macc", 5, "rtl.style: must be one of alumacc, noalumacc, not 'macc'"), ("alumacc", 0, "rtl.conflicts: must be")],
)
def test_what_cannot_be_mapped_says_why(style: str, conflicts: int, message: str) -> None:
    with pytest.raises(MacloomError, match=message):
        synthesize(build(get_format("int4"), "decoder"), style, conflicts)


# -- the committed table --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rtl_cost_benchmark", ROOT / "benchmarks" / "rtl_cost.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def document() -> dict[str, dict]:
    return tomllib.loads(TABLE.read_text(encoding="utf-8"))


def test_the_committed_page_says_what_the_table_says(benchmark: ModuleType) -> None:
    page = ROOT / "benchmarks" / "results" / "rtl_cost.md"
    assert page.read_text(encoding="utf-8") == benchmark.markdown(document())


def test_the_table_has_the_rows_that_the_benchmark_makes_and_how_they_were_mapped(benchmark: ModuleType) -> None:
    table = document()
    assert [(section, name) for section in benchmark.SECTIONS for name in table[section]] == list(benchmark.makers())
    assert "conflicts" in table["provenance"]["mapping"]
    for name, text in benchmark.DOTS:
        assert table["units"][f"{name} {text}"]["conflicts"] == CONFLICTS


def test_the_limit_moves_transistors_by_less_than_the_noise_of_the_tools() -> None:
    table = document()
    for name, other in table["compared"].items():
        row = table["units"].get(name) or table["costs"][name]["mac"]
        assert ("conflicts" in row) != ("conflicts" in other)
        for style in STYLES:
            assert abs(row[f"transistors_{style}"] / other[f"transistors_{style}"] - 1) < NOISE
