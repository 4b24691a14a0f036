"""The pages about hardware say what the committed tables say today."""

from __future__ import annotations

import importlib.util
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import macloom.arch.gate_costs as gates
from macloom.arch import load_technology
from macloom.formats import get_format

DOCS = Path(__file__).resolve().parents[2] / "docs"
REBUILD = "run `python docs/rebuild_accuracy_per_transistor.py`"
TABLE = tomllib.loads(gates.TABLE.read_text(encoding="utf-8"))["costs"]
STYLES = ("alumacc", "noalumacc")


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rebuild_accuracy", DOCS / "rebuild_accuracy_per_transistor.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["rebuild_accuracy"] = module
    spec.loader.exec_module(module)
    return module


def rows_of(text: str, heading: str) -> dict[str, list[str]]:
    """Return the cells of the first table below a heading by the name in its first column."""
    part = text[text.index(heading) :].split("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in part.split("\n") if line.startswith("| `")
    ]
    return {row[0].strip("`"): row[1:] for row in rows}


def spelled(row: dict[str, float], figure: str) -> str:
    low, high = sorted(row[f"{figure}_{style}"] for style in STYLES)
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"


def test_the_committed_page_is_what_the_generator_makes(generator: ModuleType) -> None:
    assert generator.PAGE.read_text(encoding="utf-8") == generator.page(), REBUILD


def test_the_cost_columns_are_those_of_the_committed_table() -> None:
    found = rows_of((DOCS / "rtl-accuracy.md").read_text(encoding="utf-8"), "## Cost")
    assert len(found) > 20
    for name, cells in found.items():
        units = TABLE[cells[0].strip("`")]
        assert cells[1:3] == [spelled(units["decoder"], figure) for figure in ("transistors", "depth")], REBUILD
        encoder = units.get("encoder")
        wanted = [spelled(encoder, figure) for figure in ("transistors", "depth")] if encoder else ["", ""]
        assert cells[3:5] == wanted, REBUILD
        assert cells[5:8] == [
            spelled(units["mac"], "transistors"), str(units["mac"]["flip_flops"]), spelled(units["mac"], "depth")
        ], REBUILD  # fmt: skip
        assert gates.row_of(get_format(name)) == cells[0].strip("`")


def test_every_format_of_the_page_was_measured_on_both_models(generator: ModuleType) -> None:
    measured = generator.read_measured()
    assert set(measured) == {(name, model) for name in generator.FORMATS for model in generator.MODELS}
    for row in measured.values():
        assert float(row["perplexity"]) >= float(row["unquantized"]) * 0.99
        assert 0 <= float(row["kl_nats"]) < 10


def test_a_mutant_row_shows_on_the_page(generator: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    table = dict(gates.load_gate_costs())
    cost = table["int4"]["mac"]
    low, high = cost.transistors
    mutant = gates.GateCost(**{**vars(cost), "transistors": (low + 2, high + 2)})
    table["int4"] = {**table["int4"], "mac": mutant}
    monkeypatch.setattr(gates, "load_gate_costs", lambda: table)
    assert generator.page() != generator.PAGE.read_text(encoding="utf-8")


def test_the_figure_is_drawn_and_small(generator: ModuleType) -> None:
    text = generator.FIGURE.read_text(encoding="utf-8")
    assert text.startswith("<svg")
    assert len(text) < 150_000


def test_the_ratios_beside_published_ones_are_those_of_the_table() -> None:
    text = (DOCS / "hardware.md").read_text(encoding="utf-8")

    def ratio(name: str, base: str, figure: str, unit: str = "mac") -> float:
        one, other = gates.gate_costs(name)[unit], gates.gate_costs(base)["mac"]
        return sum(getattr(one, figure)) / sum(getattr(other, figure))

    area = "area_transistors"
    wanted = {
        "4-bit integer element to 8-bit, area": ratio("int4", "int8", area),
        "the same, dynamic power": ratio("int4", "int8", "switching"),
        "OliVe's 4-bit element to an 8-bit one, area": ratio("ovp4", "int8", area),
        "OliVe's element to ANT's, area": ratio("ovp4", "flint4", area),
        "OliVe's element to ANT's, energy": ratio("ovp4", "flint4", "switching"),
        "OliVe's 4-bit pair decoder to its element, area": ratio("ovp4", "ovp4", area, "decoder"),
        "ANT's decoder to its element, area": ratio("flint4", "flint4", area, "decoder"),
    }
    for words, value in wanted.items():
        line = next(line for line in text.split("\n") if line.startswith(f"| {words}"))
        assert line.rstrip(" |").split("|")[-1].strip() == f"{value:.2f}", f"docs/hardware.md: {words}"


def test_the_dot_units_on_the_hardware_page_are_those_of_the_table() -> None:
    text = (DOCS / "rtl.md").read_text(encoding="utf-8")
    document = tomllib.loads(gates.TABLE.read_text(encoding="utf-8"))
    found = re.findall(r"^\| `([^`]+)`, `((?:block|tc):[^`]+)` \| (\d+) \| ([\d.-]+) \| ([\d.-]+) \|$", text, re.M)
    assert len(found) >= 10
    for name, accumulator, products, *shares in found:
        row, base = document["units"][f"{name} {accumulator}"], document["costs"]["int8"]["mac"]
        assert row["elements"] == int(products)
        for figure, share in zip(("transistors", "switching"), shares, strict=True):
            ratios = [row[f"{figure}_{s}"] / row["elements"] / base[f"{figure}_{s}"] for s in STYLES]
            low, high = (f"{ratio:.2f}" for ratio in (min(ratios), max(ratios)))
            assert share == (low if low == high else f"{low}-{high}"), f"docs/rtl.md: {name} {accumulator}"


def test_what_the_decoders_factor_is_made_of_is_that_of_the_table() -> None:
    text = (DOCS / "hardware.md").read_text(encoding="utf-8")
    lines = [next(x for x in text.split("\n") if x.startswith(f"| {unit} | ")) for unit in ("element", "pair decoder")]
    element, decoder = ([float(n.replace(",", "")) for n in re.findall(r"[\d,.]*\d", line)] for line in lines)
    each = 0.798 / 4 * (28 / 45) ** 2  # um2 of a transistor: NAND2_X1 of NanGate 45 nm
    units = gates.gate_costs("ovp4")
    mac, product = units["mac"], gates.load_unit_costs()["ovp4 product"].transistors[0]
    registers = mac.flip_flops * gates.FLIP_FLOP_TRANSISTORS
    adder = mac.transistors[0] - product
    wanted = [element[0] / each, mac.area_transistors[0], product, adder, 32, registers, mac.flip_flops]
    assert element[2:] == [round(x) for x in wanted]
    alone = units["decoder"].transistors[0]
    held = alone + 22 * gates.FLIP_FLOP_TRANSISTORS
    assert decoder[2:] == [round(x) for x in (decoder[0] / each, alone, held, 8, 14)]
    assert f"a ratio of {held / product:.2f}" in text


def test_the_scaling_models_on_the_page_are_those_of_the_tables() -> None:
    text = (DOCS / "hardware.md").read_text(encoding="utf-8")
    for words, name, digits in (("int8 element, um2: line", "int8_mac_area", 0),):
        line = next(line for line in text.split("\n") if line.startswith(f"| {words}"))
        nodes = [load_technology(f"{node}nm").constant(name).value for node in (45, 28, 22, 16, 7)]
        assert re.findall(r"[\d.]+", line.split("line")[1]) == [f"{value:.{digits}f}" for value in nodes]
