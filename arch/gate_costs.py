"""The committed table of what the generated hardware costs in gates; `benchmarks/rtl_cost.py` writes it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from macloom.arch.technology import Provenance
from macloom.errors import unknown

TABLE = Path(__file__).parent / "rtl_costs.toml"
STYLES = ("alumacc", "noalumacc")


@dataclass(frozen=True, kw_only=True)
class GateCost:
    """One generated unit, mapped to NAND, NOR and inverters in two styles; each pair is (lower, higher).

    Attributes:
        transistors: without flip-flops.
        depth: gates on the longest path.
        switching: driven gate inputs that change per operation, on tensors of `tiny-outlier`.
    """

    transistors: tuple[float, float]
    depth: tuple[float, float]
    switching: tuple[float, float]
    kind: Provenance = Provenance.ESTIMATED

    def ratio(self, base: GateCost, figure: str = "transistors") -> tuple[float, float]:
        """Return the lowest and the highest ratio of a figure to that of another unit.

        >>> costs = load_gate_costs()
        >>> low, high = costs["ovp4"]["mac"].ratio(costs["int8"]["mac"])
        >>> 0.4 < low <= high < 0.8
        True
        """
        (low, high), (base_low, base_high) = getattr(self, figure), getattr(base, figure)
        return low / base_high, high / base_low


@lru_cache(maxsize=1)
def load_gate_costs() -> Mapping[str, Mapping[str, GateCost]]:
    """Return the costs by format and unit (`decoder`, `encoder`, `mac`).

    Ratios are good to about 20 %, the spread of mapping styles and versions of the synthesis tool.
    """
    document = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    kind = Provenance(document["provenance"]["kind"])

    def cost(row: Mapping[str, float]) -> GateCost:
        def pair(figure: str) -> tuple[float, float]:
            low, high = sorted(float(row[f"{figure}_{style}"]) for style in STYLES)
            return low, high

        return GateCost(transistors=pair("transistors"), depth=pair("depth"), switching=pair("switching"), kind=kind)

    return {name: {unit: cost(row) for unit, row in units.items()} for name, units in document["costs"].items()}


def gate_costs(name: str) -> Mapping[str, GateCost]:
    """Return the costs of one format's units.

    Raises:
        MacloomError: the table does not have the format.
    """
    table = load_gate_costs()
    if name not in table:
        raise unknown("gate costs", name, table, "benchmarks/rtl_cost.py writes the table")
    return table[name]
