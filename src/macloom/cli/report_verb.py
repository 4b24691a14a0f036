"""`macloom report`: the HTML report of a demo's result, or the difference between two simulations."""

from __future__ import annotations

from argparse import Namespace

from macloom.cli.console import Console
from macloom.errors import MacloomError

OPERATIONS = 12  # rows of the table of operations


def run(options: Namespace, console: Console) -> None:
    """Draw the report beside the result and print its path, or compare it with another result."""
    if options.other is not None:
        return _compare(options, console)
    from macloom.explore.report import write_report
    from macloom.explore.result import load_result

    result = load_result(options.result)
    beside = options.result if options.result.is_dir() else options.result.parent
    with console.working("drawing the report"):
        path = write_report(result, options.out or beside / "report.html")
    console.emit({"report": str(path)}, lambda: print(path))


def _compare(options: Namespace, console: Console) -> None:
    from macloom.explore.compare import Difference, compare, load_simulation

    if options.out is not None:
        raise MacloomError("--out: belongs to the report of one demo; a comparison is printed, with --json as data")
    found = compare(load_simulation(options.result), load_simulation(options.other))

    def row(d: Difference) -> tuple[str, str, str, str]:
        return d.name, _number(d.first), _number(d.other), "" if d.ratio is None else f"{d.ratio:.3f}"

    def show() -> None:
        if found.settings:
            console.table(
                "What differs", ("setting", "first", "other"), [(n, *p) for n, p in found.settings.items()], left=_ALL
            )
        columns = ("", "first", "other", "other / first")
        console.table("Totals", columns, map(row, found.totals), left=columns[:1])
        changed = [d for d in found.operations if d.first != d.other]
        shown = changed[:OPERATIONS]
        title = f"Cycles by operation: {len(shown)} of {len(changed)} that differ"
        console.table(title, columns, map(row, shown), left=columns[:1])

    console.emit(found.to_dict(), show)


_ALL = ("setting", "first", "other")


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
