"""Many runs side by side: the demo, Pareto sets, plots, tables and reports.

The public names are loaded on first use; drawing brings matplotlib with it, measuring torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from macloom.explore.demo import Demo, run_demo
    from macloom.explore.measure import TextCut
    from macloom.explore.pareto import pareto_front
    from macloom.explore.report import render_report, write_report
    from macloom.explore.result import DemoResult, load_result
    from macloom.explore.summary import summary_table

_HOMES = {
    "Demo": "demo",
    "DemoResult": "result",
    "TextCut": "measure",
    "load_result": "result",
    "pareto_front": "pareto",
    "render_report": "report",
    "run_demo": "demo",
    "summary_table": "summary",
    "write_report": "report",
}

__all__ = [
    "Demo",
    "DemoResult",
    "TextCut",
    "load_result",
    "pareto_front",
    "render_report",
    "run_demo",
    "summary_table",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'macloom.explore' has no attribute {name!r}")
    value = getattr(import_module(f"macloom.explore.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
