"""Whole matrix products on one dot-product unit: operands in, output by output, and the sums that come out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.accumulators.floating import Order
from macloom.formats.tensor import Encoded
from macloom.formats.tensor_core.operands import dealt
from macloom.rtl.floats import FloatRegister
from macloom.rtl.pe.block_dot import BlockDot, block_dot
from macloom.rtl.pe.tensor_dot import TensorDot, tensor_dot
from macloom.rtl.simulation import run_block
from macloom.rtl.unit import Unit, elaborate


@dataclass(frozen=True, kw_only=True)
class DotRun:
    """What a unit gave for a product of matrices.

    Attributes:
        sums: float32 (M, N), what the register held after all blocks; scales of tensors and rows are not applied;
            see `scaled`.
        cycles: of the unit, one for each of its blocks.
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


def scaled(design: BlockDot | TensorDot, run: DotRun, a: Encoded, b: Encoded) -> np.ndarray:
    """Return a run's sums times the scales that are no part of the unit, as `macloom.gemm` multiplies them."""
    left, right, sums = a.operand(), b.operand(), run.sums
    with np.errstate(all="ignore"):
        if isinstance(design, TensorDot) and not design.scales:
            sums = sums * left.scales[:, :1] * right.scales[:, :1].T
        return sums * np.float32(left.outer * right.outer)


def inputs_of(design: BlockDot | TensorDot, a: Encoded, b: Encoded) -> dict[str, np.ndarray]:
    """Return the codes on every port, one cycle for each block, and a last cycle in which the last sum is read.

    Args:
        a, b: encoded matrices (M, K) and (N, K); the outputs are computed row by row.
    """
    (m, k), n = a.shape, b.shape[0]
    size = design.size if isinstance(design, BlockDot) else design.core.block
    descending = isinstance(design, BlockDot) and design.accumulator.order is Order.DESCENDING
    order = _order(design, k)
    steps = len(order) // size
    made: dict[str, np.ndarray] = {}
    for name, side, rows in (("a", a, np.repeat(np.arange(m), n)), ("b", b, np.tile(np.arange(n), m))):
        codes = side.elements.reshape(side.shape[0], -1)[:, :k].astype(np.int64)
        codes = np.pad(codes, ((0, 0), (0, max(int(order.max(initial=0)) + 1 - k, 0))))[:, order]  # code 0 is zero
        lanes = _turned(codes.reshape(-1, steps, size), descending)[rows].reshape(-1, size)
        made |= {f"{name}{i}": lanes[:, i] for i in range(size)}
        ports = _scale_ports(design, name)
        if ports:
            scales = side.scales.reshape(side.shape[0], -1).astype(np.int64)
            length = (side.format.block or size) // size if len(ports) == 1 else 1
            spread = np.repeat(scales, length, axis=1)
            missing = max(steps * len(ports) - spread.shape[1], 0)
            spread = np.pad(spread, ((0, 0), (0, missing)))[:, : steps * len(ports)]
            spread = _turned(spread.reshape(-1, steps, len(ports)), descending)[rows].reshape(-1, len(ports))
            made |= dict(zip(ports, spread.T, strict=True))
    step = np.arange(m * n * steps) % max(steps, 1)
    made["clear"] = (step == 0) * 1
    made["valid"] = np.ones(m * n * steps, np.int64)
    if isinstance(design, TensorDot) and design.chained:
        made["promote"] = (((step + 1) % (design.core.promote // size) == 0) | (step == steps - 1)) * 1
    return {name: np.append(values, 0) for name, values in made.items()}


def _order(design: BlockDot | TensorDot, k: int) -> np.ndarray:
    """Return the places along K in the order in which a unit takes them, beyond K where a step is not filled."""
    if isinstance(design, TensorDot) and design.core.run:
        return dealt(design.core, k)
    size = design.size if isinstance(design, BlockDot) else design.core.block
    return np.arange(-(-k // size) * size)


def _scale_ports(design: BlockDot | TensorDot, side: str) -> tuple[str, ...]:
    if isinstance(design, BlockDot):
        return (f"scale_{side}",)
    return design.scale_ports["ab".index(side)] if design.scales else ()


def _turned(steps: np.ndarray, descending: bool) -> np.ndarray:
    return steps[:, ::-1] if descending else steps


def _run(unit: Unit, register: FloatRegister, inputs: dict[str, np.ndarray], shape: Sequence[int]) -> DotRun:
    bits = {port.name: port.bits_of(inputs[port.name]) for port in unit.inputs}
    out = run_block(elaborate(unit), bits)["sum"].astype(np.int64)
    cycles = len(out) - 1
    steps = cycles // (shape[0] * shape[1])
    return DotRun(sums=register.values_of(out[steps::steps]).reshape(*shape), cycles=cycles)
