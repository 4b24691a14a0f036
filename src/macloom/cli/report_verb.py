"""`macloom report RESULT.json`: the HTML report of a demo's result."""

from __future__ import annotations

from argparse import Namespace

from macloom.cli.console import Console


def run(options: Namespace, console: Console) -> None:
    """Draw the report of a result file, beside it unless told otherwise, and print its path."""
    from macloom.explore.report import write_report
    from macloom.explore.result import load_result

    result = load_result(options.result)
    beside = options.result if options.result.is_dir() else options.result.parent
    with console.working("drawing the report"):
        path = write_report(result, options.out or beside / "report.html")
    console.emit({"report": str(path)}, lambda: print(path))
