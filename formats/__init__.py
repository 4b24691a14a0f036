"""What a number is: element formats, tensor formats, their codes, and exact arithmetic on them.

An element format gives every code of a value its meaning; a tensor format says how a whole tensor is
stored. `get_format` finds a tensor format by name. Records are plain frozen dataclasses, so that a
format of your own needs no registration.
"""

import macloom.formats.catalog  # noqa: F401 - registers the named formats
from macloom.formats.abfloat import AbFloat
from macloom.formats.accumulator import (
    Accumulator,
    ExactAccumulator,
    FloatAccumulator,
    IntegerAccumulator,
    IntegerOverflow,
    default_accumulator,
    get_accumulator,
)
from macloom.formats.block import Block, ScaleRule
from macloom.formats.element import ElementFormat, OperandClass
from macloom.formats.flint import Flint
from macloom.formats.gemm import GemmReport, gemm
from macloom.formats.grammar import format_entry, get_format, list_formats
from macloom.formats.integer import IntFormat
from macloom.formats.minifloat import FloatFormat, Specials
from macloom.formats.ovp import Ovp
from macloom.formats.policy import Overflow, Rounding
from macloom.formats.reference import encode_reference
from macloom.formats.scaled import Scaled
from macloom.formats.scales import Grain, Granularity
from macloom.formats.tensor import Encoded, Operand, TensorFormat
from macloom.formats.threads import set_threads

__all__ = [
    "AbFloat",
    "Accumulator",
    "Block",
    "ElementFormat",
    "Encoded",
    "ExactAccumulator",
    "Flint",
    "FloatAccumulator",
    "FloatFormat",
    "GemmReport",
    "Grain",
    "Granularity",
    "IntFormat",
    "IntegerAccumulator",
    "IntegerOverflow",
    "Operand",
    "OperandClass",
    "Overflow",
    "Ovp",
    "Rounding",
    "ScaleRule",
    "Scaled",
    "Specials",
    "TensorFormat",
    "default_accumulator",
    "encode_reference",
    "format_entry",
    "gemm",
    "get_accumulator",
    "get_format",
    "list_formats",
    "set_threads",
]
