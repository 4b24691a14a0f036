"""Schematics of small units as SVG: every operator of the circuit, wires with their widths, from left to right."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape

import pyrtl

from macloom.errors import MacloomError
from macloom.rtl.toolchain import need
from macloom.rtl.unit import Unit, elaborate

# More operators than this make no picture that anybody reads.
LARGEST = 250
# PyRTL's letters and what is drawn for them; selections and concatenations are named apart.
SYMBOLS = {
    "&": "and", "|": "or", "^": "xor", "n": "nand", "~": "not", "x": "mux", "r": "register", "m": "read", "@": "write",
}  # fmt: skip


def operators(unit: Unit) -> int:
    """Return how many operators the circuit of a unit has; plain wires do not count.

    >>> from macloom.formats import get_format
    >>> from macloom.rtl.catalog import build
    >>> operators(build(get_format("fp4_e2m1"), "decoder")) < LARGEST
    True
    """
    return sum(net.op != "w" for net in elaborate(unit).logic)


def schematic(unit: Unit) -> str:
    """Return the circuit of a unit as the text of an SVG.

    Raises:
        MacloomError: pygraphviz is not installed, or the unit has more than `LARGEST` operators.
    """
    graphviz = need("pygraphviz", "drawing a schematic")
    if (count := operators(unit)) > LARGEST:
        raise MacloomError(
            f"rtl.schematic: {unit.module} has {count} operators, more than the {LARGEST} that a picture can show"
        )
    graph = graphviz.AGraph(string=graph_text(unit))
    with warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore", RuntimeWarning)
        drawn: bytes = graph.draw(format="svg", prog="dot")
    return drawn.decode()


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop what the libraries of Graphviz write to stderr themselves, about fonts and their settings."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def graph_text(unit: Unit) -> str:
    """Return the circuit as a graph in the language of Graphviz; the same unit gives the same text.

    >>> from macloom.formats import get_format
    >>> from macloom.rtl.catalog import build
    >>> graph_text(build(get_format("int4"), "decoder")).count("shape=cds")  # a port in, two out
    3
    """
    block = elaborate(unit)
    nets = sorted(block.logic, key=lambda net: str(net.dests[0]) if net.dests else str(net))
    driver = {dest: net for net in nets for dest in net.dests}
    names = {net: f"n{i}" for i, net in enumerate(nets)}
    lines = [f"digraph {unit.module} {{", "rankdir=LR; nodesep=0.12; ranksep=0.35;"]
    lines += ['node [fontname="sans-serif", fontsize=10, height=0.25, margin="0.06,0.03"];']
    lines += ['edge [fontname="sans-serif", fontsize=8, arrowsize=0.5, color="#5f6368"];']
    ports = {port.name for port in (*unit.inputs, *unit.outputs)}
    for port in (*unit.inputs, *unit.outputs):
        label = f"{port.name}{' (signed)' if port.signed else ''}"
        lines.append(f'{port.name} [shape=cds, style=filled, fillcolor="#e8f0fe", label="{escape(label)}"];')

    def copied(net: pyrtl.LogicNet) -> bool:
        """Return whether a net passes its wire on unchanged."""
        whole = net.op == "s" and net.op_param == tuple(range(net.args[0].bitwidth))
        return (net.op == "w" or whole) and net.dests[0].name not in ports

    def source(wire: pyrtl.WireVector) -> str:
        """Return the node that makes a wire that is no constant."""
        while wire in driver and copied(driver[wire]):
            wire = driver[wire].args[0]
        return names[driver[wire]] if wire in driver else wire.name

    for net in nets:
        if copied(net):
            continue
        node = names[net] if net.op != "w" else net.dests[0].name
        if net.op != "w":
            lines.append(f'{node} [shape=box, style="rounded", label="{escape(_label(net))}"];')
        places = ("s", "0", "1") if net.op == "x" else ("",) * len(net.args)
        edges: dict[tuple[str, str], int] = {}
        for i, (place, wire) in enumerate(zip(places, net.args, strict=True)):
            start = source(wire) if not isinstance(wire, pyrtl.Const) else f"{node}_{i}"
            if isinstance(wire, pyrtl.Const):
                lines.append(f'{start} [shape=plaintext, label="{wire.val}"];')
            key = start, f"{place}: {wire.bitwidth}" if place else str(wire.bitwidth)
            edges[key] = edges.get(key, 0) + 1
        for (start, width), times in edges.items():
            label = f"{times} x {width}" if times > 1 else width
            lines.append(f'{start} -> {node} [label="{label}"];')
    inputs = " ".join(port.name + ";" for port in unit.inputs)
    return "\n".join([*lines, f"{{rank=source; {inputs}}}", "}"]) + "\n"


def _label(net: pyrtl.LogicNet) -> str:
    if net.op == "c":
        return "concat"
    if net.op == "s":
        bits: list[int] = list(net.op_param)
        if bits == list(range(bits[0], bits[0] + len(bits))):
            return f"[{bits[-1]}:{bits[0]}]" if len(bits) > 1 else f"[{bits[0]}]"
        return "[" + ",".join(map(str, reversed(bits))) + "]" if len(bits) <= 8 else "bits"
    return SYMBOLS.get(net.op, net.op)
