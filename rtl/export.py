"""Verilog of a unit, with names that depend on nothing but the unit."""

from __future__ import annotations

import io
import re

import pyrtl

from macloom.errors import MacloomError
from macloom.rtl.unit import Unit, elaborate

# What PyRTL calls its operators: all but wires (w), slices (s), concatenations (c), registers (r) and memories (m, @).
OPERATORS = "+-*&|^~<>=xn"


def verilog(unit: Unit, block: pyrtl.Block | None = None) -> str:
    """Return the unit as one synthesizable Verilog-2001 module named `unit.module`.

    Combinational units have no clock. Ports have the names and widths of the unit.

    Raises:
        MacloomError: the circuit holds what PyRTL exports wrongly.

    >>> from macloom.formats import get_format
    >>> from macloom.rtl.formats.decoder import decoder
    >>> "module fp4_e2m1_decoder(" in verilog(decoder(get_format("fp4_e2m1").element))
    True
    """
    block = block or elaborate(unit)
    _name_operators(block)
    text = io.StringIO()
    with pyrtl.set_working_block(block, no_sanity_check=True):
        pyrtl.output_to_verilog(text, False, block, unit.clocked, unit.module)
    body = text.getvalue()
    body = body[body.index(f"module {unit.module}") :]
    if not unit.clocked:
        body = body.replace(f"module {unit.module}(clk, ", f"module {unit.module}(", 1)
        body = re.sub(r"^\s*input clk;\n", "", body, count=1, flags=re.MULTILINE)
    return body


def _name_operators(block: pyrtl.Block) -> None:
    """Give the result of every operator a name, so that each has an assignment of its own.

    PyRTL writes unnamed results into the expression that reads them, where Verilog would widen their
    operands to the width of the whole; an inverted one (`~x`) changes its value by that.

    Raises:
        MacloomError: the block holds nets that have no Verilog.
    """
    if block.logic_subset(("n",)):
        raise MacloomError("rtl: nand nets cannot be exported; export the circuit before synthesis")
    results = [net.dests[0] for net in block.logic if net.op in OPERATORS]
    unnamed = [wire for wire in results if re.fullmatch(r"tmp\d+", wire.name)]
    for number, wire in enumerate(sorted(unnamed, key=lambda wire: int(wire.name[3:]))):
        wire.name = f"w{number}"
