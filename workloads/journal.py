"""Results of a long study, kept one by one, so that an interrupted study goes on where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from macloom.errors import MacloomError


class Journal:
    """A file of JSON lines: what the study is of, then a line for each result. Without a path nothing is kept.

    Args:
        identity: everything that decides the results, ready for JSON; the journal of another study is refused.
        what: the study in a word, for the message.

    Attributes:
        records: what was kept, by this run or an earlier one.

    >>> Journal(None, {}, "study").records
    []
    """

    def __init__(self, path: str | Path | None, identity: Mapping[str, Any], what: str) -> None:
        self._path = None if path is None else Path(path)
        self.records: list[dict[str, Any]] = []
        if self._path is None:
            return
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        if not lines:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps(identity) + "\n", encoding="utf-8")
            return
        if _line(lines[0]) != json.loads(json.dumps(identity)):
            raise MacloomError(
                f"{self._path}: holds another {what} (model, recipe, text or options); give another directory"
            )
        # The last line of an interrupted run may be cut off.
        self.records = [record for record in map(_line, lines[1:]) if record is not None]

    def append(self, record: dict[str, Any]) -> None:
        """Keep a result, on disk before this returns."""
        self.records.append(record)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write("\n" * _cut_off(self._path) + json.dumps(record) + "\n")
                file.flush()
                os.fsync(file.fileno())


def _cut_off(path: Path) -> bool:
    """Whether the last line of a file has no end."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _line(text: str) -> dict[str, Any] | None:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None
