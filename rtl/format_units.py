"""Units that serve a format without decoding or encoding its elements: scales, transforms, requantizers."""

from __future__ import annotations

from dataclasses import replace

from macloom.errors import MacloomError
from macloom.formats.accumulator import IntegerAccumulator
from macloom.formats.elements.integer import IntFormat
from macloom.formats.elements.minifloat import FloatFormat
from macloom.formats.policy import Rounding
from macloom.formats.scales import Grain
from macloom.formats.tensor import TensorFormat
from macloom.formats.tensors.affine import Affine
from macloom.formats.tensors.block import Block
from macloom.formats.tensors.scaled import Scaled
from macloom.rtl.formats.decoder import decoder, identifier
from macloom.rtl.formats.hadamard import hadamard
from macloom.rtl.formats.source import WIDEST_LISTED
from macloom.rtl.pe.fused import fused_multiplier
from macloom.rtl.requantizer import requantizer
from macloom.rtl.unit import Unit
from macloom.rtl.unit_kind import Shape


def scale_decoder_of(fmt: TensorFormat, shape: Shape) -> Unit:
    """Return the decoder of the scales of a format's blocks, groups or tensors."""
    scale = fmt.scale_format if isinstance(fmt, Block | Scaled | Affine) else None
    if isinstance(fmt, Scaled) and fmt.granularity.grain is Grain.NONE:
        scale = None
    if not isinstance(scale, FloatFormat) or scale.bits > WIDEST_LISTED:
        held = "no scale that is a number of its own" if not isinstance(scale, FloatFormat) else f"{scale.name} scales"
        raise MacloomError(
            f"rtl: format {fmt.name!r} has no scale decoder: it has {held}; scales of up to {WIDEST_LISTED} bits "
            "have one"
        )
    unit = decoder(scale, f"{identifier(scale.name)}_scale_decoder")
    return replace(unit, facts={**unit.facts, "scale_of": fmt.name})


def _integer(fmt: TensorFormat, kind: str) -> IntFormat:
    """Return a format's elements, which must be signed integers."""
    element = fmt.element
    if not isinstance(fmt, Scaled) or not isinstance(element, IntFormat) or not element.signed or element.fraction_bits:
        raise MacloomError(f"rtl: format {fmt.name!r} has no {kind}: its elements are no signed integers")
    return element


def hadamard_of(fmt: TensorFormat, shape: Shape) -> Unit:
    """Return the transform of integers of a format's width."""
    return hadamard(shape.size, _integer(fmt, "Hadamard transform").width)


def fused_multiplier_of(fmt: TensorFormat, shape: Shape) -> Unit:
    """Return four multipliers of a format's width as one of twice that."""
    return fused_multiplier(_integer(fmt, "fused multiplier").width)


def requantizer_of(fmt: TensorFormat, shape: Shape) -> Unit:
    """Return the requantizer of an integer register's sums to codes of a format's width, the lowest one included."""
    output, register = _integer(fmt, "requantizer"), shape.accumulator or IntegerAccumulator()
    if not isinstance(register, IntegerAccumulator):
        raise MacloomError(f"rtl.accumulator: a requantizer takes sums of integer registers, not of {register.name!r}")
    rounding = shape.rounding or Rounding.NEAREST_EVEN
    return requantizer(sum_bits=register.bits, out_bits=output.width, rounding=rounding)
