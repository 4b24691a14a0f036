"""The dot unit of tensor cores: products and the running sum aligned to the largest exponent, cut off, added, rounded.

It is one block of a `TensorCoreAccumulator` in gates (Fasi, Higham, Mikaitis and Pranesh 2021, PeerJ Computer Science
7:e330; Xie et al., arXiv:2511.10909): G exact products, F fraction bits kept below the largest exponent. The running
sum is one of the terms, or is added late in float32. The circuit follows the record; no device's own is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyrtl
from pyrtl import WireVector

from macloom.errors import MacloomError
from macloom.formats.elements.minifloat import FloatFormat
from macloom.formats.operand import Operand
from macloom.formats.tensor import TensorFormat
from macloom.formats.tensor_core.product import multiply_add
from macloom.formats.tensor_core.record import FP32, INT32, TensorCoreAccumulator
from macloom.rtl import wires as w
from macloom.rtl.float_units import added, float_codes
from macloom.rtl.floats import FP32_REGISTER, FloatRegister, converted, plus
from macloom.rtl.formats.decoder import identifier
from macloom.rtl.formats.rounder import unpack_float
from macloom.rtl.pe.alignment import Term, aligned_sum
from macloom.rtl.pe.running import running_unit
from macloom.rtl.pe.stimuli import float_blocks
from macloom.rtl.unit import Port, Unit, Values, Wires


@dataclass(frozen=True, kw_only=True)
class TensorDot:
    """Two formats and the tensor core that multiplies them; its `block` is the number of products."""

    a: TensorFormat
    b: TensorFormat
    core: TensorCoreAccumulator

    def __post_init__(self) -> None:
        core = self.core
        if core.register is INT32:
            raise MacloomError(f"rtl: {core.name!r} sums integers, without alignment; its element is the unit 'pe'")
        if core.group > 1 or core.operand_mantissa or core.split > 1:
            raise MacloomError(
                f"rtl: {core.name!r} has no dot unit: groups with scales of their own, float32 operands and splits of "
                "K are not generated"
            )
        if core.reads is not None or core.run or core.late is not FP32:
            raise MacloomError(
                f"rtl: {core.name!r} has no dot unit: operands that become another format or are dealt out to blocks, "
                "and late sums in another register than float32, are not generated"
            )
        if core.promote not in (0, core.block):
            raise MacloomError(
                f"rtl: {core.name!r} has no dot unit: the running sum is in the block (promote=0) or added late, after "
                f"every block (promote={core.block})"
            )
        for fmt in (self.a, self.b):
            if fmt.element not in core.takes:
                taken = ", ".join(element.name for element in core.takes)
                raise MacloomError(f"rtl: {core.name!r} takes {taken}, not {fmt.name!r}")
            if bool(core.scale_block) != (fmt.block is not None) or (fmt.block or 0) != core.scale_block:
                raise MacloomError(
                    f"rtl: {core.name!r} takes "
                    + (f"blocks of {core.scale_block} elements with a scale" if core.scale_block else "no scales")
                    + f", not {fmt.name!r}"
                )

    @property
    def elements(self) -> tuple[FloatFormat, FloatFormat]:
        made = (self.a.element, self.b.element)
        assert isinstance(made[0], FloatFormat)
        assert isinstance(made[1], FloatFormat)
        return made[0], made[1]

    @property
    def late(self) -> bool:
        """Whether the running sum is added outside the block, in float32."""
        return self.core.promote > 0

    @cached_property
    def inner(self) -> FloatRegister:
        """What the aligned sum is rounded to."""
        register = self.core.register
        return FloatRegister(
            exponent_bits=(2 * register.max_exponent + 1).bit_length(),
            mantissa_bits=register.mantissa_bits,
            rounding=self.core.rounding,
        )

    @property
    def register(self) -> FloatRegister:
        """What holds the running sum."""
        return FP32_REGISTER if self.late else self.inner

    @property
    def module(self) -> str:
        names = identifier(self.a.name) if self.a == self.b else f"{identifier(self.a.name)}_{identifier(self.b.name)}"
        return f"{names}_{identifier(self.core.name)}_dot"


def _next(design: TensorDot, total: WireVector, inputs: Wires) -> WireVector:
    """Return the running sum after one more block."""
    core, inner = design.core, design.inner
    nans, positives, negatives, terms = [], [], [], []
    shift = None
    if core.scale_block:
        shift, broken = _scale(design, inputs)
        nans.append(broken)
    for i in range(core.block):
        a, b = (
            unpack_float(element, inputs[f"{name}{i}"], normalise=False)
            for name, element in zip("ab", design.elements, strict=True)
        )
        zero_a, zero_b = w.no_bit(a.significand), w.no_bit(b.significand)
        negative = a.negative ^ b.negative
        for flag in (a.nan, b.nan):
            if flag is not None:
                nans.append(flag)
        for infinite, other in ((a.infinity, zero_b), (b.infinity, zero_a)):
            if infinite is not None:
                nans.append(infinite & other)
                positives.append(infinite & w.inverted(negative))
                negatives.append(infinite & negative)
        width = max(len(a.exponent), len(b.exponent)) + 1
        exponent = w.low(w.signed_widened(a.exponent, width) + w.signed_widened(b.exponent, width), width)
        if shift is not None:
            width = max(width, len(shift)) + 1
            exponent = w.low(w.signed_widened(exponent, width) + w.signed_widened(shift, width), width)
        product = w.low(a.significand * b.significand, len(a.significand) + len(b.significand))
        point = sum(element.mantissa_bits for element in design.elements)
        terms.append(Term(negative, product, exponent, point, w.inverted(zero_a | zero_b)))
    if not design.late:
        c = unpack_float(inner, total, normalise=False)
        assert c.nan is not None and c.infinity is not None  # noqa: PT018
        nans.append(c.nan)
        positives.append(c.infinity & w.inverted(c.negative))
        negatives.append(c.infinity & c.negative)
        terms.append(Term(c.negative, c.significand, c.exponent, inner.mantissa_bits, w.any_bit(c.significand)))
    code = aligned_sum(core, inner, terms)
    up, down = (_any(flags) for flags in (positives, negatives))
    infinity = pyrtl.concat(down, w.constant(inner.infinity, inner.bits - 1))
    code = pyrtl.select(up | down, infinity, code)
    code = pyrtl.select(_any(nans) | (up & down), w.constant(inner.nan, inner.bits), code)
    if not design.late:
        return code
    if inner != FP32_REGISTER:
        code = converted(FP32_REGISTER, inner, code)
    return plus(FP32_REGISTER, total, code)


def _scale(design: TensorDot, inputs: Wires) -> tuple[WireVector, WireVector]:
    """Return the sum of the exponents of both power-of-two scales, and whether one is NaN."""
    a, b = (
        unpack_float(element, inputs[name], normalise=False)
        for name, element in zip(("scale_a", "scale_b"), _scale_elements(design), strict=True)
    )
    width = len(a.exponent) + 1
    assert a.nan is not None
    assert b.nan is not None
    total = w.low(w.signed_widened(a.exponent, width) + w.signed_widened(b.exponent, width), width)
    return total, a.nan | b.nan


def _scale_elements(design: TensorDot) -> tuple[FloatFormat, FloatFormat]:
    scale = design.core.scales[0]
    assert isinstance(scale, FloatFormat)
    return scale, scale


def _any(flags: Sequence[WireVector]) -> WireVector:
    return pyrtl.or_all_bits(pyrtl.concat_list(list(flags))) if flags else w.constant(0, 1)


def _sums(design: TensorDot, total: np.ndarray, inputs: Values) -> np.ndarray:
    """Return the running sums after one more block, float32, as the arithmetic room gives them."""
    core, operands = design.core, []
    for name, fmt, element in zip("ab", (design.a, design.b), design.elements, strict=True):
        table, unit, largest = element.units
        codes = np.stack([np.asarray(inputs[f"{name}{i}"]) for i in range(core.block)], axis=-1)[:, None, :]
        scales = np.ones((len(codes), 1, 1), np.float32)
        if core.scale_block:
            scales = _scale_elements(design)[0].values[np.asarray(inputs[f"scale_{name}"])].astype(np.float32)
        scales = np.ascontiguousarray(scales.reshape(-1, 1, 1))
        units = np.ascontiguousarray(table[codes], np.float32)
        operands.append(Operand(units, unit, scales, core.block, np.float32(1), largest, format=fmt))
    plain = replace(core, promote=0)
    start = np.zeros(len(total), np.float32) if design.late else np.asarray(total, np.float32)
    sums = multiply_add(plain, operands[0], operands[1], start[:, None, None])[:, 0, 0]
    return added(FP32_REGISTER, total, sums) if design.late else sums


def _ports(design: TensorDot) -> tuple[Port, ...]:
    block = design.core.block
    codes = tuple(
        Port(name=f"{name}{i}", width=element.bits)
        for name, element in zip("ab", design.elements, strict=True)
        for i in range(block)
    )
    if not design.core.scale_block:
        return codes
    return (
        *codes,
        *(Port(name=f"scale_{n}", width=e.bits) for n, e in zip("ab", _scale_elements(design), strict=True)),
    )


def _facts(design: TensorDot) -> dict[str, object]:
    core = design.core
    return {
        "tensor_core": core.name,
        "block": core.block,
        "fraction": core.fraction,
        "register": design.register.name,
        "sum": "late" if design.late else "in the block",
    }


def tensor_dot_step(design: TensorDot, module: str | None = None) -> Unit:
    """Return the datapath alone: the codes of one block and the running sum `total` to the `next` one."""
    register = design.register

    def model(inputs: Values) -> Values:
        return {"next": register.codes_of(_sums(design, register.values_of(inputs["total"]), inputs))}

    def cares(inputs: Values) -> Values:
        total = register.values_of(inputs["total"])
        return {"next": ~((total == 0) & np.signbit(total))}  # which no running sum is

    def stimuli(count: int, seed: int) -> Values:
        made = _codes(design, count, seed)
        rng = np.random.default_rng([seed, 1])
        near = register.codes_of(_sums(design, np.zeros(count, np.float32), made))
        moved = near + rng.integers(-3, 4, count) * (1 << rng.integers(0, register.mantissa_bits + 4, count))
        near = (moved ^ rng.integers(0, 2, count) << (register.bits - 1)) & ((1 << register.bits) - 1)
        return {**made, "total": np.where(rng.random(count) < 0.7, near, float_codes(register, count, seed, "total"))}

    return Unit(
        module=module or f"{design.module}_step",
        inputs=(*_ports(design), Port(name="total", width=register.bits)),
        outputs=(Port(name="next", width=register.bits),),
        circuit=lambda inputs: {"next": _next(design, inputs["total"], inputs)},
        model=model,
        cares=cares,
        stimuli=stimuli,
        facts=_facts(design),
    )


def tensor_dot(design: TensorDot, module: str | None = None) -> Unit:
    """Return the unit with its register: in every cycle with `valid` one block is added to `sum`.

    With `clear` the register starts anew from +0. An instruction of more elements than a block is several cycles.

    >>> from macloom.formats import get_accumulator, get_format
    >>> fp16, core = get_format("fp16"), get_accumulator("tc:volta-fp16")
    >>> tensor_dot(TensorDot(a=fp16, b=fp16, core=core)).module
    'fp16_tc_volta_fp16_dot'
    """
    register = design.register

    def model(inputs: Values) -> Values:
        sums, total = [], np.float32(0)
        names = [port.name for port in _ports(design)]
        for step, (clear, valid) in enumerate(zip(inputs["clear"].tolist(), inputs["valid"].tolist(), strict=True)):
            sums.append(total)
            if valid:
                one = {name: np.asarray(inputs[name])[step : step + 1] for name in names}
                total = _sums(design, np.array([0 if clear else total], np.float32), one)[0]
        return {"sum": register.codes_of(np.array(sums, np.float32))}

    return running_unit(
        module or design.module,
        _ports(design),
        register.bits,
        lambda total, inputs: _next(design, total, inputs),
        model,
        lambda count, seed: _codes(design, count, seed, 0.004),
        _facts(design),
        clear_share=0.08,
    )


def _codes(design: TensorDot, count: int, seed: int, special: float = 0.05) -> dict[str, np.ndarray]:
    scales = _scale_elements(design) if design.core.scale_block else ()
    return float_blocks(design.elements, scales, design.core.block, count, seed, special)
