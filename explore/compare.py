"""Two simulations side by side: totals, energy by component, and the operations that make the difference."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from macloom.errors import MacloomError

# What a result of `macloom simulate --out` must hold to be compared.
NEEDED = ("workload", "phase", "accelerator", "recipe", "totals", "energy", "ops")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One figure in both results. `ratio` is other over first, None where the first is 0."""

    name: str
    first: float
    other: float

    @property
    def ratio(self) -> float | None:
        return self.other / self.first if self.first else None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What differs between two simulations.

    Attributes:
        settings: what was simulated, where the two differ: name to both values.
        totals: every total of the results, and the energy by component.
        operations: cycles by operation, those that change most first; an operation that one result lacks has
            0 cycles in it.
    """

    settings: Mapping[str, tuple[str, str]]
    totals: tuple[Difference, ...]
    operations: tuple[Difference, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""

        def rows(differences: tuple[Difference, ...]) -> list[dict[str, Any]]:
            return [{"name": d.name, "first": d.first, "other": d.other, "ratio": d.ratio} for d in differences]

        return {
            "settings": {name: list(pair) for name, pair in self.settings.items()},
            "totals": rows(self.totals),
            "operations": rows(self.operations),
        }


def load_simulation(path: str | Path) -> dict[str, Any]:
    """Return the document of a `result.json` that `macloom simulate --out` wrote, or of its directory.

    Raises:
        MacloomError: the file is missing, not JSON, or the result of something else.
    """
    path = Path(path)
    file = path / "result.json" if path.is_dir() else path
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise MacloomError(f"report: cannot read {file}: {error.strerror}") from None
    except ValueError as error:
        raise MacloomError(f"report: {file} is not JSON: {error}") from None
    missing = [name for name in NEEDED if not isinstance(document, dict) or name not in document]
    if missing:
        raise MacloomError(
            f"report: {file} is not the result of a simulation ({', '.join(missing)} missing); "
            "write one with: macloom simulate ... --out DIR"
        )
    return document


def compare(first: Mapping[str, Any], other: Mapping[str, Any]) -> Comparison:
    """Compare the documents of two simulations, as `Result.to_dict` makes them.

    >>> from macloom.sim import simulate
    >>> a, b = (simulate("tiny", "olive-sa", recipe).to_dict() for recipe in ("int4", "ovp4"))
    >>> compare(a, b).settings
    {'recipe': ('int4', 'ovp4')}
    """

    def setting(document: Mapping[str, Any]) -> dict[str, str]:
        named = {name: document[name] for name in ("accelerator", "recipe")}
        found = {name: str(value.get("name", value)) for name, value in named.items() if isinstance(value, dict)}
        plain = {name: str(document.get(name, "")) for name in ("workload", "phase", "fidelity", "version")}
        return {**plain, **found}

    here, there = setting(first), setting(other)
    settings = {name: (here[name], there[name]) for name in here if here[name] != there[name]}
    totals = [_difference(name, first["totals"], other["totals"]) for name in first["totals"]]
    parts = [name for name in first["energy"] if name.endswith("_j") and name not in ("total_j", "low_j", "high_j")]
    totals += [_difference(name, first["energy"], other["energy"]) for name in parts]
    cycles = [{row["name"]: row["cycles"] for row in document["ops"]} for document in (first, other)]
    names = dict.fromkeys([*cycles[0], *cycles[1]])
    operations = [_difference(name, *cycles) for name in names]
    operations.sort(key=lambda d: -abs(d.other - d.first))
    return Comparison(settings=settings, totals=tuple(totals), operations=tuple(operations))


def _difference(name: str, first: Mapping[str, Any], other: Mapping[str, Any]) -> Difference:
    values = [document.get(name) or 0 for document in (first, other)]
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        raise MacloomError(f"report: {name} must be a number in both results, not {values[0]!r} and {values[1]!r}")
    return Difference(name=name, first=values[0], other=values[1])
