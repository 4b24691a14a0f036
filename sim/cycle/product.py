"""Multiply two encoded operands on the array, cycle by cycle."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from macloom.arch import Array, Dataflow
from macloom.errors import MacloomError, unknown
from macloom.formats import Encoded, ExactAccumulator, default_accumulator, get_accumulator
from macloom.formats.accumulator import Accumulator
from macloom.formats.accumulators.floating import Order
from macloom.formats.accumulators.segments import common_segment, product_unit
from macloom.formats.operand import Operand
from macloom.formats.threads import thread_count
from macloom.sim.cycle.program import Program, program
from macloom.sim.cycle.semantics import Register, as_seen, finished, limbs_of, register_of, rounded
from macloom.sim.fit import fit_product
from macloom.sim.mapping import effective_size, segment_length

LARGEST_PLAIN = 1 << 20  # element updates that the plain machine is let loose on
SMALLEST_SHARE = 1 << 22  # element updates below which another thread costs more than it saves


@dataclass(frozen=True, kw_only=True)
class CycleRun:
    """What a product gave and took.

    Attributes:
        values: float32 (M, N).
        cycles: from the first operand (or code, with decoders) entering to the last result leaving.
        folds: pieces that followed one another on all arrays together.
        rows, cols: of the array as the product sees it; fused elements count once.
        updates: registers of elements stepped, one per element and cycle, over all arrays.
        dataflow: how the operands moved.
        accumulator: what the registers did.
    """

    values: np.ndarray
    cycles: int
    folds: int
    rows: int
    cols: int
    updates: int
    dataflow: Dataflow
    accumulator: str


def run(
    a: Encoded,
    b: Encoded,
    array: Array,
    accumulator: Accumulator | str | None = None,
    dataflow: Dataflow | str | None = None,
    *,
    plain: bool = False,
) -> CycleRun:
    """Return the product of `a` (M, K) and `b` (N, K), stepped through every register of `array`.

    The values equal `macloom.gemm(a, b, accumulator)`. In OS and, with partial sums read back at the top
    of a column, in WS and IS, products join a sum in ascending order of K, which is the order of gemm.
    Where an operand's scale changes along K, the sums of segments leave the array and are scaled and added
    in float32, or this happens inside elements with `block_scaling`. The cycles equal
    `macloom.sim.systolic.product_cycles`. Several arrays take folds (OS) or strips of columns (WS, IS) in turn.

    Args:
        a, b: encoded matrices, as `macloom.gemm` takes them.
        array: rows, columns, elements, shadow registers, decoders, arrays per chip.
        accumulator: record or name; None takes `default_accumulator`.
        dataflow: `os`, `ws` or `is`; None takes the array's own.
        plain: whether to use the readable machine in Python, as accumulators without a fast form always do.

    Raises:
        UnsupportedFormat: the elements cannot multiply these formats.
        MacloomError: shapes or blocks that do not fit, an overflow of an accumulator that refuses it, or too
            much work for the plain machine.

    >>> from macloom.arch import Array, ProcessingElement
    >>> from macloom.formats import get_format
    >>> fmt, array = get_format("int4"), Array(rows=2, cols=2, pe=ProcessingElement(significand_bits=4))
    >>> run(fmt.encode(np.float32([[7, -3]])), fmt.encode(np.float32([[2, 7]])), array).cycles
    6
    """
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[1] != b.shape[1]:
        raise MacloomError(f"cycle: needs shapes (M, K) and (N, K), not {a.shape} and {b.shape}")
    if dataflow is not None and dataflow not in list(Dataflow):
        raise unknown("dataflow", dataflow, [d.value for d in Dataflow])
    flow = array.dataflow if dataflow is None else Dataflow(dataflow)
    chosen = get_accumulator(accumulator) if isinstance(accumulator, str) else accumulator
    chosen = chosen or default_accumulator(a.format, b.format)
    fit = fit_product("cycle", a.format, b.format, "array", array)
    rows, cols = effective_size(fit, flow, array.rows, array.cols)
    left, right = a.operand(), b.operand()
    chosen.check(left, right)
    if getattr(chosen, "order", Order.ASCENDING) is not Order.ASCENDING:
        raise MacloomError(
            f"cycle: an array adds products in ascending order of K, and accumulator {chosen.name!r} in another; "
            "leave its order out"
        )
    left, right = as_seen(chosen, left, right)
    segment = segment_length((left.block, right.block), a.shape[1])
    common_segment(left, right)  # refuses blocks that do not nest
    scaled = segment is not None and array.pe.block_scaling
    register = None if plain else register_of(chosen, left, right, scaled=scaled)
    machine = _Machine(
        array=replace(array, rows=rows, cols=cols, dataflow=flow, pe=replace(array.pe, fusable=False)),
        accumulator=chosen,
        a=left,
        b=right,
        segment=segment,
        scaled=scaled,
    )
    values, cycles, plan = machine.plainly() if register is None else machine.compiled(register)
    if left.outer != 1 or right.outer != 1:
        values *= np.float32(left.outer * right.outer)
    if left.sparse is not None or right.sparse is not None:
        from macloom.formats.outliers.sparse import add_sparse_products

        add_sparse_products(left, right, values)
    latency = array.decoder_latency if fit.a.decoded or fit.b.decoded else 0
    return CycleRun(
        values=values,
        cycles=cycles + latency,
        folds=len(plan.folds),
        rows=rows,
        cols=cols,
        updates=array.count * cycles * rows * cols,
        dataflow=flow,
        accumulator=chosen.name,
    )


@dataclass(frozen=True, kw_only=True)
class _Machine:
    """One product on one array (as many elements as the product sees)."""

    array: Array
    accumulator: Accumulator
    a: Operand
    b: Operand
    segment: int | None
    scaled: bool

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.a.units.shape[0], self.b.units.shape[0], self.a.units.shape[1]

    def plan(self, chunk: int | None) -> Program:
        m, n, k = self.sizes
        size = self.array.rows, self.array.cols
        return program(self.array.dataflow, m, n, k, *size, segment=self.segment, chunk=chunk, scaled=self.scaled)

    def scales(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the scales of both operands, (rows, segments), at the segments that both have."""
        k = self.a.units.shape[1]
        starts = np.arange(0, k, self.segment or k)
        pick = [np.ascontiguousarray(o.scales[:, starts // o.block], np.float32) for o in (self.a, self.b)]
        return pick[0], pick[1]

    def compiled(self, register: Register) -> tuple[np.ndarray, int, Program]:
        plan = self.plan(register.chunk)
        totals, cycles = [], 0
        for units, power in limbs_of(self.a.units, register.limb_bits):
            sums, cycles = _on_arrays(self, plan, register, units)
            totals.append((sums, power))
        unit = np.float32(product_unit(self.a, self.b))
        if self.scaled:
            return totals[0][0][0].astype(np.float32), cycles, plan
        if len(totals) == 1:
            terms = finished(totals[0][0], self.accumulator, register).astype(np.float32)
        else:
            whole = sum(s.astype(object) * (1 << power) for s, power in _integers(totals))
            terms = np.vectorize(rounded, otypes=[np.float32])(whole)
        return self.joined(terms * unit), cycles, plan

    def joined(self, terms: np.ndarray) -> np.ndarray:
        """Return the scaled float32 sum over segments of `terms` (segments, M, N), in ascending order."""
        a_scales, b_scales = self.scales()
        result: np.ndarray | None = None
        for index, term in enumerate(terms):
            scaled = (term * a_scales[:, index, None]) * b_scales[None, :, index]
            result = scaled if result is None else result + scaled
        assert result is not None
        return result

    def plainly(self) -> tuple[np.ndarray, int, Program]:
        from macloom.sim.cycle.reference import PlainArray

        plan = self.plan(None)
        k = self.sizes[2]
        work = len(plan.folds) * self.array.pes * (k + 2 * self.array.rows + self.array.cols)
        if work > LARGEST_PLAIN:
            raise MacloomError(
                f"cycle: accumulator {self.accumulator.name!r} is stepped in plain Python here, and this product takes "
                f"about {work} steps of elements, more than {LARGEST_PLAIN}; take a smaller product"
            )
        machine = PlainArray(
            rows=self.array.rows,
            cols=self.array.cols,
            shadow=self.array.shadow_registers,
            accumulator=self.accumulator,
            unit=np.float32(product_unit(self.a, self.b)),
        )
        a_scales, b_scales = self.scales()
        values, cycles = machine.product(
            self.array.dataflow, self.a.units, self.b.units, self.segment, self.scaled, a_scales, b_scales
        )
        return values, cycles, plan


def stepped_product(a: np.ndarray, b: np.ndarray, array: Array, segment: int | None) -> tuple[np.ndarray, int]:
    """Return float32 (M, N) of whole numbers A (M, K) and B (N, K) that are small, and the cycles on `array`.

    Sums leave the array after every `segment` of K. The array is taken as it is: nothing is fused or decoded.
    """
    k = a.shape[1]
    operands = [
        Operand(
            units=units,
            unit_exponent=0,
            scales=np.ones((len(units), -(-k // (segment or k))), np.float32),
            block=segment or k,
            outer=np.float32(1),
            max_unit=int(np.abs(units).max(initial=1)),
        )
        for units in (a, b)
    ]
    machine = _Machine(
        array=array,
        accumulator=ExactAccumulator(),
        a=operands[0],
        b=operands[1],
        segment=segment if segment is not None and segment < k else None,
        scaled=False,
    )
    register = register_of(machine.accumulator, machine.a, machine.b, scaled=False)
    if register is None:
        raise MacloomError("cycle: the operands of a stepped product must be small whole numbers")
    values, cycles, _ = machine.compiled(register)
    return values, cycles


def _integers(totals: list[tuple[np.ndarray, int]]) -> list[tuple[np.ndarray, int]]:
    return [(sums.astype(np.int64), power) for sums, power in totals]


def _on_arrays(machine: _Machine, plan: Program, register: Register, units: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the sums of each segment, (segments, M, N), and the cycles of the slowest of the arrays."""
    arrays = [_share(plan, machine.array, i, machine.array.count) for i in range(machine.array.count)]
    m, n, k = machine.sizes
    pieces = 1 if machine.scaled else len(range(0, k, machine.segment or k))
    sums = np.zeros((pieces, m, n), np.float64)
    cycles = max(_on_array(machine, share, register, units, sums) for share in arrays if len(share.folds))
    return sums, cycles


def _share(plan: Program, array: Array, index: int, count: int) -> Program:
    """Return what array `index` of `count` does: every `count`-th group of folds, started as if alone."""
    if count == 1:
        return plan
    if array.dataflow is Dataflow.OS:  # all segments of a block of outputs stay on one array
        blocks = np.unique(plan.folds[:, :2], axis=0, return_inverse=True)[1]
        order = np.unique(blocks, return_index=True)[1]
        rank = {int(blocks[f]): i for i, f in enumerate(np.sort(order))}
        chosen = np.array([rank[int(block)] % count == index for block in blocks])
    else:
        chosen = np.zeros(len(plan.folds), bool)
        for first, last in plan.groups[index::count]:
            chosen[first:last] = True
    return _only(plan, array, np.flatnonzero(chosen))


def _only(plan: Program, array: Array, chosen: np.ndarray) -> Program:
    folds, place = plan.folds[chosen], {int(f): i for i, f in enumerate(chosen)}
    if array.dataflow is Dataflow.OS:
        lengths = folds[:, 3] - folds[:, 2]
        least = np.where(np.arange(len(folds)) > 0, array.rows, 0)
        starts = np.cumsum(np.maximum(lengths, least)) - lengths
        kept = [(place[int(f)], *rest) for f, *rest in plan.marks.tolist() if int(f) in place]
        marks = np.array(kept, np.int64).reshape(-1, 4)
        groups = tuple((f, f + 1) for f in range(len(folds)))
    else:
        interval = int(plan.starts[1]) if len(plan.starts) > 1 else 0
        starts, marks = np.arange(len(folds), dtype=np.int64) * interval, plan.marks[chosen]
        groups = tuple((place[a], place[b - 1] + 1) for a, b in plan.groups if a in place)
    return Program(folds=folds, starts=starts, marks=marks, groups=groups)


def _on_array(machine: _Machine, plan: Program, register: Register, units: np.ndarray, sums: np.ndarray) -> int:
    """Run a program on one array, in as many threads as pay, and return its cycles.

    A thread takes a stretch of the program. With shadow registers, folds overlap; a thread then also runs
    the folds before its stretch that are still in the array when the stretch starts, and drops their results.
    """
    array = machine.array
    stream = max(machine.sizes)
    work = len(plan.folds) * array.pes * (stream + 2 * array.rows + array.cols)
    count = max(1, min(thread_count(), len(plan.groups), work // SMALLEST_SHARE))
    cuts = [plan.groups[len(plan.groups) * i // count][0] for i in range(count)] + [len(plan.folds)]
    jobs = []
    for first, last in pairwise(cuts):
        before = first
        if array.shadow_registers and first:
            alive = int(plan.starts[first]) - (stream + 2 * array.rows + array.cols)
            before = min(int(np.searchsorted(plan.starts, alive)), first - 1)
            before = max(start for start, _ in plan.groups if start <= before)
        jobs.append((before, first, last))
    if len(jobs) == 1:
        parts = [_stretch(machine, plan, register, units, sums, *jobs[0])]
    else:
        with ThreadPoolExecutor(len(jobs)) as pool:
            futures = [pool.submit(_stretch, machine, plan, register, units, sums, *job) for job in jobs]
            parts = [future.result() for future in futures]
    if array.shadow_registers:
        return int(plan.starts[jobs[-1][0]]) + parts[-1]
    return sum(parts)


def _stretch(
    machine: _Machine,
    plan: Program,
    register: Register,
    units: np.ndarray,
    sums: np.ndarray,
    before: int,
    first: int,
    last: int,
) -> int:
    """Run folds `before` to `last`, keep the sums of those from `first` on, and return the cycles."""
    from macloom.sim.cycle.kernels import HAZARD, os_machine, ws_machine

    array, dtype = machine.array, register.dtype
    part = _only(plan, array, np.arange(before, last)) if (before, last) != (0, len(plan.folds)) else plan
    starts = part.starts if array.dataflow is not Dataflow.OS else plan.starts[before:last] - plan.starts[before]
    a_scales, b_scales = machine.scales()
    left = np.ascontiguousarray(units, dtype)
    right = np.ascontiguousarray(machine.b.units, dtype)
    common = (array.rows, array.cols, array.shadow_registers, register.every)
    limits = (dtype(register.low), dtype(register.high), machine.scaled, np.float32(product_unit(machine.a, machine.b)))
    if array.dataflow is Dataflow.OS:
        out = np.zeros((last - before, array.rows, array.cols), np.float64)
        turned = np.ascontiguousarray(right.T)
        cycles = os_machine(
            left, turned, part.folds, starts, part.marks, *common, *limits, a_scales, b_scales, out
        )  # fmt: skip
        step = machine.segment or left.shape[1]
        for f in range(first - before, last - before):
            i, j, k, _ = part.folds[f]
            block = sums[0 if machine.scaled else k // step, i : i + array.rows, j : j + array.cols]
            block[...] = out[f, : block.shape[0], : block.shape[1]]
    else:
        transposed = array.dataflow is Dataflow.IS
        x, w = (right, left) if transposed else (left, right)
        scales = (b_scales, a_scales) if transposed else (a_scales, b_scales)
        kept = np.zeros((len(sums), x.shape[0], w.shape[0]), dtype)
        running = np.zeros(kept.shape[1:], np.float32)
        cycles = ws_machine(
            x, np.ascontiguousarray(w.T), part.folds, starts, part.marks, *common, *limits, *scales, transposed, kept,
            running,
        )  # fmt: skip
        result = running[None] if machine.scaled else kept
        target = sums.swapaxes(1, 2) if transposed else sums
        for j in np.unique(part.folds[first - before :, 2]):
            target[:, :, j : j + array.cols] = result[:, :, j : j + array.cols]
    if cycles == HAZARD:
        raise RuntimeError(
            "internal fault: the controller started a fold too early; please report this with the inputs"
        )
    return cycles
