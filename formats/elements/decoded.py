"""Element formats without short exponent-integer pairs: a table decodes them to a wider operand."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property

import numpy as np

from macloom.errors import MacloomError, unknown
from macloom.formats.element import ElementFormat, OperandClass
from macloom.formats.elements.integer import IntFormat
from macloom.formats.elements.minifloat import BF16, FP16, FP32, FloatFormat
from macloom.formats.grammar import note_option

Table = FloatFormat | IntFormat
TABLES: dict[str, Table] = {"fp16": FP16, "bf16": BF16, "fp32": FP32, "int8": IntFormat(width=8, fraction_bits=7)}


class DecodedFormat(ElementFormat):
    """A format whose decoder is a table: one operand of the format `table` per code.

    `value` is what the definition says, as the nearest float64, and what `decode` and `quantize`
    return. The multipliers see `operand_values`, those values rounded to `table`; matrix products and
    the cost of an element follow from them. Without a table the values themselves are the operands.
    """

    @property
    @abstractmethod
    def table(self) -> Table | None:
        """The format of the table's entries."""

    @cached_property
    def operand_values(self) -> np.ndarray:
        """What the multipliers get for every code: float64[2**bits], NaN where there is no value."""
        if self.table is None:
            return self.values
        finite = np.isfinite(self.values)
        rounded = np.full(len(self.values), np.nan)
        wanted = self.values[finite]
        rounded[finite] = wanted.astype(np.float32) if self.table.bits > 16 else self.table.quantize(wanted)
        rounded.flags.writeable = False
        return rounded

    def pair(self, code: int) -> tuple[int, int]:
        """Return (e, i) of the operand, i odd or zero."""
        numerator, denominator = float(self.operand_values[code]).as_integer_ratio()
        trailing = (numerator & -numerator).bit_length() - 1 if numerator else 0
        return trailing - denominator.bit_length() + 1, numerator >> trailing

    @cached_property
    def unit_exponent(self) -> int:  # type: ignore[override]
        """Every operand value is an integer multiple of 2**unit_exponent, and of no larger power of two."""
        return min(self.pair(int(code))[0] for code in np.flatnonzero(np.nan_to_num(self.operand_values)))

    @cached_property
    def units(self) -> tuple[np.ndarray, int, int]:
        """As for every element, of the operand values; the largest magnitude is that of the table's format."""
        if self.table is None:
            return super().units
        exponent = self.unit_exponent
        return np.ldexp(self.operand_values, -exponent).astype(np.float32), exponent, self.largest_unit

    @cached_property
    def largest_unit(self) -> int:
        return super().largest_unit if self.table is None else self.table.largest_unit

    @cached_property
    def operand(self) -> OperandClass:
        """That of the table's format."""
        return super().operand if self.table is None else self.table.operand


def choose_table(element: DecodedFormat) -> Table:
    """Return FP16 where all values are in its normal range, else BF16."""
    magnitudes = np.abs(element.values[np.isfinite(element.values) & (element.values != 0)])
    normal = magnitudes.min() >= math.ldexp(1, FP16.min_exponent) and magnitudes.max() <= FP16.max_value
    return FP16 if normal else BF16


def check_table(path: str, element: DecodedFormat, table: Table) -> None:
    """Raise if `element` holds values more than a step beyond `table`, which saturates, or ones that it makes zero."""
    magnitudes = np.abs(element.values[np.isfinite(element.values) & (element.values != 0)])
    low, high = float(magnitudes.min()), float(magnitudes.max())
    step = math.ldexp(1, table.unit_exponent)
    if high > table.max_value + step or low <= step / 2:
        raise MacloomError(f"{path}: must be a format with room for {low:g} to {high:g}, not {table.name}")


def table_option(options: Mapping[str, str]) -> Table | None:
    """Return the table format that `table=` names, None where there is none."""
    note_option(options, "table", f"{', '.join(TABLES)} (fp16 where it holds every value, else bf16)")
    name = options.get("table")
    if name is not None and name not in TABLES:
        raise unknown("format option table", name, TABLES)
    return TABLES[name] if name else None
