"""Leakage: the power that memories and elements draw in every cycle, whatever they do."""

from __future__ import annotations

from macloom.arch.accelerator import Accelerator
from macloom.arch.area import element_area_um2
from macloom.arch.energy import Quantity, constant_quantity
from macloom.arch.technology import Technology, weakest
from macloom.errors import require_positive_integer

SRAM_LEAKAGE, LOGIC_LEAKAGE = "sram_leakage", "logic_leakage"


def sram_leakage_w(technology: Technology, size_bits: int) -> Quantity | None:
    """Return the leakage of an SRAM, in watts, in proportion to its bits; None where the table has no such constant.

    >>> from macloom.arch import load_technology
    >>> round(sram_leakage_w(load_technology("28nm"), 8192 * 8).value * 1e3, 2)  # CACTI, 8 KiB: 5.4983 mW
    5.5
    """
    require_positive_integer("size_bits", size_bits)
    if SRAM_LEAKAGE not in technology.constants:
        return None
    return size_bits * constant_quantity(technology, SRAM_LEAKAGE)


def logic_leakage_w(technology: Technology, area_um2: Quantity) -> Quantity | None:
    """Return the leakage of logic of this area, in watts; None where the table has no such constant."""
    if LOGIC_LEAKAGE not in technology.constants:
        return None
    per_area = constant_quantity(technology, LOGIC_LEAKAGE)
    return Quantity(
        value=area_um2.value * per_area.value,
        low=area_um2.low * per_area.low,
        high=area_um2.high * per_area.high,
        kind=weakest(area_um2.kind, per_area.kind),
    )


def leakage_w(accelerator: Accelerator) -> dict[str, Quantity]:
    """Return the leakage of a machine's buffers and processing elements, in watts, as far as its table knows it.

    Decoders, encoders and the vector unit are left out: the table has no area of the vector unit, and codecs
    are a few per cent of the elements. The background power of the DRAM is no leakage and is not modelled.

    >>> from macloom.arch import load_accelerator
    >>> sorted(leakage_w(load_accelerator("int8-sa")))
    ['buffers', 'elements']
    """
    technology, array = accelerator.technology, accelerator.array
    parts = {"buffers": sram_leakage_w(technology, accelerator.buffers.size_bits)}
    area = element_area_um2(technology, array.pe)
    parts["elements"] = None if area is None else logic_leakage_w(technology, array.pes * area)
    return {name: power for name, power in parts.items() if power is not None}
