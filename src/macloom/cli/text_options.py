"""What the verbs that run a model on a text have in common."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from macloom.cli.console import Console
from macloom.cli.own_model import arguments


def names(text: str) -> list[str]:
    """Return the names in a comma-separated list; commas within an option list (`a:b=1,c=2`) stay.

    >>> names("int4,ovp4:normal=flint4,clip=0.5,int8"), names("all")
    (['int4', 'ovp4:normal=flint4,clip=0.5', 'int8'], ['all'])
    """
    found: list[str] = []
    for part in text.split(","):
        if found and ":" in found[-1] and "=" in part and ":" not in part:
            found[-1] += f",{part}"
        else:
            found.append(part.strip())
    return found


def given(options: Namespace, console: Console) -> dict[str, Any]:
    """Return the text, windows, context, seed and own model's options that the user gave, as keywords of a study."""
    chosen = {name: getattr(options, name) for name in ("windows", "context") if getattr(options, name) is not None}
    return {**chosen, "text": options.text, "seed": console.seed, **arguments(options)}
