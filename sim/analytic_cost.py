"""Cycles, traffic and energy of many mapped products at once, as `simulate(..., fidelity="analytic")` gives them.

Products of one kind (dataflow, loop order, segments) are priced together, in arrays. Instead of every
tile of a walk, the 27 kinds of tile are priced (first, middle, last along each axis), each times how
often it comes. What a tile takes is the simulator's own account of it (`macloom.sim.tiling`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from macloom.arch import Accelerator, Dataflow
from macloom.errors import MacloomError
from macloom.sim.account import LANE_OPERATIONS_PER_MAC
from macloom.sim.analytic_rates import KnownRates, Rates
from macloom.sim.mapping import GemmMapping
from macloom.sim.systolic import ceil_div, fold_timing
from macloom.sim.tile_kinds import TileKinds, tile_kinds
from macloom.sim.tiling import TileProblem, Tiling, port_cycles, tile_work, traffic, whole_bits
from macloom.sim.vector import segment_operations

BLOCK = 512  # points at a time, so that their arrays stay in the cache


@dataclass(frozen=True, kw_only=True)
class PointCosts:
    """Arrays of costs, one value per product with all its batches and repeats; names and units are `OpResult`'s."""

    cycles: np.ndarray
    compute_cycles: np.ndarray
    stall_cycles: np.ndarray
    vector_cycles: np.ndarray
    dram_busy_cycles: np.ndarray
    dram_read_bits: np.ndarray
    dram_write_bits: np.ndarray
    sram_bits: np.ndarray
    mac_j: np.ndarray
    decoder_j: np.ndarray
    encoder_j: np.ndarray
    sram_j: np.ndarray
    dram_j: np.ndarray
    vector_j: np.ndarray
    leakage_j: np.ndarray

    @property
    def energy_j(self) -> np.ndarray:
        """Joules of all parts together."""
        dynamic = self.mac_j + self.decoder_j + self.encoder_j + self.sram_j + self.dram_j + self.vector_j
        return dynamic + self.leakage_j


def price_points(points: Sequence[tuple[GemmMapping, Accelerator]]) -> PointCosts:
    """Return what each mapped product costs on its accelerator, as the analytic rung of `simulate` has it.

    Mappings come from `macloom.sim.map_gemm`, with tiles searched or given. Time is that of the busiest of
    array, vector unit and DRAM; energy is that of every part, leakage included.

    Raises:
        MacloomError: there is no point.

    >>> from macloom.arch import load_accelerator
    >>> from macloom.sim import map_gemm
    >>> from macloom.workloads import load_recipe, load_workload
    >>> chip, recipe = load_accelerator("int8-sa"), load_recipe("int8")
    >>> ops = load_workload("tiny").gemms[:4]
    >>> price_points([(map_gemm(op, chip, recipe), chip) for op in ops]).cycles.shape
    (4,)
    """
    if not points:
        raise MacloomError("points: must hold at least one mapped product, not none")
    groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for place, (mapping, _) in enumerate(points):
        groups[_kind(mapping)].append(place)
    found = {
        f.name: np.zeros(len(points), np.float64 if f.name.endswith("_j") else np.int64) for f in fields(PointCosts)
    }
    known = KnownRates()
    for group in groups.values():
        for start in range(0, len(group), BLOCK):
            places = group[start : start + BLOCK]
            for name, values in _priced([points[place] for place in places], known).items():
                found[name][places] = values
    return PointCosts(**found)


def _kind(mapping: GemmMapping) -> tuple[Any, ...]:
    """Return what products must share to be priced in the same arrays."""
    p = mapping.problem
    own_ports = tuple(bits is None for bits in p.transfer_bits)
    return p.dataflow, mapping.tiling.order, p.segment, p.shadow_registers, p.arrays, own_ports, mapping.on_array


class _Counts(NamedTuple):
    """How often each product runs, and what only it knows."""

    batch: Any
    repeat: Any
    macs: Any
    decoder_latency: Any
    block_scales: Any


def _counts(mapping: GemmMapping) -> _Counts:
    op = mapping.op
    return _Counts(mapping.batch, op.repeat, op.macs // op.repeat, mapping.decoder_latency, mapping.block_scales)


def _stacked(
    points: Sequence[tuple[GemmMapping, Accelerator]], known: KnownRates
) -> tuple[TileProblem, Tiling, Rates, _Counts]:
    """Return the problems, tilings, rates and counts of points of one kind, with an array for each number."""
    problems = [mapping.problem for mapping, _ in points]
    first = points[0][0]

    def column(name: str) -> np.ndarray:
        return np.array([getattr(problem, name) for problem in problems])

    def ports(name: str) -> tuple[Any, Any, Any]:
        buffers = zip(*(getattr(problem, name) for problem in problems), strict=True)
        a, b, out = (None if bits[0] is None else np.array(bits) for bits in buffers)
        return a, b, out

    sizes: dict[str, Any] = {name: column(name) for name in _SIZES}
    problem = TileProblem(
        **sizes,
        dataflow=first.problem.dataflow,
        shadow_registers=first.problem.shadow_registers,
        segment=first.problem.segment,
        arrays=first.problem.arrays,
        room_bits=first.problem.room_bits,
        port_bits=ports("port_bits"),
        transfer_bits=ports("transfer_bits"),
    )
    tiles: dict[str, Any] = {axis: np.array([getattr(mapping.tiling, axis) for mapping, _ in points]) for axis in "mnk"}
    rates = [known.rates(mapping, accelerator) for mapping, accelerator in points]
    return (
        problem,
        Tiling(order=first.tiling.order, **tiles),
        Rates(*(np.array(column) for column in zip(*rates, strict=True))),
        _Counts(*(np.array(column) for column in zip(*(_counts(mapping) for mapping, _ in points), strict=True))),
    )


_SIZES = ("m", "n", "k", "a_bits", "b_bits", "out_bits", "sum_bits", "rows", "cols", "dram_bits_per_cycle")


def _priced(points: Sequence[tuple[GemmMapping, Accelerator]], known: KnownRates) -> dict[str, np.ndarray]:
    p, tiling, rate, counts = _stacked(points, known)
    on_array = points[0][0].on_array
    kinds = tile_kinds(p, tiling)
    each = _tiles(p, rate, kinds, on_array=on_array)
    total = {name: counts.batch * (kinds.times * values).sum(axis=0) for name, values in each.items()}
    dram = np.ceil(total["moved"] / rate.dram_bits_per_cycle).astype(np.int64)
    walk = np.maximum.reduce([total["array"], total["vector"], dram])
    memory = np.where(dram >= total["vector"], walk - total["array"], 0)
    moved = traffic(p, tiling.m, tiling.n, tiling.k, tiling.order)
    read = counts.batch * (moved.a_bits + moved.b_bits + moved.spill_read_bits)
    write = counts.batch * (moved.out_bits + moved.spill_write_bits)
    trailing = _trailing(p, tiling) + counts.decoder_latency if on_array else 0
    outputs = counts.batch * p.m * p.n
    scalings = outputs * counts.block_scales
    macs_j = counts.macs * rate.mac_j
    lanes_j = total["multiplies"] * rate.multiply_j + (total["adds"] - outputs * rate.spared_adds) * rate.add_j
    once = {
        "cycles": walk + trailing,
        "compute_cycles": total["own"] + trailing if on_array else np.zeros_like(walk),
        "stall_cycles": memory + total["array"] - total["own"],
        "vector_cycles": walk - total["array"] - memory + (0 if on_array else total["own"]),
        "dram_busy_cycles": dram,
        "dram_read_bits": read,
        "dram_write_bits": write,
        "sram_bits": total["a_through"] + total["b_through"] + total["out_through"],
        "mac_j": macs_j + scalings * rate.block_scale_j if on_array else np.zeros(len(points)),
        "decoder_j": total["a_codes"] * rate.a_code_j + total["b_codes"] * rate.b_code_j,
        "encoder_j": outputs * rate.out_code_j,
        "sram_j": total["a_through"] * rate.a_bit_j
        + total["b_through"] * rate.b_bit_j
        + total["out_through"] * rate.out_bit_j,
        "dram_j": (read + write) * rate.dram_bit_j,
        "vector_j": lanes_j if on_array else lanes_j + macs_j,
        "leakage_j": (walk + trailing) * rate.leakage_j_per_cycle,
    }
    return {name: counts.repeat * values for name, values in once.items()}


def _tiles(p: TileProblem, rate: Rates, tile: TileKinds, *, on_array: bool) -> dict[str, Any]:
    """Return what one tile of each kind takes of each unit, (kinds, points)."""
    work = tile_work(p, tile.m, tile.n, tile.k, continues=~tile.first_k, finishes=tile.finishes)
    outputs = tile.m * tile.n
    a_load = whole_bits(tile.m * tile.k * p.a_density) * tile.loads_a
    b_load = whole_bits(tile.n * tile.k * p.b_density) * tile.loads_b
    sums = outputs * p.sum_bits * (tile.spills.astype(np.int64) + tile.reloads)
    finished = whole_bits(outputs * p.out_density) * tile.finishes
    array_bits = (
        whole_bits(work.a_elements * p.a_density),
        whole_bits(work.b_elements * p.b_density),
        work.sums * p.sum_bits + finished,
    )
    transfer_bits = (a_load, b_load, sums + finished)
    scales = tile.m * ceil_div(tile.n, rate.out_block) * tile.finishes
    multiplies = rate.epilogue_multiplies * outputs * tile.finishes + rate.scale_multiplies * scales
    adds = rate.epilogue_adds * outputs * tile.finishes + rate.scale_adds * scales
    if p.segment is not None:
        count = ceil_div(tile.k, p.segment)
        multiplies = multiplies + outputs * count * rate.segment_multiplies
        adds = adds + outputs * (count - tile.first_k) * segment_operations(0).adds
    vector = ceil_div(multiplies + adds, rate.lanes)
    own = work.cycles
    if not on_array:  # the lanes multiply first and finish the results afterwards
        own, vector = work.steady * LANE_OPERATIONS_PER_MAC + vector, np.zeros_like(vector)
    return {
        "own": own,
        "array": np.maximum(own, port_cycles(p, array_bits, transfer_bits)),
        "vector": vector,
        "moved": sum(transfer_bits),
        "multiplies": multiplies,
        "adds": adds,
        "a_codes": work.a_elements,
        "b_codes": work.b_elements,
        "a_through": array_bits[0] + a_load,
        "b_through": array_bits[1] + b_load,
        "out_through": array_bits[2] + transfer_bits[2],
    }


def _trailing(p: TileProblem, tiling: Tiling) -> np.ndarray:
    """Return the cycles beyond the intervals between folds, as `macloom.sim.gemm_cost.phases` has them."""
    if p.dataflow is Dataflow.OS:
        stream: Any = np.minimum(tiling.k, p.segment or p.k)
    else:
        size, tile = (p.m, tiling.m) if p.dataflow is Dataflow.WS else (p.n, tiling.n)
        stream = (size - 1) % tile + 1
    fold = fold_timing(p.dataflow, stream, p.rows, p.cols, shadow_registers=p.shadow_registers)
    return fold.alone - fold.interval
