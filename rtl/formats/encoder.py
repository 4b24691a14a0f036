"""Encoders: from a float or fixed-point operand to the code of one element, with its rounding and overflow.

Two circuits exist. Formats whose grid keeps a number of mantissa bits above one constant step (integers
and floats) share one rounder: shift, guard and sticky bits, increment, saturate. Any other format finds
its code by a binary search over its decision points, which are constants of the circuit. The model of
both is the record's own `encode`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import pyrtl
from pyrtl import WireVector

from macloom.errors import MacloomError
from macloom.formats.element import ElementFormat
from macloom.formats.elements.integer import IntFormat
from macloom.formats.elements.minifloat import FloatFormat, Specials
from macloom.formats.policy import Overflow, Rounding
from macloom.rtl import wires as w
from macloom.rtl.formats.decoder import identifier
from macloom.rtl.unit import Port, Unit, Values, Wires

Source = FloatFormat | IntFormat
WIDEST_SOURCE = 16
NEAREST = (Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY)


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What an encoder does: element format, format of its input, rounding and overflow.

    Attributes:
        rounding: None takes the element's own.
    """

    element: ElementFormat
    source: Source
    rounding: Rounding | None = None
    overflow: Overflow = Overflow.SATURATE

    def __post_init__(self) -> None:
        if self.source.bits > WIDEST_SOURCE or self.element.bits > WIDEST_SOURCE:
            raise MacloomError(
                f"rtl: an encoder of {self.element.name!r} from {self.source.name!r} does not exist: inputs and codes "
                f"have at most {WIDEST_SOURCE} bits; take fp16, bf16 or a fixed-point operand"
            )
        if self.rounding is Rounding.STOCHASTIC:
            raise MacloomError("rtl: encoders do not draw random numbers; choose another rounding than 'stochastic'")

    @property
    def mode(self) -> Rounding:
        return self.rounding or self.element.default_rounding


@lru_cache(maxsize=64)
def code_table(conversion: Conversion) -> tuple[np.ndarray, np.ndarray]:
    """Return the code (int64) of every input pattern, and where it is defined: not for a NaN without a code."""
    patterns = np.arange(1 << conversion.source.bits)
    x = conversion.source.values[patterns]
    defined = ~np.isnan(x) | (conversion.element.nan_code is not None)
    with np.errstate(invalid="ignore"):
        codes = conversion.element.encode(np.where(defined, x, 0.0), conversion.mode, conversion.overflow)
    return codes.astype(np.int64), defined


def encoder(
    element: ElementFormat,
    source: Source,
    rounding: Rounding | None = None,
    overflow: Overflow = Overflow.SATURATE,
    module: str | None = None,
) -> Unit:
    """Return the encoder of an element format: `x`, a code of `source`, to `code`.

    A NaN takes the format's NaN, where it has one, and is not defined elsewhere.

    Raises:
        MacloomError: the input or the code is too wide, or the policies ask for what the format lacks.

    >>> from macloom.formats import get_format
    >>> from macloom.formats.elements.minifloat import FP16
    >>> encoder(get_format("fp4_e2m1").element, FP16).module
    'fp4_e2m1_from_fp16_encoder'
    """
    conversion = Conversion(element=element, source=source, rounding=rounding, overflow=overflow)
    codes, defined = code_table(conversion)

    def circuit(inputs: Wires) -> Wires:
        return {"code": encoded(conversion, inputs["x"])}

    def pattern(inputs: Values) -> np.ndarray:
        return np.asarray(inputs["x"]) & ((1 << source.bits) - 1)

    return Unit(
        module=module or f"{identifier(element.name)}_from_{identifier(source.name)}_encoder",
        inputs=(Port(name="x", width=source.bits, signed=isinstance(source, IntFormat) and source.signed),),
        outputs=(Port(name="code", width=element.bits),),
        circuit=circuit,
        model=lambda inputs: {"code": codes[pattern(inputs)]},
        cares=lambda inputs: {"code": defined[pattern(inputs)]},
        facts={
            "format": element.name,
            "code_bits": element.bits,
            "source": source.name,
            "rounding": conversion.mode.value,
            "overflow": overflow.value,
        },
    )


def encoded(conversion: Conversion, x: WireVector) -> WireVector:
    """Return the code of an input, by the rounder where the element's grid has one, else by search."""
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


@dataclass(frozen=True)
class Raw:
    """A finite input on wires: its magnitude is significand * 2**(exponent + offset), the leading one first.

    Attributes:
        significand: with the leading one at the top, but for zero and what lies below the target's first binade.
        exponent: two's complement exponent of the significand's top bit.
    """

    negative: WireVector
    significand: WireVector
    exponent: WireVector
    nan: WireVector | None = None
    infinity: WireVector | None = None


class FloatFields(Protocol):
    """What `unpack_float` asks of a float: its fields, and which codes are no finite numbers."""

    @property
    def exponent_bits(self) -> int: ...
    @property
    def mantissa_bits(self) -> int: ...
    @property
    def min_exponent(self) -> int: ...
    @property
    def specials(self) -> Specials: ...
    @property
    def signed(self) -> bool: ...
    @property
    def zero(self) -> bool: ...


def unpack_float(source: FloatFields, x: WireVector, *, normalise: bool) -> Raw:
    """Split a float; its subnormals get a leading one if they are to be normalised."""
    t, e = source.mantissa_bits, source.exponent_bits
    field = x[t : t + e]
    normal = w.any_bit(field) if source.zero else w.constant(1, 1)
    significand = pyrtl.concat(normal, x[:t]) if t else normal
    width = e + 2 + t.bit_length()
    stored = w.widened(field, width) + w.widened(w.inverted(normal), width)
    exponent = w.low(stored + w.constant(source.min_exponent - int(source.zero), width), width)
    if normalise and source.zero:
        zeros = w.leading_zeros(significand)
        significand = w.shifted_left(significand, zeros, len(significand))
        exponent = w.low(exponent - w.widened(zeros, width), width)
    ones, rest = pyrtl.and_all_bits(field), (w.any_bit(x[:t]) if t else w.constant(0, 1))
    nan = infinity = None
    if source.specials is Specials.IEEE:
        nan, infinity = ones & rest, ones & w.inverted(rest)
    elif source.specials is Specials.FN:
        nan = ones & (pyrtl.and_all_bits(x[:t]) if t else w.constant(1, 1))
    elif source.specials is Specials.FNUZ:
        nan = x[-1] & w.no_bit(x[:-1])
    negative = x[-1] if source.signed else w.constant(0, 1)
    return Raw(negative, significand, exponent, nan, infinity)


def _unpack_integer(source: IntFormat, x: WireVector) -> Raw:
    """Take the magnitude of an integer and normalise it."""
    negative, magnitude = w.magnitude_of(x) if source.signed else (w.constant(0, 1), x)
    zeros = w.leading_zeros(magnitude)
    width = max(source.width, source.fraction_bits).bit_length() + 3
    top = w.constant(source.width - 1 - source.fraction_bits, width)
    exponent = w.low(top - w.widened(zeros, width), width)
    return Raw(negative, w.shifted_left(magnitude, zeros, len(magnitude)), exponent)


def rounded(conversion: Conversion, x: WireVector) -> WireVector:
    """Return the code of an integer or a float by shifting, rounding and saturating."""
    element, source = conversion.element, conversion.source
    assert element.steps is not None
    if isinstance(source, IntFormat):
        return rounded_raw(conversion, _unpack_integer(source, x))
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


def rounded_magnitude(raw: Raw, t: int, lowest: int, mode: Rounding) -> WireVector:
    """Return the code of a magnitude on a grid with t mantissa bits from 2**lowest on; it may exceed any format's."""
    significand = raw.significand
    if len(significand) < t + 1:
        significand = pyrtl.concat(significand, w.constant(0, t + 1 - len(significand)))
    width = max(len(raw.exponent), abs(lowest).bit_length() + 1) + 1
    above = w.low(w.signed_widened(raw.exponent, width) - w.constant(lowest, width), width)
    below = above[-1]
    binade = w.gated(above[:-1], w.inverted(below) & significand[-1])  # zero has no leading one
    missing = w.gated(w.low(w.constant(0, width) - above, width)[:-1], below)
    # One more bit under the significand keeps the guard; more than its width leaves only the sticky bit.
    guarded = pyrtl.concat(significand, w.constant(0, 1))
    fixed = len(significand) - (t + 1)
    amount_bits = len(guarded).bit_length()
    far = w.any_bit(missing[amount_bits:]) if len(missing) > amount_bits else w.constant(0, 1)
    amount = w.low(missing, amount_bits) if len(missing) > amount_bits else missing
    shifted, lost = w.shifted_right_sticky(guarded, amount)
    lost = pyrtl.select(far, w.any_bit(guarded), lost)
    shifted = w.gated(shifted, w.inverted(far))
    if fixed:
        lost = lost | w.any_bit(shifted[:fixed])
        shifted = shifted[fixed:]
    guard, kept = shifted[0], shifted[1:]
    base = pyrtl.concat(binade, w.constant(0, t)) if t else binade
    size = max(len(base), len(kept)) + 1
    base = w.low(w.widened(base, size) + w.widened(kept, size), size)
    return w.low(base + w.widened(_increment(mode, base[0], guard, lost), size), size)


def _increment(mode: Rounding, odd: WireVector, guard: WireVector, sticky: WireVector) -> WireVector:
    match mode:
        case Rounding.NEAREST_EVEN:
            return guard & (sticky | odd)
        case Rounding.NEAREST_AWAY:
            return guard
        case Rounding.TO_ODD:
            return (guard | sticky) & w.inverted(odd)
        case _:
            return w.constant(0, 1)


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
        used: bool for every input pattern, whether its code counts; all do unless given.
    """
    codes, defined = code_table(conversion)
    defined = defined if used is None else defined & used
    source = conversion.source
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
    return interval_search(selector, key, [s for s, _ in cuts], [c for _, c in cuts], conversion.element.bits)


def interval_search(
    selector: list[WireVector], key: WireVector, starts_of: list[np.ndarray], codes_of: list[np.ndarray], bits: int
) -> WireVector:
    """Return the code of the interval that holds the key, by binary search over the starts of the intervals.

    Args:
        selector: wires that choose among the lists of starts and codes, none for one list.
    """
    depth = max(len(starts) - 1 for starts in starts_of).bit_length()
    full = 1 << depth
    # Intervals that a list does not have repeat its last one.
    starts = [np.concatenate((s, np.full(full - len(s), s[-1]))).tolist() for s in starts_of]
    chosen = [np.concatenate((c, np.full(full - len(c), c[-1]))).tolist() for c in codes_of]
    found: list[WireVector] = []
    for level in range(depth):
        step = full >> (level + 1)
        points = [half[step + 2 * step * k] for half in starts for k in range(1 << level)]
        index = [*selector, *found]
        point = w.table(pyrtl.concat(*index), points, len(key)) if index else w.constant(points[0], len(key))
        found.append(w.inverted(key < point))
    index = [*selector, *found]
    return w.table(pyrtl.concat(*index), [c for half in chosen for c in half], bits)


def intervals(codes: np.ndarray, defined: np.ndarray | bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Return where runs of one code start, and their codes; undefined inputs continue the run before them."""
    at = np.maximum.accumulate(np.where(defined, np.arange(len(codes)), 0))
    held = codes[at]
    starts = np.flatnonzero(np.concatenate(([True], held[1:] != held[:-1])))
    return starts, held[starts]
