"""`macloom sensitivity`: what one layer alone in a low-precision format does to a model."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import TYPE_CHECKING

from macloom.cli.console import Console, jsonable
from macloom.cli.text_options import given, names

if TYPE_CHECKING:
    from macloom.workloads.sensitivity_map import SensitivityMap


def run(options: Namespace, console: Console) -> None:
    """Run every group of operations alone in every format; print the map and write its files and picture."""
    from macloom.explore.style import check_plot_path

    if options.plot:
        check_plot_path("--plot", options.plot)
    with console.progress(f"sensitivity of {options.model}") as progress:
        from macloom.workloads.sensitivity import sensitivity

        found = sensitivity(
            options.model, names(options.formats), by=options.by,
            roles=names(options.roles) if options.roles else None, progress=progress, **given(options, console),
        )  # fmt: skip
    if options.out:
        from macloom.explore.files import write_together
        from macloom.explore.sensitivity_plot import sensitivity_figure

        contents = {
            "sensitivity.csv": found.to_csv(),
            "sensitivity.svg": sensitivity_figure(found),
            "sensitivity.json": json.dumps(jsonable(found.to_dict()), indent=1, allow_nan=False) + "\n",
        }
        for path in write_together(options.out, contents):
            console.note(f"wrote {path}")
    if options.plot:
        from macloom.explore.sensitivity_plot import sensitivity_heat
        from macloom.explore.style import figure_of, save_figure

        console.note(f"wrote {save_figure(figure_of(sensitivity_heat(found)), options.plot)}")
    console.emit(found.to_dict(), lambda: _show(found, console))


def _show(found: SensitivityMap, console: Console) -> None:
    from macloom.explore.sensitivity_table import sensitivity_table
    from macloom.explore.text_table import print_table

    lines: list[tuple[str, object]] = [("model", found.model)]
    if found.unit == "image":
        lines.append(("images", found.windows))
    else:
        lines += [
            ("text", f"{found.text}, {found.windows} windows of {found.context} {found.unit}s"),
            (f"perplexity per {found.unit}", f"{found.reference_perplexity:.4f} unquantized"),
        ]
    console.lines(lines)
    print()
    print_table(sensitivity_table(found))
