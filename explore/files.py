"""The files of a run: each a pure function from records to text, and a writer that leaves nothing half-written."""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from macloom.errors import MacloomError
from macloom.explore.result import DemoResult
from macloom.explore.toml import dump_toml

if TYPE_CHECKING:
    from macloom.arch import Accelerator


class Rows(Protocol):
    """What a simulator's result gives for ops.csv."""

    @property
    def workload(self) -> str: ...
    @property
    def phase(self) -> str: ...
    @property
    def accelerator(self) -> Accelerator: ...
    @property
    def recipe(self) -> Mapping[str, Any]: ...
    def rows(self) -> list[dict[str, Any]]: ...


def ops_csv(results: Iterable[Rows]) -> str:
    """Return one row per operation of every result of the simulator, behind the names that tell runs apart.

    Figures are totals of an operation's repeats; units stand in the names of the columns.

    Raises:
        MacloomError: there is no result.
    """
    rows = [
        {"recipe": r.recipe["name"], "accelerator": r.accelerator.name, "workload": r.workload, "phase": r.phase, **row}
        for r in results
        for row in r.rows()
    ]
    if not rows:
        raise MacloomError("ops.csv: must have at least one result to write")
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def config_toml(result: DemoResult) -> str:
    """Return everything that decided the run, resolved: formats, recipes, accelerators, technologies, workloads."""
    technologies: dict[str, dict[str, Any]] = {}
    for c in result.constants:
        fields = {k: v for k, v in vars(c).items() if k not in ("technology", "name")}
        technologies.setdefault(c.technology, {})[c.name] = fields
    return (
        "# Resolved configuration of this run. The parts in [accelerators] and [recipes] are what the files of\n"
        + ("# `macloom simulate --accelerator FILE --recipe FILE` hold, with units in the names.\n\n")
        + dump_toml(
            {
                "version": result.version,
                "seed": result.seed,
                "versions": result.versions,
                "text": vars(result.text),
                "models": [vars(m) for m in result.models],
                "formats": [vars(f) for f in result.formats],
                "recipes": result.recipes,
                "accelerators": {a.name: a.configuration for a in result.accelerators},
                "technologies": technologies,
                "workloads": [w.to_dict() for w in result.workloads],
            }
        )
    )


def write_together(directory: str | Path, contents: Mapping[str, str]) -> tuple[Path, ...]:
    """Write all files under temporary names beside `directory`, then move them into place; names may have folders.

    Nothing in `directory` changes before every file is whole on disk; other files there stay. The last
    name is moved last, so that it marks a complete set.

    Raises:
        MacloomError: `directory` is a file, or its parent cannot be written to.
    """
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise MacloomError(f"out: must be a directory, not the file {str(directory)!r}")
    staging = directory.parent / f".{directory.name or 'out'}.{os.getpid()}.partial"
    try:
        staging.mkdir(parents=True)
    except OSError as error:
        raise MacloomError(f"out: cannot write to {str(directory.parent)!r}: {error.strerror}") from None
    try:
        for name, text in contents.items():
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            with (staging / name).open("w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        if directory.exists():
            for name in contents:
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                (staging / name).replace(directory / name)
        else:
            staging.rename(directory)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return tuple(directory / name for name in contents)
