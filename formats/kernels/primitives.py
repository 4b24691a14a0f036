"""What the compiled loops share: bit casts, and element access without bounds or negative indices.

numba treats every signed index as possibly negative and every slice as a counted reference; both keep
loops from becoming vector code. It also widens 32-bit integers, so that each intermediate is wrapped.
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

SIGN = np.uint32(0x80000000)
MAGNITUDE = np.uint32(0x7FFFFFFF)
EXPONENT = np.uint32(0x7F800000)


@intrinsic
def bits_of(typingctx, value):
    """Reinterpret a float32 as uint32."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(types.uint32))

    return types.uint32(types.float32), generate


@intrinsic
def float_of(typingctx, value):
    """Reinterpret a uint32 as float32."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.uint32), generate


@intrinsic
def shifted_right(typingctx, value, count):
    """Shift a uint32 right by 0 to 31 places, unwidened."""

    def generate(context, builder, signature, arguments):
        return builder.lshr(arguments[0], arguments[1])

    return types.uint32(types.uint32, types.uint32), generate


def _pointer(context, builder, array_type, array, index):
    if array_type.layout != "C":
        raise TypeError("element access needs a contiguous array")
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [index], inbounds=True)


def _written(builder):
    """Name the memory that `poke` writes, which `peek` never reads later: so that loops need no alias checks."""
    add = builder.module.add_metadata
    return add([add(["macloom.written", add(["macloom"])])])


@intrinsic
def peek(typingctx, array, index):
    """Read element `index`, 0 or more, of the flat contiguous array."""

    def generate(context, builder, signature, arguments):
        value = builder.load(_pointer(context, builder, signature.args[0], arguments[0], arguments[1]))
        value.set_metadata("noalias", _written(builder))
        return value

    return array.dtype(array, types.intp), generate


@intrinsic
def poke(typingctx, array, index, value):
    """Write element `index`, 0 or more, of the flat contiguous array."""

    def generate(context, builder, signature, arguments):
        pointer = _pointer(context, builder, signature.args[0], arguments[0], arguments[1])
        builder.store(arguments[2], pointer).set_metadata("alias.scope", _written(builder))
        return context.get_dummy_value()

    return types.void(array, types.intp, array.dtype), generate


@njit(forceinline=True)
def smaller(a, b):
    """Return the smaller of two numbers of one type, unwidened."""
    return a if a < b else b


@njit(forceinline=True)
def larger(a, b):
    """Return the larger of two numbers of one type, unwidened."""
    return a if a > b else b
