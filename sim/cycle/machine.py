"""One product on the machines: folds shared between arrays and threads, sums joined."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from macloom.arch import Array, Dataflow
from macloom.errors import MacloomError
from macloom.formats.accumulator import Accumulator
from macloom.formats.accumulators.segments import product_unit
from macloom.formats.operand import Operand
from macloom.formats.threads import thread_count
from macloom.sim.cycle.marks import HAZARD
from macloom.sim.cycle.program import Program, program
from macloom.sim.cycle.semantics import Register, finished, limbs_of, rounded

LARGEST_PLAIN = 1 << 20  # element updates that the plain machine is let loose on
SMALLEST_SHARE = 1 << 22  # element updates below which another thread costs more than it saves


@dataclass(frozen=True, kw_only=True)
class Machine:
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

    def plainly(self) -> tuple[np.ndarray, int, Program, np.ndarray]:
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
        shares = [_share(plan, self.array, i, self.array.count) for i in range(self.array.count)]
        values, cycles, active = machine.product(
            self.array.dataflow, self.a.units, self.b.units, self.segment, self.scaled, a_scales, b_scales, shares
        )
        return values, cycles, plan, active


def _integers(totals: list[tuple[np.ndarray, int]]) -> list[tuple[np.ndarray, int]]:
    return [(sums.astype(np.int64), power) for sums, power in totals]


def _on_arrays(machine: Machine, plan: Program, register: Register, units: np.ndarray) -> tuple[np.ndarray, int]:
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


def _on_array(machine: Machine, plan: Program, register: Register, units: np.ndarray, sums: np.ndarray) -> int:
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
    machine: Machine,
    plan: Program,
    register: Register,
    units: np.ndarray,
    sums: np.ndarray,
    before: int,
    first: int,
    last: int,
) -> int:
    """Run folds `before` to `last`, keep the sums of those from `first` on, and return the cycles."""
    from macloom.sim.cycle.os_kernel import os_machine
    from macloom.sim.cycle.ws_kernel import ws_machine

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
