"""Traces as JSON: a workload that can be used, and simulated, where neither torch nor transformers is installed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from macloom._files import write_atomically
from macloom.errors import MacloomError
from macloom.workloads.config import TRACE, located, read_json
from macloom.workloads.ops import Gemm, Op, Role, Vector, VectorKind, Workload

VERSION = 1

_ENUMS: dict[str, type[StrEnum]] = {"a": Role, "b": Role, "out": Role, "kind": VectorKind}


def _op_to_dict(op: Op) -> dict[str, Any]:
    """Return the fields of an operation that differ from their defaults."""
    return {"op": "gemm" if isinstance(op, Gemm) else "vector"} | {
        f.name: getattr(op, f.name) for f in fields(op) if f.default is MISSING or getattr(op, f.name) != f.default
    }


def _op_from_dict(entry: Any, place: str) -> Op:
    if not isinstance(entry, dict) or entry.get("op") not in ("gemm", "vector"):
        raise MacloomError(f"{place}.op: must be 'gemm' or 'vector', not {entry!r}"[:200])
    kind = Gemm if entry["op"] == "gemm" else Vector
    given = {k: v for k, v in entry.items() if k != "op"}
    known = {f.name: f for f in fields(kind)}
    for name in given:
        if name not in known:
            raise MacloomError(f"{place}.{name}: must be a field of a {entry['op']}: {', '.join(known)}")
    for name, f in known.items():
        if f.default is MISSING and name not in given:
            raise MacloomError(f"{place}.{name}: is missing")
    for name, members in _ENUMS.items():
        if name in given and name in known:
            if given[name] not in list(members):
                raise MacloomError(f"{place}.{name}: must be one of {', '.join(members)}, not {given[name]!r}")
            given[name] = members(given[name])
    if "reads" in given:
        reads = given["reads"]
        given["reads"] = tuple(reads) if kind is Gemm else tuple(tuple(names) for names in reads)
    return kind(**given)


def trace_to_dict(workload: Workload) -> dict[str, Any]:
    """Return a workload as what JSON can hold; `trace_from_dict` gives an equal one."""
    return {
        TRACE: VERSION,
        "name": workload.name,
        "phase": workload.phase,
        "parameters": workload.parameters,
        "kv_elements": workload.kv_elements,
        "tokens": workload.tokens,
        "macs": workload.macs,
        "details": dict(workload.details),
        "ops": [_op_to_dict(op) for op in workload.ops],
    }


def trace_from_dict(document: Mapping[str, Any]) -> Workload:
    """Return the workload that `trace_to_dict` described.

    Raises:
        MacloomError: another version of the layout, a missing field, or operations whose sum is not the stated one.
    """
    if document.get(TRACE) != VERSION:
        raise MacloomError(f"{TRACE}: must be {VERSION}, not {document.get(TRACE)!r}; trace the model again")
    for name, kind in (("name", str), ("phase", str), ("parameters", int), ("kv_elements", int), ("tokens", int)):
        if not isinstance(document.get(name), kind):
            raise MacloomError(f"{name}: must be of type {kind.__name__}, not {document.get(name)!r}")
    ops = document.get("ops")
    if not isinstance(ops, list):
        raise MacloomError(f"ops: must be a list, not {type(ops).__name__}")
    workload = Workload(
        name=document["name"],
        phase=document["phase"],
        ops=tuple(_op_from_dict(entry, f"ops[{i}]") for i, entry in enumerate(ops)),
        parameters=document["parameters"],
        kv_elements=document["kv_elements"],
        tokens=document["tokens"],
        details=document.get("details", {}),
    )
    if workload.macs != document.get("macs"):
        raise MacloomError(f"macs: must be the sum over ops, {workload.macs}, not {document.get('macs')!r}")
    return workload


def save_trace(workload: Workload, path: str | Path) -> Path:
    """Write a workload as JSON and return the path."""
    return write_atomically(path, json.dumps(trace_to_dict(workload), indent=1) + "\n")


def load_trace(path: str | Path) -> Workload:
    """Read a workload that `save_trace` wrote.

    Raises:
        MacloomError: no such file, not JSON, or not a trace.
    """
    document = read_json(Path(path))
    with located(Path(path)):
        return trace_from_dict(document)
