"""Which tensor cores have a dot unit, and what one holds: its registers, its scales, the order of its operands."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from macloom.errors import MacloomError
from macloom.formats.elements.minifloat import FloatFormat
from macloom.formats.tensor import TensorFormat
from macloom.formats.tensor_core.operands import ScaledBlocks, dealt
from macloom.formats.tensor_core.presets import presets_taking
from macloom.formats.tensor_core.record import FP16, FP32, INT32, Register, TensorCoreAccumulator
from macloom.rtl.floats import FloatRegister
from macloom.rtl.formats.pairs import identifier
from macloom.rtl.unit import Port


@dataclass(frozen=True, kw_only=True)
class TensorDot:
    """Two formats and the tensor core that multiplies them; its `block` is the number of products of a step."""

    a: TensorFormat
    b: TensorFormat
    core: TensorCoreAccumulator

    def __post_init__(self) -> None:
        _check_core(self.core)
        for fmt in (self.a, self.b):
            _check_operand(self.core, fmt)

    @cached_property
    def elements(self) -> tuple[FloatFormat, FloatFormat]:
        made = (self.a.element, self.b.element)
        assert isinstance(made[0], FloatFormat)
        assert isinstance(made[1], FloatFormat)
        return made[0], made[1]

    @cached_property
    def scale_formats(self) -> tuple[FloatFormat, FloatFormat]:
        """Element formats of both sides' scales, where the instruction takes scales."""
        assert isinstance(self.a, ScaledBlocks)
        assert isinstance(self.b, ScaledBlocks)
        made = (self.a.scale_format, self.b.scale_format)
        assert isinstance(made[0], FloatFormat)
        assert isinstance(made[1], FloatFormat)
        return made[0], made[1]

    @property
    def scales(self) -> int:
        """Scales of each side in one step, 0 without any."""
        core = self.core
        return max(core.block // core.scale_block, 1) if core.scale_block else 0

    @cached_property
    def scale_ports(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of the ports of A's scales and of B's."""
        names = ("scale_a", "scale_b")
        if self.scales == 1:
            return (names[0],), (names[1],)
        a, b = (tuple(f"{name}{i}" for i in range(self.scales)) for name in names)
        return a, b

    @property
    def late(self) -> bool:
        """Whether the running sum is added outside the block, to a register of its own."""
        return self.core.promote > 0

    @property
    def chained(self) -> bool:
        """Whether several blocks are chained before their sum is added late, when `promote` says so."""
        return self.core.promote > self.core.block

    @cached_property
    def inner(self) -> FloatRegister:
        """What the aligned sum is rounded to."""
        return replace(_codes_of(self.core.register), rounding=self.core.rounding)

    @property
    def register(self) -> FloatRegister:
        """What holds the running sum."""
        return _codes_of(self.core.late) if self.late else self.inner

    @cached_property
    def registers(self) -> dict[str, int]:
        """Width of every register of the unit: the running sum, and the chain where there is one."""
        return {"total": self.register.bits} | ({"chain": self.inner.bits} if self.chained else {})

    @cached_property
    def ports(self) -> tuple[Port, ...]:
        """The operands of a step: codes, scales, and whether the chain is added late."""
        codes = (
            Port(name=f"{name}{i}", width=element.bits)
            for name, element in zip("ab", self.elements, strict=True)
            for i in range(self.core.block)
        )
        scales = ()
        if self.scales:
            scales = (
                Port(name=port, width=fmt.bits)
                for ports, fmt in zip(self.scale_ports, self.scale_formats, strict=True)
                for port in ports
            )
        return (*codes, *scales, *([Port(name="promote", width=1)] if self.chained else []))

    @property
    def module(self) -> str:
        names = identifier(self.a.name) if self.a == self.b else f"{identifier(self.a.name)}_{identifier(self.b.name)}"
        return f"{names}_{identifier(self.core.name)}_dot"

    @property
    def facts(self) -> dict[str, object]:
        """What `unit.json` says: how to feed the unit, beside its ports."""
        core = self.core
        made: dict[str, object] = {
            "tensor_core": core.name,
            "block": core.block,
            "instruction": core.k,
            "fraction": core.fraction,
            "register": self.register.name,
            "sum": "late, with promote" if self.chained else "late" if self.late else "in the block",
        }
        if self.chained:
            made |= {"chain": self.inner.name, "promote_every": core.promote // core.block}
        if core.scale_block:
            made |= {"scale_block": core.scale_block, "scales": [fmt.name for fmt in self.scale_formats]}
        if core.run:
            made["elements"] = dealt(core, core.k).reshape(-1, core.block).tolist()
        return made


def _codes_of(register: Register) -> FloatRegister:
    return FloatRegister(
        exponent_bits=(2 * register.max_exponent + 1).bit_length(), mantissa_bits=register.mantissa_bits
    )


def _check_core(core: TensorCoreAccumulator) -> None:
    if core.register is INT32:
        raise MacloomError(
            f"rtl: {core.name!r} sums integers, without alignment; its element is the unit 'pe' with the accumulator "
            "'int32'"
        )
    if core.split > 1:
        whole = replace(core, split=1)
        raise MacloomError(
            f"rtl: {core.name!r} has no dot unit of its own: the {core.split} parts of K are sums of the unit of "
            f"{whole.name!r}, which are added in float32 afterwards"
        )
    if core.late is not FP32 and (core.late is not FP16 or core.register is not FP16):
        raise MacloomError(
            f"rtl: {core.name!r} has no dot unit: late sums are kept in fp32, or in fp16 where blocks leave fp16, not "
            f"in {core.late} after {core.register}"
        )
    if core.group > 1 and core.scale_block % core.group:
        raise MacloomError(
            f"rtl: {core.name!r} has no dot unit: groups of {core.group} products must lie within the "
            f"{core.scale_block} elements of a scale"
        )
    if core.scale_block and core.scale_block % core.block and core.block % core.scale_block:
        raise MacloomError(
            f"rtl: {core.name!r} has no dot unit: its block must divide the {core.scale_block} elements of a scale, or "
            f"be a multiple of them, not {core.block}; change it with block=N,k=N"
        )


def _check_operand(core: TensorCoreAccumulator, fmt: TensorFormat) -> None:
    if fmt.element not in core.takes or fmt.max_unit != fmt.element.largest_unit:
        taken = ", ".join(element.name for element in core.takes)
        others = presets_taking(fmt.element, fmt.block is not None) if fmt.element not in core.takes else []
        fits = f"; it fits {', '.join(others[:3])}" if others else ""
        raise MacloomError(f"rtl: {core.name!r} takes {taken}, not {fmt.name!r}{fits}")
    scale = fmt.scale_format if fmt.block is not None and isinstance(fmt, ScaledBlocks) else None
    if core.scale_block and (fmt.block != core.scale_block or scale not in core.scales):
        names = " or ".join(element.name for element in core.scales)
        raise MacloomError(
            f"rtl: {core.name!r} takes blocks of {core.scale_block} elements with a scale ({names}), not {fmt.name!r}"
        )
    if not core.scale_block and fmt.block is not None:
        raise MacloomError(f"rtl: {core.name!r} takes no scales, not {fmt.name!r}")
    if core.scale_block and core.group == 1 and isinstance(scale, FloatFormat) and scale.mantissa_bits:
        raise MacloomError(
            f"rtl: {core.name!r} has no dot unit for {fmt.name!r}: without groups, scales are powers of two"
        )
    element, reads = fmt.element, core.reads
    if reads is None or not isinstance(element, FloatFormat):
        return
    gap = element.min_exponent - reads.min_exponent
    if gap and gap < element.mantissa_bits:
        raise MacloomError(
            f"rtl: {core.name!r} has no dot unit for {fmt.name!r}, of whose subnormals {reads.name} has some as normal "
            "numbers and some not"
        )
