"""The decoder of outlier-victim pairs (Guo et al., OliVe, ISCA 2023, section 4.2).

Each half of a stored pair is compared with the identifier; the multiplexers choose between the normal
and the outlier decoder and zero. Element 0 is the high half. Codes that no encoder writes mean 0.
"""

from __future__ import annotations

import numpy as np
import pyrtl

from macloom.formats.element import ElementFormat
from macloom.formats.outliers.ovp import Ovp
from macloom.rtl import wires as w
from macloom.rtl.formats.decoder import PairPorts, aligned_pairs, identifier, pair_circuit, pair_ports
from macloom.rtl.unit import Port, Unit, Values, Wires


def pair_decoder(fmt: Ovp, module: str | None = None) -> Unit:
    """Return the decoder of a pair: `pair` to `exponent0`, `significand0`, `exponent1`, `significand1`.

    >>> from macloom.formats import get_format
    >>> unit = pair_decoder(get_format("ovp4"))
    >>> [(port.name, port.width) for port in unit.outputs][:2], unit.facts["exponent_offset"]
    ([('exponent0', 3), ('significand0', 4)], 0)
    """
    normal, outlier, bits = fmt.normal, fmt.outlier, fmt.normal.bits
    ports = pair_ports(normal).union(pair_ports(outlier))

    def decoded(element: ElementFormat, code: pyrtl.WireVector) -> tuple[pyrtl.WireVector, pyrtl.WireVector]:
        own = pair_ports(element)
        pair = pair_circuit(element, code, own)
        shift = own.offset - ports.offset
        exponent = w.widened(pair.exponent, ports.exponent_bits)
        if shift:
            exponent = w.low(exponent + w.constant(shift, ports.exponent_bits), ports.exponent_bits)
        return exponent, w.signed_widened(pair.significand, ports.significand_bits)

    def circuit(inputs: Wires) -> Wires:
        codes = inputs["pair"][bits:], inputs["pair"][:bits]
        victims = [code == w.constant(fmt.identifier, bits) for code in codes]
        made = {}
        for slot, (code, own, other) in enumerate(zip(codes, victims, reversed(victims), strict=True)):
            (ne, ns), (oe, os) = decoded(normal, code), decoded(outlier, code)
            kept = w.inverted(own)
            made[f"exponent{slot}"] = pyrtl.select(other, oe, ne)
            made[f"significand{slot}"] = w.gated(pyrtl.select(other, os, ns), kept)
        return made

    tables = {True: _table(outlier, ports), False: _table(normal, ports)}

    def model(inputs: Values) -> Values:
        pair = np.asarray(inputs["pair"])
        codes = pair >> bits, pair & ((1 << bits) - 1)
        victims = [code == fmt.identifier for code in codes]
        made = {}
        for slot, (code, own, other) in enumerate(zip(codes, victims, reversed(victims), strict=True)):
            both = [np.where(other, tables[True][k][code], tables[False][k][code]) for k in (0, 1)]
            made[f"exponent{slot}"] = np.where(own, 0, both[0])
            made[f"significand{slot}"] = np.where(own, 0, both[1])
        return made

    def cares(inputs: Values) -> Values:
        made = model(inputs)
        return {f"exponent{slot}": made[f"significand{slot}"] != 0 for slot in (0, 1)}

    return Unit(
        module=module or f"{identifier(fmt.name)}_decoder",
        inputs=(Port(name="pair", width=2 * bits),),
        outputs=tuple(
            port
            for slot in (0, 1)
            for port in (
                Port(name=f"exponent{slot}", width=ports.exponent_bits),
                Port(name=f"significand{slot}", width=ports.significand_bits, signed=True),
            )
        ),
        circuit=circuit,
        model=model,
        cares=cares,
        facts={"format": fmt.name, "code_bits": 2 * bits, "exponent_offset": ports.offset},
    )


def _table(element: ElementFormat, ports: PairPorts) -> tuple[np.ndarray, np.ndarray]:
    """Return the exponent above the ports' offset and the significand of every code, 0 where it has no value."""
    exponents, significands = aligned_pairs(element)
    return np.where(significands != 0, exponents - ports.offset, 0), significands
