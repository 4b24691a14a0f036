"""Sixteen elements at a time: a numba type over LLVM vectors, so that loops do not hang on the vectoriser.

A `Lanes` value holds 16 numbers of one type (float32, uint32, float64 sums, or truth values). Arithmetic,
comparisons and bit operations take two of them, or one and a scalar of the same type, and never widen. LLVM
splits the vectors where registers are narrower, so that results are the same everywhere. `lane_access` reads
and writes them.
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core.datamodel import models
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, register_model

LANES = 16


class Lanes(types.Type):
    """The numba type of sixteen numbers."""

    def __init__(self, dtype: types.Type):
        self.dtype = dtype
        super().__init__(f"Lanes({dtype})")


@register_model(Lanes)
class LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Lanes):
        bits = ir.IntType(1) if kind.dtype == types.boolean else manager.lookup(kind.dtype).get_value_type()
        super().__init__(manager, kind, ir.VectorType(bits, LANES))


FLOATS, WORDS, TRUTHS = Lanes(types.float32), Lanes(types.uint32), Lanes(types.boolean)


def spread_scalar(builder: Any, value: Any) -> Any:
    """Copy a scalar to every lane."""
    kind = ir.VectorType(value.type, LANES)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.IntType(32)(0))
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), _indices([0] * LANES))


def _indices(numbers: list[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(ir.IntType(32), LANES), numbers)


def _both(builder: Any, kinds: tuple[Any, ...], values: tuple[Any, ...]) -> list[Any]:
    return [v if isinstance(k, Lanes) else spread_scalar(builder, v) for k, v in zip(kinds, values, strict=True)]


def _register(function: Any, compares: bool, makes: dict[types.Type, Callable[[Any], Any]]) -> None:
    """Give an operator its meaning on lanes: `makes` maps element types to the IR builder's method."""

    class Typing(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            kinds = [a for a in args if isinstance(a, Lanes)]
            if len(args) != 2 or not kinds or kinds[0].dtype not in makes:
                return None
            dtype = kinds[0].dtype
            if any((a.dtype if isinstance(a, Lanes) else a) != dtype for a in args):
                return None
            return signature(TRUTHS if compares else kinds[0], *args)

    infer_global(function)(Typing)  # type: ignore[misc]

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = next(a for a in sig.args if isinstance(a, Lanes))
        return makes[kind.dtype](builder)(*_both(builder, sig.args, args))

    for kinds in ((Lanes, Lanes), (Lanes, types.Any), (types.Any, Lanes)):
        lower_builtin(function, *kinds)(lower)


def _compare(sign: str) -> dict[types.Type, Callable[[Any], Any]]:
    return {
        types.float32: lambda b: lambda x, y: b.fcmp_ordered(sign, x, y),
        types.uint32: lambda b: lambda x, y: b.icmp_unsigned(sign, x, y),
    }


_register(operator.add, False, {types.float32: lambda b: b.fadd, types.uint32: lambda b: b.add})
_register(operator.sub, False, {types.float32: lambda b: b.fsub, types.uint32: lambda b: b.sub})
_register(operator.mul, False, {types.float32: lambda b: b.fmul, types.uint32: lambda b: b.mul})
_register(operator.truediv, False, {types.float32: lambda b: b.fdiv})
_register(operator.and_, False, {types.uint32: lambda b: b.and_, types.boolean: lambda b: b.and_})
_register(operator.or_, False, {types.uint32: lambda b: b.or_, types.boolean: lambda b: b.or_})
_register(operator.xor, False, {types.uint32: lambda b: b.xor, types.boolean: lambda b: b.xor})
_register(operator.lshift, False, {types.uint32: lambda b: b.shl})
_register(operator.rshift, False, {types.uint32: lambda b: b.lshr})
for _function, _sign in (
    (operator.lt, "<"),
    (operator.le, "<="),
    (operator.gt, ">"),
    (operator.ge, ">="),
    (operator.eq, "=="),
    (operator.ne, "!="),
):
    _register(_function, True, _compare(_sign))


@intrinsic
def spread(typingctx, value):
    """Copy a float32 or uint32 to every lane."""

    def generate(context, builder, sig, args):
        return spread_scalar(builder, args[0])

    return Lanes(value)(value), generate


@intrinsic
def chosen(typingctx, truth, yes, no):
    """Take the lanes of `yes` where `truth` holds, else those of `no`; either may be a scalar."""
    kind = yes if isinstance(yes, Lanes) else Lanes(yes)

    def generate(context, builder, sig, args):
        return builder.select(args[0], *_both(builder, sig.args[1:], args[1:]))

    return kind(truth, yes, no), generate


@intrinsic
def pattern(typingctx, value):
    """Reinterpret float32 lanes as uint32 lanes."""

    def generate(context, builder, sig, args):
        return builder.bitcast(args[0], context.get_value_type(WORDS))

    return WORDS(FLOATS), generate


@intrinsic
def number(typingctx, value):
    """Reinterpret uint32 lanes as float32 lanes."""

    def generate(context, builder, sig, args):
        return builder.bitcast(args[0], context.get_value_type(FLOATS))

    return FLOATS(WORDS), generate


@intrinsic
def swapped(typingctx, value):
    """Exchange the lanes 0 and 1, 2 and 3, and so on."""

    def generate(context, builder, sig, args):
        order = _indices([n ^ 1 for n in range(LANES)])
        return builder.shuffle_vector(args[0], ir.Constant(args[0].type, ir.Undefined), order)

    return value(value), generate


@intrinsic
def even_lanes(typingctx):
    """Return truths that hold in the lanes 0, 2, 4, ..."""

    def generate(context, builder, sig, args):
        return ir.Constant(ir.VectorType(ir.IntType(1), LANES), [1 - n % 2 for n in range(LANES)])

    return TRUTHS(), generate


def _shuffled(builder: Any, a: Any, b: Any, order: list[int]) -> Any:
    return builder.shuffle_vector(a, b, _indices(order))


def _higher(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.icmp_unsigned(">", a, b), a, b)


@intrinsic
def highest(typingctx, value):
    """Return the largest of uint32 lanes."""

    def generate(context, builder, sig, args):
        value, count = args[0], LANES
        while count > 1:  # halves against each other
            count //= 2
            value = _higher(builder, value, _shuffled(builder, value, value, [n % count + count for n in range(LANES)]))
        return builder.extract_element(value, ir.IntType(32)(0))

    return types.uint32(WORDS), generate


@intrinsic
def highest_of_rows(typingctx, rows):
    """Return in lane n the largest of the uint32 elements 16 n to 16 n + 15 of a flat array."""

    def generate(context, builder, sig, args):
        kind = context.get_value_type(WORDS)
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        place = builder.bitcast(data, kind.as_pointer())
        values = [builder.load(builder.gep(place, [ir.IntType(64)(n)]), align=4) for n in range(LANES)]
        width = LANES // 2
        while width:  # lanes without the bit `width` go on with the first half of the rows, the others with the second
            half = len(values) // 2
            own = [n + LANES if n & width else n for n in range(LANES)]
            other = [(n ^ width) + (LANES if n & width else 0) for n in range(LANES)]
            values = [
                _higher(builder, _shuffled(builder, a, b, own), _shuffled(builder, a, b, other))
                for a, b in zip(values[:half], values[half:], strict=True)
            ]
            width //= 2
        return values[0]

    return WORDS(types.Array(types.uint32, 1, "C")), generate


@intrinsic
def squares_added(typingctx, total, value):
    """Return float64 lanes plus the squares of float32 lanes."""

    def generate(context, builder, sig, args):
        wide = builder.fpext(args[1], args[0].type)
        return builder.fadd(args[0], builder.fmul(wide, wide))

    return total(total, FLOATS), generate


@intrinsic
def summed(typingctx, value):
    """Return the sum of the lanes."""

    def generate(context, builder, sig, args):
        value, count = args[0], LANES
        while count > 1:  # halves added
            count //= 2
            value = builder.fadd(value, _shuffled(builder, value, value, [n % count + count for n in range(LANES)]))
        return builder.extract_element(value, ir.IntType(32)(0))

    return value.dtype(value), generate


@intrinsic
def every(typingctx, truth):
    """Say whether all lanes hold."""

    def generate(context, builder, sig, args):
        kind = ir.IntType(LANES)
        return builder.icmp_unsigned("==", builder.bitcast(args[0], kind), kind((1 << LANES) - 1))

    return types.boolean(TRUTHS), generate


@njit(forceinline=True)
def least(a, b):
    """Return the smaller of each two lanes, the second one if either is NaN."""
    return chosen(a < b, a, b)


@njit(forceinline=True)
def most(a, b):
    """Return the larger of each two lanes, the second one if either is NaN."""
    return chosen(a > b, a, b)
