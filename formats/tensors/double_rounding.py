"""Double Rounding: one stored integer tensor that is read at several widths (arXiv 2502.01199)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.arrays import check_finite, largest_factor, output_for, rows_of
from macloom.formats.element import ElementFormat, OperandClass
from macloom.formats.elements.integer import IntFormat
from macloom.formats.families import SEARCHED
from macloom.formats.grammar import (
    CATALOG,
    Entry,
    Options,
    choice_option,
    granularity_option,
    integer_option,
    stored_scale_option,
)
from macloom.formats.policy import DEFAULT_POLICY
from macloom.formats.scales import Grain
from macloom.formats.tensor import Encoded, Operand, TensorFormat
from macloom.formats.tensors.scaled import Scaled
from macloom.formats.threads import run_rows


class Second(StrEnum):
    """How the stored integer is shortened: to nearest with ties to even, or up, or by dropping its bits."""

    EVEN = "even"
    UP = "up"
    TRUNCATE = "truncate"


@dataclass(frozen=True, kw_only=True)
class DoubleRounding(Scaled):
    """The store holds signed integers q of `element`; a read of `read` bits makes them shorter.

    A read gives clip(round(q / 2**(h - l)), -2**(l - 1), 2**(l - 1) - 1) in steps of 2**(h - l) times the
    stored scale, h being the stored and l the read width. Values are what a read gives; the store, its
    codes and bits are the same for every width. The paper's tie rule and learned scales could not be
    read: `second` chooses the rule (a reconstruction), TRUNCATE being the biased shift that it replaces.

    >>> import numpy as np
    >>> from macloom.formats import get_format
    >>> x = np.float32([1.0, 0.1, -0.07])
    >>> [get_format(f"dr8:read={b}").encode(x).operand().units.tolist() for b in (8, 4, 2)]
    [[127.0, 13.0, -9.0], [7.0, 1.0, -1.0], [1.0, 0.0, 0.0]]
    """

    element: ElementFormat
    read: int = 8
    second: Second = Second.EVEN

    def __post_init__(self) -> None:
        if not isinstance(self.element, IntFormat) or self.element.fraction_bits or self.element.min_value >= -1:
            raise MacloomError(f"dr.element: must be a signed integer format, not {self.element.name}")
        if not self.element.symmetric:
            raise MacloomError("dr.element: must be symmetric, so that reads of all widths fit the store's range")
        if not 2 <= self.read <= self.element.bits:
            raise MacloomError(f"dr.read: must be from 2 to {self.element.bits} bits, not {self.read}")

    @property
    def shift(self) -> int:
        """How many bits a read drops."""
        return self.element.bits - self.read

    @property
    def read_element(self) -> IntFormat:
        """The format of what a read gives."""
        return IntFormat(width=self.read, symmetric=self.shift == 0)

    @property
    def operand(self) -> OperandClass:
        return self.read_element.operand

    @property
    def max_unit(self) -> int:
        return self.read_element.largest_unit

    @property
    def decoder_bits(self) -> int:
        return self.element.bits if self.shift else 0

    @cached_property
    def reads(self) -> np.ndarray:
        """What a read gives for every stored code: float32[2**h]."""
        stored = self.element.values.astype(np.int64)
        half = 1 << (self.shift - 1) if self.shift else 0
        match self.second if self.shift else Second.TRUNCATE:
            case Second.EVEN:
                short = np.rint(stored / (1 << self.shift)).astype(np.int64)
            case Second.UP:
                short = (stored + half) >> self.shift
            case Second.TRUNCATE:
                short = stored >> self.shift
        limit = 1 << (self.read - 1)
        return np.clip(short, -limit, limit - 1).astype(np.float32)

    def _largest_scale(self) -> np.float32:
        return min(super()._largest_scale(), largest_factor(float(1 << (self.element.bits - 1))))

    def _values(self, codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
        values = np.take(self.reads, codes)
        steps = scales * np.float32(1 << self.shift)
        block = codes.shape[1] // scales.shape[1]
        for s in range(scales.shape[1]):
            values[:, s * block : (s + 1) * block] *= steps[:, s : s + 1]
        return values

    def _quantize_at_once(self, x: np.ndarray, clip: float, out: Any, template: Any) -> np.ndarray | None:
        return None

    def _quantize(self, x: np.ndarray, scale: np.ndarray, clip: float, out: Any, template: Any) -> np.ndarray:
        result = output_for(template, out, x.shape)
        spread = self._row_scales(scale, x.shape)
        if self.policy != DEFAULT_POLICY:
            codes = self._encode(x, scale, clip)[0]
            rows_of(result)[...] = self._values(rows_of(codes), spread)
            return result
        from macloom.formats.kernels.double_rounding import read_values

        rows = rows_of(x)
        worst = np.empty(rows.shape[0], np.uint32)
        block, step = rows.shape[1] // spread.shape[1], 1 << self.shift
        arguments = (spread, block, self.reads, self.element.max_value, step, rows_of(result), worst)
        run_rows(read_values, rows.shape[0], rows.size, rows, *arguments)
        check_finite(worst, self.name)
        return result

    def decode(self, encoded: Encoded) -> np.ndarray:
        spread = self._row_scales(encoded.scales, encoded.shape)
        return self._values(rows_of(encoded.elements), spread).reshape(encoded.shape)

    def operand_of(self, encoded: Encoded) -> Operand:
        stored = super().operand_of(encoded)
        scales = stored.scales * np.float32(1 << self.shift)
        return Operand(np.take(self.reads, encoded.elements), 0, scales, stored.block, stored.outer, self.max_unit)


def _build(name: str, options: Options) -> TensorFormat:
    granularity = granularity_option(options, Grain.TENSOR)
    return DoubleRounding(
        name=name,
        element=IntFormat(width=8),
        granularity=granularity,
        scale_format=stored_scale_option(options, granularity),
        read=integer_option(options, "read", 8),
        second=choice_option(options, "second", *Second),
    )


CATALOG.add(
    "dr8",
    Entry(
        family=SEARCHED,
        summary="one 8-bit integer store that is read at 8, 6, 4 or 2 bits (read=)",
        source="Double Rounding, arXiv 2502.01199; tie rule and scales are a reconstruction",
        build=_build,
        keys=("read", "second"),
        words=True,
    ),
)
