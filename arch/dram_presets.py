"""Named DRAMs from TOML files, each number with its source and kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from macloom.arch._check import choose
from macloom.arch._table import Table, read_toml
from macloom.arch.memory import Dram
from macloom.arch.technology import Provenance
from macloom.errors import MacloomError, unknown

MEMORIES = Path(__file__).parent / "memories"
# Name of a number in the file -> field of Dram, and its unit (None: a count).
NUMBERS: dict[str, tuple[str, str | None]] = {
    "channels": ("channels", None),
    "bandwidth": ("bandwidth_bits_per_s", "bit/s"),
    "burst": ("burst_bits", "bit"),
    "page": ("page_bits", "bit"),
    "banks": ("banks", None),
    "activate": ("activate_s", "s"),
    "latency": ("latency_s", "s"),
    "refresh_interval": ("refresh_interval_s", "s"),
    "refresh": ("refresh_s", "s"),
}


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where one number of a memory comes from, and how it is known."""

    value: float
    kind: Provenance
    source: str


@dataclass(frozen=True, kw_only=True)
class Memory:
    """A named DRAM; `origins` has one entry per field of `dram` that the file states.

    `dram.bandwidth_bits_per_s` is that of all its channels, the stated one that of each.
    """

    name: str
    description: str
    dram: Dram
    origins: dict[str, Origin]


def list_memories() -> list[str]:
    """Return the names of the DRAM presets.

    >>> list_memories()
    ['ddr4-3200', 'hbm2e', 'hbm3', 'lpddr5-6400']
    """
    return sorted(p.stem for p in MEMORIES.glob("*.toml"))


def load_memory(name: str, channels: int | None = None) -> Memory:
    """Return the DRAM preset of this name, with its own number of channels or `channels` of them.

    >>> load_memory("hbm2e").dram.bandwidth_bits_per_s / 8e9
    409.6
    >>> load_memory("ddr4-3200", channels=2).dram.bandwidth_bits_per_s / 8e9
    51.2
    """
    if name not in list_memories():
        raise unknown("arch.dram.preset", name, list_memories())
    path = MEMORIES / f"{name}.toml"
    top = Table("memory", read_toml(path), ("name", "energy", "description", "sources", "constants"))
    sources = top.table("sources", None)
    rows = top.table("constants", tuple(NUMBERS))
    fields: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    for key, (field, unit) in NUMBERS.items():
        row = rows.table(key, ("value", "kind", "source"))
        source = row.name("source")
        if source not in sources:
            raise unknown(f"{row.path}.source", source, sources.content, f"keys of [sources] in {path}")
        read: Callable[[], int | float] = (
            (lambda r=row: r.integer("value")) if unit is None else (lambda r=row, u=unit: r.quantity("value", u))
        )
        fields[field] = read()
        kind = choose(Provenance, f"{row.path}.kind", row.name("kind"))
        origins[field] = Origin(value=fields[field], kind=kind, source=sources.name(source))
    if channels is not None:
        if not isinstance(channels, int) or isinstance(channels, bool) or channels < 1:
            raise MacloomError(f"arch.dram.channels: must be a positive integer, not {channels!r}")
        fields["channels"] = channels
    fields["bandwidth_bits_per_s"] *= fields["channels"]
    dram = Dram(kind=top.name("energy"), **fields)
    return Memory(name=top.name("name"), description=top.text("description"), dram=dram, origins=origins)
