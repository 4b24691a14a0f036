"""Technology tables: energies and areas of one process node, each with where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from macloom.arch._check import choose, require_name, require_positive
from macloom.errors import MacloomError, unknown


class Provenance(StrEnum):
    """How a number is known, from the strongest to the weakest.

    `measured`: by this project. `published`: as printed in the source. `scaled`: a published number
    moved by a published law, or interpolated between published numbers. `estimated`: derived by an
    argument of this project that the source text or the function states.
    """

    MEASURED = "measured"
    PUBLISHED = "published"
    SCALED = "scaled"
    ESTIMATED = "estimated"


def weakest(*kinds: Provenance) -> Provenance:
    """Return the kind that a number has when it is computed from numbers of these kinds.

    >>> weakest(Provenance.PUBLISHED, Provenance.ESTIMATED, Provenance.SCALED).value
    'estimated'
    """
    return max(kinds, key=list(Provenance).index)


@dataclass(frozen=True, kw_only=True)
class Constant:
    """One number of a technology table, in the base unit `unit` (J, J/bit, um2, W/bit, ...).

    `node_nm` and `voltage_v` are None where the source does not state them. `low` and `high` bound
    the value where sources disagree.
    """

    value: float
    unit: str
    kind: Provenance
    source: str
    node_nm: float | None
    voltage_v: float | None
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        path = "constant"
        object.__setattr__(self, "kind", choose(Provenance, f"{path}.kind", self.kind))
        require_name(f"{path}.unit", self.unit)
        if not isinstance(self.source, str) or not self.source.strip():
            raise MacloomError(f"{path}.source: must say where the number comes from, not {self.source!r}")
        for name in ("value", "node_nm", "voltage_v", "low", "high"):
            if name == "value" or getattr(self, name) is not None:
                require_positive(f"{path}.{name}", getattr(self, name))
        if self.low is not None and self.value < self.low:
            raise MacloomError(f"{path}.value: must be at least the lower bound {self.low:g}, not {self.value:g}")
        if self.high is not None and self.value > self.high:
            raise MacloomError(f"{path}.value: must be at most the upper bound {self.high:g}, not {self.value:g}")


# What every table must hold, so that each function of `energy.py` has an answer. Beside these a table
# holds `sram_64_bit_<size>_kib` for at least two sizes and `dram_<kind>` for each kind of DRAM.
REQUIRED = {
    "int8_add": "J",
    "int32_add": "J",
    "int8_multiply": "J",
    "int32_multiply": "J",
    "fp16_add": "J",
    "fp16_multiply": "J",
    "fp32_add": "J",
    "fp32_multiply": "J",
    "pe_4_bit_area": "um2",
    "pair_decoder_4_bit_area": "um2",
    "pair_decoder_8_bit_area": "um2",
    "element_decoder_4_bit_area": "um2",
}
# What a table may hold besides. Without them leakage and area are not known, and results say so.
OPTIONAL = {
    "int8_mac_area": "um2",
    "sram_area": "um2/bit",
    "sram_leakage": "W/bit",
    "logic_leakage": "W/um2",
}
SRAM_PREFIX, SRAM_SUFFIX, DRAM_PREFIX = "sram_64_bit_", "_kib", "dram_"


@dataclass(frozen=True, kw_only=True)
class Technology:
    """A named table of constants at one node; the functions of `energy.py` read it."""

    name: str
    node_nm: float
    voltage_v: float | None
    constants: Mapping[str, Constant] = field(hash=False)
    description: str = ""

    def __post_init__(self) -> None:
        require_name("technology.name", self.name)
        require_positive("technology.node_nm", self.node_nm)
        if self.voltage_v is not None:
            require_positive("technology.voltage_v", self.voltage_v)
        path = f"technology {self.name!r}.constants"
        for name, unit in REQUIRED.items():
            if name not in self.constants:
                raise MacloomError(f"{path}: must hold {name!r} (unit {unit}); it is missing")
        for name, constant in self.constants.items():
            unit = unit_of(path, name)
            if constant.unit != unit:
                raise MacloomError(f"{path}.{name}: must be in {unit}, not {constant.unit!r}")
        if len(self.sram_sizes_bits) < 2:
            raise MacloomError(f"{path}: must hold '{SRAM_PREFIX}<size>{SRAM_SUFFIX}' for at least two sizes")
        if not self.dram_kinds:
            raise MacloomError(f"{path}: must hold '{DRAM_PREFIX}<kind>' for at least one kind of DRAM")

    def constant(self, name: str) -> Constant:
        """Return the constant of this name, or raise with the nearest names."""
        try:
            return self.constants[name]
        except KeyError:
            raise unknown(f"technology {self.name!r}.constants", name, self.constants) from None

    @property
    def sram_sizes_bits(self) -> dict[int, str]:
        """Memory sizes with a known access energy, smallest first, and the names of their constants."""
        names = [n for n in self.constants if n.startswith(SRAM_PREFIX)]
        sizes = {int(n.removeprefix(SRAM_PREFIX).removesuffix(SRAM_SUFFIX)) * 8192: n for n in names}
        return dict(sorted(sizes.items()))

    @property
    def dram_kinds(self) -> list[str]:
        """Kinds of DRAM with a known energy per bit."""
        return sorted(n.removeprefix(DRAM_PREFIX) for n in self.constants if n.startswith(DRAM_PREFIX))


def unit_of(path: str, name: str) -> str:
    """Return the unit a constant of this name is kept in, or raise when no such constant exists.

    >>> unit_of("constants", "dram_hbm2"), unit_of("constants", "sram_64_bit_8_kib")
    ('J/bit', 'J')
    """
    if name in REQUIRED or name in OPTIONAL:
        return REQUIRED.get(name) or OPTIONAL[name]
    if name.startswith(DRAM_PREFIX) and name != DRAM_PREFIX:
        return "J/bit"
    size = name.removeprefix(SRAM_PREFIX).removesuffix(SRAM_SUFFIX)
    if name == f"{SRAM_PREFIX}{size}{SRAM_SUFFIX}" and size.isascii() and size.isdigit() and int(size) > 0:
        return "J"
    raise unknown(path, name, [*REQUIRED, *OPTIONAL, f"{SRAM_PREFIX}<size>{SRAM_SUFFIX}", f"{DRAM_PREFIX}<kind>"])
