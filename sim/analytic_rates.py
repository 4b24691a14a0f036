"""What each bit, operation and code costs on a machine, found once for each pair of machine and formats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from macloom.arch import (
    Accelerator,
    dram_energy_j_per_bit,
    float_add_energy_j,
    float_multiply_energy_j,
    sram_energy_j_per_bit,
)
from macloom.sim.account import scaled_operands
from macloom.sim.energy import (
    block_scale_energy,
    decoding_energy,
    encoding_energy,
    leakage_energy,
    mac_energy,
    spared_operations,
)
from macloom.sim.mapping import GemmMapping
from macloom.sim.vector import epilogue_operations, scale_operations, segment_operations

WHOLE = 1 << 40  # a block as long as any row


class Rates(NamedTuple):
    """What products have in common that meet the same formats on the same machine, one or an array each.

    Lanes, DRAM's streaming rate, operations per result, joules per event.
    """

    lanes: Any
    dram_bits_per_cycle: Any
    a_bit_j: Any
    b_bit_j: Any
    out_bit_j: Any
    dram_bit_j: Any
    multiply_j: Any
    add_j: Any
    leakage_j_per_cycle: Any
    mac_j: Any
    block_scale_j: Any
    a_code_j: Any
    b_code_j: Any
    out_code_j: Any
    spared_adds: Any
    epilogue_multiplies: Any
    epilogue_adds: Any
    segment_multiplies: Any
    scale_multiplies: Any
    scale_adds: Any
    out_block: Any


class KnownRates:
    """Rates by what decides them: a sweep has few machines and formats. The points keep what the ids stand for."""

    def __init__(self) -> None:
        self.rows: dict[Any, tuple[Any, ...]] = {}
        self.found: dict[Any, Rates] = {}

    def rates(self, mapping: GemmMapping, accelerator: Accelerator) -> Rates:
        formats = (id(mapping.a), id(mapping.b), id(mapping.out), bool(mapping.block_scales))
        key = (id(accelerator), mapping.fit, mapping.problem.k, *formats)
        if key not in self.found:
            self.found[key] = self._joined(mapping, accelerator, formats)
        return self.found[key]

    def _joined(self, mapping: GemmMapping, accelerator: Accelerator, formats: tuple[Any, ...]) -> Rates:
        technology = id(accelerator.technology)
        memory = (technology, id(accelerator.buffers), id(accelerator.dram), accelerator.vector)
        element = (technology, accelerator.array.pe, mapping.fit, *formats)
        return Rates(
            accelerator.vector.lanes,
            accelerator.dram.streaming_bits_per_s / accelerator.clock_hz,
            *self._row(memory, lambda: _memory_rates(accelerator)),
            *self._row((id(accelerator),), lambda: (leakage_energy(accelerator, 1).value,)),
            *self._row((*element, accelerator.vector.bits), lambda: _element_rates(mapping, accelerator)),
            *self._row((*formats, mapping.problem.k), lambda: _operation_rates(mapping)),
        )

    def _row(self, key: Any, make: Callable[[], tuple[Any, ...]]) -> tuple[Any, ...]:
        if key not in self.rows:
            self.rows[key] = make()
        return self.rows[key]


def _memory_rates(accelerator: Accelerator) -> tuple[float, ...]:
    technology, buffers, bits = accelerator.technology, accelerator.buffers, accelerator.vector.bits
    return (
        *(
            sram_energy_j_per_bit(technology, b.size_bits).value
            for b in (buffers.operand_a, buffers.operand_b, buffers.output)
        ),
        dram_energy_j_per_bit(technology, accelerator.dram.kind).value,
        float_multiply_energy_j(technology, bits).value,
        float_add_energy_j(technology, bits).value,
    )


def _element_rates(mapping: GemmMapping, accelerator: Accelerator) -> tuple[float, ...]:
    fit, technology, pe, bits = mapping.fit, accelerator.technology, accelerator.array.pe, accelerator.vector.bits
    if fit:
        mac = mac_energy(technology, pe, fit, mapping.a, mapping.b)
    else:
        mac = float_multiply_energy_j(technology, bits) + float_add_energy_j(technology, bits)
    return (
        mac.value,
        block_scale_energy(technology, pe).value if mapping.block_scales else 0.0,
        decoding_energy(technology, mapping.a, 1).value if fit and fit.a.decoded else 0.0,
        decoding_energy(technology, mapping.b, 1).value if fit and fit.b.decoded else 0.0,
        encoding_energy(technology, mapping.out, 1).value,
        spared_operations(mapping.out).adds,
    )


def _operation_rates(mapping: GemmMapping) -> tuple[int, ...]:
    epilogue = epilogue_operations(scaled_operands(mapping, blocked=False), mapping.out)
    segments = segment_operations(scaled_operands(mapping, blocked=True))
    scale, block = scale_operations(mapping.out), mapping.out.block or WHOLE
    return epilogue.multiplies, epilogue.adds, segments.multiplies, scale.multiplies, scale.adds, block
