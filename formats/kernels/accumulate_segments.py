"""Products of operands whose scales change along K, with exact sums inside a segment.

A block of outputs, eight rows by `VECTORS` vectors of columns, stays in processor registers for a segment; then its
sums are scaled and added to the totals. Sums are float64, float32 or, of bytes, int32: where the processor multiplies
four of them at a time, one operand's bytes without a sign (AVX-512 VNNI), as which 128 is added to them.
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import njit, types
from numba.core import config
from numba.extending import intrinsic

from macloom.formats.kernels.accumulate import wide_vectors
from macloom.formats.kernels.accumulate_packing import OFFSET, begin_sums, pack_columns, turned, words_of
from macloom.formats.kernels.accumulate_vectors import VECTOR_BYTES, Vector, fused, load
from macloom.formats.operand import Operand
from macloom.formats.threads import run_rows

VECTORS = 2
ROWS = 8


@intrinsic
def begin(typingctx, sums, index):
    """Return the sums that a segment begins with: those of int32 are in memory, floats are zero."""

    def generate(context, builder, sig, args):
        kind = context.get_value_type(sig.return_type)
        if not isinstance(kind.element, ir.IntType):
            return ir.Constant(kind, None)
        place = _element(context, builder, sig.args[0], *args)
        return builder.load(builder.bitcast(place, kind.as_pointer()), align=4)

    return Vector(sums.dtype)(sums, types.intp), generate


def dot_of_bytes(builder: Any, total: Any, x: Any, y: Any) -> Any:
    """Return int32 sums plus the products of four bytes in each element, unsigned ones of x and signed ones of y."""
    name, kind = "llvm.x86.avx512.vpdpbusd.512", ir.VectorType(ir.IntType(8), VECTOR_BYTES)
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(total.type, [total.type, kind, kind]), name)
    return builder.call(function, [total, builder.bitcast(x, kind), builder.bitcast(y, kind)])


@intrinsic
def add_products(typingctx, x, y, z):
    """Return z plus x times y; of int32, four bytes of x, unsigned, times four of y. Nothing rounds."""

    def generate(context, builder, sig, args):
        x, y, z = args
        return dot_of_bytes(builder, z, x, y) if isinstance(z.type.element, ir.IntType) else fused(builder, x, y, z)

    return z(x, y, z), generate


def _spread(builder: Any, value: Any, kind: Any) -> Any:
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.IntType(32)(0))
    order = ir.Constant(ir.VectorType(ir.IntType(32), kind.count), [0] * kind.count)
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), order)


def _element(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    return builder.gep(context.make_array(kind)(context, builder, array).data, [index], inbounds=True)


@intrinsic
def spread_at(typingctx, array, index):
    """Copy an element of a flat array to every element of a vector."""

    def generate(context, builder, sig, args):
        value = builder.load(_element(context, builder, sig.args[0], *args))
        return _spread(builder, value, context.get_value_type(sig.return_type))

    return Vector(array.dtype)(array, types.intp), generate


@intrinsic
def drain(typingctx, sums, unit, scales_a, i, scales_b, j, totals, place):
    """Scale sums by `unit`, round them to float32, scale them by A's and then B's scale, and add them to totals.

    Args:
        unit: float64; int32 and float32 sums have it in A's scales.
        scales_a, i: A's scales, flat float32, and the place of the one for this row.
        scales_b, j, totals, place: likewise, and where to begin in them.
    """

    def generate(context, builder, sig, args):
        sums, unit, scales_a, i, scales_b, j, totals, place = args
        flat, kind = sig.args[2], ir.VectorType(ir.FloatType(), sums.type.count)

        def vector(array: Any, index: Any) -> Any:
            return builder.bitcast(_element(context, builder, flat, array, index), kind.as_pointer())

        if isinstance(sums.type.element, ir.DoubleType):
            value = builder.fptrunc(builder.fmul(sums, _spread(builder, unit, sums.type)), kind)
        else:
            value = builder.sitofp(sums, kind) if isinstance(sums.type.element, ir.IntType) else sums
        value = builder.fmul(value, _spread(builder, builder.load(_element(context, builder, flat, scales_a, i)), kind))
        value = builder.fmul(value, builder.load(vector(scales_b, j), align=4))
        target = vector(totals, place)
        builder.store(builder.fadd(builder.load(target, align=4), value), target, align=4)
        return context.get_dummy_value()

    flat, at = types.Array(types.float32, 1, "C"), types.intp
    return types.void(sums, types.float64, flat, at, flat, at, flat, at), generate


@njit(forceinline=True)
def _sum_eight(a, rows, panels, panel, width, first, last, starts, start):
    """Return the sums of products over a stretch of K, two vectors for each of eight rows, all places being flat."""
    m0, m1, m2, m3, m4, m5, m6, m7 = rows
    half = width // 2
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = begin(starts, start)
    t0 = t1 = t2 = t3 = t4 = t5 = t6 = t7 = begin(starts, start + half)
    for k in range(first, last):
        b, c = load(panels, panel + k * width), load(panels, panel + k * width + half)
        x = spread_at(a, m0 + k)
        s0, t0 = add_products(x, b, s0), add_products(x, c, t0)
        x = spread_at(a, m1 + k)
        s1, t1 = add_products(x, b, s1), add_products(x, c, t1)
        x = spread_at(a, m2 + k)
        s2, t2 = add_products(x, b, s2), add_products(x, c, t2)
        x = spread_at(a, m3 + k)
        s3, t3 = add_products(x, b, s3), add_products(x, c, t3)
        x = spread_at(a, m4 + k)
        s4, t4 = add_products(x, b, s4), add_products(x, c, t4)
        x = spread_at(a, m5 + k)
        s5, t5 = add_products(x, b, s5), add_products(x, c, t5)
        x = spread_at(a, m6 + k)
        s6, t6 = add_products(x, b, s6), add_products(x, c, t6)
        x = spread_at(a, m7 + k)
        s7, t7 = add_products(x, b, s7), add_products(x, c, t7)
    return (s0, t0), (s1, t1), (s2, t2), (s3, t3), (s4, t4), (s5, t5), (s6, t6), (s7, t7)


@njit(forceinline=True)
def _drain_row(sums, row, unit, scales_a, i, scales_b, j, totals, width):
    s, t = sums
    half, place = width // 2, row * width
    drain(s, unit, scales_a, i, scales_b, j, totals, place)
    drain(t, unit, scales_a, i, scales_b, j + half, totals, place + half)


@njit(cache=True, nogil=True)
def _segmented(start, stop, shape, a, panels, a_scales, a_places, b_scales, b_places, segment, unit, begins, out):
    """Compute rows start to stop of all matrices, see `segmented_float32`.

    Args:
        shape: rows of a matrix, K, columns, panels, columns of a panel.
        a, panels, a_scales, b_scales, out: all matrices, flat.
        a_places, b_places: which of a row's (a column's) scales each segment has.
        begins: what the sums of a segment begin with, like `b_scales` for every segment; not read for floats.
    """
    wide_vectors()
    rows, depth, columns, count, width = shape
    a_width, b_width = len(a_scales) // (len(a) // depth), len(b_scales) // (len(panels) // depth)
    totals = np.empty(ROWS * width, np.float32)
    index = start
    while index < stop:
        batch, top = index // rows, index % rows
        bottom = min(rows, top + stop - index)
        for number in range(count):
            panel = (batch * count + number) * depth * width
            left, right = number * width, min((number + 1) * width, columns)
            for m in range(top, bottom, ROWS):
                base, end = batch * rows, bottom - 1
                # Where fewer rows are left, the last one is computed again.
                r0, r1, r2, r3 = base + m, base + min(m + 1, end), base + min(m + 2, end), base + min(m + 3, end)
                r4, r5, r6 = base + min(m + 4, end), base + min(m + 5, end), base + min(m + 6, end)
                r7 = base + min(m + 7, end)
                lines = (
                    r0 * depth, r1 * depth, r2 * depth, r3 * depth, r4 * depth, r5 * depth, r6 * depth, r7 * depth
                )  # fmt: skip
                for i in range(len(totals)):
                    totals[i] = 0
                for number_k in range(len(a_places)):
                    first = number_k * segment
                    last = min(first + segment, depth)
                    i, j = a_places[number_k], (batch * b_width + b_places[number_k]) * count * width + left
                    place = (batch * len(a_places) + number_k) * count * width + left
                    s0, s1, s2, s3, s4, s5, s6, s7 = _sum_eight(
                        a, lines, panels, panel, width, first, last, begins, place
                    )
                    _drain_row(s0, 0, unit, a_scales, r0 * a_width + i, b_scales, j, totals, width)
                    _drain_row(s1, 1, unit, a_scales, r1 * a_width + i, b_scales, j, totals, width)
                    _drain_row(s2, 2, unit, a_scales, r2 * a_width + i, b_scales, j, totals, width)
                    _drain_row(s3, 3, unit, a_scales, r3 * a_width + i, b_scales, j, totals, width)
                    _drain_row(s4, 4, unit, a_scales, r4 * a_width + i, b_scales, j, totals, width)
                    _drain_row(s5, 5, unit, a_scales, r5 * a_width + i, b_scales, j, totals, width)
                    _drain_row(s6, 6, unit, a_scales, r6 * a_width + i, b_scales, j, totals, width)
                    _drain_row(s7, 7, unit, a_scales, r7 * a_width + i, b_scales, j, totals, width)
                for r in range(min(ROWS, bottom - m)):
                    place = (r0 + r) * columns
                    for n in range(right - left):
                        out[place + left + n] = totals[r * width + n]
        index += bottom - top


def segmented_float32(a: Operand, b: Operand, segment: int, unit: float, double: bool) -> np.ndarray:
    """Return sum over segments of float32(exact inner sum * unit) * scale_a * scale_b, in ascending order.

    The caller has proven that every inner sum is exact in float32 (or float64 for `double`), in any order.
    """
    rows, columns = a.units.shape[-2], b.units.shape[-2]
    a_scales = np.broadcast_to(a.scales, (*a.units.shape[:-1], a.scales.shape[-1])).reshape(
        -1, rows, a.scales.shape[-1]
    )
    b_scales = np.broadcast_to(b.scales, (*b.units.shape[:-1], b.scales.shape[-1]))
    b_scales = b_scales.reshape(-1, columns, b.scales.shape[-1])
    scaled = None if double else with_unit(a_scales, unit, segment * a.largest * b.largest)
    kind: Any = np.float64 if scaled is None else np.float32
    if scaled is not None and fits_bytes(a, b, segment) and has_byte_products():
        kind = np.int32
    left, right = (x.units.reshape(-1, *x.units.shape[-2:]) for x in (a, b))
    blocks = segment, a.block, b.block
    out = _product(left, right, a_scales if scaled is None else scaled, b_scales, blocks, unit, kind)
    return out.reshape(*a.units.shape[:-1], columns)


def _product(
    left: np.ndarray,
    right: np.ndarray,
    a_scales: np.ndarray,
    b_scales: np.ndarray,
    blocks: tuple[int, int, int],
    unit: float,
    kind: Any,
) -> np.ndarray:
    """Return the product of batches of matrices, (batch, M, K) and (batch, N, K), with sums of a type.

    Args:
        blocks: elements of K in a segment, and that share a scale of A and of B.
    """
    (count, rows, depth), columns = left.shape, right.shape[1]
    segment, a_block, b_block = blocks
    width = VECTORS * VECTOR_BYTES // np.dtype(kind).itemsize
    some, starts = -(-columns // width), np.arange(0, depth, segment)
    begins, step = np.zeros((1, 1, 1), kind), 1
    if kind is np.int32:
        begins = np.zeros((count, len(starts), some * width), np.int32)
        run_rows(begin_sums, count * columns, right.size, np.ascontiguousarray(right), segment, begins)
        left, right, step = words_of(left, OFFSET), words_of(right, 0), 4
    left, right = np.ascontiguousarray(left, kind), np.ascontiguousarray(right)
    panels = np.empty((count, some, left.shape[-1], width), kind)
    run_rows(pack_columns, count * some, panels.size, right, panels)
    out = np.empty((count, rows, columns), np.float32)
    run_rows(
        _segmented, count * rows, out.size * depth // 8, (rows, left.shape[-1], columns, some, width), left.ravel(),
        panels.ravel(), np.ascontiguousarray(a_scales, np.float32).ravel(), starts // a_block,
        turned(b_scales, some * width).ravel(), starts // b_block, -(-segment // step), float(unit), begins.ravel(),
        out.ravel(),
    )  # fmt: skip
    return out


def with_unit(scales: np.ndarray, unit: float, largest: float) -> np.ndarray | None:
    """Return scales times a power of two, where float32 sums may be scaled by both at once; None where not.

    A sum times the unit is exact, since it is a normal number of float32; so is a scale times the unit where that
    can be undone. Then both ways round the same number.
    """
    if not (unit >= 2.0**-126 and unit * largest < 2.0**127):
        return None
    with np.errstate(all="ignore"):
        made = scales * np.float32(unit)
        back = made * np.float32(1 / unit) if unit >= 2.0**-126 else made
    return made if np.array_equal(back, scales, equal_nan=True) else None


def fits_bytes(a: Operand, b: Operand, segment: int) -> bool:
    """Say whether units are bytes, segments are whole words of them, and int32 holds 255 * 127 for each product."""
    return (
        max(a.largest, b.largest) <= 127 and (segment % 4 == 0 or segment >= a.units.shape[-1]) and segment <= 1 << 15
    )


@lru_cache(maxsize=1)
def has_byte_products() -> bool:
    """Say whether this processor multiplies bytes into int32, and the loop that does so gives exact sums here."""
    if getattr(config, "CPU_NAME", None) or not get_host_cpu_features().get("avx512vnni"):
        return False
    rng = np.random.default_rng(0)
    a, b = rng.choice(np.array([-127, -1, 0, 127], np.float32), (2, 9, 40))
    one = np.ones((1, 9, 1), np.float32)
    try:
        got = _product(a[None], b[None], one, one, (40, 40, 40), 1.0, np.int32)
    except Exception:  # whatever the compiler says about an instruction that it does not know
        return False
    return bool(np.array_equal(got[0], a @ b.T))
