"""The search for the best mapping of one product: dataflow, tiles and loop order, under a stated objective."""

from __future__ import annotations

from collections.abc import Callable

from macloom.arch import Accelerator, Dataflow, dram_energy_j_per_bit, sram_energy_j_per_bit
from macloom.sim import energy as joules
from macloom.sim.account import SidePath
from macloom.sim.gemm_cost import gemm_result
from macloom.sim.mapping import GemmMapping, RecipeLike, map_gemm
from macloom.sim.resident import NOT_RESIDENT, Resident
from macloom.sim.result import OpResult
from macloom.sim.tile_search import BitPrices, Objective, ranked_tilings
from macloom.sim.tiling import Tiling
from macloom.workloads.ops import Gemm

SHORTLIST = 6  # tilings of each estimate that are priced exactly

# What each objective takes of a priced product; ties go to the second number, then to the first candidate.
SCORES: dict[Objective, Callable[[OpResult], tuple[float, float]]] = {
    Objective.TRAFFIC: lambda r: (r.dram_bits, r.cycles),
    Objective.TIME: lambda r: (r.cycles, r.dram_bits),
    Objective.CYCLES: lambda r: (r.cycles, r.dram_bits),
    Objective.ENERGY: lambda r: (r.energy.total_j, r.cycles),
    Objective.EDP: lambda r: (r.energy.total_j * r.cycles, r.cycles),
}
ESTIMATES: dict[Objective, tuple[Objective, ...]] = {
    Objective.CYCLES: (Objective.CYCLES, Objective.TRAFFIC),
    Objective.ENERGY: (Objective.ENERGY, Objective.TRAFFIC),
    Objective.EDP: (Objective.EDP, Objective.ENERGY, Objective.CYCLES),
}


def best_mapping(
    op: Gemm,
    accelerator: Accelerator,
    recipe: RecipeLike,
    dataflows: tuple[Dataflow, ...],
    objective: Objective,
    *,
    on_vector_unit: bool = False,
    side: SidePath | None = None,
    resident: Resident = NOT_RESIDENT,
) -> GemmMapping:
    """Return the mapping of a product with the best score among these dataflows.

    With one dataflow and an objective that an estimate decides (`traffic`, `time`), that estimate's best tiling
    is taken. Otherwise each dataflow's best tilings by the estimates of `ESTIMATES` are priced on the event
    rung. The same question always has the same answer.

    Raises:
        UnsupportedFormat: the array cannot multiply these formats.
        MacloomError: a buffer is too small for one tile.
    """
    exact = objective in ESTIMATES
    found: list[GemmMapping] = []
    for dataflow in dataflows[:1] if on_vector_unit else dataflows:
        first = map_gemm(
            op, accelerator, recipe, dataflow, Objective.TRAFFIC if exact else objective, on_vector_unit=on_vector_unit
        )
        if not exact:
            found.append(first)
            continue
        for tiling in _shortlist(first, accelerator, objective):
            found.append(map_gemm(op, accelerator, recipe, dataflow, on_vector_unit=on_vector_unit, tiling=tiling))
    if len(found) == 1:
        return found[0]
    scores = [SCORES[objective](gemm_result(m, accelerator, side=side, resident=resident)) for m in found]
    return found[scores.index(min(scores))]


def _shortlist(mapping: GemmMapping, accelerator: Accelerator, objective: Objective) -> list[Tiling]:
    prices = _prices(mapping, accelerator)
    ranked = [t for e in ESTIMATES[objective] for t in ranked_tilings(mapping.problem, e, SHORTLIST, prices)]
    return list(dict.fromkeys(ranked))


def _prices(mapping: GemmMapping, accelerator: Accelerator) -> BitPrices:
    """Return what a bit costs at DRAM and buffers; operands that are decoded cost that as well."""
    technology, buffers, p = accelerator.technology, accelerator.buffers, mapping.problem

    def per_bit(size_bits: int, decoded: bool, elements_per_bit: float, fmt: object) -> float:
        price = sram_energy_j_per_bit(technology, size_bits).value
        if decoded:
            price += joules.decoding_energy(technology, fmt, 1).value * elements_per_bit  # type: ignore[arg-type]
        return price

    fit = mapping.fit
    return BitPrices(
        dram=dram_energy_j_per_bit(technology, accelerator.dram.kind).value,
        a=per_bit(buffers.operand_a.size_bits, bool(fit and fit.a.decoded), 1 / p.a_density, mapping.a),
        b=per_bit(buffers.operand_b.size_bits, bool(fit and fit.b.decoded), 1 / p.b_density, mapping.b),
        out=per_bit(buffers.output.size_bits, False, 0.0, None),
    )
