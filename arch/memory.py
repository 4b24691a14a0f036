"""On-chip buffers and the memory behind them."""

from __future__ import annotations

from dataclasses import dataclass

from macloom.arch._check import require_boolean, require_name, require_positive
from macloom.errors import MacloomError, require_positive_integer


@dataclass(frozen=True, kw_only=True)
class Sram:
    """One on-chip buffer: `size_bits` in all, `bandwidth_bits_per_cycle` through its port.

    A `double_buffered` buffer computes from one half while the other half is filled or drained.

    >>> Sram(size_bits=2048, bandwidth_bits_per_cycle=64).usable_bits
    1024
    """

    size_bits: int
    bandwidth_bits_per_cycle: int
    double_buffered: bool = True

    def __post_init__(self) -> None:
        require_positive_integer("arch.buffers.size_bits", self.size_bits)
        require_positive_integer("arch.buffers.bandwidth_bits_per_cycle", self.bandwidth_bits_per_cycle)
        require_boolean("arch.buffers.double_buffered", self.double_buffered)

    @property
    def usable_bits(self) -> int:
        """Bits that one tile may occupy: half of a double-buffered memory."""
        return self.size_bits // 2 if self.double_buffered else self.size_bits


@dataclass(frozen=True, kw_only=True)
class Buffers:
    """The buffers of the two operands of a matrix product (`a`: M rows, `b`: N rows) and of its outputs."""

    operand_a: Sram
    operand_b: Sram
    output: Sram

    def __post_init__(self) -> None:
        for name in ("operand_a", "operand_b", "output"):
            if not isinstance(getattr(self, name), Sram):
                raise MacloomError(f"arch.buffers.{name}: must be an Sram, not {getattr(self, name)!r}")

    @property
    def size_bits(self) -> int:
        """Bits of the three buffers together."""
        return self.operand_a.size_bits + self.operand_b.size_bits + self.output.size_bits


@dataclass(frozen=True, kw_only=True)
class Dram:
    """The off-chip memory: one channel that reads and writes share.

    `kind` names the device family; the technology gives its energy per bit.
    """

    kind: str
    bandwidth_bits_per_s: float

    def __post_init__(self) -> None:
        require_name("arch.dram.kind", self.kind)
        require_positive("arch.dram.bandwidth_bits_per_s", self.bandwidth_bits_per_s)
