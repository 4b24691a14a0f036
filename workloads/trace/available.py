"""The way from the formulas to the tracer, for models that have no formula: known without torch and transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from macloom.errors import MacloomError
from macloom.workloads.ops import Workload
from macloom.workloads.request import Request

Trace = Callable[[str, Path, Mapping[str, Any], Request], Workload]


def require_transformers(what: str) -> None:
    """Raise, with what to install, unless torch and transformers are there."""
    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if missing:
        raise MacloomError(
            f"{what}; tracing needs {' and '.join(missing)}: pip install 'macloom[llm]', or use a saved trace"
        )


def tracer(reason: str) -> Trace:
    """Return the function that traces a configuration; `reason` says why it has to be traced.

    Raises:
        MacloomError: torch or transformers is not installed.
    """
    require_transformers(reason)
    from macloom.workloads.trace.tracer import trace_document

    return trace_document
