"""Self-checking testbenches: vectors from the software, in files that `$readmemh` reads.

A line of the vector file is one hexadecimal number: inputs, expected outputs and a mask of the output
bits that count, in the order of the ports, first port highest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from macloom.rtl.unit import Port, Unit, Values


def expected_bits(unit: Unit, inputs: Values) -> list[tuple[int, int, int]]:
    """Return (inputs, expected outputs, mask) of every vector as whole numbers of the ports' widths."""
    expected = unit.model(inputs)
    cares = unit.cares(inputs) if unit.cares else {}
    count = len(next(iter(inputs.values())))
    ones = np.ones(count, bool)
    masks = {
        p.name: np.broadcast_to(cares.get(p.name, ones), count).astype(object) * ((1 << p.width) - 1)
        for p in unit.outputs
    }
    columns = [
        _joined(unit.inputs, {p.name: p.bits_of(inputs[p.name]) for p in unit.inputs}, count),
        _joined(unit.outputs, {p.name: p.bits_of(_known(p, expected, cares)) for p in unit.outputs}, count),
        _joined(unit.outputs, masks, count),
    ]
    return list(zip(*columns, strict=True))


def _known(port: Port, expected: Values, cares: Values) -> np.ndarray:
    """Return the expected values, 0 where they do not count."""
    return np.where(cares[port.name], expected[port.name], 0) if port.name in cares else expected[port.name]


def _joined(ports: Sequence[Port], bits: Values, count: int) -> list[int]:
    words = [0] * count
    for port in ports:
        words = [word << port.width | int(b) for word, b in zip(words, bits[port.name].tolist(), strict=True)]
    return words


def vectors_text(unit: Unit, inputs: Values) -> str:
    """Return the lines of the vector file."""
    inside, outside = unit.input_bits, sum(p.width for p in unit.outputs)
    digits = -(-(inside + 2 * outside) // 4)
    lines = (f"{i << 2 * outside | o << outside | m:0{digits}x}" for i, o, m in expected_bits(unit, inputs))
    return "\n".join(lines) + "\n"


def bench_text(unit: Unit, vectors: int, file: str) -> str:
    """Return a Verilog testbench that applies `vectors` lines of `file` and prints PASS or FAIL.

    It is plain Verilog, which the tests run in Verilator (`--binary`). A clocked unit gets one vector a cycle,
    and its outputs are compared before the edge that ends the cycle.
    """
    inside, outside = unit.input_bits, sum(p.width for p in unit.outputs)
    ports = ", ".join(
        f".{port.name}({word}[{low + port.width - 1}:{low}])"
        for word, ports in (("in", unit.inputs), ("out", unit.outputs))
        for port, low in _places(ports)
    )
    clock = ".clk(clk), " if unit.clocked else ""
    tick = "#1 clk = 1; #1 clk = 0;" if unit.clocked else ""
    return f"""`timescale 1ns / 1ps
module {unit.module}_tb;
    reg [{inside + 2 * outside - 1}:0] vectors [0:{vectors - 1}];
    reg [{inside - 1}:0] in;
    wire [{outside - 1}:0] out;
    reg [{outside - 1}:0] expected, mask;
    reg clk;
    integer i, failures;

    {unit.module} dut({clock}{ports});

    initial begin
        $readmemh("{file}", vectors);
        failures = 0;
        clk = 0;
        for (i = 0; i < {vectors}; i = i + 1) begin
            {{in, expected, mask}} = vectors[i];
            #1;
            if (((out ^ expected) & mask) !== {outside}'d0) begin
                failures = failures + 1;
                if (failures <= 10)
                    $display("{unit.module}: vector %0d: in %h out %h expected %h mask %h", i, in, out, expected, mask);
            end
            {tick}
        end
        if (failures == 0) $display("PASS {unit.module} %0d vectors", i);
        else $display("FAIL {unit.module} %0d of %0d vectors", failures, i);
        $finish;
    end
endmodule
"""


def _places(ports: Sequence[Port]) -> list[tuple[Port, int]]:
    """Return every port with its lowest bit, first port highest."""
    places, above = [], sum(p.width for p in ports)
    for port in ports:
        above -= port.width
        places.append((port, above))
    return places
