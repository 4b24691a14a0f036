"""Many runs side by side: the demo, Pareto sets, plots, tables and reports.

The public names are loaded on first use; drawing brings matplotlib with it, measuring torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from macloom._lazy import lazy_names

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

__getattr__, __dir__ = lazy_names(__name__, _HOMES, globals())
