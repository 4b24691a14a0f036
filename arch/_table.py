"""A strict reader for TOML tables: every mistake becomes one message that starts with the path of the key."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from macloom.arch._check import require_boolean, require_name
from macloom.errors import MacloomError
from macloom.units import parse_quantity

T = TypeVar("T")


def read_toml(path: Path) -> dict[str, Any]:
    """Return the content of a TOML file, or raise with the file, the line and the reason."""
    if not path.is_file():
        reason = "it is a directory" if path.is_dir() else "there is no such file"
        raise MacloomError(f"{path}: must be a TOML file; {reason}")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise MacloomError(f"{path}: must be UTF-8 text; byte {error.start} is not") from None
    except tomllib.TOMLDecodeError as error:
        raise MacloomError(f"{path}: must be valid TOML; {error}") from None
    except OSError as error:
        raise MacloomError(f"{path}: must be readable; {error.strerror}") from None


class Table:
    """One TOML table that may hold only `keys`; each method returns one checked value.

    A key without a default must be there. Methods raise MacloomError with the path of the key.

    >>> Table("arch.array", {"rows": 0}, ["rows"]).integer("rows")
    Traceback (most recent call last):
        ...
    macloom.errors.MacloomError: arch.array.rows: must be a positive integer, not 0
    """

    def __init__(self, path: str, content: object, keys: Collection[str] | None) -> None:
        if not isinstance(content, Mapping):
            raise MacloomError(f"{path}: must be a table, not {content!r}")
        for key in content:
            if keys is not None and key not in keys:
                close = difflib.get_close_matches(key, keys)
                advice = f"did you mean {' or '.join(map(repr, close))}?" if close else f"known are {', '.join(keys)}"
                raise MacloomError(f"{path}.{key}: unknown key; {advice}")
        self.path, self.content = path, content

    def __contains__(self, key: str) -> bool:
        return key in self.content

    def value(self, key: str, wanted: str, default: Any = None) -> Any:
        """Return the value of `key`; None as the default makes the key required."""
        if key in self.content:
            return self.content[key]
        if default is None:
            raise MacloomError(f"{self.path}.{key}: missing; must be {wanted}")
        return default

    def integer(self, key: str, default: int | None = None, least: int = 1) -> int:
        """Return a positive integer; with `least` 0, zero as well."""
        wanted = "a positive integer" if least else "zero or a positive integer"
        value = self.value(key, wanted, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise MacloomError(f"{self.path}.{key}: must be {wanted}, not {value!r}")
        return value

    def boolean(self, key: str, default: bool | None = None) -> bool:
        value = self.value(key, "true or false", default)
        require_boolean(f"{self.path}.{key}", value)
        return value

    def name(self, key: str, default: str | None = None) -> str:
        value = self.value(key, "a name", default)
        require_name(f"{self.path}.{key}", value)
        return value

    def text(self, key: str) -> str:
        """Return a text that may be empty or missing."""
        value = self.value(key, "a text", "")
        if not isinstance(value, str):
            raise MacloomError(f"{self.path}.{key}: must be a text, not {value!r}")
        return value

    def quantity(self, key: str, unit: str) -> int | float:
        """Return a quantity above zero in `unit`."""
        path = f"{self.path}.{key}"
        text = self.value(key, "a quantity with a unit")
        value = parse_quantity(text, unit, path)
        if value <= 0:
            raise MacloomError(f"{path}: must be positive, not {text!r}")
        return value

    def whole_quantity(self, key: str, unit: str) -> int:
        """Return a quantity above zero that is a whole number of `unit`."""
        value = self.quantity(key, unit)
        if value != int(value):
            raise MacloomError(f"{self.path}.{key}: must be a whole number of {unit}, not {self.content[key]!r}")
        return int(value)

    def table(self, key: str, keys: Collection[str] | None) -> Table:
        return Table(f"{self.path}.{key}", self.value(key, "a table"), keys)
