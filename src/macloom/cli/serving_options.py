"""The grammar of the verbs about serving; like the parser it imports no room."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from macloom.cli.parser import positive

Add = Callable[[str, str], argparse.ArgumentParser]


def add_serving(add: Add) -> None:
    """Add the verbs to the command line; `add` makes one from its name and help."""
    served = add("serve-sim", "simulate a server that batches requests as they come")
    _add_machine(served, "--workload")
    served.add_argument("--scenario", metavar="S", help="chat, code, long-context or fixed (chat)")
    served.add_argument("--trace", type=Path, metavar="FILE.csv", help="requests as Vidur writes them, in its place")
    served.add_argument("--prompt", type=positive, metavar="N", help="fixed: tokens of every prompt (512)")
    served.add_argument("--output", type=positive, metavar="N", help="fixed: tokens of every answer (128)")
    served.add_argument("--requests", type=positive, default=200, metavar="N", help="how many (200)")
    served.add_argument("--rate", type=float, default=1.0, metavar="R", help="requests per second on average (1)")
    served.add_argument(
        "--variation", type=float, default=1.0, metavar="V", help="of the time between them: 0 a beat, 1 Poisson (1)"
    )
    served.add_argument("--tokens", type=positive, default=512, metavar="N", help="in one iteration at most (512)")
    served.add_argument("--batch", type=positive, default=64, metavar="N", help="requests at a time at most (64)")
    served.add_argument("--whole-prompts", action="store_true", help="prompts run whole and alone, not in chunks")
    served.add_argument("--block", type=positive, default=16, metavar="N", help="tokens that a cache grows by (16)")
    served.add_argument("--memory", metavar="SIZE", help="for weights and cache, such as '16 GiB' (no limit)")
    served.add_argument("--slo-ttft", metavar="TIME", help="longest time to first token, such as '2 s'")
    served.add_argument("--slo-tpot", metavar="TIME", help="longest time per output token, such as '100 ms'")
    served.add_argument("--plot", type=Path, metavar="FILE", help="latencies and load: .png, .svg or .pdf")
    served.add_argument("--out", type=Path, metavar="DIR", help="directory for the result files")

    exported = add("export", "write what another tool reads")
    exported.add_argument("target", choices=("llmservingsim",), metavar="TARGET", help="llmservingsim")
    _add_machine(exported, "--workload")
    exported.add_argument("--variant", default="bf16", metavar="V", help="data type that it takes this for (bf16)")
    exported.add_argument("--model-name", metavar="NAME", help="what it calls the model (the workload's name)")
    exported.add_argument("--memory", metavar="SIZE", help="of the accelerator, such as '16 GiB' (16 GiB)")
    exported.add_argument("--tokens", type=positive, default=2048, metavar="N", help="largest iteration (2048)")
    exported.add_argument("--batch", type=positive, default=256, metavar="N", help="most requests at a time (256)")
    exported.add_argument("--context", type=positive, default=16384, metavar="N", help="longest history (16384)")
    exported.add_argument(
        "--per-octave", type=positive, default=4, metavar="N", help="steps between a token count and its double (4)"
    )
    exported.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory, such as its checkout")


def _add_machine(verb: argparse.ArgumentParser, workload: str) -> None:
    verb.add_argument(workload, required=True, metavar="W", help="a name, or a model directory")
    verb.add_argument("--accelerator", required=True, metavar="A", help="a name, or a path to a TOML file")
    verb.add_argument("--recipe", required=True, metavar="R", help="format, or path to a recipe in TOML")
