"""`macloom generate`: what recipes make of a prompt, beside the unquantized model."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import TYPE_CHECKING

from macloom._files import write_atomically
from macloom.cli.console import Console, jsonable
from macloom.cli.own_model import arguments
from macloom.cli.text_options import names

if TYPE_CHECKING:
    from macloom.workloads.generation import Generation

DEPARTURE = "»"


def run(options: Namespace, console: Console) -> None:
    """Let every recipe continue the prompt; print the texts and where each departs from the unquantized one."""
    from macloom.explore.style import check_plot_path, figure_of, save_figure

    if options.plot:
        check_plot_path("--plot", options.plot)
    with console.progress(f"{options.model} continues") as progress:
        from macloom.workloads.generation import generate

        found = generate(
            options.model, names(options.recipes), options.prompt, options.tokens,
            temperature=options.temperature, seed=console.seed, progress=progress, context=options.context,
            **arguments(options),
        )  # fmt: skip
    if options.out:
        text = json.dumps(jsonable(found.to_dict()), indent=1, allow_nan=False) + "\n"
        console.note(f"wrote {write_atomically(options.out, text)}")
    if options.plot:
        from macloom.explore.study_plots import divergence_steps

        console.note(f"wrote {save_figure(figure_of(divergence_steps(found)), options.plot)}")
    console.emit(found.to_dict(), lambda: _show(found))


def _show(found: Generation) -> None:
    print(f"{found.model} continues {found.prompt!r}\n")
    for c in found.continuations:
        where = "same text" if c.departs is None else f"departs at token {c.departs + 1}"
        collapsed = ", collapsed: no better than guessing" if c.collapsed else ""
        if c is found.reference:
            print(f"--- {c.name}")
        else:
            print(f"--- {c.name}: {where}, mean KL {c.mean_kl_nats:.4g} nats per token{collapsed}")
        print(_marked(c.text, found.reference.text) + "\n")


def _marked(text: str, expected: str) -> str:
    """Return the text with a sign before the first character that differs.

    >>> _marked("return x", "return y"), _marked("same", "same")
    ('return »x', 'same')
    """
    if text == expected:
        return text
    same = next((i for i, (a, b) in enumerate(zip(text, expected, strict=False)) if a != b), len(expected))
    return text[:same] + DEPARTURE + text[same:]
