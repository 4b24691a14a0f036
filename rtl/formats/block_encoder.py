"""Encoders of whole blocks that share a power of two: OCP MX v1.0 and block floating point.

The largest magnitude of the block gives the scale's exponent by the format's rule; every element is then
rounded by the same circuit as a plain encoder, with its exponent taken relative to the scale.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pyrtl
from pyrtl import WireVector

from macloom.errors import MacloomError
from macloom.formats.elements.integer import IntFormat
from macloom.formats.elements.minifloat import BF16, FloatFormat
from macloom.formats.policy import Rounding
from macloom.formats.tensors.block import Block, ScaleRule
from macloom.rtl import wires as w
from macloom.rtl.formats.block_stimuli import blocks
from macloom.rtl.formats.decoder import identifier, pair_ports
from macloom.rtl.formats.encoder import rounded_raw
from macloom.rtl.formats.rounder import unpack_float
from macloom.rtl.formats.source import Conversion, values_of
from macloom.rtl.unit import Port, Unit, Values, Wires

E8M0_BIAS = 127
RULES = (ScaleRule.FLOOR, ScaleRule.CEIL, ScaleRule.EVEN)


def block_encoder(fmt: Block, source: FloatFormat = BF16, module: str | None = None) -> Unit:
    """Return the encoder of one block: `x0`, `x1`, ... to `scale` (E8M0) and `code0`, `code1`, ...

    Inputs must be finite, as those of the software.

    Raises:
        MacloomError: the scale is no power of two, or its rule needs a multiplication.
    """
    element = fmt.element
    if fmt.two_level or fmt.float_scale or fmt.rule not in RULES:
        raise MacloomError(
            f"rtl: format {fmt.name!r} has no block encoder: blocks with a power-of-two scale by the rules "
            f"{', '.join(rule.value for rule in RULES)} have one"
        )
    if not isinstance(element, FloatFormat | IntFormat) or element.steps is None:
        raise MacloomError(f"rtl: format {fmt.name!r} has no block encoder: its elements have no even steps")
    conversion = Conversion(element=element, source=source, rounding=fmt.policy.rounding, overflow=fmt.policy.overflow)
    top = math.frexp(element.max_value)[1] - 1
    reach = math.frexp(max(element.max_value, -element.min_value))[1] - 1

    names = ("scale", *(f"code{i}" for i in range(fmt.size)))

    def circuit(inputs: Wires) -> Wires:
        raws = [unpack_float(source, inputs[f"x{i}"], normalise=True) for i in range(fmt.size)]
        magnitude = w.largest([inputs[f"x{i}"][:-1] for i in range(fmt.size)])
        largest = unpack_float(source, pyrtl.concat(w.constant(0, 1), magnitude), normalise=True)
        width = max(len(largest.exponent), E8M0_BIAS.bit_length() + 1) + 2
        exponent = w.signed_widened(largest.exponent, width)
        exponent = w.low(exponent + w.widened(_raised(fmt, largest.significand), width), width)
        biased = w.low(exponent + w.constant(E8M0_BIAS - top, width), width)
        low, high = w.constant(0, width), w.constant(2 * E8M0_BIAS - reach, width)
        negative = biased[-1] | w.no_bit(magnitude)
        biased = pyrtl.select(negative, low, pyrtl.select(high < biased, high, biased))
        scale = w.low(biased, 8)
        made = {"scale": scale}
        shift = w.low(w.widened(scale, width) - w.constant(E8M0_BIAS, width), width)
        for i, raw in enumerate(raws):
            relative = w.low(w.signed_widened(raw.exponent, width) - shift, width)
            # The exponent of zero means nothing; without a leading one the rounder does not look at it.
            code = rounded_raw(conversion, replace(raw, exponent=relative, nan=None, infinity=None))
            made[f"code{i}"] = code
        return made

    def model(inputs: Values) -> Values:
        codes = np.stack([np.asarray(inputs[f"x{i}"]) for i in range(fmt.size)], axis=-1)
        x = values_of(source, codes).astype(np.float32)
        encoded = fmt.encode(np.where(np.isfinite(x).all(axis=-1, keepdims=True), x, 0))
        elements = encoded.elements.reshape(x.shape).astype(np.int64)
        scales = encoded.scales.reshape(len(x), 1)[:, 0].astype(np.int64)
        return {"scale": scales, **{f"code{i}": elements[:, i] for i in range(fmt.size)}}

    def cares(inputs: Values) -> Values:
        codes = np.stack([np.asarray(inputs[f"x{i}"]) for i in range(fmt.size)], axis=-1)
        finite = np.asarray(np.isfinite(values_of(source, codes)).all(axis=-1))
        return {name: finite for name in names}  # noqa: C420

    return Unit(
        module=module or f"{identifier(fmt.name)}_from_{identifier(source.name)}_encoder",
        inputs=tuple(Port(name=f"x{i}", width=source.bits) for i in range(fmt.size)),
        outputs=(
            Port(name="scale", width=8),
            *(Port(name=f"code{i}", width=element.bits) for i in range(fmt.size)),
        ),
        circuit=circuit,
        model=model,
        cares=cares,
        stimuli=lambda count, seed: blocks(fmt.size, source, count, seed),
        facts={
            "format": fmt.name,
            "code_bits": element.bits,
            "exponent_offset": pair_ports(element).offset,
            "block": fmt.size,
            "rule": fmt.rule.value,
            "source": source.name,
            "rounding": (fmt.policy.rounding or Rounding.NEAREST_EVEN).value,
        },
    )


def _raised(fmt: Block, significand: WireVector) -> WireVector:
    """Return 1 where the rule takes the next power of two above the largest magnitude."""
    below = significand[:-1]
    match fmt.rule:
        case ScaleRule.CEIL:
            return w.any_bit(below)
        case ScaleRule.EVEN:
            # Rounded to the element's mantissa, a tie upwards: it carries if the leading bits below are all ones.
            bits = fmt.element.operand.significand_bits - 1
            return pyrtl.and_all_bits(below[-bits:]) if len(below) >= bits else w.constant(0, 1)
        case _:
            return w.constant(0, 1)
