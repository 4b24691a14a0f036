"""What the hardware is: processing elements, arrays, memories, technology tables and presets.

A machine is one `Accelerator` record, built in Python or read from a TOML file; `presets/` holds the
named ones. Each number of a `Technology` table carries its source, node, voltage and kind, and the
functions of `energy` turn a table into the energy of a multiply, an add, a decoder read or a memory
access. Nothing in this room knows a workload or counts a cycle: that is `macloom.sim`.

>>> Array(rows=4, cols=8, pe=ProcessingElement(significand_bits=8)).pes
32
"""

from macloom.arch.accelerator import Accelerator, VectorUnit
from macloom.arch.area import decoder_area_um2, element_area_um2, gate_area_um2, sram_area_um2
from macloom.arch.array import AccumulatorKind, Array, Dataflow, ProcessingElement
from macloom.arch.dram_presets import Memory, list_memories, load_memory
from macloom.arch.energy import (
    Quantity,
    add_energy_j,
    decoder_energy_j,
    dram_energy_j_per_bit,
    element_energy_j,
    float_add_energy_j,
    float_multiply_energy_j,
    gate_energy_j,
    int8_mac_energy_j,
    multiply_energy_j,
    shift_energy_j,
    sram_energy_j_per_bit,
)
from macloom.arch.gate_costs import GateCost, base_cost, load_gate_costs, row_of
from macloom.arch.leakage import leakage_w, logic_leakage_w, sram_leakage_w
from macloom.arch.load import (
    accelerator_to_toml,
    list_accelerators,
    list_technologies,
    load_accelerator,
    load_technology,
)
from macloom.arch.memory import Buffers, Dram, Sram
from macloom.arch.technology import Constant, Provenance, Technology, weakest

__all__ = [
    "Accelerator",
    "AccumulatorKind",
    "Array",
    "Buffers",
    "Constant",
    "Dataflow",
    "Dram",
    "GateCost",
    "Memory",
    "ProcessingElement",
    "Provenance",
    "Quantity",
    "Sram",
    "Technology",
    "VectorUnit",
    "accelerator_to_toml",
    "add_energy_j",
    "base_cost",
    "decoder_area_um2",
    "decoder_energy_j",
    "dram_energy_j_per_bit",
    "element_area_um2",
    "element_energy_j",
    "float_add_energy_j",
    "float_multiply_energy_j",
    "gate_area_um2",
    "gate_energy_j",
    "int8_mac_energy_j",
    "leakage_w",
    "list_accelerators",
    "list_memories",
    "list_technologies",
    "load_accelerator",
    "load_gate_costs",
    "load_memory",
    "load_technology",
    "logic_leakage_w",
    "multiply_energy_j",
    "row_of",
    "shift_energy_j",
    "sram_area_um2",
    "sram_energy_j_per_bit",
    "sram_leakage_w",
    "weakest",
]
