"""Mappings as data: dataflow, tiles and loop order of each product by name, from and to TOML or JSON files."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from macloom._files import write_atomically
from macloom.arch import Dataflow
from macloom.errors import MacloomError, unknown
from macloom.sim.result import OpResult, Result
from macloom.sim.tiling import ORDERS, Tiling

FIELDS = ("dataflow", "tile_m", "tile_n", "tile_k", "loop_order")


@dataclass(frozen=True, kw_only=True)
class MappingChoice:
    """How one product is mapped; sizes count stacked rows where batches share operand B."""

    dataflow: Dataflow
    tiling: Tiling


@dataclass(frozen=True, kw_only=True)
class MappingTable:
    """Choices by the name of the operation; operations that it does not name are searched as ever."""

    ops: Mapping[str, MappingChoice]

    def to_dict(self) -> dict[str, Any]:
        """Return the content of a mapping file.

        >>> tiling = Tiling(m=4, n=8, k=16, order="mnk")
        >>> MappingTable(ops={"fc1": MappingChoice(dataflow=Dataflow.OS, tiling=tiling)}).to_dict()["ops"]["fc1"]
        {'dataflow': 'os', 'tile_m': 4, 'tile_n': 8, 'tile_k': 16, 'loop_order': 'mnk'}
        """
        return {
            "ops": {
                name: {
                    "dataflow": choice.dataflow.value,
                    "tile_m": choice.tiling.m,
                    "tile_n": choice.tiling.n,
                    "tile_k": choice.tiling.k,
                    "loop_order": choice.tiling.order,
                }
                for name, choice in self.ops.items()
            }
        }

    def save(self, path: str | Path) -> Path:
        """Write the table to a `.toml` or `.json` file and return its path."""
        path = Path(path)
        content = self.to_dict()
        if path.suffix == ".json":
            return write_atomically(path, json.dumps(content, indent=1) + "\n")
        if path.suffix != ".toml":
            raise MacloomError(f"mapping: must be saved to a .toml or .json file, not {str(path)!r}")
        lines = []
        for name, fields in content["ops"].items():
            lines += [f"[ops.{json.dumps(name)}]", *(f"{k} = {json.dumps(v)}" for k, v in fields.items()), ""]
        return write_atomically(path, "\n".join(lines))


def mapping_of(result: Result) -> MappingTable:
    """Return the mapping that a simulation used, for every product on the array.

    Raises:
        MacloomError: two products of one name are mapped differently, as those of two added results may be.
    """
    ops: dict[str, MappingChoice] = {}
    for op in result.ops:
        if op.unit != "array":
            continue
        choice = _choice_of(op)
        if ops.setdefault(op.name, choice) != choice:
            raise MacloomError(f"mapping: {op.name!r} is mapped in two ways; save the results one by one")
    return MappingTable(ops=ops)


def _choice_of(op: OpResult) -> MappingChoice:
    m, n, k, order = (op.mapping[field] for field in FIELDS[1:])
    return MappingChoice(dataflow=Dataflow(op.mapping["dataflow"]), tiling=Tiling(m=m, n=n, k=k, order=order))


def load_mapping(path: str | Path) -> MappingTable:
    """Read a mapping from a TOML or JSON file.

    Raises:
        MacloomError: no such file, not TOML or JSON, or a field that is missing, unknown or out of range.
    """
    path = Path(path)
    if not path.is_file():
        raise MacloomError(f"{path}: no such file; a mapping is a .toml or .json file")
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (UnicodeDecodeError, json.JSONDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise MacloomError(f"{path}: must be valid {'JSON' if path.suffix == '.json' else 'TOML'}; {error}") from None
    if not isinstance(content, dict) or set(content) != {"ops"} or not isinstance(content["ops"], dict):
        raise MacloomError(f"{path}: must hold one table 'ops', with a table for each operation")
    return MappingTable(ops={name: _read(f"{path}: mapping.ops.{name}", row) for name, row in content["ops"].items()})


def _read(where: str, row: object) -> MappingChoice:
    if not isinstance(row, dict):
        raise MacloomError(f"{where}: must be a table, not {row!r}")
    for key in row:
        if key not in FIELDS:
            raise unknown(f"{where}", key, FIELDS)
    for key in FIELDS:
        if key not in row:
            raise MacloomError(f"{where}.{key}: missing")
    if row["dataflow"] not in list(Dataflow):
        raise unknown(f"{where}.dataflow", row["dataflow"], [d.value for d in Dataflow])
    sizes = {}
    for axis in "mnk":
        size = row[f"tile_{axis}"]
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise MacloomError(f"{where}.tile_{axis}: must be a positive integer, not {size!r}")
        sizes[axis] = size
    if row["loop_order"] not in ORDERS:
        raise unknown(f"{where}.loop_order", row["loop_order"], ORDERS)
    return MappingChoice(dataflow=Dataflow(row["dataflow"]), tiling=Tiling(**sizes, order=row["loop_order"]))
