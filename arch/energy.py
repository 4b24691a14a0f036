"""Energy of each event, as pure functions of a technology table.

Every function returns a `Quantity`: the value with how it is known, so that a result can say how much
of it is published and how much is estimated. No function looks at an accelerator or a format.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from macloom.arch.array import AccumulatorKind, ProcessingElement
from macloom.arch.gate_costs import GateCost, base_cost
from macloom.arch.technology import DRAM_PREFIX, Provenance, Technology, weakest
from macloom.errors import MacloomError, require_positive_integer, unknown

# NAND2 gates of the textbook NAND-only netlists: a 2:1 multiplexer takes 4, a full adder takes 9.
_MULTIPLEXER_PER_FULL_ADDER = 4 / 9


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A number and how it is known; `extrapolated` when it lies outside the range of the table.

    `low` and `high` are what it would be with every constant at its lower or upper bound.

    >>> 2 * Quantity(value=1.5, kind=Provenance.PUBLISHED) + Quantity(value=1.0, kind=Provenance.ESTIMATED)
    Quantity(value=4.0, kind=<Provenance.ESTIMATED: 'estimated'>, extrapolated=False)
    """

    value: float
    kind: Provenance
    extrapolated: bool = False
    low: float = field(default=math.nan, repr=False)
    high: float = field(default=math.nan, repr=False)

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            if math.isnan(getattr(self, name)):
                object.__setattr__(self, name, self.value)

    def __mul__(self, factor: float) -> Quantity:
        return replace(self, value=self.value * factor, low=self.low * factor, high=self.high * factor)

    __rmul__ = __mul__

    def __add__(self, other: Quantity) -> Quantity:
        return Quantity(
            value=self.value + other.value,
            kind=weakest(self.kind, other.kind),
            extrapolated=self.extrapolated or other.extrapolated,
            low=self.low + other.low,
            high=self.high + other.high,
        )


Reader = Callable[[str], float]


def _quantity(
    technology: Technology, law: Callable[[Reader], float], kind: Provenance, extrapolated: bool = False
) -> Quantity:
    """Return what a law gives for a table's constants, for their lower and for their upper bounds."""

    def read(bound: str) -> Reader:
        def constant(name: str) -> float:
            found = technology.constant(name)
            limit = getattr(found, bound)
            return found.value if limit is None else limit

        return constant

    return Quantity(
        value=law(read("value")), kind=kind, extrapolated=extrapolated, low=law(read("low")), high=law(read("high"))
    )


def constant_quantity(technology: Technology, name: str) -> Quantity:
    """Return a constant of the table as it is."""
    return _quantity(technology, lambda constant: constant(name), technology.constant(name).kind)


def multiply_energy_j(technology: Technology, significand_bits_a: int, significand_bits_b: int) -> Quantity:
    """Return the energy of one integer multiply of two significands, in joules.

    Law: energy is proportional to the cells of an array multiplier, the product of the widths, from
    the table's int8 multiply downwards; between 8 x 8 and 32 x 32 a straight line in log-log space
    joins the two table values. The law is an estimate. Check on it: at 45 nm, int32 comes to 3.2 pJ
    from int8 alone and is published as 3.1 pJ.
    """
    require_positive_integer("significand_bits_a", significand_bits_a)
    require_positive_integer("significand_bits_b", significand_bits_b)
    if significand_bits_a == significand_bits_b == 8:
        return constant_quantity(technology, "int8_multiply")
    if significand_bits_a == significand_bits_b == 32:
        return constant_quantity(technology, "int32_multiply")
    cells = significand_bits_a * significand_bits_b

    def law(constant: Reader) -> float:
        int8, int32 = constant("int8_multiply"), constant("int32_multiply")
        exponent = math.log(int32 / int8, 32 * 32 / 64) if cells > 64 else 1.0
        return int8 * (cells / 64) ** exponent

    return _quantity(technology, law, Provenance.ESTIMATED)


def add_energy_j(technology: Technology, bits: int) -> Quantity:
    """Return the energy of one integer add of this width, in joules.

    Between 8 and 32 bits it lies on the straight line through the table's two values; outside, it is
    proportional to the width of the nearer one. Widths that the table lacks are estimates.
    """
    require_positive_integer("bits", bits)
    if bits in (8, 32):
        return constant_quantity(technology, f"int{bits}_add")

    def law(constant: Reader) -> float:
        int8, int32 = constant("int8_add"), constant("int32_add")
        if bits < 8:
            return int8 * bits / 8
        if bits > 32:
            return int32 * bits / 32
        return int8 + (int32 - int8) * (bits - 8) / 24

    return _quantity(technology, law, Provenance.ESTIMATED)


def float_multiply_energy_j(technology: Technology, bits: int) -> Quantity:
    """Return the energy of one float multiply of this total width, in joules.

    16 and 32 bits are table values; other widths lie on the straight line through both in log-log
    space and are estimates.
    """
    return _float_energy(technology, "multiply", bits)


def float_add_energy_j(technology: Technology, bits: int) -> Quantity:
    """Return the energy of one float add of this total width, in joules; same law as the multiply."""
    return _float_energy(technology, "add", bits)


def _float_energy(technology: Technology, operation: str, bits: int) -> Quantity:
    require_positive_integer("bits", bits)
    if bits in (16, 32):
        return constant_quantity(technology, f"fp{bits}_{operation}")

    def law(constant: Reader) -> float:
        fp16, fp32 = constant(f"fp16_{operation}"), constant(f"fp32_{operation}")
        return fp16 * (bits / 16) ** math.log2(fp32 / fp16)

    return _quantity(technology, law, Provenance.ESTIMATED, extrapolated=not 16 <= bits <= 32)


def shift_energy_j(technology: Technology, bits: int, positions: int) -> Quantity:
    """Return the energy of one barrel shift of a `bits`-bit word to one of `positions` places, in joules.

    ceil(log2(positions)) stages of `bits` 2:1 multiplexers, each 4/9 of one bit of adder (NAND2 gates
    of the textbook netlists, equal activity assumed): an estimate. One position is a wire.
    """
    require_positive_integer("bits", bits)
    require_positive_integer("positions", positions)
    stages = (positions - 1).bit_length()
    return replace(
        add_energy_j(technology, bits) * (stages * _MULTIPLEXER_PER_FULL_ADDER),
        kind=Provenance.ESTIMATED,
        extrapolated=False,
    )


def decoder_energy_j(technology: Technology, decoder_bits: int, decoder_elements: int = 1) -> Quantity:
    """Return the energy of one read of a border decoder, in joules.

    `decoder_bits` code bits come in and `decoder_elements` operands go out; zero bits means that the
    codes already are operands and costs nothing. Estimate: energy of a 4-bit exponent-integer PE
    (4 x 4 multiply, 4-bit exponent add, 8-bit shift by up to 15, 32-bit accumulate) times the ratio
    of the areas in the table, equal energy per area assumed. Pair decoders (two elements) lie on the
    line through OliVe's 4-bit decoder (8 code bits) and 8-bit decoder (16 code bits), through the
    origin below it; single-element decoders are ANT's 4-bit decoder times the width over 4.
    """
    if decoder_bits == 0:
        return Quantity(value=0.0, kind=Provenance.PUBLISHED)
    pe = (
        multiply_energy_j(technology, 4, 4)
        + add_energy_j(technology, 4)
        + shift_energy_j(technology, 8, 16)
        + add_energy_j(technology, 32)
    )
    return replace(pe * decoder_area_ratio(technology, decoder_bits, decoder_elements), kind=Provenance.ESTIMATED)


def decoder_area_ratio(technology: Technology, decoder_bits: int, decoder_elements: int = 1) -> float:
    """Return the area of a border decoder over that of OliVe's 4-bit element; see `decoder_energy_j`."""
    require_positive_integer("decoder_bits", decoder_bits)
    if decoder_elements == 1:
        area = technology.constant("element_decoder_4_bit_area").value * decoder_bits / 4
    elif decoder_elements == 2:
        small = technology.constant("pair_decoder_4_bit_area").value
        large = technology.constant("pair_decoder_8_bit_area").value
        area = small * decoder_bits / 8 if decoder_bits < 8 else small + (large - small) * (decoder_bits - 8) / 8
    else:
        raise MacloomError(f"decoder_elements: must be 1 or 2, not {decoder_elements!r}")
    return area / technology.constant("pe_4_bit_area").value


def int8_mac_energy_j(technology: Technology) -> Quantity:
    """Return the energy of an int8 multiply and its add to a 32-bit register, in joules.

    >>> from macloom.arch import load_technology
    >>> round(int8_mac_energy_j(load_technology("45nm")).value * 1e12, 3)
    0.3
    """
    return multiply_energy_j(technology, 8, 8) + add_energy_j(technology, 32)


def gate_energy_j(technology: Technology, cost: GateCost) -> Quantity:
    """Return the energy of one operation of a generated unit, in joules.

    The energy of an int8 multiply-accumulate times the ratio of what switches; the bounds hold the noise of the
    tools. Only the int8 element itself is more than an estimate.
    """
    energy, base = int8_mac_energy_j(technology), base_cost()
    if cost == base:
        return energy
    low, nominal, high = cost.relative(base, "switching")
    return Quantity(
        value=energy.value * nominal, low=energy.low * low, high=energy.high * high, kind=Provenance.ESTIMATED
    )


def element_energy_j(technology: Technology, pe: ProcessingElement) -> Quantity:
    """Return the energy of one multiply-accumulate in which all of an element works, by its widths, in joules.

    Integer elements: a multiply, with an exponent path the add of two exponents and a shift of the product by up
    to the sum of the largest, and an add in the accumulator. Float elements: one float multiply of the
    element's width and one float add of the accumulator's.
    """
    if pe.accumulator is AccumulatorKind.FLOAT:
        width = pe.significand_bits - 1 + pe.exponent_bits  # the leading bit is not stored, the sign is
        return float_multiply_energy_j(technology, width) + float_add_energy_j(technology, pe.accumulator_bits)
    product = multiply_energy_j(technology, pe.significand_bits, pe.significand_bits)
    if pe.exponent_bits:
        product += add_energy_j(technology, pe.exponent_bits + 1)
        product += shift_energy_j(technology, 2 * pe.significand_bits, 2 << pe.exponent_bits)
    return product + add_energy_j(technology, pe.accumulator_bits)


def sram_energy_j_per_bit(technology: Technology, size_bits: int) -> Quantity:
    """Return the energy of one bit read from or written to an SRAM of this size, in joules.

    The table holds the energy of 64-bit accesses at a few sizes. Between them the value lies on the
    straight line in log-log space (kind `scaled`); outside them the nearest line is extended (kind
    `estimated`, `extrapolated` set). A 64th of an access is taken per bit whatever the port width.
    """
    require_positive_integer("size_bits", size_bits)
    known = technology.sram_sizes_bits
    if size_bits in known:
        return constant_quantity(technology, known[size_bits]) * (1 / 64)
    pairs = list(itertools.pairwise(known))
    low, high = next((p for p in pairs if size_bits < p[1]), pairs[-1])
    outside = not low < size_bits < high

    def law(constant: Reader) -> float:
        first, second = constant(known[low]), constant(known[high])
        slope = math.log(second / first) / math.log(high / low)
        return first * (size_bits / low) ** slope / 64

    kinds = (technology.constant(known[size]).kind for size in (low, high))
    kind = Provenance.ESTIMATED if outside else weakest(Provenance.SCALED, *kinds)
    return _quantity(technology, law, kind, outside)


def dram_energy_j_per_bit(technology: Technology, kind: str) -> Quantity:
    """Return the energy of one bit moved to or from DRAM of this kind, in joules."""
    name = f"{DRAM_PREFIX}{kind}"
    if name not in technology.constants:
        raise unknown("dram kind", kind, technology.dram_kinds, f"technology {technology.name}")
    return constant_quantity(technology, name)
