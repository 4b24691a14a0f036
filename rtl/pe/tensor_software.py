"""The software that a tensor core's unit must equal: blocks as the arithmetic room computes them, and operands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from macloom.formats.operand import Operand
from macloom.formats.tensor_core.product import late_sum, multiply_add
from macloom.rtl.float_units import float_codes
from macloom.rtl.pe.stimuli import float_blocks
from macloom.rtl.pe.tensor_design import TensorDot
from macloom.rtl.unit import Values

Sums = Mapping[str, np.ndarray]


def block_sums(design: TensorDot, start: np.ndarray, inputs: Values) -> np.ndarray:
    """Return float32 sums, exact in the inner register, after one block on each."""
    one = replace(design.core, promote=0, run=0)
    a, b = (operand(design, side, inputs) for side in range(2))
    return multiply_add(one, a, b, np.asarray(start, np.float32)[:, None, None])[:, 0, 0]


def operand(design: TensorDot, side: int, inputs: Values) -> Operand:
    """Return the codes and scales on the ports of A (0) or B (1) as (steps, 1, block) elements."""
    core, name, element = design.core, "ab"[side], design.elements[side]
    table, unit, largest = element.units
    codes = np.stack([np.asarray(inputs[f"{name}{i}"]) for i in range(core.block)], axis=-1)[:, None, :]
    units = table[codes] if len(table) else codes.astype(np.uint32).view(np.float32)
    scales = np.ones((len(codes), 1, 1), np.float32)
    if design.scales:
        known = np.stack([np.asarray(inputs[port]) for port in design.scale_ports[side]], axis=-1)[:, None, :]
        scales = design.scale_formats[side].values[known].astype(np.float32)
    fmt = (design.a, design.b)[side]
    units, scales = (np.ascontiguousarray(x, np.float32) for x in (units, scales))
    return Operand(units, unit, scales, core.scale_block or core.block, np.float32(1), largest, format=fmt)


def after(design: TensorDot, held: Sums, inputs: Values) -> dict[str, np.ndarray]:
    """Return float32 values of the unit's registers after one step on each."""
    total = np.asarray(held["total"], np.float32)
    if not design.late:
        return {"total": block_sums(design, total, inputs)}
    if not design.chained:
        return {"total": late_sum(design.core, total.copy(), block_sums(design, np.zeros_like(total), inputs))}
    chain = block_sums(design, held["chain"], inputs)
    promoted = np.asarray(inputs["promote"]) == 1
    return {
        "total": np.where(promoted, late_sum(design.core, total.copy(), chain), total),
        "chain": np.where(promoted, np.float32(0), chain),
    }


def operand_codes(design: TensorDot, count: int, seed: int, special: float = 0.05) -> dict[str, np.ndarray]:
    """Return codes, scales and `promote` (int64) that bring a unit to its corners."""
    formats = design.scale_formats if design.scales else ()
    made = float_blocks(
        design.elements, tuple(zip(design.scale_ports, formats, strict=False)), design.core.block, count, seed, special
    )
    if design.chained:
        made["promote"] = (np.random.default_rng([seed, 3]).random(count) < 0.3) * 1
    return made


def held_codes(design: TensorDot, inputs: Values, count: int, seed: int) -> dict[str, np.ndarray]:
    """Return codes of every register for these operands: most of them near the block's sum, where terms cancel."""
    made = {}
    near = block_sums(design, np.zeros(count, np.float32), inputs)
    for salt, (name, register) in enumerate(zip(design.registers, (design.register, design.inner), strict=False)):
        rng = np.random.default_rng([seed, 1, salt])
        with np.errstate(over="ignore", invalid="ignore"):
            codes = register.codes_of(near)
        moved = codes + rng.integers(-3, 4, count) * (1 << rng.integers(0, register.mantissa_bits + 4, count))
        moved = (moved ^ rng.integers(0, 2, count) << (register.bits - 1)) & ((1 << register.bits) - 1)
        made[name] = np.where(rng.random(count) < 0.7, moved, float_codes(register, count, seed, name))
    return made
