"""The grammar of the verbs that study a model's accuracy; like the parser it imports no room."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from macloom.cli.own_options import add_calibration, add_own_model, add_state
from macloom.cli.parser import positive

Add = Callable[[str, str], argparse.ArgumentParser]


def add_studies(add: Add) -> None:
    """Add the verbs to the command line; `add` makes one from its name and help."""
    mapped = add("sensitivity", "measure what one layer alone in a format does to a model, layer by layer")
    _add_model(mapped)
    mapped.add_argument("--formats", required=True, metavar="F,...", help="formats, such as int4,ovp4,int8")
    mapped.add_argument("--by", default="operation", metavar="B", help="operation, expert, block or layer (operation)")
    mapped.add_argument("--roles", metavar="R,...", help="all, weight, activation, kv, probability (every one)")
    mapped.add_argument("--plot", type=Path, metavar="FILE", help="heat map: .png, .svg or .pdf")
    mapped.add_argument("--out", type=Path, metavar="DIR", help="directory for table, JSON and heat map")
    add_calibration(mapped)
    add_own_model(mapped, but=("edge_layers", "edge_format"))
    add_state(mapped)

    mixed = add("precision", "choose a format for every layer of a model under a budget, and try what was chosen")
    _add_model(mixed)
    mixed.add_argument("--formats", required=True, metavar="F,...", help="formats to choose from, as int4,ovp4,int8")
    mixed.add_argument("--by", default="operation", metavar="B", help="operation, expert, block or layer (operation)")
    mixed.add_argument("--recipe", metavar="R", help="what holds where nothing is chosen (the first format)")
    mixed.add_argument("--loss", default="kl", metavar="L", help="kl, or loss: the increase of the loss (kl)")
    mixed.add_argument("--cost", default="latency", metavar="C", help="latency, energy, traffic, weight-bits (latency)")
    mixed.add_argument("--accelerator", metavar="A", help="a name, or a path to a TOML file; not for weight-bits")
    mixed.add_argument("--workload", metavar="W", help="the model as a workload (the model's own)")
    mixed.add_argument("--phase", choices=("prefill", "decode"), default="prefill", help="(prefill)")
    mixed.add_argument("--sequence", type=positive, metavar="N", help="prefill: tokens of the prompt")
    mixed.add_argument("--keys", type=positive, metavar="N", help="decode: keys the new token sees")
    mixed.add_argument("--batch", type=positive, default=1, metavar="N", help="sequences at a time (1)")
    mixed.add_argument(
        "--method", default="integer", metavar="M,...", help="greedy, integer, evolutionary, or several (integer)"
    )
    mixed.add_argument("--budget", metavar="B", help="most it may cost: 3 ms, 2 mJ, 70%% of the best choice's")
    mixed.add_argument("--points", type=positive, default=8, metavar="N", help="budgets of the frontier, if none (8)")
    mixed.add_argument("--plot", type=Path, metavar="FILE", help="frontier: .png, .svg or .pdf")
    mixed.add_argument("--out", type=Path, metavar="DIR", help="directory for table, JSON, frontier and recipes")
    add_calibration(mixed)
    add_own_model(mixed, but=("batch",))
    add_state(mixed)

    written = add("generate", "let the unquantized model and recipes continue a prompt, side by side")
    written.add_argument("model", nargs="?", default="tiny", metavar="MODEL", help="embedded model or directory (tiny)")
    written.add_argument("--recipes", required=True, metavar="R,...", help="formats or TOML files, as int4,ovp4")
    written.add_argument("--prompt", default="def read_lines(path):\n", metavar="T", help="text to continue")
    written.add_argument("--tokens", type=positive, default=64, metavar="N", help="tokens to write (64)")
    written.add_argument(
        "--temperature", type=float, default=0.0, metavar="T", help="0 takes the most probable token (0)"
    )
    written.add_argument("--plot", type=Path, metavar="FILE", help="KL of each token: .png, .svg or .pdf")
    written.add_argument("--out", type=Path, metavar="FILE", help="result file")

    written.add_argument("--context", type=positive, metavar="N", help="tokens in a calibration window (256)")
    add_calibration(written)
    add_own_model(written, but=("stride", "batch", "activations", "images"))

    study = add("calibration", "measure how much the text matters that scales are calibrated on")
    _add_model(study)
    study.add_argument("--recipes", required=True, metavar="R,...", help="formats or TOML files, as ovp4,int8")
    study.add_argument(
        "--texts", default="train,shuffled,ascii,bytes", metavar="T,...", help="train, shuffled, ascii, bytes, or files"
    )
    study.add_argument("--samples", default="1,4,16", metavar="N,...", help="windows of the text to take (1,4,16)")
    study.add_argument("--draws", type=positive, default=3, metavar="N", help="draws of those windows (3)")
    study.add_argument("--plot", type=Path, metavar="FILE", help="perplexities: .png, .svg or .pdf")
    study.add_argument("--out", type=Path, metavar="DIR", help="directory for table, JSON and plot")
    add_own_model(study, but=("images",))
    add_state(study)


def _add_model(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("model", nargs="?", default="tiny", metavar="MODEL", help="embedded model or directory (tiny)")
    verb.add_argument("--text", type=Path, metavar="FILE", help="UTF-8 text (held-out standard library)")
    verb.add_argument("--windows", type=positive, metavar="N", help="windows of text to run")
    verb.add_argument("--context", type=positive, metavar="N", help="tokens in a window")
