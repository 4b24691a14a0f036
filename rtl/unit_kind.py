"""What a kind of unit is, and what one asks of it beside a format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from macloom.arch import Dataflow
from macloom.errors import MacloomError
from macloom.formats.accumulator import Accumulator
from macloom.formats.policy import Overflow, Rounding
from macloom.formats.tensor import TensorFormat
from macloom.rtl.formats.source import Source
from macloom.rtl.unit import Unit


@dataclass(frozen=True, kw_only=True)
class UnitKind:
    """One kind of unit: what it is, how a format's record makes it, and what it takes of a `Shape`."""

    summary: str
    build: Callable[[TensorFormat, Shape], Unit]
    takes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What is asked of a unit beside its format; a kind of unit looks at what it takes (`UnitKind.takes`) alone.

    Attributes:
        accumulator: None takes the unit's own: `accumulator_for` the format in elements and arrays, `block:fp32` in
            dot units of blocks, and in those of tensor cores the oldest device's that takes the format, and the fewest
            others.
        source: what encoders take; None is fp16 for elements of up to 8 bits, else bf16.
        rounding: of encoders of single elements and of requantizers; None takes the format's own.
        overflow: of encoders of single elements.
        size: values of a Hadamard transform.
        narrow: format of the four elements that a fused one is made of.
    """

    rows: int = 8
    cols: int = 8
    dataflow: Dataflow = Dataflow.OS
    accumulator: Accumulator | None = None
    source: Source | None = None
    rounding: Rounding | None = None
    overflow: Overflow = Overflow.SATURATE
    size: int = 8
    narrow: TensorFormat | None = None

    def __post_init__(self) -> None:
        for name in ("rows", "cols", "size"):
            if getattr(self, name) < 1:
                raise MacloomError(f"rtl.{name}: must be a positive integer, not {getattr(self, name)}")
