"""The compute array: one processing element, and the grid that repeats it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from macloom.arch._check import choose, require_boolean
from macloom.arch.gate_costs import load_gate_costs
from macloom.errors import MacloomError, require_positive_integer, unknown


class Dataflow(StrEnum):
    """Which operand stays in the processing elements while the others move."""

    OS = "os"
    WS = "ws"
    IS = "is"


class AccumulatorKind(StrEnum):
    """How partial sums are held: an integer register that is exact until it overflows, or a float that rounds."""

    INT = "int"
    FLOAT = "float"


@dataclass(frozen=True, kw_only=True)
class ProcessingElement:
    """One multiplier of two signed significands and the register that sums its products.

    Widths are in bits. `significand_bits` includes the sign. With `exponent_bits` above zero the
    element also adds the exponents of the two operands and shifts the product, as the
    exponent-integer pair of OliVe (ISCA 2023) or a float multiplier does. `fusable` elements join
    two by two to multiply significands of twice the width (four 4-bit elements are one 8-bit
    element). With `block_scaling` the scale of a block is applied in the accumulator; without it the
    partial sum of every block has to leave the array to be scaled. `gates` names the format whose generated
    element it is, a row of `arch/rtl_costs.toml`, which gives its area; empty where there is none.

    >>> ProcessingElement(significand_bits=8).accumulator_bits
    32
    """

    significand_bits: int
    exponent_bits: int = 0
    accumulator: AccumulatorKind = AccumulatorKind.INT
    accumulator_bits: int = 32
    fusable: bool = False
    block_scaling: bool = False
    gates: str = ""

    def __post_init__(self) -> None:
        path = "arch.array.pe"
        require_positive_integer(f"{path}.significand_bits", self.significand_bits)
        require_positive_integer(f"{path}.accumulator_bits", self.accumulator_bits)
        if not isinstance(self.exponent_bits, int) or isinstance(self.exponent_bits, bool) or self.exponent_bits < 0:
            raise MacloomError(
                f"{path}.exponent_bits: must be zero (no exponent path) or a positive integer, not "
                f"{self.exponent_bits!r}"
            )
        object.__setattr__(self, "accumulator", choose(AccumulatorKind, f"{path}.accumulator", self.accumulator))
        for name in ("fusable", "block_scaling"):
            require_boolean(f"{path}.{name}", getattr(self, name))
        if not isinstance(self.gates, str) or (self.gates and "mac" not in load_gate_costs().get(self.gates, ())):
            raise unknown(f"{path}.gates", self.gates, load_gate_costs(), "formats of arch/rtl_costs.toml")
        if self.accumulator is AccumulatorKind.INT and self.accumulator_bits < 2 * self.significand_bits:
            raise MacloomError(
                f"{path}.accumulator_bits: must hold a product of {2 * self.significand_bits} bits, "
                f"not {self.accumulator_bits}"
            )


@dataclass(frozen=True, kw_only=True)
class Array:
    """A systolic grid of `rows` x `cols` equal processing elements.

    `dataflow` is the default of the array. With `shadow_registers` the next stationary tile loads (or
    the finished outputs drain) while the present one computes, so that folds overlap. With
    `border_decoders` operands reach the array as codes and are decoded once per row and column;
    without them only codes that already are operands can enter; a code takes `decoder_latency` cycles
    through a decoder, which takes a new one every cycle. A chip may have `count` such arrays, which share
    buffers, DRAM channel and vector unit and take pieces of one product in turn.

    >>> Array(rows=64, cols=32, pe=ProcessingElement(significand_bits=8)).peak_macs_per_cycle
    2048
    """

    rows: int
    cols: int
    pe: ProcessingElement
    dataflow: Dataflow = Dataflow.OS
    shadow_registers: bool = False
    border_decoders: bool = False
    decoder_latency: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        for name in ("rows", "cols", "count"):
            require_positive_integer(f"arch.array.{name}", getattr(self, name))
        latency = self.decoder_latency
        if not isinstance(latency, int) or isinstance(latency, bool) or latency < 0:
            raise MacloomError(
                f"arch.array.decoder_latency: must be zero or a positive integer of cycles, not {latency!r}"
            )
        if latency and not self.border_decoders:
            raise MacloomError("arch.array.decoder_latency: must be 0 without border_decoders")
        if not isinstance(self.pe, ProcessingElement):
            raise MacloomError(f"arch.array.pe: must be a ProcessingElement, not {self.pe!r}")
        object.__setattr__(self, "dataflow", choose(Dataflow, "arch.array.dataflow", self.dataflow))
        for name in ("shadow_registers", "border_decoders"):
            require_boolean(f"arch.array.{name}", getattr(self, name))
        if self.pe.fusable:
            for name in ("rows", "cols"):
                if getattr(self, name) % 2:
                    raise MacloomError(
                        f"arch.array.{name}: must be even, because the PEs fuse two by two, not {getattr(self, name)}"
                    )

    @property
    def pes(self) -> int:
        """Processing elements of all arrays together."""
        return self.count * self.rows * self.cols

    @property
    def peak_macs_per_cycle(self) -> int:
        """Multiply-accumulates per cycle with every element busy, on operands of the element's own width."""
        return self.pes
