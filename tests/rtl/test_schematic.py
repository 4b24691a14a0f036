"""Schematics: every operator and port is drawn, wires lead from what makes them, large units are refused."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from macloom.errors import MacloomError
from macloom.formats import get_format
from macloom.rtl.catalog import build
from macloom.rtl.schematic import LARGEST, graph_text, operators, schematic

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    ("name", "kind"), [("ovp4", "decoder"), ("fp8_e4m3", "decoder"), ("ovp4", "pe"), ("int4", "pe")]
)
def test_the_graph_has_every_port_and_wires_that_exist(name: str, kind: str) -> None:
    unit = build(get_format(name), kind)
    text = graph_text(unit)
    nodes = set(re.findall(r"^(\w+) \[shape", text, re.MULTILINE))
    edges = re.findall(r'^(\w+) -> (\w+) \[label="([^"]*)"\];', text, re.MULTILINE)
    ports = {port.name: port.width for port in (*unit.inputs, *unit.outputs)}
    assert set(ports) <= nodes
    assert {end for edge in edges for end in edge[:2]} <= nodes
    outputs = {port.name for port in unit.outputs}
    into = [end for _, end, _ in edges if end in outputs]
    assert sorted(into) == sorted(outputs)  # one wire each
    for start, _, label in edges:
        if start in ports:
            assert int(label.split()[-1]) == ports[start]
    # From every output one comes back to an input or a constant: nothing hangs in the air.
    before: dict[str, set[str]] = {}
    for start, end, _ in edges:
        before.setdefault(end, set()).add(start)
    for output in outputs:
        seen, stack = set(), [output]
        while stack:
            node = stack.pop()
            if node not in seen:
                seen.add(node)
                stack += before.get(node, ())
        assert seen & {port.name for port in unit.inputs}


def test_the_same_unit_gives_the_same_graph() -> None:
    assert graph_text(build(get_format("ovp4"), "pe")) == graph_text(build(get_format("ovp4"), "pe"))


def test_a_schematic_is_an_svg_with_its_ports() -> None:
    pytest.importorskip("pygraphviz")
    root = ElementTree.fromstring(schematic(build(get_format("fp4_e2m1"), "decoder")))
    assert root.tag == f"{SVG}svg"
    texts = {text.text for text in root.iter(f"{SVG}text")}
    assert {"code", "exponent", "significand (signed)"} <= texts


def test_units_that_are_too_large_are_refused_with_their_size() -> None:
    pytest.importorskip("pygraphviz")
    unit = build(get_format("fp8_e4m3"), "encoder")
    assert operators(unit) > LARGEST
    with pytest.raises(MacloomError, match=rf"rtl.schematic: {unit.module} has {operators(unit)} operators, more than"):
        schematic(unit)
