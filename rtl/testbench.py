"""Self-checking testbenches: vectors from the software, in files that `$readmemh` reads.

A line of the vector file is one hexadecimal number: inputs, expected outputs and a mask of the output
bits that count, in the order of the ports, first port highest. The testbench holds a hash of the whole file,
so that it fails without the file, and with another one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from macloom.rtl.unit import Port, Unit, Values

# The offset basis and the prime of the 32-bit hash.
FNV_BASIS, FNV_PRIME, HASHED_BITS = 0x811C9DC5, 0x01000193, 32


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


def hash_of(words: Sequence[int], bits: int) -> int:
    """Return a 32-bit hash of numbers of so many bits: FNV-1a, over their 32-bit parts, lowest first, for bytes.

    A change within one part always changes it, for both steps are invertible; other changes miss once in 2**32.
    Source: G. Fowler, L. C. Noll, K.-P. Vo, D. Eastlake, The FNV Non-Cryptographic Hash Algorithm.

    >>> hex(hash_of([], 8)), hex(hash_of([0x61], 8))
    ('0x811c9dc5', '0xe40c292c')
    """
    made = FNV_BASIS
    for word in words:
        for part in range(-(-bits // HASHED_BITS)):
            made = ((made ^ (word >> HASHED_BITS * part & 0xFFFFFFFF)) * FNV_PRIME) & 0xFFFFFFFF
    return made


def bench_text(unit: Unit, vectors: str, file: str, *, alone: bool = True) -> str:
    """Return a testbench that applies the lines `vectors` from the file of that name and prints PASS or FAIL.

    It is Verilog-2001 but for `$fatal`, which ends a simulation that failed: with an exit status other than 0
    in Verilator (`--binary`) and Icarus (`iverilog -g2012`, `vvp -N`). A file that is missing, cut short or
    changed fails. A clocked unit gets one vector a cycle, and its outputs are compared before the edge that
    ends the cycle.

    Args:
        unit: the unit under test.
        vectors: what `vectors_text` made.
        file: the name under which the testbench reads them, from the directory that it runs in.
        alone: whether it ends the simulation; else others in the same one go on.
    """
    inside, outside = unit.input_bits, sum(p.width for p in unit.outputs)
    bits = inside + 2 * outside
    lines = [int(line, 16) for line in vectors.split()]
    parts = -(-bits // HASHED_BITS)
    ports = ", ".join(
        f".{port.name}({word}[{low + port.width - 1}:{low}])"
        for word, ports in (("in", unit.inputs), ("out", unit.outputs))
        for port, low in _places(ports)
    )
    clock = ".clk(clk), " if unit.clocked else ""
    tick = "#1 clk = 1; #1 clk = 0;" if unit.clocked else ""
    good, bad = ("$finish;", "$fatal(1);") if alone else ("", "")
    return f"""`timescale 1ns / 1ps
module {unit.module}_tb;
    reg [{HASHED_BITS * parts - 1}:0] vectors [0:{len(lines) - 1}];
    reg [{inside - 1}:0] in;
    wire [{outside - 1}:0] out;
    reg [{outside - 1}:0] expected, mask;
    reg clk;
    reg [31:0] hash;
    integer i, part, failures;

    {unit.module} dut({clock}{ports});

    initial begin
        for (i = 0; i < {len(lines)}; i = i + 1) vectors[i] = 0;
        $readmemh("{file}", vectors);
        hash = 32'h{FNV_BASIS:08x};
        for (i = 0; i < {len(lines)}; i = i + 1)
            for (part = 0; part < {parts}; part = part + 1)
                hash = (hash ^ vectors[i][{HASHED_BITS} * part +: {HASHED_BITS}]) * 32'h{FNV_PRIME:08x};
        failures = 0;
        clk = 0;
        if (hash !== 32'h{hash_of(lines, bits):08x}) begin
            $display("FAIL {unit.module} has no vectors: {file} is missing here, cut short or changed");
            {bad}
        end else begin
            for (i = 0; i < {len(lines)}; i = i + 1) begin
                {{in, expected, mask}} = vectors[i][{bits - 1}:0];
                #1;
                if (((out ^ expected) & mask) !== {outside}'d0) begin
                    failures = failures + 1;
                    if (failures <= 10)
                        $display("{unit.module}: vector %0d: in %h out %h expected %h mask %h",
                                 i, in, out, expected, mask);
                end
                {tick}
            end
            if (failures == 0) begin
                $display("PASS {unit.module} %0d vectors", i);
                {good}
            end else begin
                $display("FAIL {unit.module} %0d of %0d vectors", failures, i);
                {bad}
            end
        end
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
