"""Whole matrix products on one dot-product unit: operands in, output by output, and the sums that come out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.accumulators.floating import Order
from macloom.formats.tensor import Encoded
from macloom.rtl.floats import FloatRegister
from macloom.rtl.pe.block_dot import BlockDot, block_dot
from macloom.rtl.pe.tensor_dot import TensorDot, tensor_dot
from macloom.rtl.simulation import run_block
from macloom.rtl.unit import Unit, elaborate


@dataclass(frozen=True, kw_only=True)
class DotRun:
    """What a unit gave for a product of matrices.

    Attributes:
        sums: float32 (M, N), what the register held after all blocks; scales of tensors and rows are not applied.
        cycles: of the unit, one for each block.
    """

    sums: np.ndarray
    cycles: int


def dot_products(design: BlockDot | TensorDot, a: Encoded, b: Encoded) -> DotRun:
    """Return the product of encoded matrices (M, K) and (N, K) on one unit, block after block.

    Raises:
        MacloomError: the formats are not those of the design.
    """
    if (a.format, b.format) != (design.a, design.b):
        raise MacloomError(
            f"rtl dot unit: is for {design.a.name} and {design.b.name}, not {a.format.name} and {b.format.name}"
        )
    unit = block_dot(design) if isinstance(design, BlockDot) else tensor_dot(design)
    return _run(unit, design.register, inputs_of(design, a, b), (a.shape[0], b.shape[0]))


def inputs_of(design: BlockDot | TensorDot, a: Encoded, b: Encoded) -> dict[str, np.ndarray]:
    """Return the codes on every port, one cycle for each block, and a last cycle in which the last sum is read.

    Args:
        a, b: encoded matrices (M, K) and (N, K); the outputs are computed row by row.
    """
    if isinstance(design, BlockDot):
        size, descending, scaled = design.size, design.accumulator.order is Order.DESCENDING, True
    else:
        size, descending, scaled = design.core.block, False, design.core.scale_block > 0
    (m, k), n = a.shape, b.shape[0]
    steps = -(-k // size)
    made: dict[str, np.ndarray] = {}
    for name, side, rows in (("a", a, np.repeat(np.arange(m), n)), ("b", b, np.tile(np.arange(n), m))):
        codes = side.elements.reshape(side.shape[0], -1)[:, :k].astype(np.int64)
        codes = np.pad(codes, ((0, 0), (0, steps * size - k)))  # code 0 is zero
        blocks = codes.reshape(-1, steps, size)[:, :: -1 if descending else 1]
        lanes = blocks[rows].reshape(-1, size)
        made |= {f"{name}{i}": lanes[:, i] for i in range(size)}
        if scaled:
            scales = side.scales.reshape(side.shape[0], -1).astype(np.int64)
            spread = np.repeat(scales, (side.format.block or size) // size, axis=1)[:, :steps]
            made[f"scale_{name}"] = spread[:, :: -1 if descending else 1][rows].ravel()
    made["clear"] = (np.arange(m * n * steps) % steps == 0) * 1
    made["valid"] = np.ones(m * n * steps, np.int64)
    return {name: np.append(values, 0) for name, values in made.items()}


def _run(unit: Unit, register: FloatRegister, inputs: dict[str, np.ndarray], shape: Sequence[int]) -> DotRun:
    bits = {port.name: port.bits_of(inputs[port.name]) for port in unit.inputs}
    out = run_block(elaborate(unit), bits)["sum"].astype(np.int64)
    cycles = len(out) - 1
    steps = cycles // (shape[0] * shape[1])
    return DotRun(sums=register.values_of(out[steps::steps]).reshape(*shape), cycles=cycles)
