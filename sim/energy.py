"""Energy of what happened: counts of events times the energies of a technology table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from macloom.arch import (
    Accelerator,
    AccumulatorKind,
    ProcessingElement,
    Provenance,
    Quantity,
    Technology,
    add_energy_j,
    decoder_energy_j,
    dram_energy_j_per_bit,
    float_add_energy_j,
    float_multiply_energy_j,
    multiply_energy_j,
    shift_energy_j,
    sram_energy_j_per_bit,
    weakest,
)
from macloom.formats import TensorFormat
from macloom.sim.fit import OperandFit, ProductFit
from macloom.sim.vector import Operations

NOTHING = Quantity(value=0.0, kind=Provenance.MEASURED)


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Dynamic energy by component, in joules.

    `low_j` and `high_j` are the totals with every constant of the technology at its lower or upper bound;
    `low` and `high` give them by component, where they differ from the nominal value. `kinds` says for each
    component how its weakest constant is known, and `extrapolated` names the components with a constant
    outside the range of its table. The technology tables hold no leakage, so none is counted.
    """

    mac_j: float = 0.0
    decoder_j: float = 0.0
    sram_j: float = 0.0
    dram_j: float = 0.0
    vector_j: float = 0.0
    kinds: Mapping[str, Provenance] = field(default_factory=dict)
    extrapolated: frozenset[str] = frozenset()
    low: Mapping[str, float] = field(default_factory=dict)
    high: Mapping[str, float] = field(default_factory=dict)

    @property
    def parts(self) -> dict[str, float]:
        """Joules by component name."""
        return {name: getattr(self, name) for name in COMPONENTS}

    @property
    def total_j(self) -> float:
        return sum(self.parts.values())

    @property
    def low_j(self) -> float:
        return sum(({**self.parts, **self.low}).values())

    @property
    def high_j(self) -> float:
        return sum(({**self.parts, **self.high}).values())

    def __add__(self, other: Energy) -> Energy:
        kinds = {
            name: weakest(*(e.kinds[name] for e in (self, other) if name in e.kinds))
            for name in COMPONENTS
            if name in self.kinds or name in other.kinds
        }
        sums = {name: value + other.parts[name] for name, value in self.parts.items()}
        return Energy(
            **sums,
            kinds=kinds,
            extrapolated=self.extrapolated | other.extrapolated,
            low=_bounds_together("low", self, other),
            high=_bounds_together("high", self, other),
        )

    def __mul__(self, times: float) -> Energy:
        scaled = {name: value * times for name, value in self.parts.items()}
        low, high = ({name: value * times for name, value in bound.items()} for bound in (self.low, self.high))
        return Energy(**scaled, kinds=self.kinds, extrapolated=self.extrapolated, low=low, high=high)

    __rmul__ = __mul__

    def to_dict(self) -> dict[str, Any]:
        """Return joules by component and in all, with kinds, ready for JSON."""
        return {
            **self.parts,
            "total_j": self.total_j,
            "low_j": self.low_j,
            "high_j": self.high_j,
            "kinds": {name: kind.value for name, kind in self.kinds.items()},
            "extrapolated": sorted(self.extrapolated),
        }


COMPONENTS = tuple(f.name for f in fields(Energy) if f.name.endswith("_j"))


def _bounds_together(bound: str, *energies: Energy) -> dict[str, float]:
    """Return the sums of a bound by component, for those that differ from the component in any of them."""
    names = dict.fromkeys(name for e in energies for name in getattr(e, bound))
    return {name: sum(getattr(e, bound).get(name, e.parts[name]) for e in energies) for name in names}


def energy_of(**components: Quantity) -> Energy:
    """Build an energy from quantities in joules; components of no energy carry no kind.

    >>> energy_of(mac_j=Quantity(value=2.0, kind=Provenance.SCALED), sram_j=NOTHING).kinds
    {'mac_j': <Provenance.SCALED: 'scaled'>}
    """
    present = {name: q for name, q in components.items() if q.value}
    return Energy(
        **{name: q.value for name, q in present.items()},
        kinds={name: q.kind for name, q in present.items()},
        extrapolated=frozenset(name for name, q in present.items() if q.extrapolated),
        low={name: q.low for name, q in present.items() if q.low != q.value},
        high={name: q.high for name, q in present.items() if q.high != q.value},
    )


def mac_energy(technology: Technology, pe: ProcessingElement, fit: ProductFit) -> Quantity:
    """Return the energy of one multiply-accumulate on the elements that the product occupies.

    An element works at its own width, whatever the width of the operand in it. Integer elements: one
    multiply each; where exponents or slices are involved, the add of two exponents and a shift of the
    product by up to the sum of the largest; slices are joined by adds of twice the product's width; one
    add in the accumulator. Float elements: one float multiply of the element's width and one float add
    of the accumulator's.
    """
    if pe.accumulator is AccumulatorKind.FLOAT:
        width = pe.significand_bits - 1 + pe.exponent_bits  # the leading bit is not stored, the sign is
        return float_multiply_energy_j(technology, width) + float_add_energy_j(technology, pe.accumulator_bits)
    width = 2 * pe.significand_bits
    product = multiply_energy_j(technology, pe.significand_bits, pe.significand_bits)
    if fit.exponent and pe.exponent_bits:
        product += add_energy_j(technology, pe.exponent_bits + 1)
        product += shift_energy_j(technology, width, 2 << pe.exponent_bits)
    energy = fit.pes_per_mac * product + add_energy_j(technology, pe.accumulator_bits)
    if fit.pes_per_mac > 1:
        energy += (fit.pes_per_mac - 1) * add_energy_j(technology, 2 * width)
    return energy


def block_scale_energy(technology: Technology, pe: ProcessingElement) -> Quantity:
    """Return the energy of scaling one block's sum inside an element: a float multiply and a float add."""
    width = max(pe.accumulator_bits, 16)
    return float_multiply_energy_j(technology, width) + float_add_energy_j(technology, width)


def decoding_energy(technology: Technology, fmt: TensorFormat, elements: int) -> Quantity:
    """Return the energy of decoding this many elements at the border of the array."""
    return (elements / fmt.decoder_elements) * decoder_energy_j(technology, fmt.decoder_bits, fmt.decoder_elements)


def vector_energy(accelerator: Accelerator, operations: Operations) -> Quantity:
    """Return the energy of operations on the vector unit: float multiplies and float adds of its width."""
    technology, bits = accelerator.technology, accelerator.vector.bits
    energy = NOTHING
    if operations.multiplies:
        energy += operations.multiplies * float_multiply_energy_j(technology, bits)
    if operations.adds:
        energy += operations.adds * float_add_energy_j(technology, bits)
    return energy


def vector_mac_energy(accelerator: Accelerator) -> Quantity:
    """Return the energy of one multiply-accumulate on the vector unit."""
    return vector_energy(accelerator, Operations(multiplies=1, adds=1))


def buffer_energy(accelerator: Accelerator, a_bits: float, b_bits: float, out_bits: float) -> Quantity:
    """Return the energy of bits read from or written to the three buffers."""
    technology, buffers = accelerator.technology, accelerator.buffers
    sizes = (buffers.operand_a.size_bits, buffers.operand_b.size_bits, buffers.output.size_bits)
    energy = NOTHING
    for size, bits in zip(sizes, (a_bits, b_bits, out_bits), strict=True):
        if bits:
            energy += bits * sram_energy_j_per_bit(technology, size)
    return energy


def dram_energy(accelerator: Accelerator, bits: float) -> Quantity:
    """Return the energy of bits moved to or from DRAM."""
    return bits * dram_energy_j_per_bit(accelerator.technology, accelerator.dram.kind)


def cheapest_mac_j(accelerator: Accelerator) -> float:
    """Return the least energy that any multiply-accumulate can take on this machine, in joules."""
    plain = OperandFit(slices=1, exponent=False, decoded=False)
    on_array = mac_energy(accelerator.technology, accelerator.array.pe, ProductFit(a=plain, b=plain))
    return min(on_array.value, vector_mac_energy(accelerator).value)
