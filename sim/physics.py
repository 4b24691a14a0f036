"""Laws that no result may break: peak rate, bandwidth, the floor of energy, and conservation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from macloom.arch import dram_energy_j_per_bit
from macloom.sim.energy import cheapest_mac_j
from macloom.sim.result import OpResult, Result

SLACK = 1e-9  # relative; sums of floats in another order


class ImpossibleResult(RuntimeError):
    """A result breaks a law of physics: a fault of the simulator, not of the input."""


@dataclass(frozen=True, kw_only=True)
class LawCheck:
    """One law, on how many operations it was checked, and how close the closest came to its bound.

    `closest` is the largest fraction of the bound that was reached; 1 touches it.
    """

    name: str
    cases: int
    closest: float


def _ratio(value: float, bound: float) -> float:
    return value / bound if bound else (0.0 if value <= 0 else float("inf"))


def _peak_rate(op: OpResult, result: Result) -> float:
    if op.unit == "array":
        return _ratio(op.macs * op.pes_per_mac, op.compute_cycles * result.accelerator.array.pes)
    return _ratio(op.vector_operations, op.cycles * result.accelerator.vector.lanes)


def _bandwidth(op: OpResult, result: Result) -> float:
    return _ratio(op.dram_bits, (op.cycles + op.prefetched_cycles) * result.accelerator.dram_bits_per_cycle)


def _energy_floor(op: OpResult, result: Result) -> float:
    accelerator = result.accelerator
    per_bit = dram_energy_j_per_bit(accelerator.technology, accelerator.dram.kind).value
    floor = op.macs * cheapest_mac_j(accelerator) + op.compulsory_dram_bits * per_bit
    return _ratio(floor, op.energy.total_j)


def _compulsory_traffic(op: OpResult, result: Result) -> float:
    return _ratio(op.compulsory_dram_bits, op.dram_bits)


def _cycles_add_up(op: OpResult, result: Result) -> float:
    parts = op.compute_cycles + op.stall_cycles + op.vector_cycles
    phases = op.fill_cycles + op.steady_cycles + op.drain_cycles
    whole = parts == op.cycles and phases == op.compute_cycles and min(phases, parts, op.stall_cycles) >= 0
    return 1.0 if whole else float("inf")


def _busy_within_cycles(op: OpResult, result: Result) -> float:
    busy = max(
        op.compute_cycles + op.port_stall_cycles + op.side_stall_cycles, op.dram_busy_cycles, op.vector_busy_cycles
    )
    return _ratio(busy, op.cycles + op.prefetched_cycles)


def _stalls_add_up(op: OpResult, result: Result) -> float:
    causes = [getattr(op, f"{cause}_stall_cycles") for cause in ("a", "b", "sum", "out", "spill", "port", "side")]
    return 1.0 if sum(causes) == op.stall_cycles and min(causes) >= 0 else float("inf")


# Each law gives the fraction of its bound that an operation reaches, which must not exceed 1.
LAWS: dict[str, Callable[[OpResult, Result], float]] = {
    "rate at most the peak of the elements or lanes": _peak_rate,
    "DRAM traffic at most bandwidth times time": _bandwidth,
    "energy at least that of the cheapest MACs and the compulsory DRAM traffic": _energy_floor,
    "DRAM traffic at least each tensor once": _compulsory_traffic,
    "cycles are the sum of their parts": _cycles_add_up,
    "stalls are the sum of their causes": _stalls_add_up,
    "no unit is busy for longer than the operation takes": _busy_within_cycles,
}


def check_physical(result: Result) -> tuple[LawCheck, ...]:
    """Check every operation of a result against every law, and return how close each law came.

    Raises:
        ImpossibleResult: an operation breaks a law; the message names both.
    """
    return tuple(_check(name, result) for name in LAWS)


def _check(name: str, result: Result) -> LawCheck:
    reached = list(_reached(name, result))
    return LawCheck(name=name, cases=len(reached), closest=max(reached))


def _reached(name: str, result: Result) -> Iterator[float]:
    for op in result.ops:
        fraction = LAWS[name](op, result)
        if not 0 <= fraction <= 1 + SLACK:  # also refuses NaN
            raise ImpossibleResult(
                f"internal fault: {result.workload!r} on {result.accelerator.name!r}, operation {op.name!r}: the law "
                f"'{name}' is broken, at {fraction:.6g} of its bound; please report this with the inputs"
            )
        yield fraction
