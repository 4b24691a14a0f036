"""What a demo run found, as records that survive a round trip through result.json.

Everything that is printed or drawn (table, plots, report) is made from these records alone, so that
a report can be written again from a result.json on another machine. Fields hold no time, host or
path: the same seed and versions give the same bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from macloom.errors import MacloomError
from macloom.explore.records import (
    AcceleratorInfo,
    AccuracyCell,
    Check,
    Constant,
    FormatInfo,
    ModelInfo,
    Record,
    Run,
    TextInfo,
    Unsupported,
    ValuePicture,
    WorkloadInfo,
)

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SCHEMA = "macloom-demo-1"


@dataclass(frozen=True, kw_only=True)
class DemoResult(Record):
    """Everything a demo run found."""

    schema: str
    version: str
    versions: dict[str, str]
    seed: int
    text: TextInfo
    formats: tuple[FormatInfo, ...]
    models: tuple[ModelInfo, ...]
    accelerators: tuple[AcceleratorInfo, ...]
    workloads: tuple[WorkloadInfo, ...]
    accuracy: tuple[AccuracyCell, ...]
    runs: tuple[Run, ...]
    unsupported: tuple[Unsupported, ...]
    values: tuple[ValuePicture, ...]
    constants: tuple[Constant, ...]
    checks: tuple[Check, ...]
    recipes: dict[str, dict[str, Any]]

    def cell(self, format: str, model: str) -> AccuracyCell | None:
        return next((c for c in self.accuracy if (c.format, c.model) == (format, model)), None)

    def runs_of(self, workload: str, phase: str) -> list[Run]:
        """Return the runs of one workload, in the order of formats, then accelerators."""
        return [r for r in self.runs if (r.workload, r.phase) == (workload, phase)]

    def run(self, format: str, accelerator: str, workload: str, phase: str) -> Run | None:
        return next((r for r in self.runs if r.key == (format, accelerator, workload, phase)), None)

    def best(self, format: str, workload: str, phase: str = "prefill") -> Run | None:
        """Return the run of `format` with the lowest energy-delay product, None where nothing runs it."""
        runs = [r for r in self.runs_of(workload, phase) if r.format == format]
        return min(runs, key=lambda r: r.edp, default=None)

    def collapsed(self, format: str) -> bool:
        """Whether the format lost any of the models."""
        return any(c.collapsed for c in self.accuracy if c.format == format)

    def cost_workload(self) -> str:
        """Return the workload that the cost columns show: the one with most parameters."""
        return max(self.workloads, key=lambda w: w.parameters).name

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def finite(value: float | None) -> float | None:
    """Return `value`, or None where JSON has no word for it.

    >>> finite(2.5), finite(float("inf"))
    (2.5, None)
    """
    return None if value is None or not math.isfinite(value) else float(value)


@cache
def _adapter() -> TypeAdapter[DemoResult]:
    from pydantic import TypeAdapter

    return TypeAdapter(DemoResult)


def _where(location: Iterable[object]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path or "the document"


def parse_result(document: Mapping[str, Any] | DemoResult, name: str = "result") -> DemoResult:
    """Check a document of the form of result.json and return it as records.

    Raises:
        MacloomError: a key is missing, unknown or of the wrong kind; the message gives its path.
    """
    if isinstance(document, DemoResult):
        return document
    from pydantic import ValidationError

    if not isinstance(document, Mapping):
        raise MacloomError(f"{name}: must be an object written by macloom demo, not {type(document).__name__}")
    if document.get("schema") != SCHEMA:
        raise MacloomError(
            f"{name}: schema must be {SCHEMA!r}, not {document.get('schema')!r}; write it again with macloom demo"
        )
    try:
        result = _adapter().validate_python(dict(document))
    except ValidationError as error:
        first = error.errors()[0]
        more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
        problem = first["msg"][0].lower() + first["msg"][1:]
        raise MacloomError(f"{name}: {_where(first['loc'])}: {problem}{more}") from None
    _check_references(result, name)
    return result


def _check_references(result: DemoResult, name: str) -> None:
    known = {
        "format": {f.name for f in result.formats},
        "model": {m.name for m in result.models},
        "accelerator": {a.name for a in result.accelerators},
        "workload": {w.name for w in result.workloads},
    }
    for field in ("formats", "models", "accelerators", "workloads"):
        if not getattr(result, field):
            raise MacloomError(f"{name}: {field}: must hold at least one entry")
    for field in ("accuracy", "runs", "unsupported", "values"):
        for i, record in enumerate(getattr(result, field)):
            for key, names in known.items():
                value = getattr(record, key, None)
                if value is not None and value not in names:
                    raise MacloomError(f"{name}: {field}[{i}].{key}: {value!r} is not one of the result's {key}s")


def dump_result(result: DemoResult) -> str:
    """Return the text of result.json, one record (of runs: one operation) per line; NaN is refused."""
    return "{\n" + ",\n".join(f'"{k}": {_lines(v, k)}' for k, v in result.to_dict().items()) + "\n}\n"


def _lines(value: Any, key: str) -> str:
    if isinstance(value, list | tuple) and value and isinstance(value[0], dict):
        if key == "runs":
            records = []
            for run in value:
                head = json.dumps({k: v for k, v in run.items() if k != "ops"}, allow_nan=False)
                ops = ",\n".join("  " + json.dumps(op, allow_nan=False) for op in run["ops"])
                records.append(f'{head[:-1]}, "ops": [\n{ops}]}}')
        else:
            records = [json.dumps(v, allow_nan=False) for v in value]
        return "[\n " + ",\n ".join(records) + "\n]"
    return json.dumps(value, allow_nan=False)


def load_result(path: str | Path) -> DemoResult:
    """Read a result.json.

    Raises:
        MacloomError: no such file, not JSON, or not a result.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "result.json"
    if not path.is_file():
        raise MacloomError(f"result: no such file {str(path)!r}; macloom demo writes runs/demo/result.json")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise MacloomError(f"{path.name}: must be JSON; {error}") from None
    return parse_result(document, path.name)
