"""The exact sum of several products of two element formats: pairs multiplied, shifted to one unit, added in a tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from pyrtl import WireVector

from macloom.formats.element import ElementFormat
from macloom.rtl.formats.decoder import pair_circuit
from macloom.rtl.formats.pairs import PairPorts, aligned_pairs, pair_ports
from macloom.rtl.pe.mac import pair_product, product_bits
from macloom.rtl.unit import signed_width


@dataclass(frozen=True, kw_only=True)
class ExactSum:
    """`size` products of codes of `a` and `b`, as integers in units of 2**unit_exponent.

    >>> from macloom.formats import get_format
    >>> fp4 = get_format("mxfp4").element
    >>> tree = ExactSum(a=fp4, b=fp4, size=16)
    >>> tree.bits, tree.unit_exponent  # 16 * 12 * 12 quarters and a sign
    (13, -2)
    """

    a: ElementFormat
    b: ElementFormat
    size: int

    @cached_property
    def ports(self) -> tuple[PairPorts, PairPorts]:
        return pair_ports(self.a), pair_ports(self.b)

    @property
    def unit_exponent(self) -> int:
        return self.ports[0].offset + self.ports[1].offset

    @cached_property
    def bits(self) -> int:
        """Width of the sum, at least that of one product."""
        largest = [int(max(abs(x) for x in units_of(element).tolist())) for element in (self.a, self.b)]
        total = self.size * largest[0] * largest[1]
        return max(signed_width(-total, total), product_bits(*self.ports))

    def products(self, a: Sequence[WireVector], b: Sequence[WireVector]) -> list[WireVector]:
        """Return the products of codes, two's complement; `wires.total` with `bits` adds them exactly."""
        made = []
        for left, right in zip(a, b, strict=True):
            pairs = []
            for element, code, ports in zip((self.a, self.b), (left, right), self.ports, strict=True):
                pair = pair_circuit(element, code, ports)
                pairs.append((pair.exponent, pair.significand))
            made.append(pair_product(*self.ports, product_bits(*self.ports), *pairs))
        return made


def units_of(element: ElementFormat) -> np.ndarray:
    """Return the value of every code in units of 2**offset (Python integers), 0 where it is no number."""
    exponents, significands = aligned_pairs(element)
    shifts = np.where(significands != 0, exponents - pair_ports(element).offset, 0)
    return significands.astype(object) << shifts.astype(object)
