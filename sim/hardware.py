"""What a machine is built of for a recipe: the area of each kind of unit, and which row prices its energy.

The array has the elements of its own record. The borders have a decoder for each row and column and for each format
that enters there as codes, and each lane of the vector unit has an encoder for each format that it writes, as far as
the table of gate counts has one. Several formats at one place count side by side: nothing is shared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from macloom.arch import (
    Accelerator,
    GateCost,
    Quantity,
    decoder_area_um2,
    element_area_um2,
    gate_area_um2,
    row_of,
    sram_area_um2,
)
from macloom.formats import TensorFormat
from macloom.sim.energy import codec_cost, mac_row
from macloom.sim.fit import fit_product, fits
from macloom.sim.mapping import RecipeLike
from macloom.sim.vector import KIND_COSTS
from macloom.workloads.ops import Gemm, Workload

MM2_PER_UM2 = 1e-6
BY_WIDTHS = "estimate by widths"
BY_AREAS = "estimate from published areas"
ON_LANES = "on the lanes of the vector unit"


@dataclass(frozen=True, kw_only=True)
class AreaPart:
    """`count` equal units; `origin` says which gate counts or constants give the area of `each`, in um2."""

    unit: str
    format: str
    count: int
    each: Quantity
    origin: str

    @property
    def total_mm2(self) -> Quantity:
        return (self.count * MM2_PER_UM2) * self.each

    def to_dict(self) -> dict[str, Any]:
        """Return everything in a flat row, ready for JSON."""
        total = self.total_mm2
        return {
            "unit": self.unit,
            "format": self.format,
            "count": self.count,
            "each_um2": self.each.value,
            "total_mm2": total.value,
            "low_mm2": total.low,
            "high_mm2": total.high,
            "kind": self.each.kind.value,
            "origin": self.origin,
        }


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """The units of a machine under a recipe.

    Attributes:
        parts: units with a known area.
        missing: what has none, and why; the total leaves it out.
        priced: for each format and unit, what its energy rests on.
    """

    parts: tuple[AreaPart, ...] = ()
    missing: tuple[str, ...] = ()
    priced: Mapping[str, str] = field(default_factory=dict)

    @property
    def total_mm2(self) -> float:
        return sum(part.total_mm2.value for part in self.parts)

    def area_mm2(self, unit: str) -> float:
        """Return the area of all units of one kind, such as `decoder`."""
        return sum(part.total_mm2.value for part in self.parts if part.unit == unit)

    def __or__(self, other: Hardware) -> Hardware:
        """Return a machine that has what either has; equal parts count once."""
        return Hardware(
            parts=tuple(dict.fromkeys((*self.parts, *other.parts))),
            missing=tuple(dict.fromkeys((*self.missing, *other.missing))),
            priced={**self.priced, **other.priced},
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the parts, their sum with its bounds, and what is missing, ready for JSON."""
        totals = [part.total_mm2 for part in self.parts]
        return {
            "total_mm2": self.total_mm2,
            "low_mm2": sum(total.low for total in totals),
            "high_mm2": sum(total.high for total in totals),
            "parts": [part.to_dict() for part in self.parts],
            "missing": list(self.missing),
            "priced": dict(self.priced),
        }


def hardware_of(workload: Workload, accelerator: Accelerator, recipe: RecipeLike) -> Hardware:
    """Return what a machine has to hold to run a workload in a recipe.

    >>> from macloom.arch import load_accelerator
    >>> from macloom.workloads import load_recipe, load_workload
    >>> hardware = hardware_of(load_workload("tiny"), load_accelerator("olive-sa"), load_recipe("ovp4"))
    >>> [(part.unit, part.format, part.count) for part in hardware.parts[:3]]
    [('element', 'ovp4', 4096), ('row decoder', 'ovp4', 64), ('column decoder', 'ovp4', 64)]
    """
    array, technology = accelerator.array, accelerator.technology
    decoded: dict[tuple[str, TensorFormat], int] = {}
    written: dict[TensorFormat, None] = {}
    priced: dict[str, str] = {}
    for op in workload.ops:
        if not isinstance(op, Gemm):
            written[recipe.format_for(KIND_COSTS[op.kind].result, op.name)] = None
            continue
        a, b, out = (recipe.format_for(role, op.name) for role in (op.a, op.b, op.out))
        written[out] = None
        if f"{a.name} x {b.name}" in priced:
            continue
        if not fits(a, b, array):
            priced[f"{a.name} x {b.name}"] = ON_LANES
            continue
        fit = fit_product(op.name, a, b, accelerator.name, array)
        row = mac_row(array.pe, fit, a, b)
        priced[f"{a.name} x {b.name}"] = gates_of(row, "mac") if row else BY_WIDTHS
        for place, side, fmt, lines in (("row", fit.a, a, array.rows), ("column", fit.b, b, array.cols)):
            if side.decoded:
                decoded[place, fmt] = array.count * lines // side.slices
    parts = [_element(accelerator)]
    for (place, fmt), count in decoded.items():
        cost, origin = _codec(fmt, "decoder", BY_AREAS)
        estimate = decoder_area_um2(technology, fmt.decoder_bits, fmt.decoder_elements)
        each = estimate if cost is None else gate_area_um2(technology, cost)
        parts.append(_Unit(unit=f"{place} decoder", format=fmt.name, count=count, each=each, origin=origin))
        priced[f"{fmt.name} decoder"] = origin
    for fmt in written:
        cost, origin = _codec(fmt, "encoder", ON_LANES)
        each = None if cost is None else gate_area_um2(technology, cost)
        if cost is not None:
            parts.append(
                _Unit(unit="encoder", format=fmt.name, count=accelerator.vector.lanes, each=each, origin=origin)
            )
        priced[f"{fmt.name} encoder"] = origin
    for name, sram in accelerator.buffers.present.items():
        each = sram_area_um2(technology, sram.size_bits)
        parts.append(_Unit(unit=f"buffer {name}", format="", count=1, each=each, origin=f"{technology.name} sram_area"))
    return Hardware(
        parts=tuple(
            AreaPart(unit=u.unit, format=u.format, count=u.count, each=u.each, origin=u.origin)
            for u in parts
            if u.each is not None
        ),
        missing=(
            *(f"{part.unit}: technology {technology.name!r} has no area" for part in parts if part.each is None),
            "vector unit: no source for its area",
        ),
        priced=priced,
    )


@dataclass(frozen=True, kw_only=True)
class _Unit:
    """An `AreaPart` whose area may not be known."""

    unit: str
    format: str
    count: int
    each: Quantity | None
    origin: str


def _element(accelerator: Accelerator) -> _Unit:
    array = accelerator.array
    return _Unit(
        unit="element",
        format=array.pe.gates,
        count=array.pes,
        each=element_area_um2(accelerator.technology, array.pe),
        origin=gates_of(array.pe.gates, "mac") if array.pe.gates else BY_WIDTHS,
    )


def _codec(fmt: TensorFormat, unit: str, otherwise: str) -> tuple[GateCost | None, str]:
    cost, row = codec_cost(fmt, unit), row_of(fmt, unit)
    return cost, otherwise if cost is None or row is None else gates_of(row, unit)


def gates_of(row: str, unit: str) -> str:
    """Return the words for an origin in the table of gate counts."""
    return f"gates of {row} {unit}"
