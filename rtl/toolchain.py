"""The tools of this room: found on use, with errors that say what to install."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from macloom.errors import MacloomError

# Simulations read PyRTL's private buffers, whose layout is that of this version; see `macloom.rtl.simulation`.
PYRTL_VERSION = "1.0.3"


def need(module: str, purpose: str) -> ModuleType:
    """Return a module of the `[rtl]` extra.

    Raises:
        MacloomError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MacloomError(f"rtl: {purpose} needs {module!r}; install it with: pip install 'macloom[rtl]'") from None


def tool_version(package: str) -> str:
    """Return the version of an installed package, or 'not installed'."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
