"""What happens when a workload runs on an accelerator: cycles, stalls, traffic and energy.

`simulate` maps each product on the systolic array (`mapping`, `tiling`, `search`), takes its cycles from
closed forms (`systolic`), lets DRAM, array and vector unit overlap tile by tile (`event`, `memory`),
prices every event with the technology table (`energy`) and checks the result against the laws of
physics (`physics`). `cycle` steps every register and every clock and gives the same numbers. Nothing here
keeps state, except that equal products are priced once, or reads files other than those it is given.
"""

from macloom.sim.energy import Energy
from macloom.sim.fidelity import Fidelity
from macloom.sim.fit import UnsupportedFormat
from macloom.sim.mapping import GemmMapping, map_gemm
from macloom.sim.mapping_table import MappingChoice, MappingTable, load_mapping, mapping_of
from macloom.sim.physics import ImpossibleResult, LawCheck, check_physical
from macloom.sim.result import Event, OpResult, Result
from macloom.sim.serving import ServeSummary, serve_summary, simulate_serving
from macloom.sim.side import OutlierPath
from macloom.sim.simulate import simulate
from macloom.sim.systolic import (
    ArrayCycles,
    array_cycles,
    buffer_accesses,
    mapping_efficiency,
    product_cycles,
    utilisation,
)
from macloom.sim.tile_search import Objective
from macloom.sim.tiling import Tiling

__all__ = [
    "ArrayCycles",
    "Energy",
    "Event",
    "Fidelity",
    "GemmMapping",
    "ImpossibleResult",
    "LawCheck",
    "MappingChoice",
    "MappingTable",
    "Objective",
    "OpResult",
    "OutlierPath",
    "Result",
    "ServeSummary",
    "Tiling",
    "UnsupportedFormat",
    "array_cycles",
    "buffer_accesses",
    "check_physical",
    "load_mapping",
    "map_gemm",
    "mapping_efficiency",
    "mapping_of",
    "product_cycles",
    "serve_summary",
    "simulate",
    "simulate_serving",
    "utilisation",
]
