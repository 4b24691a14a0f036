"""Two registers: one for the products of a block, one for the sums of blocks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from macloom.errors import MacloomError, require_positive_integer
from macloom.formats.accumulators.base import FAMILIES, Accumulator, Family, malformed
from macloom.formats.accumulators.exact import ExactAccumulator
from macloom.formats.accumulators.floating import FloatAccumulator, Order, SmallFloatAccumulator, parse_float
from macloom.formats.accumulators.integer import IntegerAccumulator, IntegerOverflow, parse_integer
from macloom.formats.accumulators.segments import Outer, by_matrix, by_tile, common_segment
from macloom.formats.gemm_report import GemmReport
from macloom.formats.operand import Operand


@dataclass(frozen=True, kw_only=True)
class BlockAccumulator(Accumulator):
    """Products of a block are summed in `inner`, the sums of blocks in the float register `outer`.

    A block is a stretch of K on which the scales of both operands are constant, cut into pieces of `size`
    products where that is given. At its end the inner sum is rounded to float32, multiplied by A's and
    B's scale, each product rounded to float32, rounded to the outer register's format, added to it, and
    rounded again. Blocks are added in ascending or descending order.
    """

    outer: FloatAccumulator | SmallFloatAccumulator = field(default_factory=FloatAccumulator)
    inner: IntegerAccumulator | ExactAccumulator = field(default_factory=ExactAccumulator)
    size: int | None = None
    order: Order = Order.ASCENDING

    def __post_init__(self) -> None:
        if self.size is not None:
            require_positive_integer("accumulator.size", self.size)
        object.__setattr__(self, "order", Order(self.order))
        if isinstance(self.outer, SmallFloatAccumulator) and (self.outer.fused or self.outer.order is Order.DESCENDING):
            raise MacloomError(
                f"accumulator.outer: adds sums of blocks, not products: {self.outer.name!r} must not be fused, and the "
                "order is that of the block accumulator"
            )

    @property
    def name(self) -> str:
        shown = {"e8m7": "bf16", "e5m10": "fp16"}.get(self.outer.name, self.outer.name)
        words = [shown, *([f"size={self.size}"] if self.size else [])]
        words += ["order=descending"] if self.order is Order.DESCENDING else []
        words += [f"inner={self.inner.name}"] if not isinstance(self.inner, ExactAccumulator) else []
        return "block:" + ",".join(words)

    def check(self, a: Operand, b: Operand) -> None:
        self.inner.check(*self._cut(a, b))

    def product(self, a: Operand, b: Operand, report: GemmReport) -> np.ndarray:
        a, b = self._cut(a, b)
        if isinstance(self.outer, FloatAccumulator) and self.order is Order.ASCENDING:
            return self.inner.product(a, b, report)
        descending, outer = self.order is Order.DESCENDING, self._outer()
        return by_matrix(
            a, b, report, lambda x, y, where: by_tile(x, y, self.inner, outer, report, where, descending=descending)
        )

    def _outer(self) -> Outer:
        from macloom.formats.kernels.accumulate import drain
        from macloom.formats.kernels.accumulate_float import drain_short, drain_to_register

        if isinstance(self.outer, FloatAccumulator):
            return drain
        digits, least, mode, largest, beyond = self.outer.kernel_arguments()
        if self.outer.short:
            drop = np.uint32(23 - digits)
            return lambda sums, unit, left, right, total: drain_short(sums, unit, left, right, drop, total)

        def add(sums: np.ndarray, unit: float, left: np.ndarray, right: np.ndarray, total: np.ndarray) -> None:
            drain_to_register(sums, unit, left, right, digits, least, mode, largest, beyond, total)

        return add

    def _cut(self, a: Operand, b: Operand) -> tuple[Operand, Operand]:
        """Return the operands with the scales of blocks repeated for pieces of `size`."""
        segment = common_segment(a, b)
        if self.size is None or self.size >= segment:
            return a, b
        if segment != a.units.shape[-1] and segment % self.size:
            raise MacloomError(
                f"gemm: {self.name!r} cuts blocks of {segment} elements ({a.label} and {b.label}) into pieces of "
                f"{self.size}; choose a size that divides {segment}"
            )
        return cut(a, self.size), cut(b, self.size)


def cut(operand: Operand, size: int) -> Operand:
    """Return an operand whose blocks along K have `size` elements; the scale of a longer block is repeated."""
    depth = operand.units.shape[-1]
    block, pieces = min(operand.block, depth), -(-depth // size)

    def repeated(values: np.ndarray) -> np.ndarray:
        return np.repeat(values, -(-block // size), axis=-1)[..., :pieces]

    zeros = None if operand.zeros is None else repeated(operand.zeros)
    return replace(operand, block=size, scales=repeated(operand.scales), zeros=zeros)


@dataclass(frozen=True, kw_only=True)
class SpillAccumulator(Accumulator):
    """Dynamic fixed point: products of `width`-bit integers in int32, moved to float32 after every `spill` products.

    A 32-bit sum holds `spill` products of symmetric 16-bit integers up to 2; what is more may wrap or
    saturate. The sums are scaled and added in float32, in ascending order (Das et al., ICLR 2018).
    """

    width: int = 16
    spill: int = 2
    overflow: IntegerOverflow = IntegerOverflow.WRAP

    def __post_init__(self) -> None:
        if not 2 <= self.width <= 16:
            raise MacloomError(f"accumulator.width: must be from 2 to 16 bits, not {self.width}")
        require_positive_integer("accumulator.spill", self.spill)
        object.__setattr__(self, "overflow", IntegerOverflow(self.overflow))

    @property
    def name(self) -> str:
        policy = "" if self.overflow is IntegerOverflow.WRAP else f",{self.overflow.value}"
        return f"dfp{self.width}:spill={self.spill}{policy}"

    @property
    def registers(self) -> BlockAccumulator:
        """The same registers by their general name."""
        return BlockAccumulator(inner=IntegerAccumulator(bits=32, overflow=self.overflow), size=self.spill)

    def check(self, a: Operand, b: Operand) -> None:
        largest = (1 << (self.width - 1)) - 1
        for operand in (a, b):
            if operand.max_unit > largest:
                raise MacloomError(
                    f"gemm: accumulator {self.name!r} multiplies {self.width}-bit integers, and {operand.label} (in "
                    f"the product of {a.label} and {b.label}) needs {operand.max_unit.bit_length() + 1} bits"
                )
        self.registers.check(a, b)

    def product(self, a: Operand, b: Operand, report: GemmReport) -> np.ndarray:
        return self.registers.product(a, b, report)


def _parse_block(head: str, options: str) -> Accumulator:
    text = f"{head}:{options}" if options else head
    before, _, inner = options.partition("inner=")
    words = [word for word in before.split(",") if word]
    if head != "block" or not words:
        raise malformed(_BLOCK, text)
    size, order, outer = None, Order.ASCENDING, []
    for word in words:
        key, _, value = word.partition("=")
        if key == "size" and value.isdigit():
            size = int(value)
        elif word in ("order=ascending", "order=descending"):
            order = Order(value)
        elif key in ("size", "order"):
            raise malformed(_BLOCK, text)
        else:
            outer.append(word)
    kind, _, options = ",".join(outer).partition(":")
    register = parse_float(kind, options)
    width, _, policy = inner.partition(":")
    inside = ExactAccumulator() if inner in ("", "exact") else parse_integer(width, policy)
    return BlockAccumulator(outer=register, inner=inside, size=size, order=order)


def _parse_spill(head: str, options: str) -> Accumulator:
    text = f"{head}:{options}" if options else head
    if not head[3:].isdigit():
        raise malformed(_SPILL, text)
    spill, overflow = None, IntegerOverflow.WRAP
    for word in filter(None, options.split(",")):
        key, _, value = word.partition("=")
        if key == "spill" and value.isdigit():
            spill = int(value)
        elif word in [o.value for o in IntegerOverflow]:
            overflow = IntegerOverflow(word)
        else:
            raise malformed(_SPILL, text)
    if spill is None:
        from macloom.formats.tensors.dfp import safe_chain

        spill = safe_chain(int(head[3:]))
    return SpillAccumulator(width=int(head[3:]), spill=spill, overflow=overflow)


_BLOCK = FAMILIES.add(
    "block",
    Family(
        form="block:fp32|bf16|eXmY...[,size=K][,order=descending][,inner=exact|intN...]",
        summary="one register inside scale blocks (or K products), a float register across them",
        parse=_parse_block,
        examples=("block:bf16", "block:fp16,inner=int24:saturate", "block:fp32,size=32,order=descending"),
    ),
)
_SPILL = FAMILIES.add(
    "dfp",
    Family(
        form="dfpP[:spill=L][,wrap|saturate|error]",
        summary="dynamic fixed point: 32-bit sums of L products of P-bit integers, added in float32",
        parse=_parse_spill,
        examples=("dfp16:spill=2", "dfp12:spill=512,saturate"),
    ),
)
