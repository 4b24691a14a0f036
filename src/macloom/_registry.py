"""Named records: one table per kind, which rejects duplicates and suggests the nearest name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from macloom.errors import MacloomError, unknown

T = TypeVar("T")


class Registry(Generic[T]):
    """A mapping from name to record of one kind (`format`, `accelerator`, ...).

    >>> shapes = Registry[int]("shape", hint="macloom list shapes")
    >>> shapes.add("square", 4)
    4
    >>> shapes.get("squar")
    Traceback (most recent call last):
        ...
    macloom.errors.MacloomError: shape: unknown name 'squar'; did you mean 'square'? (macloom list shapes)
    """

    def __init__(self, kind: str, hint: str = "") -> None:
        self.kind, self.hint = kind, hint
        self._records: dict[str, T] = {}

    def add(self, name: str, record: T) -> T:
        if name in self._records:
            raise MacloomError(f"{self.kind}: the name {name!r} is taken; choose another or remove the first record")
        self._records[name] = record
        return record

    def get(self, name: str) -> T:
        try:
            return self._records[name]
        except KeyError:
            raise unknown(self.kind, name, self._records, self.hint) from None

    def __contains__(self, name: object) -> bool:
        return name in self._records

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)
