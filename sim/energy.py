"""Energy of what happened: counts of events times the energies of a technology table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache, reduce
from operator import add
from typing import Any, NamedTuple

from macloom.arch import (
    Accelerator,
    AccumulatorKind,
    GateCost,
    ProcessingElement,
    Provenance,
    Quantity,
    Technology,
    add_energy_j,
    decoder_energy_j,
    dram_energy_j_per_bit,
    element_energy_j,
    float_add_energy_j,
    float_multiply_energy_j,
    gate_energy_j,
    leakage_w,
    load_gate_costs,
    multiply_energy_j,
    row_of,
    shift_energy_j,
    sram_energy_j_per_bit,
    weakest,
)
from macloom.arch.gate_costs import gate_costs
from macloom.formats import TensorFormat
from macloom.sim.fit import OperandFit, ProductFit
from macloom.sim.vector import Operations, rounding_operations

NOTHING = Quantity(value=0.0, kind=Provenance.MEASURED)


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Energy by component, in joules: dynamic, and leakage over the cycles that the operation takes.

    `low_j` and `high_j` are the totals with every constant of the technology at its lower or upper bound;
    `low` and `high` give them by component, where they differ from the nominal value. `kinds` says for each
    component how its weakest constant is known, and `extrapolated` names the components with a constant
    outside the range of its table. Leakage is that of buffers and elements (`macloom.arch.leakage_w`).
    """

    mac_j: float = 0.0
    decoder_j: float = 0.0
    encoder_j: float = 0.0
    sram_j: float = 0.0
    dram_j: float = 0.0
    vector_j: float = 0.0
    leakage_j: float = 0.0
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


def mac_energy(
    technology: Technology,
    pe: ProcessingElement,
    fit: ProductFit,
    a: TensorFormat | None = None,
    b: TensorFormat | None = None,
) -> Quantity:
    """Return the energy of one multiply-accumulate on the elements that the product occupies.

    An operand of `a` by one of `b` costs what the generated element of these formats switches (`arch.gate_costs`),
    where one integer element holds the product and the table has a row for both; the bounds then enclose the
    estimate by widths as well. In that estimate an element works at its own width, whatever the width of the operand
    in it. Integer elements: one multiply each; where exponents or slices are involved, the add of two exponents and
    a shift of the product by up to the sum of the largest; slices are joined by adds of twice the product's width;
    one add in the accumulator. Float elements: one float multiply of the element's width and one float add of
    the accumulator's.
    """
    by_widths = _mac_energy_by_widths(technology, pe, fit)
    row = mac_row(pe, fit, a, b)
    return by_widths if row is None else _beside(gate_energy_j(technology, gate_costs(row)["mac"]), by_widths)


def mac_row(pe: ProcessingElement, fit: ProductFit, a: TensorFormat | None, b: TensorFormat | None) -> str | None:
    """Return the row of the gate counts that prices a product, or None: see `mac_energy`."""
    if a is None or b is None or fit.pes_per_mac > 1 or pe.accumulator is AccumulatorKind.FLOAT:
        return None
    row = row_of(a)
    return row if row_of(b) == row else None


def _beside(gates: Quantity, estimate: Quantity) -> Quantity:
    """Return the energy by gates with bounds that enclose the estimate, too: two models, one spread."""
    return replace(gates, low=min(gates.low, estimate.low), high=max(gates.high, estimate.high))


def _mac_energy_by_widths(technology: Technology, pe: ProcessingElement, fit: ProductFit) -> Quantity:
    slices = fit.pes_per_mac
    if pe.accumulator is AccumulatorKind.FLOAT:
        return element_energy_j(technology, pe)
    width = 2 * pe.significand_bits
    accumulate = add_energy_j(technology, pe.accumulator_bits)
    product = multiply_energy_j(technology, pe.significand_bits, pe.significand_bits)
    if fit.exponent and pe.exponent_bits:
        product += add_energy_j(technology, pe.exponent_bits + 1)
        product += shift_energy_j(technology, width, 2 << pe.exponent_bits)
    energy = slices * product + accumulate
    return energy + (slices - 1) * add_energy_j(technology, 2 * width) if slices > 1 else energy


def block_scale_energy(technology: Technology, pe: ProcessingElement) -> Quantity:
    """Return the energy of scaling one block's sum inside an element: a float multiply and a float add."""
    width = max(pe.accumulator_bits, 16)
    return float_multiply_energy_j(technology, width) + float_add_energy_j(technology, width)


def decoding_energy(technology: Technology, fmt: TensorFormat, elements: float) -> Quantity:
    """Return the energy of decoding this many elements at the border of the array.

    By the gate counts where they have the decoder, with bounds that enclose the estimate from published areas.
    """
    estimate = decoder_energy_j(technology, fmt.decoder_bits, fmt.decoder_elements)
    cost = codec_cost(fmt, "decoder")
    energy = estimate if cost is None else _beside(gate_energy_j(technology, cost), estimate)
    return (elements / fmt.decoder_elements) * energy


def encoding_energy(technology: Technology, fmt: TensorFormat, elements: float) -> Quantity:
    """Return the energy of generated encoders on this many elements; nothing where the gate counts have none.

    Without a row the vector unit rounds and clamps (`macloom.sim.vector.encode_operations`), and that is priced.
    """
    cost = codec_cost(fmt, "encoder")
    return NOTHING if cost is None else (elements / fmt.decoder_elements) * gate_energy_j(technology, cost)


def spared_operations(fmt: TensorFormat) -> Operations:
    """Return the operations of one element that its generated encoder takes off the vector unit's energy.

    They still pass the lanes: time does not change.
    """
    return Operations() if codec_cost(fmt, "encoder") is None else rounding_operations(fmt)


def finishing_energy(accelerator: Accelerator, operations: Operations, fmt: TensorFormat, elements: int) -> Finishing:
    """Return the energy of operations on the vector unit that end in `elements` codes of `fmt`."""
    spared = elements * spared_operations(fmt)
    lanes = Operations(multiplies=operations.multiplies - spared.multiplies, adds=operations.adds - spared.adds)
    return Finishing(
        lanes=vector_energy(accelerator, lanes), encoders=encoding_energy(accelerator.technology, fmt, elements)
    )


class Finishing(NamedTuple):
    """Joules of the lanes and of the encoders."""

    lanes: Quantity
    encoders: Quantity


def codec_cost(fmt: TensorFormat, unit: str) -> GateCost | None:
    """Return the gate counts of a format's decoder or encoder, of a pair where codes come in pairs, or None."""
    row = row_of(fmt, unit)
    return None if row is None else gate_costs(row)[unit]


def leakage_energy(accelerator: Accelerator, cycles: float) -> Quantity:
    """Return the leakage of a machine's buffers and elements over this many cycles."""
    power = _leakage(accelerator)
    return NOTHING if power is None else (cycles / accelerator.clock_hz) * power


@lru_cache(maxsize=256)
def _leakage(accelerator: Accelerator) -> Quantity | None:
    parts = list(leakage_w(accelerator).values())
    return reduce(add, parts) if parts else None


def with_leakage(energy: Energy, accelerator: Accelerator, cycles: float) -> Energy:
    """Return an energy whose leakage is that of so many cycles."""
    bounds = {n: {k: v for k, v in getattr(energy, n).items() if k != "leakage_j"} for n in ("low", "high")}
    kinds = {name: kind for name, kind in energy.kinds.items() if name != "leakage_j"}
    return replace(energy, leakage_j=0.0, kinds=kinds, **bounds) + energy_of(
        leakage_j=leakage_energy(accelerator, cycles)
    )


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


@lru_cache(maxsize=256)
def cheapest_mac_j(accelerator: Accelerator) -> float:
    """Return the least energy that any multiply-accumulate can take on this machine, in joules."""
    technology, pe = accelerator.technology, accelerator.array.pe
    plain = OperandFit(slices=1, exponent=False, decoded=False)
    found = [mac_energy(technology, pe, ProductFit(a=plain, b=plain)).value, vector_mac_energy(accelerator).value]
    if pe.accumulator is not AccumulatorKind.FLOAT:
        generated = (units["mac"] for units in load_gate_costs().values() if "mac" in units)
        found += [gate_energy_j(technology, cost).value for cost in generated]
    return min(found)
