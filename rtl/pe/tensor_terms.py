"""What a tensor core's block adds: products, or scaled sums of groups of them, and what is not finite, on wires."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pyrtl
from pyrtl import WireVector

from macloom.formats.elements.minifloat import FloatFormat
from macloom.rtl import wires as w
from macloom.rtl.floats import FloatRegister
from macloom.rtl.formats.rounder import Raw, unpack_float
from macloom.rtl.pe.alignment import Term, aligned_sum
from macloom.rtl.pe.exact_sum import ExactSum
from macloom.rtl.pe.tensor_design import TensorDot
from macloom.rtl.unit import Wires


@dataclass
class Summands:
    """The terms of a block that are numbers, and flags for NaN and for infinities of both signs."""

    terms: list[Term] = field(default_factory=list)
    nans: list[WireVector] = field(default_factory=list)
    positives: list[WireVector] = field(default_factory=list)
    negatives: list[WireVector] = field(default_factory=list)

    def add_infinity(self, infinite: WireVector, negative: WireVector) -> None:
        self.positives.append(infinite & w.inverted(negative))
        self.negatives.append(infinite & negative)


def block_sum(design: TensorDot, start: WireVector | None, inputs: Wires) -> WireVector:
    """Return the code of one block's sum, which begins with a code of the inner register, or with nothing."""
    summands, inner = Summands(), design.inner
    if design.core.group > 1:
        _add_groups(design, inputs, summands)
    else:
        _add_products(design, inputs, summands)
    if start is not None:
        c = unpack_float(inner, start, normalise=False)
        assert c.nan is not None
        assert c.infinity is not None
        summands.nans.append(c.nan)
        summands.add_infinity(c.infinity, c.negative)
        summands.terms.append(
            Term(c.negative, c.significand, c.exponent, inner.mantissa_bits, w.any_bit(c.significand))
        )
    return _with_specials(inner, aligned_sum(design.core, inner, summands.terms), summands)


def _with_specials(inner: FloatRegister, code: WireVector, summands: Summands) -> WireVector:
    up, down = (_any(flags) for flags in (summands.positives, summands.negatives))
    infinity = pyrtl.concat(down, w.constant(inner.infinity, inner.bits - 1))
    code = pyrtl.select(up | down, infinity, code)
    return pyrtl.select(_any(summands.nans) | (up & down), w.constant(inner.nan, inner.bits), code)


def _any(flags: Sequence[WireVector]) -> WireVector:
    return pyrtl.or_all_bits(pyrtl.concat_list(list(flags))) if flags else w.constant(0, 1)


def _sum_of(a: WireVector, b: WireVector) -> WireVector:
    """Return the sum of two exponents, one bit wider."""
    width = max(len(a), len(b)) + 1
    return w.low(w.signed_widened(a, width) + w.signed_widened(b, width), width)


def _read(design: TensorDot, element: FloatFormat, code: WireVector) -> tuple[Raw, int]:
    """Return an operand as the instruction reads it, and how many bits its significand has below the first."""
    core = design.core
    # Another format has the same value, but its exponent where this one's subnormals are normal there.
    raw = unpack_float(
        element, code, normalise=core.reads is not None and core.reads.min_exponent < element.min_exponent
    )
    point = element.mantissa_bits
    if core.operand_mantissa:  # NaN and infinity are told apart by all bits
        raw = replace(raw, significand=raw.significand[point - core.operand_mantissa :])
        point = core.operand_mantissa
    return raw, point


def _add_products(design: TensorDot, inputs: Wires, summands: Summands) -> None:
    """Add every product, with the exponents of both scales."""
    core, shifts = design.core, []
    for scale_a, scale_b in _scale_pairs(design, inputs, summands):
        shifts.append(_sum_of(scale_a.exponent, scale_b.exponent))
    for i in range(core.block):
        (a, point_a), (b, point_b) = (
            _read(design, element, inputs[f"{name}{i}"]) for name, element in zip("ab", design.elements, strict=True)
        )
        zero_a, zero_b = w.no_bit(a.significand), w.no_bit(b.significand)
        negative = a.negative ^ b.negative
        summands.nans.extend(flag for flag in (a.nan, b.nan) if flag is not None)
        for infinite, other in ((a.infinity, zero_b), (b.infinity, zero_a)):
            if infinite is not None:
                summands.nans.append(infinite & other)
                summands.add_infinity(infinite, negative)
        exponent = _sum_of(a.exponent, b.exponent)
        if shifts:
            exponent = _sum_of(exponent, shifts[i // core.scale_block])
        product = w.low(a.significand * b.significand, len(a.significand) + len(b.significand))
        summands.terms.append(Term(negative, product, exponent, point_a + point_b, w.inverted(zero_a | zero_b)))


def _add_groups(design: TensorDot, inputs: Wires, summands: Summands) -> None:
    """Add the exact sum of every group, times both scales; its exponent is that of the scales.

    A group whose products cancel keeps its exponent; one without products other than zero has none.
    """
    core, (a, b) = design.core, design.elements
    tree, pairs = ExactSum(a=a, b=b, size=core.group), _scale_pairs(design, inputs, summands)
    for start in range(0, core.block, core.group):
        scale_a, scale_b = pairs[start // core.scale_block]
        places = range(start, start + core.group)
        products = tree.products([inputs[f"a{i}"] for i in places], [inputs[f"b{i}"] for i in places])
        negative, magnitude = w.magnitude_of(w.total(products, tree.bits))
        present, point = _any([w.any_bit(product) for product in products]), -tree.unit_exponent
        for scale, fmt in zip((scale_a, scale_b), design.scale_formats, strict=True):
            negative = negative ^ scale.negative
            point += fmt.mantissa_bits
            if fmt.mantissa_bits:
                magnitude = w.low(magnitude * scale.significand, len(magnitude) + len(scale.significand))
            if fmt.zero:
                present = present & w.any_bit(scale.significand)
        exponent = _sum_of(scale_a.exponent, scale_b.exponent)
        summands.terms.append(Term(negative, magnitude, exponent, point, present))


def _scale_pairs(design: TensorDot, inputs: Wires, summands: Summands) -> list[tuple[Raw, Raw]]:
    """Return the scales of both sides that a step has; every sum with a scale that is NaN is NaN."""
    made = []
    for ports in zip(*design.scale_ports, strict=True) if design.scales else ():
        a, b = (
            unpack_float(fmt, inputs[port], normalise=False)
            for port, fmt in zip(ports, design.scale_formats, strict=True)
        )
        summands.nans.extend(flag for flag in (a.nan, b.nan) if flag is not None)
        made.append((a, b))
    return made
