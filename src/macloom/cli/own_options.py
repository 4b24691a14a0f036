"""The options of a user's own model, for every verb that runs one; like the parser this imports no room."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from macloom.cli.parser import positive

OPTIONS: dict[str, dict[str, Any]] = {
    "stride": {"type": positive, "metavar": "N", "help": "tokens from window to window (the context)"},
    "batch": {"type": positive, "metavar": "N", "help": "windows per forward pass (1)"},
    "scales": {"metavar": "S", "help": "of whole activation tensors: static or dynamic (static)"},
    "rope": {"metavar": "R", "help": "keys are rounded before or after rotation (after)"},
    "edge_layers": {"type": positive, "metavar": "N", "help": "blocks at each end in another format"},
    "edge_format": {"metavar": "F", "help": "that format (fp16)"},
    "activations": {"metavar": "A", "help": "what is kept between blocks: fp32 or bf16 (fp32)"},
    "images": {"type": Path, "metavar": "FILE.npy", "help": "for an image classifier, in place of --text"},
}
CALIBRATION: dict[str, dict[str, Any]] = {
    "calibration": {"type": Path, "metavar": "FILE", "help": "what scales are calibrated on"},
    "calibration_windows": {"type": positive, "metavar": "N", "help": "how much of it (8)"},
}


def add_own_model(verb: argparse.ArgumentParser, but: Iterable[str] = ()) -> None:
    """Add the options of a user's own model to a verb, all but some."""
    group = verb.add_argument_group("your own model, a directory in Hugging Face's layout")
    for name, settings in OPTIONS.items():
        if name not in but:
            group.add_argument(_flag(name), **settings)


def add_calibration(verb: argparse.ArgumentParser) -> None:
    """Add what scales are calibrated on."""
    for name, settings in CALIBRATION.items():
        verb.add_argument(_flag(name), **settings)


def add_state(verb: argparse.ArgumentParser) -> None:
    """Add where a verb keeps what is done."""
    what = "keeps what is done; an interrupted run goes on there"
    verb.add_argument("--state", type=Path, metavar="DIR", help=what)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
