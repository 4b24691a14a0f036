"""Multiply two encoded operands on the array, cycle by cycle."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from macloom.arch import Array, Dataflow
from macloom.errors import MacloomError, unknown
from macloom.formats import Encoded, ExactAccumulator, default_accumulator, get_accumulator
from macloom.formats.accumulator import Accumulator
from macloom.formats.accumulators.floating import Order
from macloom.formats.accumulators.segments import common_segment
from macloom.formats.operand import Operand
from macloom.sim.cycle.machine import Machine
from macloom.sim.cycle.semantics import as_seen, register_of
from macloom.sim.fit import fit_product
from macloom.sim.mapping import effective_size, segment_length


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
        active: int64 (arrays, rows, cols), cycles in which the product of an element was not zero; counted by the plain
            machine only, else None.
    """

    values: np.ndarray
    cycles: int
    folds: int
    rows: int
    cols: int
    updates: int
    dataflow: Dataflow
    accumulator: str
    active: np.ndarray | None = None


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
    machine = Machine(
        array=replace(array, rows=rows, cols=cols, dataflow=flow, pe=replace(array.pe, fusable=False)),
        accumulator=chosen,
        a=left,
        b=right,
        segment=segment,
        scaled=scaled,
    )
    active = None
    if register is None:
        values, cycles, plan, active = machine.plainly()
    else:
        values, cycles, plan = machine.compiled(register)
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
        active=active,
    )


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
    machine = Machine(
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
