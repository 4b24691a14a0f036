"""What every accumulator is, and the table of the families that can be named."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from macloom._registry import Registry
from macloom.errors import MacloomError
from macloom.formats.gemm_report import GemmReport
from macloom.formats.operand import Operand


class Accumulator(ABC):
    """What happens to the products of a dot product before the scales of the tensors are applied.

    A subclass is a frozen record; `get_accumulator(accumulator.name)` is an equal one.

    Attributes:
        adds_specials: takes operands with infinities and NaN, which the others refuse.
    """

    adds_specials: ClassVar[bool] = False

    @property
    @abstractmethod
    def name(self) -> str:
        """The string that `get_accumulator` reads back."""

    @abstractmethod
    def product(self, a: Operand, b: Operand, report: GemmReport) -> np.ndarray:
        """Return the product of the dense parts of two operands, (..., M, K) and (..., N, K).

        Scales of segments are applied, `outer` scales and sparse parts are not.

        Returns:
            float32 (..., M, N), newly allocated.
        """

    def check(self, a: Operand, b: Operand) -> None:
        """Raise if this accumulator cannot take the products of two operands.

        Raises:
            MacloomError: with both formats' names and what would fit.
        """
        return

    def initial(self) -> Any:
        """Return the state of the register before the first product.

        Raises:
            MacloomError: a single processing element does not hold this accumulator.
        """
        raise MacloomError(f"accumulator {self.name!r}: has no step form; a single processing element does not hold it")

    def step(self, state: Any, product: Any) -> Any:
        """Return the state after one more exact product: an integer in units of the smallest one; a fraction of the
        real value for float registers.
        """
        raise MacloomError(f"accumulator {self.name!r}: has no step form; a single processing element does not hold it")

    def final(self, state: Any) -> Any:
        """Return the sum that leaves the register at the end of a segment, in units of the smallest product."""
        return state


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family of accumulators: how its names look and what reads them.

    Attributes:
        form: the grammar of its names, for error messages and documentation.
        summary: one line.
        parse: gets the part of a name before the first colon and the part after it.
        examples: names that tests and documentation go through.
    """

    form: str
    summary: str
    parse: Callable[[str, str], Accumulator]
    examples: tuple[str, ...] = ()


# By the letters that a name begins with, up to the first digit or colon.
FAMILIES = Registry[Family]("accumulator", hint="see docs/arithmetic.md")


def malformed(family: Family, text: str) -> MacloomError:
    """Build the error for a name that a family does not read."""
    return MacloomError(f"accumulator: must be {family.form!r}, not {text!r}")
