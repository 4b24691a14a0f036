"""`macloom calibration`: how much the text matters that scales are calibrated on."""

from __future__ import annotations

import json
from argparse import Namespace

from macloom.cli.console import Console, jsonable
from macloom.cli.text_options import given, names
from macloom.errors import MacloomError


def run(options: Namespace, console: Console) -> None:
    """Evaluate recipes under every calibration text, number of windows and draw; print and write the spread."""
    from macloom.explore.study_plots import calibration_figure, calibration_spread, calibration_table
    from macloom.explore.style import check_plot_path, figure_of, save_figure
    from macloom.explore.text_table import print_table

    if options.plot:
        check_plot_path("--plot", options.plot)
    counts = [_count(text) for text in names(options.samples)]
    with console.progress(f"calibration of {options.model}") as progress:
        from macloom.workloads.calibration_study import calibration_study

        found = calibration_study(
            options.model, names(options.recipes), names(options.texts), counts, options.draws, progress=progress,
            **given(options, console),
        )  # fmt: skip
    if options.out:
        from macloom.explore.files import write_together

        contents = {
            "calibration.csv": found.to_csv(),
            "calibration.svg": calibration_figure(found),
            "calibration.json": json.dumps(jsonable(found.to_dict()), indent=1, allow_nan=False) + "\n",
        }
        for path in write_together(options.out, contents):
            console.note(f"wrote {path}")
    if options.plot:
        console.note(f"wrote {save_figure(figure_of(calibration_spread(found)), options.plot)}")
    console.emit(found.to_dict(), lambda: print_table(calibration_table(found)))


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise MacloomError(f"--samples: must be positive integers such as 1,4,16, not {text!r}")
    return int(text)
