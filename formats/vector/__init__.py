"""Vector units: softmax, norms, rope, activations, residuals and encoding with every bit defined.

Records say how wide everything is; functions on them compute whole tensors; `macloom.formats.vector.reference`
computes the same one number at a time, on integers, as gates would. numba is loaded on first use.
"""

from macloom.formats.vector.arrays import activate, add, encode, multiply, norm, rotate, round_to, softmax
from macloom.formats.vector.number import Fixed, Float, Number, Pair, Shift, pair_of
from macloom.formats.vector.operations import Activation, Curve, Encode, Norm, Product, Rope, Softmax, Sum
from macloom.formats.vector.table import Exponential, Reciprocal, ReciprocalRoot, Table
from macloom.formats.vector.unit import VectorUnit, get_vector_unit, list_vector_units

__all__ = [
    "Activation",
    "Curve",
    "Encode",
    "Exponential",
    "Fixed",
    "Float",
    "Norm",
    "Number",
    "Pair",
    "Product",
    "Reciprocal",
    "ReciprocalRoot",
    "Rope",
    "Shift",
    "Softmax",
    "Sum",
    "Table",
    "VectorUnit",
    "activate",
    "add",
    "encode",
    "get_vector_unit",
    "list_vector_units",
    "multiply",
    "norm",
    "pair_of",
    "rotate",
    "round_to",
    "softmax",
]
