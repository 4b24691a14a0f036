"""What the hardware is: processing elements, arrays, memories, technology tables and presets.

A machine is one `Accelerator` record, built in Python or read from a TOML file; `presets/` holds the
named ones. Each number of a `Technology` table carries its source, node, voltage and kind, and the
functions of `energy` turn a table into the energy of a multiply, an add, a decoder read or a memory
access. Nothing in this room knows a workload or counts a cycle: that is `macloom.sim`.

>>> Array(rows=4, cols=8, pe=ProcessingElement(significand_bits=8)).pes
32
"""

from macloom.arch.accelerator import Accelerator, VectorUnit
from macloom.arch.array import AccumulatorKind, Array, Dataflow, ProcessingElement
from macloom.arch.dram_presets import Memory, list_memories, load_memory
from macloom.arch.energy import (
    Quantity,
    add_energy_j,
    decoder_energy_j,
    dram_energy_j_per_bit,
    float_add_energy_j,
    float_multiply_energy_j,
    multiply_energy_j,
    shift_energy_j,
    sram_energy_j_per_bit,
)
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
    "Memory",
    "ProcessingElement",
    "Provenance",
    "Quantity",
    "Sram",
    "Technology",
    "VectorUnit",
    "accelerator_to_toml",
    "add_energy_j",
    "decoder_energy_j",
    "dram_energy_j_per_bit",
    "float_add_energy_j",
    "float_multiply_energy_j",
    "list_accelerators",
    "list_memories",
    "list_technologies",
    "load_accelerator",
    "load_memory",
    "load_technology",
    "multiply_energy_j",
    "shift_energy_j",
    "sram_energy_j_per_bit",
    "weakest",
]
