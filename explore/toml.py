"""Write nested dictionaries as TOML; the standard library only reads it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from macloom.errors import MacloomError


def dump_toml(document: Mapping[str, Any], path: str = "") -> str:
    r"""Return `document` as TOML text that `tomllib` reads back to an equal document.

    Values are strings, booleans, integers, floats, lists and mappings. A None is left out, because
    TOML has no word for it; lists of mappings become arrays of tables.

    Raises:
        MacloomError: a value of another kind.

    >>> print(dump_toml({"seed": 0, "array": {"rows": 64, "note": None}, "op": [{"name": "a\tb"}]}), end="")
    seed = 0
    <BLANKLINE>
    [array]
    rows = 64
    <BLANKLINE>
    [[op]]
    name = "a\tb"
    """
    lines: list[str] = []
    tables: list[tuple[str, Any]] = []
    for key, value in document.items():
        where = f"{path}.{_key(key)}" if path else _key(key)
        if isinstance(value, Mapping) or _is_table_list(value):
            tables.append((where, value))
        elif value is not None:
            lines.append(f"{_key(key)} = {_value(value, where)}\n")
    text = "".join(lines)
    for where, value in tables:
        if isinstance(value, Mapping):
            text += ("\n" if text else "") + f"[{where}]\n" + dump_toml(value, where)
        else:
            for item in value:
                text += ("\n" if text else "") + f"[[{where}]]\n" + dump_toml(item, where)
    return text


def _is_table_list(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(v, Mapping) for v in value)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _string(key)


def _string(text: str) -> str:
    # A TOML basic string has JSON's escapes, and takes other characters as they are except DEL.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any, path: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if math.isfinite(value):
            text = repr(value)
            return text if "." in text or "e" not in text else text.replace("e", ".0e")
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(v, f"{path}[{i}]") for i, v in enumerate(value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_value(v, f'{path}.{k}')}" for k, v in value.items()) + "}"
    raise MacloomError(f"{path}: must be a string, number, boolean, list or mapping, not {type(value).__name__}")
