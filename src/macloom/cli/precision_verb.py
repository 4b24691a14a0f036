"""`macloom precision`: a format for every layer of a model under a budget."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from macloom.cli.console import Console, jsonable
from macloom.cli.text_options import given, names
from macloom.errors import MacloomError

if TYPE_CHECKING:
    from macloom.explore.mixed_precision.result import PrecisionSearch
    from macloom.workloads.studied import Studied

WINDOWS = 16


def run(options: Namespace, console: Console) -> None:
    """Measure sensitivities, price formats, choose, try the choices; print them and write their recipes."""
    from macloom.arch import load_accelerator
    from macloom.explore.style import check_plot_path
    from macloom.workloads import load_workload

    if options.plot:
        check_plot_path("--plot", options.plot)
    accelerator = load_accelerator(options.accelerator) if options.accelerator else None
    formats = names(options.formats)
    # Of the context of the evaluation unless another length is given.
    length: dict[str, Any] = {"sequence": options.sequence, "context": options.keys}
    if options.phase == "prefill" and options.sequence is None:
        length["sequence"] = options.context
    workload = load_workload(
        options.workload or options.model, phase=options.phase, batch=options.batch, head_tokens="last", **length
    )
    with console.progress(f"precision of {options.model}") as progress:
        from macloom.explore.mixed_precision.search import search_precision

        chosen = given(options, console)
        chosen.pop("batch", None)  # that of the workload
        state = chosen.pop("state", None)
        evaluator, probe = _evaluators(options.model, chosen)
        found = search_precision(
            evaluator, workload, formats, accelerator, cost=options.cost, loss=options.loss,
            methods=names(options.method), budget=options.budget, points=options.points, by=options.by,
            base=options.recipe, probe=probe, seed=console.seed, state=state,
            progress=progress,
        )  # fmt: skip
    if options.out:
        from macloom.explore.files import write_together

        for path in write_together(options.out, _files(found)):
            console.note(f"wrote {path}")
    if options.plot:
        from macloom.explore.mixed_precision.plot import frontier
        from macloom.explore.style import figure_of, save_figure

        console.note(f"wrote {save_figure(figure_of(frontier(found)), options.plot)}")
    console.emit(found.to_dict(), lambda: _show(found))


def _evaluators(model: str, given: dict[str, Any]) -> tuple[Studied, Studied]:
    """Return the model on the text, and on what it is calibrated on, where sensitivities are measured.

    Images that come without others to calibrate on serve for both.
    """
    from macloom.workloads.lm.data import load_text, stdlib_text
    from macloom.workloads.studied import studied

    windows = given.pop("windows", WINDOWS)
    evaluator = studied(model, windows=windows, **given)
    other = given.get("calibration")
    if "images" in given:
        return evaluator, evaluator if other is None else studied(model, windows=windows, **{**given, "images": other})
    text = stdlib_text("train") if other is None else load_text(other)
    return evaluator, studied(model, windows=windows, **{**given, "text": text})


def _files(found: PrecisionSearch) -> dict[str, str]:
    from macloom.explore.mixed_precision.plot import frontier_figure

    recipes = {f"{point.recipe.name}.toml": point.recipe.to_toml() for point in found.points}
    if len(recipes) < len(found.points):
        raise MacloomError("precision: must give every point a name of its own; ask for fewer --points")
    return {
        **recipes,
        "precision.csv": found.to_csv(),
        "frontier.svg": frontier_figure(found),
        "precision.json": json.dumps(jsonable(found.to_dict()), indent=1, allow_nan=False) + "\n",
    }


def _show(found: PrecisionSearch) -> None:
    from macloom.explore.mixed_precision.table import precision_table
    from macloom.explore.text_table import print_table

    print_table(precision_table(found))
