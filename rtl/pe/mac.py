"""The exponent-integer processing element: <ea, ia> x <eb, ib> = <ea + eb, ia ib>, shifted and accumulated.

Integers, floats, flint, abfloat, outlier-victim pairs and powers of two are all such pairs, so that one
generator makes their elements; what a format does not need is not there. Significands of -1, 0 and 1
need no multiplier (powers of two, ternary), formats without exponents no shifter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyrtl
from pyrtl import WireVector

from macloom.errors import MacloomError
from macloom.formats.accumulator import IntegerAccumulator
from macloom.formats.tensor import TensorFormat
from macloom.rtl import wires as w
from macloom.rtl.formats.decoder import PairPorts, identifier
from macloom.rtl.formats.operands import beside, operand_ports
from macloom.rtl.pe.register import Register, accumulate, accumulate_wires, integers, saturates
from macloom.rtl.unit import Port, Unit, Values, Wires

# Widest integer register of the arithmetic room; sums of wider products go to a fixed-point one.
WIDEST_ACCUMULATOR = 53


@dataclass(frozen=True, kw_only=True)
class Mac:
    """A multiply-accumulate datapath: the pairs of both operands and the register.

    Attributes:
        accumulator: in units of 2**(a.offset + b.offset), applied at every product.
    """

    a: PairPorts
    b: PairPorts
    accumulator: Register

    def __post_init__(self) -> None:
        saturates(self.accumulator)
        if self.accumulator.bits < self.product_bits:
            raise MacloomError(
                f"rtl.accumulator: must hold one product, which takes {self.product_bits} bits, not "
                f"{self.accumulator.bits}"
                + ("" if self.product_bits <= WIDEST_ACCUMULATOR else "; take the fixed-point register 'exact'")
            )

    @property
    def product_bits(self) -> int:
        """Width of the product of any two pairs, in two's complement."""
        return product_bits(self.a, self.b)

    @property
    def unit_exponent(self) -> int:
        """Exponent of the register's unit."""
        return self.a.offset + self.b.offset


def product_bits(a: PairPorts, b: PairPorts) -> int:
    """Return the width of the product of any two pairs, in two's complement."""
    # The most negative significands may multiply to one more bit than two magnitudes have.
    return a.significand_bits + b.significand_bits + a.top - a.offset + b.top - b.offset


def product_wires(mac: Mac, a: tuple[WireVector, WireVector], b: tuple[WireVector, WireVector]) -> WireVector:
    """Return the product of two pairs (exponent, significand) as an integer of the register's width."""
    return pair_product(mac.a, mac.b, mac.accumulator.bits, a, b)


def pair_product(
    left: PairPorts, right: PairPorts, bits: int, a: tuple[WireVector, WireVector], b: tuple[WireVector, WireVector]
) -> WireVector:
    """Return the product of two pairs (exponent, significand) as an integer of so many bits, enough to hold it."""
    (ea, sa), (eb, sb) = a, b
    if left.unit_significands or right.unit_significands:
        unit, other = (sa, sb) if left.unit_significands else (sb, sa)
        significand = _selected(unit, other)
    else:
        significand = pyrtl.signed_mult(sa, sb)
    wide = w.signed_widened(significand, bits) if len(significand) < bits else w.low(significand, bits)
    amounts = [e for e, ports in ((ea, left), (eb, right)) if ports.top > ports.offset]
    if not amounts:
        return wide
    amount = amounts[0] + amounts[1] if len(amounts) == 2 else amounts[0]
    return w.shifted_left(wide, amount, bits)


def _selected(unit: WireVector, other: WireVector) -> WireVector:
    """Return `other` times a significand of -1, 0 or 1: itself, its negative, or 0."""
    width = len(other) + 1
    negative = unit[-1] if len(unit) == 2 else w.constant(0, 1)
    flipped = w.signed_widened(other, width) ^ negative.sign_extended(width)
    return w.gated(w.low(flipped + w.widened(negative, width), width), unit[0])


def products(inputs: Values, bits: int = 0) -> np.ndarray:
    """Return the products of the pairs on the ports of a datapath whose register has so many bits."""
    significand = np.asarray(inputs["significand_a"]) * np.asarray(inputs["significand_b"])
    exponent = np.asarray(inputs["exponent_a"]) + np.asarray(inputs["exponent_b"])
    return integers(significand, bits) << integers(exponent, bits)


def _operand_ports(mac: Mac) -> tuple[Port, ...]:
    return tuple(
        port
        for name, pair in (("a", mac.a), ("b", mac.b))
        for port in (
            Port(name=f"exponent_{name}", width=pair.exponent_bits),
            Port(name=f"significand_{name}", width=pair.significand_bits, signed=True),
        )
    )


def legal(mac: Mac, inputs: Values) -> np.ndarray:
    """Return which inputs a decoder can send: exponents up to the top, unit significands from -1 to 1."""
    fits = np.ones(len(np.asarray(inputs["exponent_a"])), bool)
    for name, pair in (("a", mac.a), ("b", mac.b)):
        fits &= np.asarray(inputs[f"exponent_{name}"]) <= pair.top - pair.offset
        if pair.unit_significands:
            fits &= np.asarray(inputs[f"significand_{name}"]) >= -1
    return fits


def mac_step(mac: Mac, module: str = "mac_step") -> Unit:
    """Return the datapath alone: `total` and two pairs to the register's `next` value.

    >>> from macloom.formats import get_format
    >>> int4 = operand_ports(get_format("int4"))
    >>> unit = mac_step(Mac(a=int4, b=int4, accumulator=IntegerAccumulator(bits=16)))
    >>> unit.outputs[0].width
    16
    """
    bits = mac.accumulator.bits
    ports = (*_operand_ports(mac), Port(name="total", width=bits, signed=True))

    def circuit(inputs: Wires) -> Wires:
        a, b = ((inputs[f"exponent_{n}"], inputs[f"significand_{n}"]) for n in "ab")
        return {"next": accumulate_wires(mac.accumulator, inputs["total"], product_wires(mac, a, b))}

    return Unit(
        module=module,
        inputs=ports,
        outputs=(Port(name="next", width=bits, signed=True),),
        circuit=circuit,
        model=lambda inputs: {"next": accumulate(mac.accumulator, inputs["total"], _product(mac, inputs))},
        cares=lambda inputs: {"next": legal(mac, inputs)},
        facts=_facts(mac),
    )


def _product(mac: Mac, inputs: Values) -> np.ndarray:
    """Return the products, 0 for pairs that no decoder sends, which might not fit."""
    return np.where(legal(mac, inputs), products(inputs, mac.accumulator.bits), 0)


def _facts(mac: Mac) -> dict[str, object]:
    return {
        "accumulator": mac.accumulator.name,
        "accumulator_bits": mac.accumulator.bits,
        "product_bits": mac.product_bits,
        "exponent_offset": mac.unit_exponent,
        "unit_exponent": mac.unit_exponent,
    }


def mac_pe(mac: Mac, module: str = "mac_pe") -> Unit:
    """Return the processing element of an output-stationary array: registers for both operands and the sum.

    In every cycle with `valid` the product of the operands on the ports is added to the register, or
    replaces it with `clear`; the operands leave one cycle later for the next elements.
    """
    bits = mac.accumulator.bits
    operands = _operand_ports(mac)

    def circuit(inputs: Wires) -> Wires:
        a, b = ((inputs[f"exponent_{n}"], inputs[f"significand_{n}"]) for n in "ab")
        total = pyrtl.Register(bits, "total")
        before = w.gated(total, w.inverted(inputs["clear"]))
        after = accumulate_wires(mac.accumulator, before, product_wires(mac, a, b))
        w.clock(total, pyrtl.select(inputs["valid"], after, total))
        made: dict[str, WireVector] = {"sum": total}
        for port in operands:
            made[f"{port.name}_out"] = w.held(inputs[port.name], f"{port.name}_held")
        return made

    def model(inputs: Values) -> Values:
        terms = _product(mac, inputs).tolist()
        sums, total = [], 0
        for term, clear, valid in zip(terms, inputs["clear"].tolist(), inputs["valid"].tolist(), strict=True):
            sums.append(total)
            if valid:
                total = int(accumulate(mac.accumulator, 0 if clear else total, term))
        passed = {f"{p.name}_out": np.concatenate(([0], np.asarray(inputs[p.name])[:-1])) for p in operands}
        return {"sum": integers(np.array(sums), bits), **passed}

    def stimuli(count: int, seed: int) -> Values:
        # Sums of about a hundred products, so that registers overflow.
        rng = np.random.default_rng(seed)
        made = {p.name: rng.integers(0, 1 << p.width, count) for p in operands}
        made = {p.name: p.values_of(made[p.name]) for p in operands}
        for name, pair in (("a", mac.a), ("b", mac.b)):
            made[f"exponent_{name}"] = np.minimum(made[f"exponent_{name}"], pair.top - pair.offset)
            if pair.unit_significands:
                made[f"significand_{name}"] = np.maximum(made[f"significand_{name}"], -1)
            runs = np.repeat(rng.random(-(-count // 64)) < 0.5, 64)[:count]  # sums that only grow
            made[f"significand_{name}"] = np.where(
                runs, abs(made[f"significand_{name}"] + 1) - 1, made[f"significand_{name}"]
            )
        return made | {"clear": (rng.random(count) < 0.01) * 1, "valid": (rng.random(count) < 0.9) * 1}

    def cares(inputs: Values) -> Values:
        # A product that no decoder sends spoils the sum until it is cleared.
        spoilt, clean = False, []
        for fits, clear, valid in zip(
            legal(mac, inputs).tolist(), inputs["clear"].tolist(), inputs["valid"].tolist(), strict=True
        ):
            clean.append(not spoilt)
            spoilt = ((spoilt and not clear) or not fits) if valid else spoilt
        return {"sum": np.array(clean)}

    return Unit(
        module=module,
        inputs=(*operands, Port(name="clear", width=1), Port(name="valid", width=1)),
        outputs=(
            Port(name="sum", width=bits, signed=True),
            *(Port(name=f"{p.name}_out", width=p.width, signed=p.signed) for p in operands),
        ),
        circuit=circuit,
        model=model,
        cares=cares,
        clocked=True,
        stimuli=stimuli,
        facts=_facts(mac),
    )


def pe(a: TensorFormat, b: TensorFormat, accumulator: Register | None = None, module: str | None = None) -> Unit:
    """Return the processing element for two formats, with a 32-bit wrapping register unless given.

    Raises:
        MacloomError: a format has no decoder, or the register does not hold one product.
    """
    mac = Mac(a=operand_ports(a), b=operand_ports(b), accumulator=accumulator or IntegerAccumulator())
    names = identifier(a.name) if a == b else f"{identifier(a.name)}_{identifier(b.name)}"
    unit = mac_pe(mac, module or f"{names}_pe")
    return replace(unit, facts={**formats_facts(a, b), **unit.facts})


def formats_facts(a: TensorFormat, b: TensorFormat) -> dict[str, object]:
    """Return what a unit of two formats says of them; keys end in `_b` for the second."""
    facts: dict[str, object] = {"format": a.name, "format_b": b.name, "code_bits": a.code_bits}
    facts["code_bits_b"] = b.code_bits
    besides = [reason for reason in dict.fromkeys(map(beside, (a, b))) if reason]
    return facts | ({"beside": "; ".join(besides)} if besides else {})
