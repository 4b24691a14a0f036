"""Proofs that a module is the function that the software says, or that somebody else wrote.

The other side of a combinational proof is a truth table which the software codec writes as a `case` statement, or
Verilog written by hand (`macloom.rtl.reference`); that of a clocked one is hand-written, too. A proof holds for every
input, and for registers for every length of time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pyrtl

from macloom.rtl import abc
from macloom.rtl.export import verilog
from macloom.rtl.simulation import all_inputs
from macloom.rtl.testbench import expected_bits
from macloom.rtl.unit import Port, Unit
from macloom.rtl.yosys import run

PROVED = "proved"
SECONDS = 60.0
# Sweeping merges what is equal on both sides from the inputs on, multipliers of the same factors above all; what is
# left goes to the prover. For registers the sweep is an induction over one cycle.
COMBINATIONAL = "fraig -C 100; fraig -C 1000; iprove"
CLOCKED = "scorr; dprove"
# Both sides come to the same gates for the same operator: operands lose bits that only repeat the sign.
TO_GATES = (
    *("read_verilog -sv all.v", "hierarchy -check -top both", "proc", "flatten", "opt -fast", "wreduce", "opt -full"),
    *("techmap", "opt -fast", "dffunmap", "aigmap", "opt_clean", "write_blif both.blif"),
)


def truth_table(unit: Unit, name: str) -> str:
    """Return a Verilog module with the unit's whole function as a table: the outputs, and a mask of what counts."""
    inputs = all_inputs(unit)
    width, bits = unit.input_bits, sum(p.width for p in unit.outputs)
    lines = "".join(
        f"            {width}'d{i}: {{value, mask}} = {{{bits}'d{o}, {bits}'d{m}}};\n"
        for i, o, m in expected_bits(unit, inputs)
    )
    return f"""module {name}(input [{width - 1}:0] in, output reg [{bits - 1}:0] value, output reg [{bits - 1}:0] mask);
    always @*
        case (in)
{lines}        endcase
endmodule
"""


def _checker(unit: Unit, table: str, name: str) -> str:
    """Return a module whose output is 1 for inputs on which unit and table differ."""
    wires = "".join(f"    wire [{p.width - 1}:0] o_{p.name};\n" for p in unit.outputs)
    above = unit.input_bits
    connections = []
    for port in unit.inputs:
        above -= port.width
        connections.append(f".{port.name}(in[{above + port.width - 1}:{above}])")
    connections += [f".{p.name}(o_{p.name})" for p in unit.outputs]
    bits = sum(p.width for p in unit.outputs)
    return f"""module {name}(input [{unit.input_bits - 1}:0] in, output bad);
{wires}    wire [{bits - 1}:0] value, mask;
    {unit.module} unit({", ".join(connections)});
    {table} model(.in(in), .value(value), .mask(mask));
    assign bad = |(({{{", ".join(f"o_{p.name}" for p in unit.outputs)}}} ^ value) & mask);
endmodule
"""


def prove_tables(
    units: Sequence[Unit], *, tables: Sequence[Unit] | None = None, blocks: Sequence[pyrtl.Block] | None = None
) -> dict[str, str]:
    """Prove each combinational unit equal to the truth table of its own software, by SAT.

    Args:
        tables: units whose software writes the tables, if not the units themselves (for mutants).
        blocks: circuits in place of the units' own (for mutants).

    Returns:
        by module: 'proved', or the counterexample that the solver found.
    """
    texts, commands, logs = [], [], {}
    for number, (unit, other) in enumerate(zip(units, tables or units, strict=True)):
        table, checker = f"table_{number}", f"check_{number}"
        text = verilog(unit, blocks[number] if blocks else None)
        texts += [text, truth_table(other, table), _checker(unit, table, checker)]
        commands.append(f"tee -o {checker}.log sat -prove bad 0 -show in {checker}")
        logs[unit.module] = f"{checker}.log"
    script = "\n".join(
        [
            *("read_verilog all.v", "proc"),
            # Tables become memories, which the solver does not take.
            *("memory -nomap", "memory_map", "opt_clean", "flatten", "opt -fast"),
            *commands,
        ]
    )
    results = run(script, {"all.v": "\n".join(texts)}, tuple(logs.values()))
    return {module: _verdict(results[log]) for module, log in logs.items()}


def _verdict(log: str) -> str:
    if "no model found: SUCCESS" in log:
        return PROVED
    model = [line.split() for line in log.splitlines() if line.strip().startswith("\\in")]
    return f"differs at input {model[0][1]}" if model else "not proved"


@dataclass(frozen=True, kw_only=True)
class Proof:
    """A unit and a module of hand-written Verilog that it must equal, registers starting at 0 in both.

    Attributes:
        reference: name of the module.
        source: Verilog that holds it.
        parameters: values of its parameters.
        ports: by port of the reference, the ports of the unit that it is, joined, highest first; same names unless
            given.
        limits: for input ports that do not get every value, the least and the largest one.
        assume: Verilog expression over the input ports of a combinational unit that says where the unit is defined.
    """

    unit: Unit
    reference: str
    source: str
    parameters: Mapping[str, int] = field(default_factory=dict)
    ports: Mapping[str, Sequence[str]] = field(default_factory=dict)
    limits: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    assume: str = "1'b1"


def prove(proof: Proof, block: pyrtl.Block | None = None, seconds: float = SECONDS) -> str:
    """Prove a unit equal to its reference: 'proved', 'differs at ...' with inputs that show it, or 'not proved ...'.

    Both sides become and-inverter graphs (yosys), on which abc merges equal nodes and proves that no output differs.

    Args:
        block: a circuit in place of the unit's own (for mutants).
        seconds: after which the prover gives up.

    Raises:
        MacloomError: yosys or abc is missing or fails.
    """
    unit = proof.unit
    text = "\n".join((verilog(unit, block), proof.source, _miter(proof)))
    with TemporaryDirectory() as name:
        folder = Path(name)
        made = run("\n".join(TO_GATES), {"all.v": text}, ("both.blif",))
        (folder / "both.blif").write_text(made["both.blif"])
        steps = CLOCKED if unit.clocked else COMBINATIONAL
        log = abc.run(f"read_blif both.blif; strash; {steps}; print_status; write_cex -n cex.txt", folder, seconds)
        if log is None:
            return f"not proved in {seconds:.0f} s"
        if "Status = 1" in log:
            return PROVED
        found = folder / "cex.txt"
        if "Status = 0" not in log or not found.exists():
            return "not proved: the prover gave up"
        return f"differs at {_counterexample(proof, found.read_text())}"


def _miter(proof: Proof) -> str:
    """Return a module of both sides on the same inputs whose output is 1 where they differ."""
    unit = proof.unit
    inputs = [f"input [{p.width - 1}:0] raw_{p.name}" for p in unit.inputs]
    head = ", ".join([*(["input clk"] if unit.clocked else []), *inputs, "output bad"])
    given = "".join(f"    wire [{p.width - 1}:0] {p.name} = {_limited(proof, p)};\n" for p in unit.inputs)
    made = "".join(f"    wire [{p.width - 1}:0] u_{p.name}, r_{p.name};\n" for p in unit.outputs)
    clock = [".clk(clk)"] if unit.clocked else []
    own = [*(f".{p.name}({p.name})" for p in unit.inputs), *(f".{p.name}(u_{p.name})" for p in unit.outputs)]
    outputs = {p.name for p in unit.outputs}
    ports = proof.ports or {p.name: (p.name,) for p in (*unit.inputs, *unit.outputs)}
    other = [
        f".{port}({{{', '.join(f'r_{name}' if name in outputs else name for name in names)}}})"
        for port, names in ports.items()
    ]
    chosen = ", ".join(f".{key}({value})" for key, value in proof.parameters.items())
    differ = ", ".join(f"u_{p.name} ^ r_{p.name}" for p in unit.outputs)
    return f"""module both({head});
{given}{made}    {unit.module} unit({", ".join(clock + own)});
    {proof.reference} #({chosen}) reference({", ".join(clock + other)});
    assign bad = ({proof.assume}) && |{{{differ}}};
endmodule
"""


def _limited(proof: Proof, port: Port) -> str:
    """Return the expression of a port's value: any, or held to its limits."""
    raw = f"raw_{port.name}"
    if port.name not in proof.limits:
        return raw
    low, high = (f"{port.width}'d{int(x) & ((1 << port.width) - 1)}" for x in proof.limits[port.name])
    sign = "$signed" if port.signed else "$unsigned"
    return f"{sign}({raw}) < {sign}({low}) ? {low} : {sign}({raw}) > {sign}({high}) ? {high} : {raw}"


def _counterexample(proof: Proof, text: str) -> str:
    """Return the inputs of abc's counterexample, cycle by cycle."""
    cycles: dict[int, dict[str, int]] = {}
    for line in text.splitlines():
        words = line.split("@")
        if not line.startswith("raw_") or len(words) != 2:
            continue
        name, (cycle, bit) = words[0].split()[0].removeprefix("raw_"), words[1].split("=")
        port, _, place = name.partition("[")
        values = cycles.setdefault(int(cycle), {})
        values[port] = values.get(port, 0) | int(bit) << int(place.rstrip("]") or 0)
    shown = []
    for _, values in sorted(cycles.items()):
        numbers = []
        for port in proof.unit.inputs:
            half = 1 << (port.width - 1) if port.signed else 0
            value = (values.get(port.name, 0) ^ half) - half
            low, high = proof.limits.get(port.name, (value, value))
            numbers.append(f"{port.name}={min(max(value, low), high)}")
        shown.append(", ".join(numbers))
    return "; then ".join(shown)
