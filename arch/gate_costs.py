"""The committed table of what the generated hardware costs in gates; `benchmarks/rtl_cost.py` writes it.

Rows are found by what a format's codes mean, not by its name: formats whose elements have the same values, up to a
power of two, have the same decoders, encoders and elements, whatever scales go with them.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from macloom.arch.technology import Provenance
from macloom.errors import MacloomError, unknown
from macloom.formats import TensorFormat, get_format
from macloom.formats.element import ElementFormat

TABLE = Path(__file__).parent / "rtl_costs.toml"
STYLES = ("alumacc", "noalumacc")
FIGURES = ("transistors", "depth", "switching")
# Ratios move by about as much with the mapping style and the version of the synthesis tool.
NOISE = 0.2
# DFF_X1 of the NanGate 45 nm library has 4.522 um2, NAND2_X1 with its four transistors 0.798 um2.
FLIP_FLOP_TRANSISTORS = 4 * 4.522 / 0.798
WIDEST_CODE = 8  # of formats with wider codes no row is looked for


@dataclass(frozen=True, kw_only=True)
class GateCost:
    """One generated unit, mapped to NAND, NOR and inverters in two styles; each pair is (lower, higher).

    Attributes:
        transistors: without flip-flops.
        depth: gates on the longest path.
        switching: driven gate inputs that change per operation, on tensors of `tiny-outlier`.
        flip_flops: of the registers in it.
        elements: products, or operands, that it takes at a time.
    """

    transistors: tuple[float, float]
    depth: tuple[float, float]
    switching: tuple[float, float]
    flip_flops: int = 0
    elements: int = 1
    kind: Provenance = Provenance.ESTIMATED

    @property
    def area_transistors(self) -> tuple[float, float]:
        """Transistors with the flip-flops', each as large as so many transistors of a NAND."""
        low, high = self.transistors
        registers = self.flip_flops * FLIP_FLOP_TRANSISTORS
        return low + registers, high + registers

    def ratio(self, base: GateCost, figure: str = "transistors") -> tuple[float, float]:
        """Return the lowest and the highest ratio of a figure to that of another unit.

        >>> costs = load_gate_costs()
        >>> low, high = costs["ovp4"]["mac"].ratio(costs["int8"]["mac"])
        >>> 0.4 < low <= high < 0.8
        True
        """
        (low, high), (base_low, base_high) = getattr(self, figure), getattr(base, figure)
        return low / base_high, high / base_low

    def relative(self, base: GateCost, figure: str) -> tuple[float, float, float]:
        """Return the lowest, the middle and the highest ratio, the noise of the tools included.

        >>> base_cost().relative(base_cost(), "switching")
        (1.0, 1.0, 1.0)
        """
        if self == base:
            return 1.0, 1.0, 1.0
        low, high = self.ratio(base, figure)
        return low * (1 - NOISE), sum(getattr(self, figure)) / sum(getattr(base, figure)), high * (1 + NOISE)


@lru_cache(maxsize=1)
def _document() -> Mapping[str, Any]:
    return tomllib.loads(TABLE.read_text(encoding="utf-8"))


@lru_cache(maxsize=1)
def load_gate_costs() -> Mapping[str, Mapping[str, GateCost]]:
    """Return the costs by format and unit (`decoder`, `encoder`, `mac`, ...).

    Ratios are good to about 20 %, the spread of mapping styles and versions of the synthesis tool.
    """
    needed = [f"{figure}_{style}" for figure in FIGURES for style in STYLES]
    return {
        name: {unit: _cost(row) for unit, row in units.items() if all(key in row for key in needed)}
        for name, units in _document()["costs"].items()
    }


def _cost(row: Mapping[str, Any]) -> GateCost:
    def pair(figure: str) -> tuple[float, float]:
        low, high = sorted(float(row[f"{figure}_{style}"]) for style in STYLES)
        return low, high

    return GateCost(
        transistors=pair("transistors"),
        depth=pair("depth"),
        switching=pair("switching"),
        flip_flops=int(row.get("flip_flops", 0)),
        elements=int(row.get("elements", 1)),
        kind=Provenance(_document()["provenance"]["kind"]),
    )


@lru_cache(maxsize=1)
def load_unit_costs() -> Mapping[str, GateCost]:
    """Return the costs of units that take several elements at a time, by format and accumulator.

    >>> load_unit_costs()["mxfp4 block:fp32"].elements
    32
    """
    return {name: _cost(row) for name, row in _document()["units"].items()}


def base_cost() -> GateCost:
    """Return the element that ratios are taken to: the int8 one."""
    return load_gate_costs()[_document()["provenance"]["base"]]["mac"]


def gate_costs(name: str) -> Mapping[str, GateCost]:
    """Return the costs of one format's units.

    Raises:
        MacloomError: the table does not have the format.
    """
    table = load_gate_costs()
    if name not in table:
        raise unknown("gate costs", name, table, "benchmarks/rtl_cost.py writes the table")
    return table[name]


def row_of(fmt: TensorFormat, unit: str = "mac") -> str | None:
    """Return the name of the row that has this unit for a format's codes, or None.

    >>> row_of(get_format("mxfp4")), row_of(get_format("int4:group=32")), row_of(get_format("fp16"))
    ('fp4_e2m1', 'int4', None)
    """
    return _row_of(fmt, tuple(name for name, units in load_gate_costs().items() if unit in units))


@lru_cache(maxsize=4096)
def _row_of(fmt: TensorFormat, names: tuple[str, ...]) -> str | None:
    meaning = _meaning(fmt)
    return None if meaning is None else next((n for n in names if _meaning_of(n) == meaning), None)


def _meaning_of(name: str) -> tuple[bytes, ...] | None:
    """Return the meaning of a row's codes; None for hardware that belongs to no format."""
    try:
        return _meaning(get_format(name))
    except MacloomError:
        return None


@lru_cache(maxsize=1024)
def _meaning(fmt: TensorFormat) -> tuple[bytes, ...] | None:
    """Return the values of a format's codes in units of a power of two: of its element and of its outliers."""
    elements = [e for e in (fmt.element, getattr(fmt, "outlier", None)) if isinstance(e, ElementFormat)]
    if fmt.element is None or any(e.bits > WIDEST_CODE for e in elements):
        return None
    return tuple(_values(e) for e in elements)


def _values(element: ElementFormat) -> bytes:
    values = np.asarray(element.decode(np.arange(1 << element.bits)), np.float64)
    sizes = np.abs(values[np.isfinite(values) & (values != 0)])
    unit = 2.0 ** math.frexp(float(sizes.min()))[1] if len(sizes) else 1.0
    return (values / unit).tobytes()
