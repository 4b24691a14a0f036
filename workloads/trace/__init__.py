"""Workloads traced from any model that transformers can build, without a weight in memory.

The public names are loaded on first use; tracing brings torch and transformers with it, reading a saved trace does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from macloom._lazy import lazy_names

if TYPE_CHECKING:
    from macloom.workloads.trace.files import load_trace, save_trace
    from macloom.workloads.trace.tracer import trace_model, trace_workload

_HOMES = {
    "load_trace": "files",
    "save_trace": "files",
    "trace_model": "tracer",
    "trace_workload": "tracer",
}

__all__ = ["load_trace", "save_trace", "trace_model", "trace_workload"]

__getattr__, __dir__ = lazy_names(__name__, _HOMES, globals())
