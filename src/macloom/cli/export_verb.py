"""`macloom export`: what other tools read."""

from __future__ import annotations

from argparse import Namespace

from macloom.cli.console import Console
from macloom.explore.serving.llmservingsim import Grid, bundle, export_profile
from macloom.units import parse_quantity


def run(options: Namespace, console: Console) -> None:
    """Price every size of the grid, write the profile, and print the files."""
    with console.working(f"pricing {options.workload} in {options.recipe} on {options.accelerator}"):
        files = bundle(
            options.workload,
            options.accelerator,
            options.recipe,
            variant=options.variant,
            model_name=options.model_name,
            memory_bits=None if options.memory is None else int(parse_quantity(options.memory, "bit", "--memory")),
            grid=Grid(
                tokens=options.tokens, sequences=options.batch, context=options.context, per_octave=options.per_octave
            ),
        )
    paths = export_profile(options.out, files)
    console.emit({"files": [str(path) for path in paths]}, lambda: console.lines([("wrote", path) for path in paths]))
