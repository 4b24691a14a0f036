"""The accelerator: an array, its memories, a vector unit, a clock and a technology."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from macloom.arch._check import require_name, require_positive
from macloom.arch.array import Array
from macloom.arch.memory import Buffers, Dram, Sram
from macloom.arch.technology import DRAM_PREFIX, Constant, Technology
from macloom.errors import MacloomError, require_positive_integer, unknown


@dataclass(frozen=True, kw_only=True)
class VectorUnit:
    """`lanes` arithmetic units of `bits` bits, one simple operation per lane and cycle.

    It computes softmax, norms, rope and activations, and encodes the outputs of the array.
    """

    lanes: int
    bits: int = 16

    def __post_init__(self) -> None:
        require_positive_integer("arch.vector.lanes", self.lanes)
        require_positive_integer("arch.vector.bits", self.bits)


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """Everything the simulator needs to know about one machine."""

    name: str
    clock_hz: float
    array: Array
    buffers: Buffers
    dram: Dram
    vector: VectorUnit
    technology: Technology
    description: str = ""

    def __post_init__(self) -> None:
        require_name("arch.name", self.name)
        require_positive("arch.clock_hz", self.clock_hz)
        kinds = {"array": Array, "buffers": Buffers, "dram": Dram, "vector": VectorUnit, "technology": Technology}
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                raise MacloomError(f"arch.{name}: must be of type {kind.__name__}, not {getattr(self, name)!r}")
        if f"{DRAM_PREFIX}{self.dram.kind}" not in self.technology.constants:
            raise unknown(
                "arch.dram.kind", self.dram.kind, self.technology.dram_kinds, f"technology {self.technology.name}"
            )

    @property
    def peak_macs_per_s(self) -> float:
        """Multiply-accumulates per second with every element busy, on operands of the element's own width."""
        return self.array.peak_macs_per_cycle * self.clock_hz

    @property
    def dram_bits_per_cycle(self) -> float:
        """Bits that the DRAM channels move in one clock cycle at their peak."""
        return self.dram.bandwidth_bits_per_s / self.clock_hz

    def to_dict(self) -> dict[str, Any]:
        """Return the resolved configuration, ready for JSON, with units in the key names."""
        pe = self.array.pe
        return {
            "name": self.name,
            "description": self.description,
            "clock_hz": self.clock_hz,
            "peak_macs_per_s": self.peak_macs_per_s,
            "array": {
                "rows": self.array.rows,
                "cols": self.array.cols,
                "dataflow": self.array.dataflow.value,
                "shadow_registers": self.array.shadow_registers,
                "border_decoders": self.array.border_decoders,
                "decoder_latency": self.array.decoder_latency,
                "count": self.array.count,
                "pe": {
                    "significand_bits": pe.significand_bits,
                    "exponent_bits": pe.exponent_bits,
                    "accumulator": pe.accumulator.value,
                    "accumulator_bits": pe.accumulator_bits,
                    "fusable": pe.fusable,
                    "block_scaling": pe.block_scaling,
                    "gates": pe.gates,
                },
            },
            "buffers": {name: _sram(sram) for name, sram in self.buffers.present.items()},
            "dram": {
                "kind": self.dram.kind,
                "bandwidth_bits_per_s": self.dram.bandwidth_bits_per_s,
                "bandwidth_bits_per_cycle": self.dram_bits_per_cycle,
                "streaming_bits_per_s": self.dram.streaming_bits_per_s,
                **{
                    name: value
                    for name, value in vars(self.dram).items()
                    if name not in _DRAM_BASICS and value is not None
                },
            },
            "vector": {"lanes": self.vector.lanes, "bits": self.vector.bits},
            "technology": {
                "name": self.technology.name,
                "description": self.technology.description,
                "node_nm": self.technology.node_nm,
                "voltage_v": self.technology.voltage_v,
                "constants": {n: _constant(c) for n, c in self.technology.constants.items()},
            },
        }


_DRAM_BASICS = ("kind", "bandwidth_bits_per_s")


def _sram(sram: Sram) -> dict[str, Any]:
    return {
        "size_bits": sram.size_bits,
        "bandwidth_bits_per_cycle": sram.bandwidth_bits_per_cycle,
        "double_buffered": sram.double_buffered,
        "banks": sram.banks,
        "ports": sram.ports,
    }


def _constant(constant: Constant) -> dict[str, Any]:
    bounds = {n: getattr(constant, n) for n in ("low", "high") if getattr(constant, n) is not None}
    return {
        "value": constant.value,
        "unit": constant.unit,
        **bounds,
        "kind": constant.kind.value,
        "source": constant.source,
        "node_nm": constant.node_nm,
        "voltage_v": constant.voltage_v,
    }
