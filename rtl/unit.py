"""A unit: a circuit, its ports, and the software function that it must equal."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyrtl
from pyrtl.wire import _reset_wire_indexers

from macloom.errors import MacloomError, require_positive_integer

Wires = Mapping[str, pyrtl.WireVector]
Values = Mapping[str, np.ndarray]

# Bits of a machine word; values of wider ports are Python integers.
WORD = 64

IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*\Z")


@dataclass(frozen=True, kw_only=True)
class Port:
    """A named bundle of wires. Values of signed ports are two's complement."""

    name: str
    width: int
    signed: bool = False

    def __post_init__(self) -> None:
        if not IDENTIFIER.match(self.name):
            raise MacloomError(f"port.name: must be lower-case letters, digits and underscores, not {self.name!r}")
        require_positive_integer(f"port {self.name}.width", self.width)

    def bits_of(self, values: np.ndarray) -> np.ndarray:
        """Return the bit patterns (uint64, Python integers beyond 64 bits) of integers that fit the port.

        Raises:
            MacloomError: a value does not fit.
        """
        values = np.asarray(values, object if self.width > WORD else np.int64)
        low, high = (
            (-(1 << (self.width - 1)), (1 << (self.width - 1)) - 1) if self.signed else (0, (1 << self.width) - 1)
        )
        if values.size and not (low <= int(values.min()) and int(values.max()) <= high):
            bad = values[(values < low) | (values > high)].flat[0]
            raise MacloomError(f"port {self.name}: {int(bad)} is not in [{low}, {high}]")
        if self.width > WORD:
            return values & ((1 << self.width) - 1)
        return values.astype(np.uint64) & np.uint64((1 << self.width) - 1)

    def values_of(self, bits: np.ndarray) -> np.ndarray:
        """Return the integers (int64, Python's beyond 64 bits) that bit patterns stand for."""
        if self.width > WORD:
            wide = np.asarray(bits, object)
            half = 1 << (self.width - 1) if self.signed else 0
            return (wide ^ half) - half
        values = np.asarray(bits, np.uint64).astype(np.int64)
        if self.signed and self.width < 64:
            half = np.int64(1 << (self.width - 1))
            values = (values ^ half) - half
        return values


def signed_width(low: int, high: int) -> int:
    """Return the width of the two's complement numbers from `low` to `high`.

    >>> signed_width(-8, 7), signed_width(0, 15)
    (4, 5)
    """
    return 1 + max(max(high, 0).bit_length(), (-low - 1).bit_length() if low < 0 else 0)


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A circuit with the software that defines it.

    Attributes:
        module: name of the Verilog module.
        inputs, outputs: ports, in the order of the module's ports.
        circuit: builds the circuit in PyRTL's working block: from input wires to output wires.
        model: the software: from integers per input port to integers per output port. That of a
            combinational circuit works element by element. A clocked one gets the inputs of successive
            cycles and returns the outputs during the same cycles, registers starting at 0.
        cares: from inputs to a mask per output port that says where that output is defined; an output
            without a mask is defined everywhere.
        clocked: whether the circuit has registers, which the rising edge of the module's `clk` updates.
        stimuli: from a number of vectors and a seed to inputs that exercise the unit, where random ones
            would not; there may be somewhat more or fewer of them.
        facts: what a user of the unit must know, such as `code_bits` and `exponent_offset`.
    """

    module: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    circuit: Callable[[Wires], Wires]
    model: Callable[[Values], Values]
    cares: Callable[[Values], Values] | None = None
    clocked: bool = False
    stimuli: Callable[[int, int], Values] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not IDENTIFIER.match(self.module):
            raise MacloomError(f"unit.module: must be lower-case letters, digits and underscores, not {self.module!r}")
        names = [port.name for port in (*self.inputs, *self.outputs)]
        if len(set(names)) < len(names) or not self.inputs or not self.outputs:
            raise MacloomError(f"unit {self.module}: must have inputs and outputs of different names, not {names}")

    @property
    def input_bits(self) -> int:
        return sum(port.width for port in self.inputs)


def elaborate(unit: Unit) -> pyrtl.Block:
    """Return the unit's circuit as a block of its own, with the names of its ports.

    Wire names depend on nothing but the unit, so that exports of the same unit are the same text.

    Raises:
        MacloomError: the circuit does not have the declared outputs.
    """
    block = pyrtl.Block()
    _reset_wire_indexers()
    with pyrtl.set_working_block(block, no_sanity_check=True):
        inputs = {port.name: pyrtl.Input(port.width, port.name) for port in unit.inputs}
        made = unit.circuit(inputs)
        declared = {port.name: port.width for port in unit.outputs}
        if {name: len(wire) for name, wire in made.items()} != declared:
            widths = {name: len(wire) for name, wire in made.items()}
            raise MacloomError(f"unit {unit.module}: its circuit makes {widths}, but its ports are {declared}")
        for name, wire in made.items():
            output = pyrtl.Output(len(wire), name)
            output <<= wire
    block.sanity_check()
    return block
