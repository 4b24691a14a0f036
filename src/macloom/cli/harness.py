"""Tasks of lm-evaluation-harness in `macloom evaluate`, where the user asks for them and `lm_eval` is installed."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from macloom.cli.console import Console
from macloom.cli.text_options import names
from macloom.errors import MacloomError
from macloom.workloads import Recipe

NOT_OF_TASKS = ("images", "stride", "state")
"""What concerns the evaluation on the text only."""


def check(options: Namespace) -> None:
    """Raise before anything slow where the options contradict each other or the package is missing."""
    if options.lm_eval is None:
        if options.lm_eval_path is not None or options.lm_eval_limit is not None:
            raise MacloomError("--lm-eval-path, --lm-eval-limit: belong to --lm-eval; name the tasks to run")
        return
    from importlib.util import find_spec

    if find_spec("lm_eval") is None:
        raise MacloomError("--lm-eval: needs the package lm_eval; pip install lm_eval")


def tasks(
    model: str, recipe: Recipe, options: Namespace, further: dict[str, Any], console: Console
) -> dict[str, Any] | None:
    """Return the metrics of every task in the recipe and unquantized; None where no task is asked for.

    Args:
        further: the arguments of `macloom.evaluate` that concern a user's own model.
    """
    if options.lm_eval is None:
        return None
    from macloom.workloads.lm_eval_adapter import run_tasks
    from macloom.workloads.studied import studied

    given = {name: value for name, value in further.items() if name not in NOT_OF_TASKS}
    subject = studied(model, windows=1, context=options.context, with_text=False, seed=console.seed, **given)
    wanted = names(options.lm_eval)
    runs = {recipe.name: recipe, "unquantized": None}
    found = {}
    for name, run in runs.items():
        with console.progress(f"{model} in {name}") as progress:
            found[name] = run_tasks(
                subject, run, wanted, include=options.lm_eval_path, limit=options.lm_eval_limit, seed=console.seed,
                progress=progress,
            )  # fmt: skip
    return found


def rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return a row for each task and metric: its name, then the value of every run.

    >>> rows({"int8": {"t": {"alias": "t", "acc,none": 0.5}}, "unquantized": {"t": {"alias": "t", "acc,none": 0.75}}})
    [('t', 'acc', '0.5000', '0.7500')]
    """
    first = next(iter(found.values()))
    return [
        (task, metric.removesuffix(",none"), *(f"{run[task][metric]:.4f}" for run in found.values()))
        for task, metrics in first.items()
        for metric, value in metrics.items()
        if isinstance(value, float) and "stderr" not in metric
    ]
