"""Checks that several records of the room share; each raises with the path of the field."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import TypeVar

from macloom.errors import MacloomError, unknown

E = TypeVar("E", bound=StrEnum)


def choose(kinds: type[E], path: str, value: object) -> E:
    """Return the member of `kinds` that `value` names, or raise with the allowed names."""
    try:
        return kinds(str(value))
    except ValueError:
        raise unknown(path, value, [k.value for k in kinds]) from None


def require_boolean(path: str, value: object) -> None:
    """Raise unless `value` is True or False."""
    if not isinstance(value, bool):
        raise MacloomError(f"{path}: must be true or false, not {value!r}")


def require_positive(path: str, value: object) -> None:
    """Raise unless `value` is a finite number above zero."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise MacloomError(f"{path}: must be a positive number, not {value!r}")


def require_name(path: str, value: object) -> None:
    """Raise unless `value` is a text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise MacloomError(f"{path}: must be a name, not {value!r}")
