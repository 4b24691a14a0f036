"""Accumulators: what happens to the products of a dot product before the scale is applied.

Every family is one file of `macloom.formats.accumulators`, found here by its being there.
"""

from __future__ import annotations

import pkgutil
import re
from importlib import import_module

from macloom.errors import MacloomError
from macloom.formats import accumulators
from macloom.formats.accumulators.base import FAMILIES, Accumulator
from macloom.formats.accumulators.block import BlockAccumulator, SpillAccumulator
from macloom.formats.accumulators.exact import ExactAccumulator
from macloom.formats.accumulators.floating import FloatAccumulator, SmallFloatAccumulator
from macloom.formats.accumulators.integer import IntegerAccumulator, IntegerOverflow
from macloom.formats.accumulators.segments import WIDEST_UNIT
from macloom.formats.tensor import TensorFormat

__all__ = [
    "FAMILIES",
    "Accumulator",
    "BlockAccumulator",
    "ExactAccumulator",
    "FloatAccumulator",
    "IntegerAccumulator",
    "IntegerOverflow",
    "SmallFloatAccumulator",
    "SpillAccumulator",
    "default_accumulator",
    "get_accumulator",
]

for _module in pkgutil.iter_modules(accumulators.__path__):
    import_module(f"{accumulators.__name__}.{_module.name}")


def get_accumulator(text: str) -> Accumulator:
    """Return the accumulator that a string names: `int32`, `int24:saturate`, `exact`, `fp32`.

    >>> get_accumulator("int24:saturate").name
    'int24:saturate'
    """
    head, _, options = text.partition(":")
    stem = re.match("[a-z]*", head)
    assert stem is not None
    if stem[0] not in FAMILIES:
        forms = ", ".join(repr(form) for form in dict.fromkeys(FAMILIES.get(name).form for name in FAMILIES))
        raise MacloomError(f"accumulator: must be one of {forms}, not {text!r}")
    return FAMILIES.get(stem[0]).parse(head, options)


def default_accumulator(a: TensorFormat, b: TensorFormat) -> Accumulator:
    """Return the accumulator that hardware for these operands has.

    A 32-bit integer register wherever one product fits it; otherwise an exact one inside scale blocks
    (OCP MX leaves the precision there to the implementation) and a float32 one elsewhere, or where an
    operand's range is too wide for integers (float32, bfloat16).
    """
    if a.max_unit * b.max_unit < 1 << 31:
        return IntegerAccumulator()
    narrow = max(a.max_unit, b.max_unit) < WIDEST_UNIT
    return ExactAccumulator() if narrow and (a.block or b.block) else FloatAccumulator()
