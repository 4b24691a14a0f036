"""Vectors of numbers for the loops of products: a numba type over LLVM's, as wide as the widest registers.

A `Vector` holds as many numbers of one type as fit `VECTOR_BYTES`. LLVM splits it where registers are narrower, so
that results are the same everywhere.
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

VECTOR_BYTES = 64


class Vector(types.Type):
    """The numba type of as many numbers as fit `VECTOR_BYTES`; LLVM splits it where registers are narrower."""

    def __init__(self, dtype: Any):
        self.dtype = dtype
        super().__init__(f"Vector({dtype})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector):
        element = manager.lookup(kind.dtype).get_value_type()
        super().__init__(manager, kind, ir.VectorType(element, VECTOR_BYTES * 8 // kind.dtype.bitwidth))


def _place(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    if kind.layout != "C":
        raise TypeError("vectors are loaded from contiguous arrays only")
    data = context.make_array(kind)(context, builder, array).data
    vector = context.get_value_type(Vector(kind.dtype))
    return builder.bitcast(builder.gep(data, [index], inbounds=True), vector.as_pointer())


@intrinsic
def load(typingctx, array, index):
    """Read a vector from a flat position on."""

    def generate(context, builder, sig, args):
        return builder.load(_place(context, builder, sig.args[0], *args), align=sig.args[0].dtype.bitwidth // 8)

    return Vector(array.dtype)(array, types.intp), generate


@intrinsic
def store(typingctx, array, index, value):
    """Write a vector to a flat position."""

    def generate(context, builder, sig, args):
        place = _place(context, builder, sig.args[0], *args[:2])
        builder.store(args[2], place, align=sig.args[0].dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), generate


@intrinsic
def spread(typingctx, value):
    """Copy a scalar to every element of a vector."""

    def generate(context, builder, sig, args):
        kind = context.get_value_type(sig.return_type)
        one = builder.insert_element(ir.Constant(kind, ir.Undefined), args[0], ir.IntType(32)(0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), kind.count), [0] * kind.count)
        return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)

    return Vector(value)(value), generate


def call_intrinsic(builder: Any, name: str, args: list[Any]) -> Any:
    """Call an LLVM intrinsic of vectors, which has one type for its arguments and its result."""
    kind = args[0].type
    letter = {"i16": "i16", "float": "f32", "double": "f64"}[str(kind.element)]
    full = f"llvm.{name}.v{kind.count}{letter}"
    function = builder.module.globals.get(full)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(kind, [kind] * len(args)), full)
    return builder.call(function, args)


def fused(builder: Any, x: Any, y: Any, z: Any) -> Any:
    """Return x * y + z, rounded once or twice; callers prove that nothing rounds."""
    return call_intrinsic(builder, "fmuladd", [x, y, z])


@intrinsic
def multiply_add(typingctx, x, y, z):
    """Return x * y + z of floats, rounded once or twice; callers prove that nothing rounds."""

    def generate(context, builder, sig, args):
        return fused(builder, *args)

    return z(x, y, z), generate
