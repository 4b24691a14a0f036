"""Border units that scale the sums of blocks and add them up: the accumulator `block:...` at the edge of an array.

Every column has one. The sum that leaves is rounded to float32, multiplied by A's and by B's scale, rounded to the
float register's format and added to the total of the blocks before, which comes through a port: the steps of the dot
unit of blocks, with the products summed in the array.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pyrtl import WireVector

from macloom.formats.elements.minifloat import FloatFormat
from macloom.rtl.float_units import added, float_codes, to_float32
from macloom.rtl.floats import FP32_REGISTER, FloatRegister, converted, from_integer, plus, times
from macloom.rtl.unit import Port, Values, Wires


@dataclass(frozen=True, kw_only=True)
class BlockScales:
    """What the border units of an array read, and the register's format.

    Attributes:
        a, b: formats of the scales of both operands.
        register: of the totals.
        unit_exponent: of the array's sums.
        cols: one unit each.
    """

    a: FloatFormat
    b: FloatFormat
    register: FloatRegister
    unit_exponent: int
    cols: int

    @property
    def inputs(self) -> tuple[Port, ...]:
        """The scale of the row of A that leaves, those of the columns' rows of B, and the totals so far."""
        columns = range(self.cols)
        return (
            Port(name="scale_a", width=self.a.bits),
            *(Port(name=f"scale_b{j}", width=self.b.bits) for j in columns),
            *(Port(name=f"total_in{j}", width=self.register.bits) for j in columns),
        )

    @property
    def outputs(self) -> tuple[Port, ...]:
        """The totals with this block."""
        return tuple(Port(name=f"total{j}", width=self.register.bits) for j in range(self.cols))

    def wires(self, sums: Wires, inputs: Wires) -> dict[str, WireVector]:
        """Return the totals for the sums on `sum0`, ...."""
        made = {}
        for j in range(self.cols):
            term = from_integer(FP32_REGISTER, sums[f"sum{j}"], self.unit_exponent)
            term = times(FP32_REGISTER, term, self.a, inputs["scale_a"])
            term = times(FP32_REGISTER, term, self.b, inputs[f"scale_b{j}"])
            if self.register != FP32_REGISTER:
                term = converted(self.register, FP32_REGISTER, term)
            made[f"total{j}"] = plus(self.register, inputs[f"total_in{j}"], term)
        return made

    def values(self, sums: Values, inputs: Values, valid: np.ndarray) -> dict[str, np.ndarray]:
        """Return the same in software, in the cycles in which sums leave; 0 in others."""
        made, at = {}, np.flatnonzero(valid)
        for j in range(self.cols):
            with np.errstate(over="ignore", under="ignore", invalid="ignore"):
                term = to_float32(np.asarray(sums[f"sum{j}"])[at], self.unit_exponent)
                for name, fmt in (("scale_a", self.a), (f"scale_b{j}", self.b)):
                    term = term * fmt.values[np.asarray(inputs[name])[at]].astype(np.float32)
            before = self.register.values_of(np.asarray(inputs[f"total_in{j}"])[at])
            made[f"total{j}"] = np.zeros(len(valid), np.int64)
            made[f"total{j}"][at] = self.register.codes_of(added(self.register, before, term))
        return made

    def random(self, cycles: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return inputs for so many cycles: positive scales, and totals that are finite and not -0, as they are."""
        made = {}
        for port in self.inputs:
            if port.name.startswith("scale"):
                values = (self.a if port.name == "scale_a" else self.b).values
                made[port.name] = rng.choice(np.flatnonzero(np.isfinite(values) & (values > 0)), cycles)
            else:
                codes = float_codes(self.register, cycles, int(rng.integers(1 << 30)), port.name)
                held = self.register.values_of(codes)
                made[port.name] = np.where(np.isfinite(held) & (held != 0), codes, 0)
        return made


@dataclass(frozen=True)
class BlockTotals:
    """The scales of one block of K and the totals of the blocks before, as codes, while a product runs.

    Attributes:
        a, b: the scales of the rows of both operands, (M,) and (N,).
        totals: (M, N), written over by `collect`.
    """

    a: np.ndarray
    b: np.ndarray
    totals: np.ndarray

    def padded(self, lines: int, columns: int) -> BlockTotals:
        """Return a copy with code 0 for the rows and columns that only fill up folds."""
        down, right = (0, lines - len(self.a)), (0, columns - len(self.b))
        return BlockTotals(np.pad(self.a, down), np.pad(self.b, right), np.pad(self.totals, (down, right)))

    def inputs(self, lines: np.ndarray, columns: np.ndarray, first: int, length: int) -> dict[str, np.ndarray]:
        """Return the border units' inputs of a fold whose sums of these lines leave from cycle `first` on."""
        leave = slice(first, first + len(lines))
        made = {"scale_a": np.zeros(length, np.int64)}
        made["scale_a"][leave] = self.a[lines]
        for j, column in enumerate(columns.tolist()):
            made[f"scale_b{j}"] = np.full(length, self.b[column])
            made[f"total_in{j}"] = np.zeros(length, np.int64)
            made[f"total_in{j}"][leave] = self.totals[lines, column]
        return made

    def collect(self, lines: np.ndarray, columns: np.ndarray, steps: np.ndarray, out: Values) -> None:
        """Keep the totals of these lines, which left at these steps."""
        for j, column in enumerate(columns.tolist()):
            self.totals[lines, column] = out[f"total{j}"][steps]
