"""`macloom evaluate`: what a recipe does to a model's accuracy."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

from macloom._files import write_atomically
from macloom.cli.console import Console, jsonable
from macloom.workloads import load_recipe


def run(options: Namespace, console: Console) -> None:
    """Run a model on text in a recipe's arithmetic and print how far it is from the unquantized model."""
    recipe = load_recipe(options.recipe)  # before the seconds that torch takes to import
    given = {name: getattr(options, name) for name in ("windows", "context") if getattr(options, name) is not None}
    with console.working(f"evaluating {options.model} in {recipe.name}"):
        from macloom.workloads import evaluate

        accuracy = evaluate(options.model, recipe, options.text, seed=console.seed, **given)
    result = accuracy.to_dict()
    if options.out:
        write_atomically(options.out, json.dumps(jsonable(result), indent=1, allow_nan=False) + "\n")
        console.note(f"wrote {options.out}")
    console.emit(result, lambda: _show(result, console))


def _number(value: float | None, digits: str = ".4f") -> str:
    return "not finite" if value is None else format(value, digits)


def _show(result: dict[str, Any], console: Console) -> None:
    collapsed = "  (collapsed: no better than with blocks zeroed, or than guessing)" if result["collapsed"] else ""
    top1 = result["top1_agreement"]
    console.lines(
        [
            ("model", result["model"]["name"]),
            ("recipe", result["recipe"]["name"]),
            ("text", f"{result['text']['name']}, {result['windows']} windows of {result['context']} bytes"),
            ("perplexity per byte", _number(result["perplexity"]) + collapsed),
            ("  unquantized", _number(result["reference_perplexity"])),
            ("  blocks zeroed", _number(result["blocks_zeroed_perplexity"])),
            ("bits per byte", _number(result["bits_per_byte"])),
            ("KL to unquantized", f"{_number(result['kl_nats'])} nats per byte"),
            ("top-1 agreement", "-" if top1 is None else f"{100 * top1:.2f} %"),
        ]
    )
    rows = [(op, _number(value, ".2f")) for op, value in result["sqnr_db"].items()]
    print()
    console.table("Signal to quantization noise of each product", ("product", "SQNR (dB)"), rows, left=["product"])
