"""Decoders: from the code of one element to its exponent-integer pair.

The value of a code is significand * 2**(exponent + exponent_offset), with an unsigned exponent and a
two's complement significand. A family whose code has a structure registers the circuit that follows
it; any other format gets its table, as multiplexers. The model of all of them is the record's own
`pair` and `value`.
"""

from __future__ import annotations

from functools import singledispatch

import numpy as np
import pyrtl
from pyrtl import WireVector

from macloom.errors import MacloomError
from macloom.formats.element import ElementFormat
from macloom.formats.elements.abfloat import AbFloat
from macloom.formats.elements.decoded import DecodedFormat
from macloom.formats.elements.flint import Flint
from macloom.formats.elements.integer import IntFormat
from macloom.formats.elements.minifloat import FloatFormat, Specials
from macloom.formats.elements.posit import Posit
from macloom.formats.elements.power import PowerOfTwo
from macloom.rtl import wires as w
from macloom.rtl.formats.pairs import PairPorts, PairWires, aligned_pairs, identifier, nan_codes, pair_ports
from macloom.rtl.unit import Port, Unit, Values, Wires

# Codes of more bits than this have no table of gates.
WIDEST_TABLE = 10


def _fits(wire: WireVector, width: int) -> WireVector:
    return w.low(wire, width) if len(wire) > width else w.widened(wire, width)


@singledispatch
def pair_circuit(element: ElementFormat, code: WireVector, ports: PairPorts) -> PairWires:
    """Return the pair of a code: this general one is a table."""
    if element.bits > WIDEST_TABLE:
        raise MacloomError(
            f"rtl: format {element.name!r} has no decoder: its {element.bits}-bit codes have neither a circuit of "
            f"their own nor a table, which goes up to {WIDEST_TABLE} bits"
        )
    exponents, significands = aligned_pairs(element)
    stored = np.where(significands != 0, exponents - ports.offset, 0)
    infinite = np.isinf(element.values).astype(int)
    return PairWires(
        w.table(code, stored.tolist(), ports.exponent_bits),
        w.table(code, significands.tolist(), ports.significand_bits),
        None if element.nan_code is None else w.table(code, nan_codes(element).astype(int).tolist(), 1),
        w.table(code, infinite.tolist(), 1) if element.infinity else None,
    )


@pair_circuit.register
def _(element: IntFormat, code: WireVector, ports: PairPorts) -> PairWires:
    """The code is the significand."""
    significand = code if element.signed else w.widened(code, element.bits + 1)
    return PairWires(w.constant(0, ports.exponent_bits), significand)


@pair_circuit.register
def _(element: FloatFormat, code: WireVector, ports: PairPorts) -> PairWires:
    """The hidden bit is 1 but for subnormals, whose exponent is that of the first binade."""
    t, e = element.mantissa_bits, element.exponent_bits
    fraction, field = (code[:t] if t else None), code[t : t + e]
    negative = code[-1] if element.signed else w.constant(0, 1)
    if element.zero:
        normal = w.any_bit(field)
        # 0 and 1 both mean the first binade, so that the exponent above the offset is max(field, 1) - 1.
        exponent = w.low(field - w.widened(normal, e), e)
    else:
        normal, exponent = w.constant(1, 1), field
    magnitude = normal if fraction is None else pyrtl.concat(normal, fraction)
    ones = pyrtl.and_all_bits(field)
    nan = infinity = None
    match element.specials:
        case Specials.IEEE:
            # Without mantissa bits there is an infinity and no NaN.
            nan = None if fraction is None else ones & w.any_bit(fraction)
            infinity = ones if fraction is None else ones & w.no_bit(fraction)
        case Specials.FN:
            nan = ones if fraction is None else ones & pyrtl.and_all_bits(fraction)
        case Specials.FNUZ:
            nan = negative & w.no_bit(code[: t + e])
        case Specials.NONE:
            pass
    if nan is not None and element.specials is not Specials.FNUZ:  # that of FNUZ has no magnitude bits to clear
        magnitude = w.gated(magnitude, w.inverted(nan))
    significand = w.with_sign(magnitude, negative)
    return PairWires(_fits(exponent, ports.exponent_bits), w.low(significand, ports.significand_bits), nan, infinity)


@pair_circuit.register
def _(element: AbFloat, code: WireVector, ports: PairPorts) -> PairWires:
    """The leading 1 is always there but for the two codes without exponent and mantissa, which mean nothing."""
    m = element.mantissa_bits
    body = code[:-1]
    fraction = [code[:m]] if m else []
    significand = w.with_sign(pyrtl.concat(w.any_bit(body), *(w.gated(f, w.any_bit(body)) for f in fraction)), code[-1])
    if element.limit is not None:
        values = np.array([element.value(c) for c in range(1 << len(body))])
        used = w.table(body, (~np.isnan(values)).astype(int).tolist(), 1)
        significand = w.gated(significand, used)
    return PairWires(_fits(code[m:-1], ports.exponent_bits), w.low(significand, ports.significand_bits))


@pair_circuit.register
def _(element: Flint, code: WireVector, ports: PairPorts) -> PairWires:
    """After a leading 1 the first one counts the exponent; a 1 followed by zeros only is the largest value."""
    body, negative = (code[:-1], code[-1]) if element.signed else (code, w.constant(0, 1))
    field = body[:-1]
    rest = len(field)
    largest = body[-1] & w.no_bit(field)
    # Exponent by the number of leading zeros z of the field: rest + z - (rest - 1 - z) = 2 z + 1; zero field: 2 rest.
    zeros = w.leading_zeros(field)
    width = max((2 * rest).bit_length(), ports.exponent_bits)
    odd = w.low(pyrtl.concat(w.widened(zeros, width), w.constant(1, 1)), width)
    exponent = w.gated(pyrtl.select(largest, w.constant(2 * rest, width), odd), body[-1])
    magnitude = pyrtl.select(
        body[-1], pyrtl.concat(field[1:], field[0] | largest) if rest > 1 else field | largest, field
    )
    return PairWires(
        _fits(exponent, ports.exponent_bits), _fits_signed(w.with_sign(magnitude, negative), ports.significand_bits)
    )


def _fits_signed(wire: WireVector, width: int) -> WireVector:
    return w.low(wire, width) if len(wire) > width else w.signed_widened(wire, width)


@pair_circuit.register
def _(element: PowerOfTwo, code: WireVector, ports: PairPorts) -> PairWires:
    """Magnitude code 0 is zero, any other is one more than the exponent."""
    body, negative = (code[:-1], code[-1]) if element.signed else (code, w.constant(0, 1))
    exponent = w.low(body - w.constant(1, len(body)), len(body))
    significand = w.with_sign(w.any_bit(body), negative)
    return PairWires(_fits(exponent, ports.exponent_bits), _fits_signed(significand, ports.significand_bits))


@pair_circuit.register
def _(element: Posit, code: WireVector, ports: PairPorts) -> PairWires:
    """The regime's run is counted and shifted out; exponent and fraction follow it (Posit Standard 2022, section 3)."""
    n, es = element.width, element.exponent_bits
    negative = code[-1]
    body = w.low((code ^ negative.sign_extended(n)) + w.widened(negative, n), n)[:-1]
    nan = negative & w.no_bit(code[:-1])
    ones = body[-1]
    run = w.leading_zeros(body ^ ones.sign_extended(n - 1))  # 1 to n - 1
    tail = w.shifted_left(pyrtl.concat(body, w.constant(0, 1))[: n - 1], run, n - 1)  # regime and its end are gone
    fraction = max(n - 3 - es, 0)
    significand = pyrtl.concat(
        w.constant(1, 1), tail[-fraction - es : len(tail) - es] if fraction else w.constant(0, 1)
    )
    significand = significand if fraction else significand[1:]
    width = ports.exponent_bits + 2
    r = pyrtl.select(
        ones,
        w.low(w.widened(run, width) - w.constant(1, width), width),
        w.low(w.constant(0, width) - w.widened(run, width), width),
    )
    scale = pyrtl.concat(r[: width - es], tail[-es:]) if es else r
    exponent = w.low(scale - w.constant(fraction + ports.offset, width), width)
    something = w.any_bit(body) & w.inverted(nan)
    return PairWires(
        w.low(exponent, ports.exponent_bits),
        _fits_signed(w.with_sign(w.gated(significand, something), negative), ports.significand_bits),
        nan,
    )


def decoder(element: ElementFormat, module: str | None = None) -> Unit:
    """Return the decoder of an element format: `code` to `exponent`, `significand`, and flags of what is no number.

    `nan` and `infinity` are outputs of formats that have them. The significand of a NaN is 0 and that of
    an infinity has its sign. Codes that the format does not use have the significand 0.

    Raises:
        MacloomError: the format has no decoder.

    >>> from macloom.formats import get_format
    >>> unit = decoder(get_format("fp4_e2m1").element)
    >>> [(port.name, port.width) for port in unit.outputs], unit.facts["exponent_offset"]
    ([('exponent', 2), ('significand', 3)], -1)
    """
    ports = pair_ports(element)

    def circuit(inputs: Wires) -> Wires:
        pair = pair_circuit(element, inputs["code"], ports)
        named = {"exponent": pair.exponent, "significand": pair.significand, "nan": pair.nan, "infinity": pair.infinity}
        return {name: wire for name, wire in named.items() if wire is not None}

    exponents, significands = aligned_pairs(element)
    nan = nan_codes(element)
    outputs = [
        Port(name="exponent", width=ports.exponent_bits),
        Port(name="significand", width=ports.significand_bits, signed=True),
    ]
    if element.nan_code is not None:
        outputs.append(Port(name="nan", width=1))
    if element.infinity:
        outputs.append(Port(name="infinity", width=1))

    def model(inputs: Values) -> Values:
        code = np.asarray(inputs["code"])
        made = {"exponent": exponents[code] - ports.offset, "significand": significands[code]}
        if element.nan_code is not None:
            made["nan"] = nan[code].astype(np.int64)
        if element.infinity:
            made["infinity"] = np.isinf(element.values[code]).astype(np.int64)
        return made

    def cares(inputs: Values) -> Values:
        return {"exponent": significands[np.asarray(inputs["code"])] != 0}

    return Unit(
        module=module or f"{identifier(element.name)}_decoder",
        inputs=(Port(name="code", width=element.bits),),
        outputs=tuple(outputs),
        circuit=circuit,
        model=model,
        cares=cares,
        facts={
            "format": element.name,
            "code_bits": element.bits,
            "exponent_offset": ports.offset,
            **_rounded_values(element),
        },
    )


def _rounded_values(element: ElementFormat) -> dict[str, str]:
    """Return what to know of a table whose entries are the format's values rounded: the entries' format."""
    if not isinstance(element, DecodedFormat) or element.table is None:
        return {}
    known = ~np.isnan(element.values)
    if np.array_equal(element.values[known], element.operand_values[known]):
        return {}
    return {"values": f"rounded to {element.table.name}, as the multipliers see them"}
