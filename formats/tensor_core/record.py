"""The tensor core as a record: how one instruction adds products, and how a product of matrices chains it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import ClassVar

import numpy as np

from macloom._registry import Registry
from macloom.errors import MacloomError, require_positive_integer
from macloom.formats.accumulators.base import Accumulator
from macloom.formats.element import ElementFormat
from macloom.formats.elements.minifloat import FloatFormat
from macloom.formats.gemm_report import GemmReport
from macloom.formats.operand import Operand
from macloom.formats.policy import Rounding

# The sum of a block is kept in one 64-bit integer, products of 11-bit significands with four carry bits included.
MOST_FRACTION_BITS = 36


@dataclass(frozen=True, kw_only=True)
class Register:
    """What a sum is rounded to when it leaves the adder; the next block starts from it.

    E8M13 is float32 with the last ten mantissa bits at zero. INT32, without a mantissa, is exact modulo 2**32.
    """

    name: str
    mantissa_bits: int = 0
    min_exponent: int = -126  # of the smallest normal value; subnormals are supported
    max_exponent: int = 127

    def __str__(self) -> str:
        return self.name


REGISTERS = Registry[Register]("tc.register")
FP32 = REGISTERS.add("fp32", Register(name="fp32", mantissa_bits=23))
E8M13 = REGISTERS.add("e8m13", Register(name="e8m13", mantissa_bits=13))
FP16 = REGISTERS.add("fp16", Register(name="fp16", mantissa_bits=10, min_exponent=-14, max_exponent=15))
INT32 = REGISTERS.add("int32", Register(name="int32"))

CUTS = (Rounding.TOWARD_ZERO, Rounding.NEAREST_EVEN)


class SplitOrder(StrEnum):
    """Which tiles of K a part gets: a run of neighbours, or every S-th one."""

    CONTIGUOUS = "contiguous"
    INTERLEAVED = "interleaved"


class SplitSum(StrEnum):
    """In which order the float32 sums p of S parts are added.

    SERIAL: p0 + p1 + ... from the left. PAIRWISE: with h = ceil(S / 2), g_i = p_i + p_(i + h) where i + h is at most
    S - 2 and p_i elsewhere, for i < h; then g0 + p_(S - 1) + g1 + g2 + ... from the left (as mmaemu's "pairwise").
    """

    SERIAL = "serial"
    PAIRWISE = "pairwise"


class Maturity(StrEnum):
    """How well a preset is known.

    MEASURED: equal to outputs recorded on the device. MODELLED: equal to a model whose authors report
    that it equals the device. PUBLISHED: follows the documentation, compared with no device or model of one.
    """

    MEASURED = "measured"
    MODELLED = "modelled"
    PUBLISHED = "published"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One reason to believe a preset.

    Attributes:
        source: where it is from.
        kind: "measured" on a device or "published" by somebody.
        tested: what macloom was compared with it on, and the result.
        compared: whether it was compared at all.
    """

    source: str
    kind: str
    tested: str
    compared: bool = True


@dataclass(frozen=True, kw_only=True)
class TensorCoreAccumulator(Accumulator):
    """Blocks of products and the running sum, aligned to the largest exponent, cut off and added as integers.

    A block of `block` exact products and the sum so far are aligned to the largest exponent among them (that of a
    product is the sum of its operands' exponents, unnormalised; zeros have none; it is at least `lowest`),
    cut off below `fraction` bits, added exactly, and rounded to `register` by `rounding`.

    Attributes:
        preset: name of the preset that this record is, or that it was made from.
        device, instruction: what it models.
        takes: element formats of the operands, which may be mixed.
        scale_block, scales: for instructions with scales, elements along K that share one, and the element formats
            of a scale.
        block: products that are added at a time.
        group: products that are summed exactly before they are scaled and aligned; 1 where there are no groups.
        fraction: bits kept below the largest exponent.
        align: how the others are cut off there.
        lowest: the largest exponent is taken to be at least this.
        register, rounding: what a block's sum is rounded to, and how.
        k: elements along K that one instruction takes; K is padded to it with zeros, which change nothing.
        promote: elements along K after which the sum is added to a float32 register (nearest even) and a new one
            begins; 0 for never. With `promote` equal to `block` the running sum is added late: outside the block.
        late: the register that promoted sums are added to instead of float32.
        run: elements along K that stay together when those of an instruction are dealt out to its blocks in turn; 0
            where each block takes its neighbours.
        reads: the format that operands become first, exactly; their subnormals are normal there. None: their own.
        split: parts that K is cut into, whose sums are added in float32 (nearest even); see `order` and `sum`.
        tile: elements along K that are not cut by a split.
        operand_mantissa: mantissa bits of float32 operands that the instruction reads; the others are dropped.
        evidence, maturity: why one should believe it.

    >>> from macloom.formats.accumulator import get_accumulator
    >>> hopper = get_accumulator("tc:hopper-fp8")
    >>> hopper.block, hopper.fraction, hopper.register.name
    (32, 13, 'e8m13')
    >>> get_accumulator("tc:hopper-fp8,promote=128").promote
    128
    """

    adds_specials: ClassVar[bool] = True

    preset: str
    device: str
    instruction: str
    takes: tuple[ElementFormat, ...]
    scale_block: int = 0
    scales: tuple[ElementFormat, ...] = ()
    block: int
    group: int = 1
    fraction: int
    align: Rounding = Rounding.TOWARD_ZERO
    lowest: int
    register: Register = FP32
    rounding: Rounding = Rounding.TOWARD_ZERO
    k: int
    promote: int = 0
    split: int = 1
    tile: int = 128
    order: SplitOrder = SplitOrder.CONTIGUOUS
    sum: SplitSum = SplitSum.SERIAL
    operand_mantissa: int = 0
    late: Register = FP32
    run: int = 0
    reads: FloatFormat | None = None
    evidence: tuple[Evidence, ...] = ()
    maturity: Maturity = Maturity.PUBLISHED

    def __post_init__(self) -> None:
        for key in ("block", "group", "k", "split", "tile"):
            require_positive_integer(f"tc.{key}", getattr(self, key))
        if self.k % self.block:
            raise MacloomError(f"tc.block: must divide the {self.k} elements of an instruction, not {self.block}")
        if self.block % self.group:
            raise MacloomError(f"tc.block: must be a multiple of the group of {self.group}, not {self.block}")
        if not isinstance(self.fraction, int) or not 1 <= self.fraction <= MOST_FRACTION_BITS:
            raise MacloomError(f"tc.fraction: must be from 1 to {MOST_FRACTION_BITS}, not {self.fraction!r}")
        if not isinstance(self.lowest, int) or not -200 <= self.lowest <= 0:
            raise MacloomError(f"tc.lowest: must be from -200 to 0, not {self.lowest!r}")
        if self.group > 1 and (self.register is not FP32 or {self.align, self.rounding} != {Rounding.TOWARD_ZERO}):
            raise MacloomError(
                f"tc: groups are summed to fp32 toward zero only, not to {self.register.name} {self.rounding!s}"
            )
        for key in ("align", "rounding"):
            if getattr(self, key) not in CUTS:
                raise MacloomError(f"tc.{key}: must be toward_zero or nearest_even, not {getattr(self, key)!s}")
        if not isinstance(self.promote, int) or self.promote < 0 or self.promote % self.block:
            raise MacloomError(
                f"tc.promote: must be 0 or a multiple of the block of {self.block}, not {self.promote!r}"
            )
        if self.split > 1 and self.tile % self.block:
            raise MacloomError(f"tc.tile: must be a multiple of the block of {self.block}, not {self.tile}")
        if self.run and (self.block % self.run or self.scale_block or self.promote % self.k or self.tile % self.k):
            raise MacloomError(
                f"tc.run: elements dealt out to blocks need a block that is a multiple of {self.run}, no scales, and a "
                f"promote and tile that are multiples of k = {self.k}"
            )

    @property
    def name(self) -> str:
        from macloom.formats.tensor_core.presets import OPTIONS, get_preset

        base = get_preset(self.preset)
        changed = [f"{key}={getattr(self, key)!s}" for key in OPTIONS if getattr(self, key) != getattr(base, key)]
        return ",".join([f"tc:{self.preset}", *changed])

    def __str__(self) -> str:
        return self.name

    def check(self, a: Operand, b: Operand) -> None:
        from macloom.formats.tensor_core.operands import check

        check(self, a, b)

    def product(self, a: Operand, b: Operand, report: GemmReport) -> np.ndarray:
        from macloom.formats.tensor_core.product import product

        return product(self, a, b, report)


def with_options(record: TensorCoreAccumulator, **changes: object) -> TensorCoreAccumulator:
    """Return the record with some fields changed, which must be ones that a name can say.

    Raises:
        MacloomError: a field that belongs to the preset, such as the formats that it takes.
    """
    from macloom.formats.tensor_core.presets import OPTIONS

    for key in changes:
        if key not in OPTIONS:
            known = ", ".join(OPTIONS)
            belongs = key in {f.name for f in fields(record)}
            raise MacloomError(
                f"tc: {key!r} {'belongs to the preset' if belongs else 'is not a parameter'}; change one of {known}"
            )
    return replace(record, **changes)  # type: ignore[arg-type]
