"""Energy of each event, as pure functions of a technology table.

Every function returns a `Quantity`: the value with how it is known, so that a result can say how much
of it is published and how much is estimated. No function looks at an accelerator or a format.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

from macloom.arch.technology import DRAM_PREFIX, Provenance, Technology, weakest
from macloom.errors import MacloomError, require_positive_integer, unknown

# NAND2 gates of the textbook NAND-only netlists: a 2:1 multiplexer takes 4, a full adder takes 9.
_MULTIPLEXER_PER_FULL_ADDER = 4 / 9


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A number and how it is known; `extrapolated` when it lies outside the range of the table.

    >>> 2 * Quantity(value=1.5, kind=Provenance.PUBLISHED) + Quantity(value=1.0, kind=Provenance.ESTIMATED)
    Quantity(value=4.0, kind=<Provenance.ESTIMATED: 'estimated'>, extrapolated=False)
    """

    value: float
    kind: Provenance
    extrapolated: bool = False

    def __mul__(self, factor: float) -> Quantity:
        return replace(self, value=self.value * factor)

    __rmul__ = __mul__

    def __add__(self, other: Quantity) -> Quantity:
        return Quantity(
            value=self.value + other.value,
            kind=weakest(self.kind, other.kind),
            extrapolated=self.extrapolated or other.extrapolated,
        )


def multiply_energy_j(technology: Technology, significand_bits_a: int, significand_bits_b: int) -> Quantity:
    """Return the energy of one integer multiply of two significands, in joules.

    Law: energy is proportional to the cells of an array multiplier, the product of the widths, from
    the table's int8 multiply downwards; between 8 x 8 and 32 x 32 a straight line in log-log space
    joins the two table values. The law is an estimate. Check on it: at 45 nm, int32 comes to 3.2 pJ
    from int8 alone and is published as 3.1 pJ.
    """
    require_positive_integer("significand_bits_a", significand_bits_a)
    require_positive_integer("significand_bits_b", significand_bits_b)
    int8, int32 = technology.constant("int8_multiply"), technology.constant("int32_multiply")
    cells = significand_bits_a * significand_bits_b
    exponent = math.log(int32.value / int8.value, 32 * 32 / 64) if cells > 64 else 1.0
    if significand_bits_a == significand_bits_b == 8:
        return Quantity(value=int8.value, kind=int8.kind)
    if significand_bits_a == significand_bits_b == 32:
        return Quantity(value=int32.value, kind=int32.kind)
    return Quantity(value=int8.value * (cells / 64) ** exponent, kind=Provenance.ESTIMATED)


def add_energy_j(technology: Technology, bits: int) -> Quantity:
    """Return the energy of one integer add of this width, in joules.

    Between 8 and 32 bits it lies on the straight line through the table's two values; outside, it is
    proportional to the width of the nearer one. Widths that the table lacks are estimates.
    """
    require_positive_integer("bits", bits)
    int8, int32 = technology.constant("int8_add"), technology.constant("int32_add")
    if bits in (8, 32):
        exact = int8 if bits == 8 else int32
        return Quantity(value=exact.value, kind=exact.kind)
    if bits < 8:
        value = int8.value * bits / 8
    elif bits > 32:
        value = int32.value * bits / 32
    else:
        value = int8.value + (int32.value - int8.value) * (bits - 8) / 24
    return Quantity(value=value, kind=Provenance.ESTIMATED)


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
    fp16, fp32 = technology.constant(f"fp16_{operation}"), technology.constant(f"fp32_{operation}")
    if bits in (16, 32):
        exact = fp16 if bits == 16 else fp32
        return Quantity(value=exact.value, kind=exact.kind)
    value = fp16.value * (bits / 16) ** math.log2(fp32.value / fp16.value)
    return Quantity(value=value, kind=Provenance.ESTIMATED, extrapolated=not 16 <= bits <= 32)


def shift_energy_j(technology: Technology, bits: int, positions: int) -> Quantity:
    """Return the energy of one barrel shift of a `bits`-bit word to one of `positions` places, in joules.

    ceil(log2(positions)) stages of `bits` 2:1 multiplexers, each 4/9 of one bit of adder (NAND2 gates
    of the textbook netlists, equal activity assumed): an estimate. One position is a wire.
    """
    require_positive_integer("bits", bits)
    require_positive_integer("positions", positions)
    stages = (positions - 1).bit_length()
    return Quantity(
        value=add_energy_j(technology, bits).value * stages * _MULTIPLEXER_PER_FULL_ADDER, kind=Provenance.ESTIMATED
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
    require_positive_integer("decoder_bits", decoder_bits)
    if decoder_elements == 1:
        area = technology.constant("element_decoder_4_bit_area").value * decoder_bits / 4
    elif decoder_elements == 2:
        small = technology.constant("pair_decoder_4_bit_area").value
        large = technology.constant("pair_decoder_8_bit_area").value
        area = small * decoder_bits / 8 if decoder_bits < 8 else small + (large - small) * (decoder_bits - 8) / 8
    else:
        raise MacloomError(f"decoder_elements: must be 1 or 2, not {decoder_elements!r}")
    pe = (
        multiply_energy_j(technology, 4, 4)
        + add_energy_j(technology, 4)
        + shift_energy_j(technology, 8, 16)
        + add_energy_j(technology, 32)
    )
    return Quantity(value=pe.value * area / technology.constant("pe_4_bit_area").value, kind=Provenance.ESTIMATED)


def sram_energy_j_per_bit(technology: Technology, size_bits: int) -> Quantity:
    """Return the energy of one bit read from or written to an SRAM of this size, in joules.

    The table holds the energy of 64-bit accesses at a few sizes. Between them the value lies on the
    straight line in log-log space (kind `scaled`); outside them the nearest line is extended (kind
    `estimated`, `extrapolated` set). A 64th of an access is taken per bit whatever the port width.
    """
    require_positive_integer("size_bits", size_bits)
    known = technology.sram_sizes_bits
    if size_bits in known:
        constant = technology.constant(known[size_bits])
        return Quantity(value=constant.value / 64, kind=constant.kind)
    pairs = list(itertools.pairwise(known))
    low, high = next((p for p in pairs if size_bits < p[1]), pairs[-1])
    first, second = technology.constant(known[low]), technology.constant(known[high])
    slope = math.log(second.value / first.value) / math.log(high / low)
    outside = not low < size_bits < high
    return Quantity(
        value=first.value * (size_bits / low) ** slope / 64,
        kind=Provenance.ESTIMATED if outside else weakest(Provenance.SCALED, first.kind, second.kind),
        extrapolated=outside,
    )


def dram_energy_j_per_bit(technology: Technology, kind: str) -> Quantity:
    """Return the energy of one bit moved to or from DRAM of this kind, in joules."""
    name = f"{DRAM_PREFIX}{kind}"
    if name not in technology.constants:
        raise unknown("dram kind", kind, technology.dram_kinds, f"technology {technology.name}")
    constant = technology.constant(name)
    return Quantity(value=constant.value, kind=constant.kind)
