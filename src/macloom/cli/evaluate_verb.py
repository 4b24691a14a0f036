"""`macloom evaluate`: what a recipe does to a model's accuracy."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

from macloom._files import write_atomically
from macloom.cli import harness, intervals, own_model
from macloom.cli.console import Console, jsonable
from macloom.cli.operations import note_unmatched
from macloom.errors import MacloomError
from macloom.workloads import Recipe, load_recipe

DEFAULT_MODEL = "tiny"


def run(options: Namespace, console: Console) -> None:
    """Run a model on text in a recipe's arithmetic and print how far it is from the unquantized model."""
    if options.name and options.model:
        raise MacloomError(f"model: must be given once, not as {options.name!r} and --model {options.model!r}")
    model = options.name or options.model or DEFAULT_MODEL
    recipe = load_recipe(options.recipe).with_accumulator(options.accumulator)  # before torch's seconds
    intervals.check(options)
    harness.check(options)
    given = {name: getattr(options, name) for name in ("windows", "context") if getattr(options, name) is not None}
    given |= {"text": options.text, "seed": console.seed, "vector": options.vector}
    further = own_model.arguments(options)
    if options.accumulator_sweep is not None:
        _sweep(model, recipe, given, options, console)
        return
    if options.accumulator_every is not None:
        raise MacloomError("--accumulator-every: belongs to --accumulator-sweep; or write --accumulator intN,every=...")
    with console.progress(f"{model} in {recipe.name}") as progress:
        from macloom.workloads import evaluate

        accuracy = evaluate(model, recipe, progress=progress, **given, **further)
    result = accuracy.to_dict()
    unmatched = recipe.unmatched(accuracy.sqnr_db)
    note_unmatched(console, recipe, unmatched, model)
    result |= {"unmatched_overrides": list(unmatched)} if unmatched else {}
    found = intervals.intervals(accuracy, options, console.seed)
    result |= {"bootstrap": found} if found else {}
    tasks = harness.tasks(model, recipe, options, further, console)
    result |= {"lm_eval": tasks} if tasks else {}
    if options.out:
        write_atomically(options.out, _json(result))
        console.note(f"wrote {options.out}")
    console.emit(result, lambda: _show(result, console))


def _sweep(model: str, recipe: Recipe, given: dict[str, Any], options: Namespace, console: Console) -> None:
    """Run every register width, print the table, and write table, figure and finished cells to a directory."""
    if options.accumulator is not None:
        raise MacloomError("--accumulator: must not be given with --accumulator-sweep, which sets it")
    moments = (options.accumulator_every or "end").split(",")
    store = options.out / "cells.jsonl" if options.out else None
    with console.progress(f"{model} in {recipe.name}") as progress:
        from macloom.workloads import accumulator_width

        swept = accumulator_width(
            model, recipe, options.accumulator_sweep, every=moments, store=store, progress=progress, **given
        )
    result = swept.to_dict()
    if options.out:
        from macloom.explore.accumulator_plot import widths_figure

        write_atomically(options.out / "widths.json", _json(result))
        write_atomically(options.out / "widths.csv", swept.to_csv())
        write_atomically(options.out / "widths.svg", widths_figure([swept]))
        console.note(f"wrote {options.out}/widths.json, widths.csv, widths.svg")
    console.emit(result, lambda: _show_widths(result, console))


def _json(result: dict[str, Any]) -> str:
    return json.dumps(jsonable(result), indent=1, allow_nan=False) + "\n"


def _number(value: float | None, digits: str = ".4f") -> str:
    return "not finite" if value is None else format(value, digits)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def _show(result: dict[str, Any], console: Console) -> None:
    pairs = own_model.lines(result) if "kind" in result else _byte_lines(result)
    if result["overflows"]:
        pairs.append(("overflows", f"{sum(result['overflows'].values()):,} registers did not hold a sum"))
    console.lines(pairs)
    if "bootstrap" in result:
        print()
        console.lines(intervals.lines(result["bootstrap"]))
    if "lm_eval" in result:
        print()
        columns = ("task", "metric", *result["lm_eval"])
        console.table("lm-evaluation-harness", columns, harness.rows(result["lm_eval"]), left=["task", "metric"])
    columns = ["product", "SQNR (dB)", "cosine"] + (["overflows"] if result["overflows"] else [])
    rows = [
        (op, _number(value, ".2f"), _number(result["cosine"][op], ".6f"), *_overflow_cell(result, op))
        for op, value in result["sqnr_db"].items()
    ]
    print()
    console.table("Signal to quantization noise of each product", columns, rows, left=["product"])


def _byte_lines(result: dict[str, Any]) -> list[tuple[str, object]]:
    collapsed = "  (collapsed: no better than with blocks zeroed, or than guessing)" if result["collapsed"] else ""
    accumulator, cost = result["recipe"]["accumulator"], result["vector_cost"]
    pairs: list[tuple[str, object]] = [
        ("model", result["model"]["name"]),
        ("recipe", result["recipe"]["name"] + (f", accumulator {accumulator}" if accumulator else "")),
        ("text", f"{result['text']['name']}, {result['windows']} windows of {result['context']} bytes"),
        ("perplexity per byte", _number(result["perplexity"]) + collapsed),
        ("  unquantized", _number(result["reference_perplexity"])),
        ("  blocks zeroed", _number(result["blocks_zeroed_perplexity"])),
        ("bits per byte", _number(result["bits_per_byte"])),
        ("KL to unquantized", f"{_number(result['kl_nats'])} nats per byte"),
        ("top-1 agreement", _share(result["top1_agreement"])),
    ]
    if cost is not None:
        pairs += [
            ("vector operations", result["vector"]),
            ("  perplexity in float", _number(cost["float_perplexity"])),
            ("  KL to float", f"{_number(cost['kl_nats'], '.6f')} nats per byte"),
            ("  top-1 agreement", _share(cost["top1_agreement"])),
            ("  logits sha256", result["logits_sha256"][:16]),
        ]
    return pairs


def _overflow_cell(result: dict[str, Any], op: str) -> list[str]:
    return [f"{result['overflows'].get(op, 0):,}"] if result["overflows"] else []


def _show_widths(result: dict[str, Any], console: Console) -> None:
    pairs = [
        ("model", result["model"]["name"]),
        ("recipe", result["recipe"]["name"]),
        ("text", f"{result['text']['name']}, {result['windows']} windows of {result['context']} bytes"),
        ("perplexity per byte", f"{_number(result['unlimited_perplexity'])} with unlimited registers"),
        ("  unquantized", _number(result["reference_perplexity"])),
        ("bits of one product", result["product_bits"]),
        ("bits of any sum", result["safe_bits"]),
    ]
    for found in result["smallest"]:
        how = found["overflow"] + ("" if found["every"] == "end" else f", every {found['every']}")
        enough, lossless = (found[key] or "more than swept" for key in ("sufficient_bits", "lossless_bits"))
        pairs.append(
            (f"bits needed, {how}", f"{enough} within {100 * result['tolerance']:g} %, {lossless} without overflow")
        )
    console.lines(pairs)
    rows = [
        (
            cell["overflow"] + ("" if cell["every"] == "end" else f", every {cell['every']}"),
            cell["bits"],
            "-" if cell["skipped"] else _number(cell["perplexity"]),
            "-" if cell["skipped"] else _number(cell["kl_nats"]),
            "-" if cell["skipped"] else f"{sum(cell['overflows'].values()):,}",
            "-" if cell["skipped"] else f"{sum(cell['overflows'].values()) / max(cell['sums'], 1):.2e}",
        )
        for cell in result["cells"]
    ]
    print()
    columns = ("register", "bits", "perplexity", "KL (nats)", "overflows", "of all sums")
    console.table("Perplexity against accumulator width", columns, rows, left=["register"])
