"""Verilog written by hand, from definitions and standards, not from the generators: what units are proved equal to."""

from __future__ import annotations

from pathlib import Path

from macloom.errors import unknown


def source(name: str) -> str:
    """Return the text of a file of this directory, named without `.v`.

    Raises:
        MacloomError: there is none.

    >>> "module reference_element" in source("element")
    True
    """
    path = Path(__file__).parent / f"{name}.v"
    if not path.is_file():
        raise unknown("reference", name, names())
    return path.read_text(encoding="utf-8")


def names() -> list[str]:
    """Return what there is, sorted."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.v"))
