"""What happens when a workload runs on an accelerator: cycles, stalls, traffic and energy.

`simulate` maps each product on the systolic array (`mapping`, `tiling`), takes its cycles from closed
forms (`systolic`), lets DRAM, array and vector unit overlap tile by tile (`memory`), prices every
event with the technology table (`energy`) and checks the result against the laws of physics
(`physics`). Nothing here reads files or keeps state, except that names are loaded.
"""

from macloom.sim.energy import Energy
from macloom.sim.fit import UnsupportedFormat
from macloom.sim.mapping import GemmMapping, map_gemm
from macloom.sim.physics import ImpossibleResult, LawCheck, check_physical
from macloom.sim.result import Event, OpResult, Result
from macloom.sim.simulate import simulate
from macloom.sim.systolic import ArrayCycles, array_cycles, buffer_accesses, mapping_efficiency, utilisation
from macloom.sim.tiling import Objective, Tiling

__all__ = [
    "ArrayCycles",
    "Energy",
    "Event",
    "GemmMapping",
    "ImpossibleResult",
    "LawCheck",
    "Objective",
    "OpResult",
    "Result",
    "Tiling",
    "UnsupportedFormat",
    "array_cycles",
    "buffer_accesses",
    "check_physical",
    "map_gemm",
    "mapping_efficiency",
    "simulate",
    "utilisation",
]
