"""Read the fields of a configuration that has no family record: sizes, lists of sizes, choices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from macloom.errors import MacloomError, require_positive_integer
from macloom.workloads.config import Unsupported
from macloom.workloads.families import ACTIVATIONS, flag, integer
from macloom.workloads.ops import VectorKind

__all__ = ["activation", "divided", "flag", "integer", "only", "sizes", "square"]


def activation(config: Mapping[str, Any], key: str, *allowed: str) -> VectorKind:
    """Return what an activation costs; the first of the allowed ones is the default."""
    value = config.get(key, allowed[0])
    if value not in allowed:
        raise Unsupported(f"config.{key}: must be {' or '.join(map(repr, allowed))}, not {value!r}")
    return ACTIVATIONS[value]


def only(config: Mapping[str, Any], key: str, value: Any) -> None:
    """Raise unless a field has the one value that has a formula, which is also its default."""
    if config.get(key, value) != value:
        raise Unsupported(f"config.{key}: must be {value!r}, not {config[key]!r}")


def sizes(config: Mapping[str, Any], key: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """Return a list of positive integers, as long as the default."""
    value = config.get(key, default)
    if not isinstance(value, list | tuple) or len(value) != len(default):
        raise MacloomError(f"config.{key}: must be {len(default)} positive integers, not {value!r}")
    for item in value:
        require_positive_integer(f"config.{key}", item)
    return tuple(value)


def square(config: Mapping[str, Any], key: str, default: int) -> int:
    """Return the side of a square, given as one number or as two equal ones."""
    value = config.get(key, default)
    if isinstance(value, list | tuple) and len(value) == 2 and value[0] == value[1]:
        value = value[0]
    if isinstance(value, list | tuple):
        raise Unsupported(f"config.{key}: must be one size, or two equal ones, not {value!r}")
    require_positive_integer(f"config.{key}", value)
    return value


def divided(config_key: str, whole: int, by: int, whole_name: str) -> int:
    """Return a quotient without remainder."""
    if whole % by:
        raise MacloomError(f"config.{config_key}: must divide {whole_name} {whole}, not {by}")
    return whole // by
