"""Decoders of whole tensor formats: to the pairs that multipliers see, from a code and from what is stored besides.

Of most formats the code alone decides an element's value, up to a scale. Where it does not, what else is needed
comes through ports: the entries of a table that was fitted to the data, a zero point, a shift. Scales never do, nor
outliers that are stored apart.
"""

from __future__ import annotations

from dataclasses import replace
from functools import singledispatch

import numpy as np
import pyrtl
from pyrtl import WireVector

from macloom.errors import MacloomError
from macloom.formats.elements.minifloat import FP16, FloatFormat
from macloom.formats.outliers.biscaled import BiScaled
from macloom.formats.outliers.dense_sparse import SideFormat
from macloom.formats.outliers.kvquant import KVQuant
from macloom.formats.outliers.ovp import Ovp
from macloom.formats.outliers.tables import Combine, TableSparse
from macloom.formats.tensor import TensorFormat
from macloom.formats.tensors.affine import Affine
from macloom.formats.tensors.bitstack import BitStack
from macloom.formats.tensors.dgq import DualGrained, Zeros
from macloom.formats.tensors.kmeans import LearnedTable
from macloom.formats.tensors.preshift import PreShifted
from macloom.formats.tensors.twinlog import TwinLog
from macloom.formats.tensors.vector_codebook import VectorCodebook
from macloom.rtl import wires as w
from macloom.rtl.formats.decoder import PairPorts, aligned_pairs, decoder, identifier, pair_circuit, pair_ports
from macloom.rtl.formats.operands import beside, operand_ports, table_entry
from macloom.rtl.formats.pair_decoder import pair_decoder
from macloom.rtl.unit import Port, Unit, Values, Wires

# Codes of more bits than this have no decoder whose table comes through ports.
WIDEST_LOADED = 6


@singledispatch
def decoder_of(fmt: TensorFormat) -> Unit:
    """Return the decoder of a format's codes, with ports for what is stored besides.

    Raises:
        MacloomError: the format has no decoder; the message says why.

    >>> from macloom.formats import get_format
    >>> [port.name for port in decoder_of(get_format("affine4")).inputs]
    ['code', 'zero']
    """
    if fmt.element is None:
        raise MacloomError(
            f"rtl: format {fmt.name!r} has no decoder: it has no element format, so that no code of one value exists"
        )
    return decoder(fmt.element)


@decoder_of.register
def _(fmt: Ovp) -> Unit:
    return pair_decoder(fmt)


# -- tables that come through ports ----------------------------------------------------------------------------


def table_decoder(fmt: TensorFormat, entry: FloatFormat, *, masked: bool) -> Unit:
    """Return the decoder of codes that index a table: `code` and `entry0`, ..., codes of floats, to the entry's pair.

    Entries must be finite. With `masked` there is a port `outlier`, which makes the significand 0 where a value
    that is stored apart takes the element's place.

    Raises:
        MacloomError: the table is too large, or its entries are too wide.
    """
    if fmt.code_bits > WIDEST_LOADED:
        raise MacloomError(
            f"rtl: format {fmt.name!r} has no decoder: its table of {1 << fmt.code_bits} entries would come through "
            f"ports, of which there are up to {1 << WIDEST_LOADED}"
        )
    ports, names = pair_ports(table_entry(fmt, entry)), [f"entry{i}" for i in range(1 << fmt.code_bits)]
    exponents, significands = aligned_pairs(entry)

    def circuit(inputs: Wires) -> Wires:
        chosen = _selected(inputs["code"], [inputs[name] for name in names])
        pair = pair_circuit(entry, chosen, ports)
        kept = w.gated(pair.significand, w.inverted(inputs["outlier"])) if masked else pair.significand
        return {"exponent": pair.exponent, "significand": kept}

    def chosen(inputs: Values) -> np.ndarray:
        table = np.stack([np.asarray(inputs[name]) for name in names])
        return np.take_along_axis(table, np.asarray(inputs["code"])[None], axis=0)[0]

    def model(inputs: Values) -> Values:
        codes = chosen(inputs)
        kept = np.asarray(inputs["outlier"]) == 0 if masked else np.True_
        return {"exponent": exponents[codes] - ports.offset, "significand": np.where(kept, significands[codes], 0)}

    def cares(inputs: Values) -> Values:
        codes = chosen(inputs)
        finite = np.isfinite(entry.values)[codes]
        return {"exponent": finite & (significands[codes] != 0), "significand": finite}

    return Unit(
        module=f"{identifier(fmt.name)}_decoder",
        inputs=(
            Port(name="code", width=fmt.code_bits),
            *(Port(name=name, width=entry.bits) for name in names),
            *((Port(name="outlier", width=1),) if masked else ()),
        ),
        outputs=_pair(ports),
        circuit=circuit,
        model=model,
        cares=cares,
        facts={**_facts(fmt, ports), "entry": entry.name},
    )


def _selected(code: WireVector, entries: list[WireVector]) -> WireVector:
    """Return the entry at a code, by multiplexers from the code's lowest bit on."""
    for bit in code:
        entries = [pyrtl.select(bit, high, low) for low, high in zip(entries[::2], entries[1::2], strict=True)]
    return entries[0]


def _pair(ports: PairPorts) -> tuple[Port, Port]:
    return (
        Port(name="exponent", width=ports.exponent_bits),
        Port(name="significand", width=ports.significand_bits, signed=True),
    )


def _facts(fmt: TensorFormat, ports: PairPorts) -> dict[str, object]:
    return {"format": fmt.name, "code_bits": fmt.code_bits, "exponent_offset": ports.offset, "beside": beside(fmt)}


@decoder_of.register
def _(fmt: TableSparse) -> Unit:
    return table_decoder(fmt, fmt.entry, masked=fmt.combine is Combine.REPLACE)


@decoder_of.register
def _(fmt: LearnedTable) -> Unit:
    return table_decoder(fmt, fmt.entry, masked=False)


@decoder_of.register
def _(fmt: TwinLog) -> Unit:
    return table_decoder(fmt, FP16, masked=False)


@decoder_of.register(KVQuant)
@decoder_of.register(BitStack)
@decoder_of.register(VectorCodebook)
def _(fmt: TensorFormat) -> Unit:
    raise MacloomError(f"rtl: format {fmt.name!r} has no decoder: {beside(fmt)}")


# -- outliers stored apart, zero points, shifts ----------------------------------------------------------------


@decoder_of.register
def _(fmt: SideFormat) -> Unit:
    unit = decoder(fmt.element, f"{identifier(fmt.name)}_decoder")
    return replace(unit, facts={**unit.facts, "format": fmt.name, "beside": beside(fmt)})


@decoder_of.register
def _(fmt: Affine) -> Unit:
    """Return `code` and `zero`, the zero point, to their difference."""
    ports = operand_ports(fmt)

    def circuit(inputs: Wires) -> Wires:
        return {"exponent": w.constant(0, 1), "significand": _difference(inputs["code"], inputs["zero"])}

    def model(inputs: Values) -> Values:
        difference = np.asarray(inputs["code"]) - np.asarray(inputs["zero"])
        return {"exponent": np.zeros(len(difference), np.int64), "significand": difference}

    return Unit(
        module=f"{identifier(fmt.name)}_decoder",
        inputs=(Port(name="code", width=fmt.width), Port(name="zero", width=fmt.width)),
        outputs=_pair(ports),
        circuit=circuit,
        model=model,
        facts=_facts(fmt, ports),
    )


def _difference(code: WireVector, zero: WireVector) -> WireVector:
    """Return the difference of two unsigned numbers in two's complement, a bit wider."""
    width = len(code) + 1
    return w.low(w.widened(code, width) - w.widened(zero, width), width)


@decoder_of.register
def _(fmt: DualGrained) -> Unit:
    """Return `code`, `zero` (of formats that store one) and `scale`, the group's integer less 1, to the weight."""
    ports, width = operand_ports(fmt), fmt.width
    stored = fmt.zeros is Zeros.GROUPS
    names = (*(("zero",) if stored else ()), "scale")
    widths = {"zero": width, "scale": fmt.scale_bits_each}

    def circuit(inputs: Wires) -> Wires:
        zero = inputs["zero"] if stored else w.constant(1 << (width - 1), width)
        bits = fmt.scale_bits_each + 2
        scale = w.low(w.widened(inputs["scale"], bits) + w.constant(1, bits), bits)
        product = pyrtl.signed_mult(_difference(inputs["code"], zero), scale)
        return {"exponent": w.constant(0, 1), "significand": w.low(product, ports.significand_bits)}

    def exact(inputs: Values) -> np.ndarray:
        zero = np.asarray(inputs["zero"]) if stored else 1 << (width - 1)
        return (np.asarray(inputs["code"]) - zero) * (np.asarray(inputs["scale"]) + 1)

    def model(inputs: Values) -> Values:
        weight = exact(inputs)
        half = 1 << (ports.significand_bits - 1)
        return {"exponent": np.zeros(len(weight), np.int64), "significand": ((weight + half) % (2 * half)) - half}

    def cares(inputs: Values) -> Values:
        return {"significand": np.abs(exact(inputs)) <= fmt.max_unit}

    return Unit(
        module=f"{identifier(fmt.name)}_decoder",
        inputs=(Port(name="code", width=width), *(Port(name=name, width=widths[name]) for name in names)),
        outputs=_pair(ports),
        circuit=circuit,
        model=model,
        cares=cares,
        facts=_facts(fmt, ports),
    )


@decoder_of.register
def _(fmt: BiScaled) -> Unit:
    return shifted_decoder(fmt, fmt.shift)


@decoder_of.register
def _(fmt: PreShifted) -> Unit:
    return shifted_decoder(fmt, fmt.largest_shift)


def shifted_decoder(fmt: TensorFormat, most: int) -> Unit:
    """Return the decoder of elements with shifts: `code` and `shift`, from 0 to `most` places up, to their pair."""
    element, ports, own = fmt.element, operand_ports(fmt), pair_ports(fmt.element)
    exponents, significands = aligned_pairs(element)

    def circuit(inputs: Wires) -> Wires:
        pair = pair_circuit(element, inputs["code"], own)
        width = ports.exponent_bits
        exponent = w.low(w.widened(pair.exponent, width) + w.widened(inputs["shift"], width), width)
        return {"exponent": exponent, "significand": pair.significand}

    def model(inputs: Values) -> Values:
        code, shift = np.asarray(inputs["code"]), np.asarray(inputs["shift"])
        return {"exponent": exponents[code] - own.offset + shift, "significand": significands[code]}

    def cares(inputs: Values) -> Values:
        legal = np.asarray(inputs["shift"]) <= most
        return {"exponent": legal & (significands[np.asarray(inputs["code"])] != 0), "significand": legal}

    return Unit(
        module=f"{identifier(fmt.name)}_decoder",
        inputs=(Port(name="code", width=element.bits), Port(name="shift", width=max(most.bit_length(), 1))),
        outputs=_pair(ports),
        circuit=circuit,
        model=model,
        cares=cares,
        facts=_facts(fmt, ports),
    )
