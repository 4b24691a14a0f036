"""Proofs by SAT that a module is the function that the software says.

The other side of a combinational proof is a truth table which the software codec writes as a `case`
statement; that of a clocked one is a module of the same ports that somebody else wrote. A proof holds
for every input, and for registers for every length of time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from macloom.rtl.export import verilog
from macloom.rtl.simulation import all_inputs
from macloom.rtl.testbench import expected_bits
from macloom.rtl.unit import Unit
from macloom.rtl.yosys import run

PROVED = "no model found: SUCCESS"


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


def prove_tables(units: Sequence[Unit], *, tables: Sequence[Unit] | None = None) -> dict[str, str]:
    """Prove each combinational unit equal to the truth table of its own software, by SAT.

    Args:
        tables: units whose software writes the tables, if not the units themselves (for mutants).

    Returns:
        by module: 'proved', or the counterexample that the solver found.
    """
    texts, commands, logs = [], [], {}
    for number, (unit, other) in enumerate(zip(units, tables or units, strict=True)):
        table, checker = f"table_{number}", f"check_{number}"
        texts += [verilog(unit), truth_table(other, table), _checker(unit, table, checker)]
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
    if PROVED in log:
        return "proved"
    model = [line.split() for line in log.splitlines() if line.strip().startswith("\\in")]
    return f"differs at input {model[0][1]}" if model else "not proved"


def prove_by_induction(
    unit: Unit, reference: str, name: str, parameters: Mapping[str, int], legal: Mapping[str, str]
) -> bool:
    """Return whether a clocked unit equals a module of the same ports, for all inputs and any length of time.

    Both get the same inputs and start with all registers at 0; the proof is by temporal induction.

    Args:
        reference: Verilog that holds the module `name`, with registers of the same meaning.
        parameters: values of the reference's parameters.
        legal: for input ports that do not get every value, the expression of `raw`, an arbitrary value of the
            port, that stands for the values it gets.
    """
    inputs = "".join(f", input [{p.width - 1}:0] raw_{p.name}" for p in unit.inputs)
    given = "".join(
        f"    wire [{p.width - 1}:0] {p.name} = {legal.get(p.name, 'raw').replace('raw', f'raw_{p.name}')};\n"
        for p in unit.inputs
    )
    made = "".join(f"    wire [{p.width - 1}:0] u_{p.name}, r_{p.name};\n" for p in unit.outputs)
    shared = "".join(f", .{p.name}({p.name})" for p in unit.inputs)

    def outputs(prefix: str) -> str:
        return "".join(f", .{p.name}({prefix}_{p.name})" for p in unit.outputs)

    chosen = ", ".join(f".{key}({value})" for key, value in parameters.items())
    both = f"""module both(input clk{inputs}, output bad);
{given}{made}    {unit.module} unit(.clk(clk){shared}{outputs("u")});
    {name} #({chosen}) reference(.clk(clk){shared}{outputs("r")});
    assign bad = |{{{", ".join(f"u_{p.name} ^ r_{p.name}" for p in unit.outputs)}}};
endmodule
"""
    prove = "tee -o proof.log sat -tempinduct -set-init-zero -prove bad 0 -seq 1 -maxsteps 4 both"
    script = "\n".join(["read_verilog -sv all.v", "hierarchy -top both", "proc", "flatten", "opt -full", prove])
    log = run(script, {"all.v": verilog(unit) + reference + both}, ("proof.log",))["proof.log"]
    return "SUCCESS" in log
