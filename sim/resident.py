"""What of one operation is on chip already, or stays there."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Resident:
    """Tensors of an operation that stay on chip.

    Attributes:
        inputs: how many of its inputs are there already; for a product 1 or 0, operand A.
        out: whether its result is not stored in DRAM.
        held_bits: of all tensors that are kept while it runs; no comparison looks at it.
    """

    inputs: int = 0
    out: bool = False
    held_bits: int = field(default=0, compare=False)

    @property
    def a(self) -> bool:
        return self.inputs > 0


NOT_RESIDENT = Resident()
