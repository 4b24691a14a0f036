"""What verbs ask and `macloom evaluate` shows besides when the model is a user's own."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from macloom.cli.own_options import CALIBRATION, OPTIONS
from macloom.errors import MacloomError


def arguments(options: Namespace) -> dict[str, Any]:
    """Return the options of a user's own model that were given, as keywords of an evaluation; images are read.

    Raises:
        MacloomError: an option that does not go with --accumulator-sweep, or a file of images that cannot be read.
    """
    names = (*CALIBRATION, *OPTIONS, "state")
    given = {name: value for name in names if (value := getattr(options, name, None)) is not None}
    if getattr(options, "accumulator_sweep", None) is not None:
        for name in given:
            raise MacloomError(f"--{name.replace('_', '-')}: must not be given with --accumulator-sweep")
    if "images" in given:
        from macloom.cli.quantize_verb import load_array

        for name in {"images", "calibration"} & given.keys():
            given[name] = load_array(given[name])
    return given


def lines(result: dict[str, Any]) -> list[tuple[str, object]]:
    """Return the lines that say how the model did, per token or per image."""
    collapsed = "  (collapsed: no better than without its blocks, or than guessing)" if result["collapsed"] else ""
    accumulator = result["recipe"]["accumulator"]
    what = f"{result['windows']} windows of {result['context']} tokens, stride {result['stride']}"
    images = result["kind"] == "image classifier"
    pairs: list[tuple[str, object]] = [
        ("model", f"{result['model']['name']}, {result['kind']}, {result['parameters']:,} parameters"),
        ("recipe", result["recipe"]["name"] + (f", accumulator {accumulator}" if accumulator else "")),
        ("images", result["windows"]) if images else ("text", f"{result['text']['name']}, {what}"),
        ("calibrated on", f"{result['calibration_windows']} of {result['calibration_text']['name']}"),
    ]
    if not images:
        pairs += [
            ("perplexity per token", _number(result["perplexity"]) + collapsed),
            ("  unquantized", _number(result["reference_perplexity"])),
            ("  blocks skipped", _number(result["blocks_skipped_perplexity"])),
        ]
        pairs += [("bits per byte", _number(result["bits_per_byte"]))] if result["bits_per_byte"] is not None else []
    pairs += [
        ("KL to unquantized", f"{_number(result['kl_nats'])} nats per {'image' if images else 'token'}"),
        ("top-1 agreement", f"{100 * result['top1_agreement']:.2f} %"),
    ]
    if result["floating"]:
        pairs.append(("products in float", ", ".join(result["floating"])))
    return pairs


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"
