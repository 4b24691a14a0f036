"""`macloom demo`: every format on the embedded models and the preset accelerators."""

from __future__ import annotations

from argparse import Namespace

from macloom.cli.console import Console


def run(options: Namespace, console: Console) -> None:
    """Run the demo, print its table and what to type next, and write its files."""
    from macloom.explore.demo import run_demo
    from macloom.explore.text_table import print_table

    with console.progress("demo") as progress:
        demo = run_demo(options.out, console.seed, progress)
    if console.json:
        for path in demo.files:
            console.note(f"wrote {path}")
    console.emit(demo.result.to_dict(), lambda: print_table(demo.table, *demo.closing_lines()))
