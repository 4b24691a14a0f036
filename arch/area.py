"""Area of what a machine is made of, as pure functions of a technology table and the table of gate counts.

The scale is the area of one int8 element in the technology table. Generated hardware has the ratio of its
transistors to those of the int8 element; what has no row in the gate counts has the ratio of its energy, equal
energy per area assumed. Both are estimates.
"""

from __future__ import annotations

from dataclasses import replace

from macloom.arch.array import ProcessingElement
from macloom.arch.energy import Quantity, constant_quantity, decoder_area_ratio, element_energy_j, int8_mac_energy_j
from macloom.arch.gate_costs import GateCost, base_cost, gate_costs
from macloom.arch.technology import Provenance, Technology
from macloom.errors import require_positive_integer

MM2_PER_UM2 = 1e-6
AREA, SRAM_AREA = "int8_mac_area", "sram_area"


def gate_area_um2(technology: Technology, cost: GateCost) -> Quantity | None:
    """Return the area of a generated unit, in um2; None where the table has no area of the int8 element.

    >>> from macloom.arch import load_technology
    >>> gate_area_um2(load_technology("45nm"), base_cost()).value
    687.6
    """
    return _scaled(technology, cost.relative(base_cost(), "area_transistors"))


def element_area_um2(technology: Technology, pe: ProcessingElement) -> Quantity | None:
    """Return the area of one processing element, in um2.

    An element that names its gates has their area. Any other is as much larger than the int8 element as its
    energy by widths is.
    """
    if pe.gates:
        return gate_area_um2(technology, gate_costs(pe.gates)["mac"])
    ratio = element_energy_j(technology, pe).value / int8_mac_energy_j(technology).value
    return _scaled(technology, (ratio, ratio, ratio))


def decoder_area_um2(technology: Technology, decoder_bits: int, decoder_elements: int = 1) -> Quantity | None:
    """Return the area of a border decoder without a row in the gate counts, in um2.

    OliVe's and ANT's decoders over OliVe's 4-bit element, four of which are an int8 element.
    """
    ratio = decoder_area_ratio(technology, decoder_bits, decoder_elements) / 4
    return _scaled(technology, (ratio, ratio, ratio))


def sram_area_um2(technology: Technology, size_bits: int) -> Quantity | None:
    """Return the area of an SRAM, in um2, in proportion to its bits; None where the table has no such constant.

    >>> from macloom.arch import load_technology
    >>> sram_area_um2(load_technology("28nm"), 8192 * 8).value  # CACTI, 8 KiB: 0.0556 mm2
    55581.0816
    """
    require_positive_integer("size_bits", size_bits)
    if SRAM_AREA not in technology.constants:
        return None
    return size_bits * constant_quantity(technology, SRAM_AREA)


def _scaled(technology: Technology, ratio: tuple[float, float, float]) -> Quantity | None:
    """Return a (lowest, nominal, highest) multiple of the int8 element's area."""
    if AREA not in technology.constants:
        return None
    base, (low, nominal, high) = constant_quantity(technology, AREA), ratio
    kind = base.kind if ratio == (1.0, 1.0, 1.0) else Provenance.ESTIMATED
    return replace(base, value=base.value * nominal, low=base.low * low, high=base.high * high, kind=kind)
