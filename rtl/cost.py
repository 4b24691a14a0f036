"""What a unit costs in gates: cells, transistors, depth, and the switching of real data.

yosys maps a unit to two-input NAND, NOR and inverters (`abc -g cmos2`). Areas in square micrometres
need a cell library, which no free 22 to 45 nm wheel brings; transistor counts and their ratios are what
is reported. How yosys merges adders (`alumacc`) moves them by up to 20 % and may turn the order of two
designs, so that both mappings are kept, and no ratio is claimed tighter than their spread.

Switching energy is the number of times that nets change between consecutive vectors, each weighted by
the gate inputs that the net drives; without wires, clock, glitches and leakage it is meaningful only
relative to another unit under stimuli of the same data.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from macloom.errors import MacloomError, require_positive_integer
from macloom.rtl.export import verilog
from macloom.rtl.unit import WORD, Port, Unit, Values
from macloom.rtl.yosys import run, version

# How yosys maps adders: its own macro cells, or as the circuit writes them.
STYLES = {"alumacc": "", "noalumacc": " -noalumacc"}
# Logic is optimised by the script that yosys 0.70 gives abc, but for one number: abc looks for nodes that compute the
# same, and gives up on a pair of them after so many conflicts of its SAT solver. With abc's own limit a sum of eight
# 8-bit products keeps it busy for many minutes; with 100 it takes seconds.
OPTIMISE = "strash;&get,-n;&fraig,-x,-C,{};&put;scorr;dc2;dretime;strash;&get,-n;&dch,-f;&nf;&put"
CONFLICTS = 100
YOSYS_CONFLICTS = 1_000_000
FLIP_FLOP = re.compile(r"\$_S?DFF\w*_")
# Gates of the mapping and the function of each.
GATES = {
    "$_NOT_": lambda a: ~a,
    "$_NAND_": lambda a, b: ~(a & b),
    "$_NOR_": lambda a, b: ~(a | b),
}


@dataclass(frozen=True, kw_only=True)
class Netlist:
    """A unit as gates.

    Attributes:
        transistors: those of the gates; flip-flops are counted apart.
        depth: gates on the longest path between registers or ports.
        module: the module as yosys writes it in JSON.
    """

    style: str
    tool: str
    cells: int
    transistors: int
    flip_flops: int
    depth: int
    module: Mapping[str, Any] = field(repr=False)


def logic_commands(unit: Unit, style: str, conflicts: int = CONFLICTS) -> tuple[str, ...]:
    """Return the commands that read `unit.v` and make flat, optimised logic of it: `synth` with a limit for abc.

    Raises:
        MacloomError: the style is not known, or the limit is not positive.
    """
    if style not in STYLES:
        raise MacloomError(f"rtl.style: must be one of {', '.join(STYLES)}, not {style!r}")
    require_positive_integer("rtl.conflicts", conflicts)
    return (
        "read_verilog unit.v",
        f"synth -noabc -flatten -top {unit.module}{STYLES[style]}",
        f"abc -script +{OPTIMISE.format(conflicts)}",
        "opt -fast",
    )


def synthesize(unit: Unit, style: str = "alumacc", conflicts: int = CONFLICTS) -> Netlist:
    """Return the unit mapped to gates.

    Args:
        unit: combinational or clocked.
        style: how yosys maps adders.
        conflicts: after how many of them abc leaves a pair of nodes alone; `YOSYS_CONFLICTS` is what yosys does, and
            does not end on every unit.

    Raises:
        MacloomError: yosys is missing, the style is not known, or the limit is not positive.
    """
    script = "\n".join(
        [
            *logic_commands(unit, style, conflicts),
            "dfflegalize -cell $_DFF_P_ 01",
            f"abc -g cmos2 -script +{OPTIMISE.format(conflicts)}",
            "opt_clean -purge",
            *("tee -o stat.txt stat -tech cmos", "tee -o path.txt ltp -noff", "write_json unit.json"),
        ]
    )
    made = run(script, {"unit.v": verilog(unit)}, ("stat.txt", "path.txt", "unit.json"))
    module = json.loads(made["unit.json"])["modules"][unit.module]
    kinds = [cell["type"] for cell in module["cells"].values()]
    flip_flops = sum(bool(FLIP_FLOP.match(kind)) for kind in kinds)
    transistors = re.search(r"number of transistors:\s+(\d+)", made["stat.txt"])
    depth = re.search(r"\(length=(\d+)\)", made["path.txt"])
    return Netlist(
        style=style,
        tool=version(),
        cells=len(kinds) - flip_flops,
        transistors=int(transistors[1]) if transistors else 0,
        flip_flops=flip_flops,
        depth=int(depth[1]) if depth else 0,
        module=module,
    )


def switching(netlist: Netlist, unit: Unit, inputs: Values) -> float:
    """Return the driven gate inputs that change per vector, on average, over a sequence of vectors.

    The unit must be combinational; state that a clocked unit would hold is an input.

    Raises:
        MacloomError: the unit is clocked, or there are fewer than two vectors.
    """
    count = len(next(iter(inputs.values())))
    if unit.clocked or netlist.flip_flops or count < 2:
        raise MacloomError("rtl: switching is counted on combinational units, over at least two vectors")
    values = net_values(netlist, {p: inputs[p.name] for p in unit.inputs})
    loads: dict[Any, int] = {}
    for cell in netlist.module["cells"].values():
        for pin, bits in cell["connections"].items():
            if pin != "Y":
                loads[bits[0]] = loads.get(bits[0], 0) + 1
    changes = sum(loads.get(net, 1) * int((v[1:] != v[:-1]).sum()) for net, v in values.items())
    return changes / (count - 1)


def net_values(netlist: Netlist, inputs: Mapping[Port, np.ndarray]) -> dict[Any, np.ndarray]:
    """Return the value (bool) of every net for every vector, by evaluating the gates in order."""
    values: dict[Any, np.ndarray] = {}
    for port, integers in inputs.items():
        bits = port.bits_of(integers)
        for k, net in enumerate(netlist.module["ports"][port.name]["bits"]):
            one = bits >> k & 1 if bits.dtype == object else bits >> np.uint64(k) & np.uint64(1)
            values[net] = one.astype(bool)
    count = len(next(iter(values.values())))
    constants = {"0": np.zeros(count, bool), "1": np.ones(count, bool), "x": np.zeros(count, bool)}
    waiting = {c["connections"]["Y"][0]: c for c in netlist.module["cells"].values()}
    for net in list(waiting):
        stack = [net]
        while stack:
            cell = waiting.get(stack[-1])
            if cell is None or stack[-1] in values:
                stack.pop()
                continue
            sources = [cell["connections"][pin][0] for pin in ("A", "B") if pin in cell["connections"]]
            missing = [s for s in sources if s not in values and s not in constants]
            if missing:
                stack.extend(missing)
                continue
            arguments = [values[s] if s in values else constants[s] for s in sources]
            values[stack.pop()] = GATES[cell["type"]](*arguments)
    return values


def gate_outputs(netlist: Netlist, unit: Unit, inputs: Values) -> dict[str, np.ndarray]:
    """Return the integers that the gates give on every output port of a combinational unit."""
    values = net_values(netlist, {p: inputs[p.name] for p in unit.inputs})
    count = len(next(iter(values.values())))
    out = {}
    for port in unit.outputs:
        word = object if port.width > WORD else np.uint64
        bits = np.zeros(count, word)
        for k, net in enumerate(netlist.module["ports"][port.name]["bits"]):
            one = values[net] if net in values else np.full(count, net == "1")
            bits |= one.astype(word) << (k if word is object else np.uint64(k))
        out[port.name] = port.values_of(bits)
    return out
