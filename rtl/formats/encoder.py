"""Encoders: from a float or fixed-point operand to the code of one element, with its rounding and overflow.

Two circuits exist. Formats whose grid keeps a number of mantissa bits above one constant step (integers
and floats) share one rounder: shift, guard and sticky bits, increment, saturate. Any other format finds
its code by a binary search over its decision points, which are constants of the circuit. The model of
both is the record's own `encode`.
"""

from __future__ import annotations

import numpy as np
import pyrtl
from pyrtl import WireVector

from macloom.formats.element import ElementFormat
from macloom.formats.elements.integer import IntFormat
from macloom.formats.elements.minifloat import FloatFormat
from macloom.formats.policy import Overflow, Rounding
from macloom.rtl import wires as w
from macloom.rtl.formats.decoder import identifier, pair_ports
from macloom.rtl.formats.interval_search import interval_search, intervals
from macloom.rtl.formats.rounder import Raw, increment, rounded_magnitude, unpack_float, unpack_integer
from macloom.rtl.formats.source import Conversion, Source, changes, code_table, operands
from macloom.rtl.unit import Port, Unit, Values, Wires

NEAREST = (Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY)


def encoder(
    element: ElementFormat,
    source: Source,
    rounding: Rounding | None = None,
    overflow: Overflow = Overflow.SATURATE,
    module: str | None = None,
) -> Unit:
    """Return the encoder of an element format: `x`, a code of `source`, to `code`.

    A NaN takes the format's NaN, where it has one, and is not defined elsewhere; nor is anything that is not finite
    where integers wrap.

    Raises:
        MacloomError: the input or the code is too wide, or the policies ask for what the format lacks.

    >>> from macloom.formats import get_format
    >>> from macloom.formats.elements.minifloat import FP16
    >>> encoder(get_format("fp4_e2m1").element, FP16).module
    'fp4_e2m1_from_fp16_encoder'
    """
    conversion = Conversion(element=element, source=source, rounding=rounding, overflow=overflow)

    def circuit(inputs: Wires) -> Wires:
        return {"code": encoded(conversion, inputs["x"])}

    def software(inputs: Values) -> tuple[np.ndarray, np.ndarray]:
        patterns = np.asarray(inputs["x"]) & ((1 << source.bits) - 1)
        if not conversion.listed:
            return conversion.codes(patterns)
        codes, defined = code_table(conversion)
        return codes[patterns], defined[patterns]

    if conversion.listed:
        code_table(conversion)  # the policies are known to be the format's
    else:
        conversion.codes(np.zeros(1, np.int64))

    return Unit(
        module=module or f"{identifier(element.name)}_from_{identifier(source.name)}_encoder",
        inputs=(Port(name="x", width=source.bits, signed=isinstance(source, IntFormat) and source.signed),),
        outputs=(Port(name="code", width=element.bits),),
        circuit=circuit,
        model=lambda inputs: {"code": software(inputs)[0]},
        cares=lambda inputs: {"code": software(inputs)[1]},
        stimuli=None if conversion.listed else lambda count, seed: {"x": operands(conversion, count, seed)},
        facts={
            "format": element.name,
            "code_bits": element.bits,
            "exponent_offset": pair_ports(element).offset,
            "source": source.name,
            "rounding": conversion.mode.value,
            "overflow": overflow.value,
        },
    )


def encoded(conversion: Conversion, x: WireVector) -> WireVector:
    """Return the code of an input, by the rounder where the element's grid has one, else by search."""
    if conversion.overflow is Overflow.WRAP:
        return wrapped(conversion, x)
    return rounded(conversion, x) if _on_a_grid(conversion) else searched(conversion, x)


def _on_a_grid(conversion: Conversion) -> bool:
    element, source = conversion.element, conversion.source
    plain = conversion.overflow is Overflow.SATURATE or conversion.mode in NEAREST
    return (
        isinstance(element, FloatFormat | IntFormat)
        and element.steps is not None
        and plain
        and (isinstance(source, IntFormat) or source.zero)
    )


def wrapped(conversion: Conversion, x: WireVector) -> WireVector:
    """Return the low bits of an integer or a float rounded to a step."""
    element, source = conversion.element, conversion.source
    assert isinstance(element, IntFormat)
    bits = element.bits
    if isinstance(source, FloatFormat):
        raw = unpack_float(source, x, normalise=False)
        # Where the leading one is beyond these bits, the last one of the significand is above the code's.
        t = bits + len(raw.significand)
        negative, magnitude = raw.negative, rounded_magnitude(raw, t, t - element.fraction_bits, conversion.mode)
    else:
        negative, magnitude = w.magnitude_of(x) if source.signed else (w.constant(0, 1), x)
        magnitude = _in_steps(magnitude, source.fraction_bits - element.fraction_bits, conversion.mode)
    magnitude = w.low(magnitude, bits) if len(magnitude) > bits else w.widened(magnitude, bits)
    return w.low(w.with_sign(magnitude, negative), bits)


def _in_steps(magnitude: WireVector, below: int, mode: Rounding) -> WireVector:
    """Return an unsigned number that has so many bits below the step, or lacks as many, as rounded steps."""
    if below <= 0:
        return pyrtl.concat(magnitude, w.constant(0, -below)) if below else magnitude
    wide = w.widened(magnitude, max(len(magnitude), below) + 1)
    sticky = w.any_bit(wide[: below - 1]) if below > 1 else w.constant(0, 1)
    kept = w.widened(wide[below:], len(wide) - below + 1)
    return w.low(kept + w.widened(increment(mode, kept[0], wide[below - 1], sticky), len(kept)), len(kept))


def rounded(conversion: Conversion, x: WireVector) -> WireVector:
    """Return the code of an integer or a float by shifting, rounding and saturating."""
    element, source = conversion.element, conversion.source
    assert element.steps is not None
    if isinstance(source, IntFormat):
        return rounded_raw(conversion, unpack_integer(source, x))
    # Subnormals that lie in the target's first binade, or below, need no leading one.
    return rounded_raw(conversion, unpack_float(source, x, normalise=element.steps[1] < source.min_exponent))


def rounded_raw(conversion: Conversion, raw: Raw) -> WireVector:
    """Return the code of an unpacked magnitude and sign.

    With G the exponent of the leading one above that of the first binade, the magnitude's code is
    (max(G, 0) << t) + kept, where `kept` is the significand without the bits below the target's step;
    a carry of the increment moves into the exponent field by itself.
    """
    element = conversion.element
    assert isinstance(element, FloatFormat | IntFormat)
    assert element.steps is not None
    magnitude = rounded_magnitude(raw, *element.steps, conversion.mode)
    if isinstance(element, IntFormat):
        return _packed_integer(element, raw, magnitude)
    return _packed_float(element, conversion.overflow, raw, magnitude)


def _held(magnitude: WireVector, limit: WireVector, raw: Raw) -> tuple[WireVector, WireVector]:
    """Return the magnitude up to `limit`, and whether it was above."""
    over = limit < magnitude
    if raw.infinity is not None:
        over = over | raw.infinity
    return pyrtl.select(over, limit, magnitude), over


def _packed_integer(element: IntFormat, raw: Raw, magnitude: WireVector) -> WireVector:
    """Return the saturated two's complement (or unsigned) code of a sign and a rounded magnitude."""
    unit = 2.0**element.fraction_bits
    top, bottom = round(element.max_value * unit), round(-element.min_value * unit)
    size = len(magnitude)
    limit = pyrtl.select(raw.negative, w.constant(bottom, size), w.constant(top, size))
    held = w.low(_held(magnitude, limit, raw)[0], element.bits)
    return w.low(w.with_sign(held, raw.negative), element.bits) if element.signed else held


def _packed_float(element: FloatFormat, overflow: Overflow, raw: Raw, magnitude: WireVector) -> WireVector:
    """Return the code of a sign and a rounded magnitude code; an overflow becomes what the policy says."""
    bits, body_bits = element.bits, element.bits - int(element.signed)
    top = w.constant(int(element.encode(np.array(element.max_value))), len(magnitude))
    negative = raw.negative
    limit = top if element.signed else w.gated(top, w.inverted(negative))
    held, over = _held(magnitude, limit, raw)
    body = w.low(held, body_bits)
    if overflow is Overflow.TO_INF:
        infinity = int(np.flatnonzero(np.isposinf(element.values))[0])
        body = pyrtl.select(over, w.constant(infinity, body_bits), body)
    if element.signed:
        code = pyrtl.concat(negative if element.negative_zero_code is not None else negative & w.any_bit(body), body)
    else:
        code = body
    if element.nan_code is None:
        return code
    nan = w.constant(element.nan_code, bits)
    if overflow is Overflow.TO_NAN:
        code = pyrtl.select(over, nan, code)
    return code if raw.nan is None else pyrtl.select(raw.nan, nan, code)


def searched(conversion: Conversion, x: WireVector, used: np.ndarray | None = None) -> WireVector:
    """Return the code by binary search over the input patterns at which the code changes.

    Args:
        used: bool for every input pattern of up to 16 bits, whether its code counts; all do unless given.
    """
    source, bits = conversion.source, conversion.element.bits
    if not conversion.listed:
        cuts = changes(conversion)
        return interval_search([x[-1]], x[:-1], [s for s, _ in cuts], [c for _, c in cuts], bits)
    codes, defined = code_table(conversion)
    defined = defined if used is None else defined & used
    halves = [np.arange(1 << source.bits)]
    if isinstance(source, FloatFormat) and source.signed:
        halves = [halves[0][: 1 << (source.bits - 1)], halves[0][1 << (source.bits - 1) :]]
        key, selector = x[:-1], [x[-1]]
    elif isinstance(source, IntFormat) and source.signed:
        halves = [np.roll(halves[0], 1 << (source.bits - 1))]
        key, selector = pyrtl.concat(w.inverted(x[-1]), x[:-1]), []
    else:
        key, selector = x, []
    cuts = [intervals(codes[half], defined[half]) for half in halves]
    return interval_search(selector, key, [s for s, _ in cuts], [c for _, c in cuts], bits)
