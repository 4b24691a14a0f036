"""Errors that a user can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MacloomError(ValueError):
    """Bad input: the message says where, what came, what is allowed and what to do next.

    The command line prints it without a traceback and exits with status 2.
    """


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Return the known names most like `name`, best first."""
    known = list(known)
    close = difflib.get_close_matches(name, known, count, 0.5)
    prefixed = [k for k in known if k not in close and name and (k.startswith(name) or name.startswith(k))]
    return (close + prefixed)[:count]


def unknown(path: str, name: object, known: Iterable[str], hint: str = "") -> MacloomError:
    """Build the error for a name that is not in a closed set, with the nearest names or all of them.

    >>> print(unknown("format", "int44", ["int4", "int8", "mxfp4"], "macloom list formats"))
    format: unknown name 'int44'; did you mean 'int4', 'int8'? (macloom list formats)
    """
    known = sorted(known)
    close = nearest(str(name), known)
    if close:
        advice = "did you mean " + ", ".join(map(repr, close)) + "?"
    else:
        shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
        advice = f"known are {shown}"
    return MacloomError(f"{path}: unknown name {name!r}; {advice}" + (f" ({hint})" if hint else ""))


def require_positive_integer(path: str, value: object) -> None:
    """Raise unless `value` is an integer of at least one."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise MacloomError(f"{path}: must be a positive integer, not {value!r}")
