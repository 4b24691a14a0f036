"""numba, or the error that says how to get it: `from macloom._numba import njit`."""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from macloom.errors import MacloomError


def available() -> bool:
    """Say whether loops are compiled: numba is installed, and MACLOOM_NUMBA is not 0."""
    return os.environ.get("MACLOOM_NUMBA") != "0" and find_spec("numba") is not None


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    if not available():
        raise MacloomError(
            "numba: is not installed, or MACLOOM_NUMBA=0 turns it off, and this has no other way; pip install numba"
        )
    return getattr(import_module("numba"), name)
