"""Whole matrix products on an array in RTL: operands in, sums and cycles out."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from macloom.arch import Dataflow
from macloom.errors import MacloomError
from macloom.formats.accumulators.segments import common_segment
from macloom.formats.gemm import check_operands
from macloom.formats.tensor import Encoded
from macloom.formats.tensors.block import Block
from macloom.rtl.array import output_stationary, weight_stationary
from macloom.rtl.array.block_scales import BlockTotals
from macloom.rtl.array.design import COUNT_BITS, ArrayDesign
from macloom.rtl.simulation import CompiledCircuit
from macloom.rtl.unit import Unit, elaborate

Job = output_stationary.Job | weight_stationary.Job
DATAFLOWS = {Dataflow.OS: output_stationary, Dataflow.WS: weight_stationary}


def array_unit(design: ArrayDesign) -> Unit:
    """Return the array of a design, with its decoders and controller.

    >>> from macloom.formats import get_format
    >>> int4 = get_format("int4")
    >>> array_unit(ArrayDesign(a=int4, b=int4, rows=2, cols=2)).module
    'int4_os_array_2x2'
    """
    unit = DATAFLOWS[design.dataflow].array(design)
    return replace(unit, stimuli=lambda count, seed: _random_products(design, unit, count, seed))


def _random_products(design: ArrayDesign, unit: Unit, count: int, seed: int) -> dict[str, np.ndarray]:
    """Return the inputs of about `count` cycles in which the array multiplies random codes of two folds each way.

    Codes are any that the formats may store. Ports hold anything while they are not read, the array is asked to start
    while it is busy, and some products are empty.
    """
    rng = np.random.default_rng(seed)
    flow = DATAFLOWS[design.dataflow]
    parts: list[dict[str, np.ndarray]] = []
    cycles = 0
    while cycles < count:
        m, n, k = (int(rng.integers(1, 2 * size + 1)) for size in (design.rows, design.cols, design.rows))
        codes = (design.lane(f).random_codes(lines, k, rng) for f, lines in ((design.a, m), (design.b, n)))
        job = flow.Job(design, *codes)
        length = job.depth + flow.overhead(design)
        sizes = {"depth": job.depth, "row_folds": job.row_folds, "col_folds": job.col_folds}
        empty = sizes | {str(rng.choice(list(sizes))): 0}
        made = [_start(empty)] * int(rng.random() < 0.3) + [_start(sizes)]
        for row in range(job.row_folds):
            for col in range(job.col_folds):
                ports = _busy_ports(design, unit, job.inputs(row, col, length), rng)
                made.append({"start": rng.integers(0, 2, length), **ports})
        made.append(_start({}))
        parts += made
        cycles += sum(len(part["start"]) for part in made)

    def column(name: str) -> np.ndarray:
        return np.concatenate([part.get(name, np.zeros(len(part["start"]), np.int64)) for part in parts])

    return {port.name: column(port.name) for port in unit.inputs}


def _start(sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """Return the inputs of a cycle in which a product of these sizes starts; of none, an idle cycle."""
    return {name: np.array([value]) for name, value in {"start": int(bool(sizes)), **sizes}.items()}


def _busy_ports(
    design: ArrayDesign, unit: Unit, read: dict[str, np.ndarray], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Return a fold's inputs with anything on the ports of codes and sums in the cycles in which nothing is read."""
    made = dict(read)
    for port in unit.inputs:
        if re.fullmatch(r"(a|b|sum_in)\d+", port.name):
            values = read[port.name]
            bits = rng.integers(0, 1 << min(port.width, 62), len(values), dtype=np.uint64)
            made[port.name] = np.where(values == 0, port.values_of(bits), values)
    return made if design.block_scales is None else made | design.block_scales.random(len(read["a0"]), rng)


@dataclass(frozen=True)
class ArrayRun:
    """What an array gave for a product.

    Attributes:
        product: float32 (M, N), the sums with all scales applied; equal to `macloom.gemm` with the array's register,
            and with `block:...` where border units applied the scales of blocks.
        parts: int64 (segments, M, N), the registers' values at the end of each segment, in units of 2**unit_exponent.
        segment: elements of K to a segment: all, or as many as share the scales of both operands.
        cycles: cycles for which the array was busy.
        codes: int64 (M, N), what the output encoders made of the sums; None without any.
    """

    product: np.ndarray
    parts: np.ndarray
    segment: int
    cycles: int
    codes: np.ndarray | None = None

    @property
    def sums(self) -> np.ndarray:
        """The registers' final values, int64 (M, N), of a product without blocks along K.

        Raises:
            MacloomError: every segment of K has sums of its own.
        """
        if len(self.parts) > 1:
            raise MacloomError(
                f"rtl array: has sums for each of {len(self.parts)} segments of K; take `parts`, or `product`"
            )
        return self.parts[0]


@dataclass(frozen=True)
class ArraySimulation:
    """A compiled array that runs products of any size.

    The simulation puts operands on the ports at the cycles at which the array must read them, as told by
    the sizes alone, looks at results only while they must be there, and compares what the controller says.
    """

    design: ArrayDesign

    @cached_property
    def unit(self) -> Unit:
        return array_unit(self.design)

    @cached_property
    def circuit(self) -> CompiledCircuit:
        return CompiledCircuit(elaborate(self.unit))

    def run(self, a: Encoded, b: Encoded) -> ArrayRun:
        """Return the product of encoded matrices (M, K) and (N, K).

        Where blocks along K have scales of their own, every segment of K is a run of the array, and the sums are
        scaled and added as in `macloom.gemm`: in float32, first by A's scale, in ascending order of K. An array with
        border units for blocks does so itself.

        Raises:
            MacloomError: the operands are not matrices of one K in the formats of the design, hold codes that are no
                numbers, or are beyond its counters; or the array is not busy when it must be.
        """
        check_operands(a, b)
        self._check(a, b)
        design, depth = self.design, a.shape[1]
        segment = common_segment(a.operand(), b.operand())
        if segment < depth and design.epilogue is not None:
            raise MacloomError(
                f"rtl array: output encoders take whole sums, and scales change every {segment} elements"
            )
        lanes = design.lane(design.a), design.lane(design.b)
        if segment < depth and segment % 2 and any(lane.paired for lane in lanes):
            raise MacloomError(f"rtl array: segments of K must hold whole pairs, and scales change every {segment}")
        codes = [lane.codes_of(x.elements)[:, :depth] for lane, x in zip(lanes, (a, b), strict=True)]
        parts, busy, encoded, totals = [], 0, None, None
        for first in range(0, depth, segment):
            totals = self._block(a, b, first, totals)
            job = DATAFLOWS[design.dataflow].Job(design, *(c[:, first : first + segment] for c in codes), totals)
            busy += self._run(job)
            parts.append(job.sums)
            encoded = None if design.epilogue is None else job.encoded
            totals = job.totals
        product = _scaled(np.stack(parts), segment, design.mac.unit_exponent, a, b)
        if design.outer is not None and totals is not None:
            outer = np.float32(a.operand().outer * b.operand().outer)
            product = design.outer.values_of(totals.totals[: len(product), : product.shape[1]]) * outer
        return ArrayRun(product, np.stack(parts), segment, busy, encoded)

    def _block(self, a: Encoded, b: Encoded, first: int, before: BlockTotals | None) -> BlockTotals | None:
        """Return what the border units get for the block from element `first` on; None where there are none."""
        design, shape = self.design, (a.shape[0], b.shape[0])
        if not isinstance(design.a, Block) or not isinstance(design.b, Block) or design.outer is None:
            return None
        left, right = (
            np.asarray(x.scales, np.int64).reshape(len(x.elements), -1)[:, first // fmt.size]
            for x, fmt in ((a, design.a), (b, design.b))
        )
        totals = np.zeros(shape, np.int64) if before is None else before.totals[: shape[0], : shape[1]]
        return BlockTotals(left, right, totals)

    def _check(self, a: Encoded, b: Encoded) -> None:
        design = self.design
        if (a.format, b.format) != (design.a, design.b):
            raise MacloomError(
                f"rtl array: is for {design.a.name} and {design.b.name}, not {a.format.name} and {b.format.name}"
            )
        if len(a.shape) != 2 or 0 in (*a.shape, *b.shape):
            raise MacloomError(f"rtl array: multiplies matrices with elements, not {a.shape} and {b.shape}")
        for operand in (a.operand(), b.operand()):
            if not np.isfinite(operand.largest):
                bad = int(np.count_nonzero(~np.isfinite(operand.units)))
                raise MacloomError(
                    f"rtl array: {bad} codes of {operand.label} are NaN or infinite, which the elements take for 0; "
                    "replace them before"
                )

    def _run(self, job: Job) -> int:
        """Run one product, let it collect its sums, and return for how many cycles the array was busy."""
        sizes = {"depth": job.depth, "row_folds": job.row_folds, "col_folds": job.col_folds}
        if max(sizes.values()) >> COUNT_BITS:
            raise MacloomError(f"rtl array: counts to {(1 << COUNT_BITS) - 1}, too few for {sizes}")
        self._step(_start(sizes))
        length, busy = job.depth + DATAFLOWS[self.design.dataflow].overhead(self.design), 0
        for row in range(job.row_folds):
            for col in range(job.col_folds):
                out = self._step(job.inputs(row, col, length))
                where = {"row_fold": row, "col_fold": col, "cycle": np.arange(length)}
                wrong = [name for name, expected in where.items() if (out[name] != expected).any()]
                if wrong or not out["busy"].all():
                    raise MacloomError(f"rtl array: {wrong or 'busy'} differ from the schedule in fold {row}, {col}")
                busy += int(out["busy"].sum())
                job.collect(row, col, out)
        last = self._step(_start({}))
        if last["busy"][0] or not last["done"][0]:
            raise MacloomError("rtl array: is not done when it must be")
        return busy

    def _step(self, inputs: dict) -> dict[str, np.ndarray]:
        """Run as many cycles as the inputs have; ports that are not named get 0."""
        steps = len(next(iter(inputs.values())))
        zeros = np.zeros(steps, np.int64)
        bits = {p.name: p.bits_of(np.asarray(inputs.get(p.name, zeros))) for p in self.unit.inputs}
        out = self.circuit.run(bits)
        return {p.name: p.values_of(out[p.name]) for p in self.unit.outputs}


def _scaled(parts: np.ndarray, segment: int, exponent: int, a: Encoded, b: Encoded) -> np.ndarray:
    """Return the sums of segments scaled and added in float32, as in `macloom.gemm`."""
    left, right = a.operand(), b.operand()
    total = np.zeros(parts.shape[1:], np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for index, sums in enumerate(parts):
            first = index * segment
            term = np.ldexp(sums.astype(np.float64), exponent).astype(np.float32)
            term = term * left.scales[:, first // left.block, None] * right.scales[:, first // right.block]
            total = total + term
        return total * np.float32(left.outer * right.outer)
