"""Reading and writing sixteen elements at a time; see `lanes`.

`take`, `fetch` and `put` see to the end of a row, where less than sixteen elements are left. Bytes and
16-bit words are widened to uint32 lanes, and back.
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from macloom.formats.kernels.lanes import FLOATS, LANES, WORDS, Lanes, spread_scalar

AHEAD = 2048  # elements by which `fetch` runs ahead of its loads
LINE = 64  # bytes of a cache line


def _place(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    if kind.layout != "C":
        raise TypeError("lanes are loaded from contiguous arrays only")
    return builder.gep(context.make_array(kind)(context, builder, array).data, [index], inbounds=True)


def _call(builder: Any, name: str, result: Any, *args: Any) -> Any:
    kind = ir.FunctionType(result, [a.type for a in args])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.call(function, args)


def _first(builder: Any, count: Any) -> Any:
    """Return a mask of the first `count` lanes."""
    numbers = ir.Constant(ir.VectorType(count.type, LANES), list(range(LANES)))
    return builder.icmp_signed("<", numbers, spread_scalar(builder, count))


def _mangled(kind: Any) -> str:
    return f"v{kind.count}{'f32' if isinstance(kind.element, ir.FloatType) else f'i{kind.element.width}'}"


@intrinsic
def _load(typingctx, array, index):
    def generate(context, builder, sig, args):
        place = _place(context, builder, sig.args[0], *args)
        kind = ir.VectorType(context.get_value_type(sig.args[0].dtype), LANES)
        value = builder.load(builder.bitcast(place, kind.as_pointer()), align=context.get_abi_sizeof(kind.element))
        return _widened(context, builder, value)

    return _lanes_of(array.dtype)(array, types.intp), generate


@intrinsic
def _load_first(typingctx, array, index, count):
    def generate(context, builder, sig, args):
        place = _place(context, builder, sig.args[0], *args[:2])
        kind = ir.VectorType(context.get_value_type(sig.args[0].dtype), LANES)
        value = _call(
            builder,
            f"llvm.masked.load.{_mangled(kind)}.p0",
            kind,
            builder.bitcast(place, kind.as_pointer()),
            ir.IntType(32)(context.get_abi_sizeof(kind.element)),
            _first(builder, args[2]),
            ir.Constant(kind, None),
        )
        return _widened(context, builder, value)

    return _lanes_of(array.dtype)(array, types.intp, types.intp), generate


def _lanes_of(dtype: types.Type) -> Lanes:
    return FLOATS if dtype == types.float32 else WORDS


def _widened(context: Any, builder: Any, value: Any) -> Any:
    if isinstance(value.type.element, ir.IntType) and value.type.element.width < 32:
        return builder.zext(value, context.get_value_type(WORDS))
    return value


@intrinsic
def _ask(typingctx, array, index):
    """Ask for the cache line of an element, which may lie beyond the array."""

    def generate(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        place = builder.bitcast(builder.gep(data, [args[1]]), ir.IntType(8).as_pointer())
        word = ir.IntType(32)
        _call(builder, "llvm.prefetch.p0", ir.VoidType(), place, word(0), word(3), word(1))
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


def _narrowed(context: Any, builder: Any, array: Any, value: Any) -> Any:
    kind = context.get_value_type(array.dtype)
    if isinstance(kind, ir.IntType) and kind.width < 32:
        return builder.trunc(value, ir.VectorType(kind, LANES))
    return value


def _target(context: Any, builder: Any, array: Any, base: Any, index: Any) -> Any:
    kind = context.get_value_type(array.dtype)
    start = builder.inttoptr(base, kind.as_pointer())
    return builder.gep(start, [index])


@intrinsic
def _store(typingctx, array, base, index, value):
    def generate(context, builder, sig, args):
        place = _target(context, builder, sig.args[0], args[1], args[2])
        value = _narrowed(context, builder, sig.args[0], args[3])
        size = context.get_abi_sizeof(value.type.element)
        builder.store(value, builder.bitcast(place, value.type.as_pointer()), align=size)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, value), generate


@intrinsic
def _store_first(typingctx, array, base, index, value, count):
    def generate(context, builder, sig, args):
        place = _target(context, builder, sig.args[0], args[1], args[2])
        value = _narrowed(context, builder, sig.args[0], args[3])
        _call(
            builder,
            f"llvm.masked.store.{_mangled(value.type)}.p0",
            ir.VoidType(),
            value,
            builder.bitcast(place, value.type.as_pointer()),
            ir.IntType(32)(context.get_abi_sizeof(value.type.element)),
            _first(builder, args[4]),
        )
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, value, types.intp), generate


@intrinsic
def address(typingctx, array):
    """Return the address of the array's first element."""

    def generate(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        return builder.ptrtoint(data, context.get_value_type(types.intp))

    return types.intp(array), generate


@intrinsic
def size_of(typingctx, array):
    """Return the bytes of an element, a constant to the compiler."""

    def generate(context, builder, sig, args):
        size = context.get_abi_sizeof(context.get_data_type(sig.args[0].dtype))
        return context.get_constant(types.intp, size)

    return types.intp(array), generate


@intrinsic
def gather(typingctx, table, index):
    """Return table[index] for each lane of uint32 indices; the table's elements have 32 bits."""

    def generate(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        kind = ir.VectorType(context.get_value_type(sig.args[0].dtype), LANES)
        wide = builder.zext(args[1], ir.VectorType(ir.IntType(64), LANES))
        start = spread_scalar(builder, builder.ptrtoint(data, ir.IntType(64)))
        bytes_on = builder.shl(wide, spread_scalar(builder, ir.IntType(64)(2)))
        places = builder.inttoptr(builder.add(start, bytes_on), ir.VectorType(data.type, LANES))
        truths = ir.Constant(ir.VectorType(ir.IntType(1), LANES), [1] * LANES)
        return _call(
            builder,
            f"llvm.masked.gather.{_mangled(kind)}.v{LANES}p0",
            kind,
            places,
            ir.IntType(32)(4),
            truths,
            ir.Constant(kind, None),
        )

    return Lanes(table.dtype)(table, WORDS), generate


@njit(forceinline=True)
def take(array, index, last):
    """Read the lanes from `index` on, as float32 or widened to uint32; those from `last` on are 0."""
    if index + LANES <= last:
        return _load(array, index)
    return _load_first(array, index, last - index)


@njit(forceinline=True)
def fetch(array, index, last):
    """Read as `take` does, and ask for what comes later."""
    _ask(array, index + AHEAD)
    return take(array, index, last)


@njit(forceinline=True)
def put(out, base, index, last, value):
    """Write lanes, narrowed to the elements of `out`, to the address `base` + `index` elements, short of `last`."""
    if index + LANES <= last:
        _store(out, base, index, value)
    else:
        _store_first(out, base, index, value, last - index)


@intrinsic
def load_word(typingctx, array, index):
    """Read eight bytes of a uint8 array as a little-endian uint64."""

    def generate(context, builder, sig, args):
        place = _place(context, builder, sig.args[0], *args)
        return builder.load(builder.bitcast(place, ir.IntType(64).as_pointer()), align=1)

    return types.uint64(array, types.intp), generate


@intrinsic
def store_word(typingctx, array, index, word):
    """Write a uint64 as eight bytes of a uint8 array, little-endian."""

    def generate(context, builder, sig, args):
        place = _place(context, builder, sig.args[0], *args[:2])
        builder.store(args[2], builder.bitcast(place, ir.IntType(64).as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.uint64), generate


@intrinsic
def stream_line(typingctx, target, source):
    """Copy 64 bytes between addresses past the caches; the target is a multiple of 64."""

    def generate(context, builder, sig, args):
        kind = context.get_value_type(FLOATS).as_pointer()
        value = builder.load(builder.inttoptr(args[1], kind), align=1)
        store = builder.store(value, builder.inttoptr(args[0], kind), align=LINE)
        store.set_metadata("nontemporal", builder.module.add_metadata([ir.IntType(32)(1)]))
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), generate


@intrinsic
def fence(typingctx):
    def generate(context, builder, sig, args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate
