"""The exponent-integer pairs of an element format's codes, and the widths that hold them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from pyrtl import WireVector

from macloom.errors import MacloomError
from macloom.formats.element import ElementFormat
from macloom.formats.elements.minifloat import FloatFormat
from macloom.formats.elements.posit import Posit
from macloom.rtl.unit import signed_width


@dataclass(frozen=True, kw_only=True)
class PairPorts:
    """Widths of a pair: value = significand * 2**(exponent + offset), with exponent + offset up to `top`.

    Attributes:
        lowest: whether a significand is the most negative number of its width.
    """

    offset: int
    top: int
    significand_bits: int
    lowest: bool = field(default=False, repr=False)

    @property
    def exponent_bits(self) -> int:
        """At least 1, so that there is a port even where every exponent is the same."""
        return max((self.top - self.offset).bit_length(), 1)

    @property
    def unit_significands(self) -> bool:
        """Whether significands are -1, 0 and 1 only, so that a product needs no multiplier."""
        return self.significand_bits <= 2 and not self.lowest

    def union(self, other: PairPorts) -> PairPorts:
        """Return ports wide enough for the pairs of both, with the lower offset."""
        wide = max(self.significand_bits, other.significand_bits)
        return PairPorts(
            lowest=any(ports.lowest and ports.significand_bits == wide for ports in (self, other)),
            offset=min(self.offset, other.offset),
            top=max(self.top, other.top),
            significand_bits=wide,
        )


@dataclass(frozen=True)
class PairWires:
    """The pair on wires, and what the code is where it is no finite number (None where that cannot be)."""

    exponent: WireVector
    significand: WireVector
    nan: WireVector | None = None
    infinity: WireVector | None = None


def pairs_of(element: ElementFormat) -> tuple[np.ndarray, np.ndarray]:
    """Return exponent and significand of every code (int64), 0 and 0 where it has no value.

    Raises:
        MacloomError: codes are too wide to list.
    """
    if element.bits > 16:
        raise MacloomError(f"rtl: format {element.name!r} has {element.bits}-bit codes; units exist up to 16 bits")
    known = ~np.isnan(element.values)
    pairs = [element.pair(code) if ok else (0, 0) for code, ok in enumerate(known.tolist())]
    exponents, significands = (np.array(column, np.int64) for column in zip(*pairs, strict=True))
    return exponents, significands


def pair_ports(element: ElementFormat) -> PairPorts:
    """Return the widths of an element's pairs. A format of integers keeps a 1-bit exponent of 0.

    >>> from macloom.formats import get_format
    >>> pair_ports(get_format("fp8_e4m3").element)
    PairPorts(offset=-9, top=5, significand_bits=5)
    """
    exponents, significands = aligned_pairs(element)
    used = exponents[significands != 0]
    low, high = int(significands.min()), int(significands.max())
    bits = signed_width(low, high)
    return PairPorts(
        offset=int(used.min()), top=int(used.max()), significand_bits=bits, lowest=low == -(1 << (bits - 1))
    )


@lru_cache(maxsize=64)
def aligned_pairs(element: ElementFormat) -> tuple[np.ndarray, np.ndarray]:
    """Return exponent and significand of every code as the circuit aligns them; 0 and 0 without a value.

    The significands of posits have one width, with zeros below a short fraction.
    """
    exponents, significands = pairs_of(element)
    if isinstance(element, Posit):
        fraction = max(element.width - 3 - element.exponent_bits, 0)
        lengths = np.array([abs(s).bit_length() for s in significands.tolist()])
        shifts = np.where(significands != 0, fraction + 1 - lengths, 0)
        exponents, significands = exponents - shifts, significands << shifts
    exponents.flags.writeable = significands.flags.writeable = False
    return exponents, significands


def nan_codes(element: ElementFormat) -> np.ndarray:
    """Return which codes are NaN; codes of no value at all do not count."""
    if isinstance(element, FloatFormat):
        return np.isnan(element.values)
    return np.arange(1 << element.bits) == element.nan_code


def identifier(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name.lower())
