"""What a simulation found: one row per operation, totals, energy, and where the numbers come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any

from macloom.arch import Accelerator
from macloom.errors import MacloomError
from macloom.sim.course import WalkCourse
from macloom.sim.energy import Energy
from macloom.sim.hardware import Hardware


@dataclass(frozen=True, kw_only=True)
class OpResult:
    """One operation; every count is the total of its `repeat` occurrences.

    cycles = compute_cycles + stall_cycles + vector_cycles, and compute_cycles = fill + steady + drain.
    Stall is time in which the array or vector unit waits; it is the sum of the causes: operands `a` and `b`
    and partial sums (`sum`) not yet loaded, results (`out`) and partial sums (`spill`) not yet stored, ports
    of buffers (`port`), outliers on a path beside the array (`side`). Vector cycles are those that the vector
    unit adds;
    `vector_busy_cycles` and `dram_busy_cycles` also count work that hides behind other units.
    `bound` names the unit with most busy cycles: "compute", "memory" or "vector".
    `first_load_cycles` is the exposed start of one occurrence, of which `first_b_cycles` load operand B, and
    `idle_tail_cycles` its idle cycles of DRAM from the last tile on. `prefetched_cycles` of the first loads
    passed in that of the operation before, and are not in `cycles`; `resident_bits` did not move, because they
    were still or already on chip, and count in no traffic. `shared_held_bits` is what the shared memory keeps
    meanwhile. `course` lays the steps of one occurrence out in time, for timelines; no comparison looks at it.
    """

    name: str
    kind: str
    unit: str
    repeat: int
    macs: int = 0
    pes_per_mac: int = 1
    cycles: int
    compute_cycles: int = 0
    fill_cycles: int = 0
    steady_cycles: int = 0
    drain_cycles: int = 0
    stall_cycles: int = 0
    a_stall_cycles: int = 0
    b_stall_cycles: int = 0
    sum_stall_cycles: int = 0
    out_stall_cycles: int = 0
    spill_stall_cycles: int = 0
    port_stall_cycles: int = 0
    side_stall_cycles: int = 0
    vector_cycles: int = 0
    vector_busy_cycles: int = 0
    vector_operations: int = 0
    dram_busy_cycles: int = 0
    first_load_cycles: int = 0
    first_b_cycles: int = 0
    idle_tail_cycles: int = 0
    prefetched_cycles: int = 0
    dram_bursts: int = 0
    dram_row_misses: int = 0
    spill_bits: int = 0
    resident_bits: int = 0
    shared_held_bits: int = 0
    dram_read_bits: int = 0
    dram_write_bits: int = 0
    compulsory_dram_bits: int = 0
    sram_bits: int = 0
    energy: Energy
    bound: str
    formats: Mapping[str, str] = field(default_factory=dict)
    mapping: Mapping[str, Any] = field(default_factory=dict)
    course: WalkCourse | None = field(default=None, compare=False, repr=False)

    @property
    def dram_bits(self) -> int:
        return self.dram_read_bits + self.dram_write_bits

    @property
    def macs_per_dram_bit(self) -> float:
        """Arithmetic intensity, in multiply-accumulates per bit of DRAM traffic."""
        return self.macs / self.dram_bits if self.dram_bits else 0.0

    def utilisation(self, pes: int) -> float:
        """Return the fraction of element-cycles in which an element does useful work."""
        return self.macs * self.pes_per_mac / (self.cycles * pes) if self.cycles and self.unit == "array" else 0.0

    def row(self, pes: int) -> dict[str, Any]:
        """Return a flat row for a table; energies by component, mapping and formats in columns."""
        plain = {name: value for name, value in vars(self).items() if name not in _NESTED}
        return {
            **plain,
            "dram_bits": self.dram_bits,
            "macs_per_dram_bit": self.macs_per_dram_bit,
            "utilisation": self.utilisation(pes),
            **self.energy.parts,
            "energy_j": self.energy.total_j,
            **{f"{name}_format": self.formats.get(name, "") for name in ("a", "b", "out")},
            **{name: self.mapping.get(name, "") for name in MAPPING_COLUMNS},
        }


_NESTED = ("energy", "formats", "mapping", "course")


def bound_by(array: int, dram: int, vector: int) -> str:
    """Return which unit has most to do; the array wins ties, then the memory.

    >>> bound_by(5, 9, 2)
    'memory'
    """
    busy = {"compute": array, "memory": dram, "vector": vector}
    return max(busy, key=lambda name: busy[name])


MAPPING_COLUMNS = ("m", "n", "k", "dataflow", "tile_m", "tile_n", "tile_k", "loop_order", "segment", "batch")


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that keeps one unit of the machine busy, in cycles from the start of the timeline."""

    unit: str
    name: str
    start: int
    duration: int


@dataclass(frozen=True, kw_only=True)
class Result:
    """A workload on an accelerator. Results of the same accelerator and recipe add: prefill + decode.

    `recipe` is the resolved recipe, `version` the version of macloom that made the result, and `hardware` what the
    machine is built of for that recipe.
    """

    workload: str
    phase: str
    accelerator: Accelerator
    recipe: Mapping[str, Any]
    ops: tuple[OpResult, ...]
    version: str
    fidelity: str = "event"
    hardware: Hardware = field(default_factory=Hardware)

    def __post_init__(self) -> None:
        if not self.ops:
            raise MacloomError(f"result {self.workload!r}.ops: must hold at least one operation")

    @property
    def cycles(self) -> int:
        return sum(op.cycles for op in self.ops)

    @property
    def seconds(self) -> float:
        return self.cycles / self.accelerator.clock_hz

    @property
    def macs(self) -> int:
        return sum(op.macs for op in self.ops)

    @property
    def energy(self) -> Energy:
        return reduce(add, (op.energy for op in self.ops))

    @property
    def energy_j(self) -> float:
        return self.energy.total_j

    @property
    def dram_bits(self) -> int:
        return sum(op.dram_bits for op in self.ops)

    @property
    def sram_bits(self) -> int:
        return sum(op.sram_bits for op in self.ops)

    @property
    def peak_macs_per_s(self) -> float:
        """Peak rate of the array on operands of its elements' own width."""
        return self.accelerator.peak_macs_per_s

    @property
    def utilisation(self) -> float:
        """Useful work of the array's elements over all element-cycles; fused elements all count."""
        used = sum(op.macs * op.pes_per_mac for op in self.ops if op.unit == "array")
        return used / (self.cycles * self.accelerator.array.pes)

    def __add__(self, other: Result) -> Result:
        for name in ("accelerator", "recipe", "version", "fidelity"):
            if getattr(self, name) != getattr(other, name):
                raise MacloomError(
                    f"result.{name}: must be equal to add {self.workload!r} and {other.workload!r}; "
                    "use `compare` to set different ones side by side"
                )
        phase = self.phase if self.phase == other.phase else f"{self.phase} + {other.phase}"
        workload = self.workload if self.workload == other.workload else f"{self.workload} + {other.workload}"
        return Result(
            workload=workload,
            phase=phase,
            accelerator=self.accelerator,
            recipe=self.recipe,
            ops=self.ops + other.ops,
            version=self.version,
            fidelity=self.fidelity,
            hardware=self.hardware | other.hardware,
        )

    @property
    def power_w(self) -> float:
        """Mean power: all energy, DRAM and leakage included, over all time."""
        return self.energy_j / self.seconds

    def totals(self) -> dict[str, float]:
        """Return the figures of the whole run by name, units in the names."""
        sums = ("compute_cycles", "stall_cycles", "vector_cycles", "compulsory_dram_bits")
        return {
            "cycles": self.cycles,
            "seconds": self.seconds,
            "macs": self.macs,
            "macs_per_s": self.macs / self.seconds,
            "peak_macs_per_s": self.peak_macs_per_s,
            "utilisation": self.utilisation,
            **{name: sum(getattr(op, name) for op in self.ops) for name in sums},
            "dram_bits": self.dram_bits,
            "dram_bits_per_s": self.dram_bits / self.seconds,
            "sram_bits": self.sram_bits,
            "energy_j": self.energy_j,
            "energy_low_j": self.energy.low_j,
            "energy_high_j": self.energy.high_j,
            "edp_j_s": self.energy_j * self.seconds,
            "power_w": self.power_w,
            "leakage_w": self.energy.leakage_j / self.seconds,
            "area_mm2": self.hardware.total_mm2,
        }

    def compare(self, other: Result) -> dict[str, dict[str, float | None]]:
        """Return for each total its value here, there, and the ratio there / here (None where here is 0)."""
        here, there = self.totals() | self.energy.parts, other.totals() | other.energy.parts
        return {
            name: {"here": here[name], "there": there[name], "ratio": there[name] / here[name] if here[name] else None}
            for name in here
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return one flat row per operation, all with the same columns, as ops.csv has them."""
        return [op.row(self.accelerator.array.pes) for op in self.ops]

    def timeline(self) -> list[Event]:
        """Return when each unit is busy; see `macloom.sim.timeline`."""
        from macloom.sim.timeline import timeline

        return timeline(self)

    def counters(self) -> dict[str, list[tuple[int, float]]]:
        """Return DRAM bandwidth and bytes of the buffers in use over time; see `macloom.sim.timeline`."""
        from macloom.sim.timeline import counters

        return counters(self)

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON: resolved inputs, totals, rows and provenance."""
        return {
            "workload": self.workload,
            "phase": self.phase,
            "version": self.version,
            "fidelity": self.fidelity,
            "recipe": dict(self.recipe),
            "accelerator": self.accelerator.to_dict(),
            "totals": self.totals(),
            "energy": self.energy.to_dict(),
            "area": self.hardware.to_dict(),
            "ops": self.rows(),
        }
