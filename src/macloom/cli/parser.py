"""The grammar of the command line. It imports no room, so that `macloom --help` is quick."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from macloom import __version__
from macloom.cli.console import Console
from macloom.errors import unknown
from macloom.verification import VERIFIERS

KINDS = ("formats", "accelerators", "workloads", "recipes", "technologies", "tensor-cores")

EPILOG = """examples:
  macloom demo                                         everything once, under a minute
  macloom show ovp4                                    the values of a format
  macloom quantize weights.npy --format int4:group=128
  macloom evaluate tiny-outlier --recipe ovp4
  macloom simulate --workload opt-6.7b --phase decode --accelerator olive-sa --recipe ovp4
"""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, name the nearest choices and say where the help is."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {message} ({self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            name = action.option_strings[0] if action.option_strings else action.metavar
            raise argparse.ArgumentError(None, str(unknown(str(name), value, map(str, action.choices))))


def _verb(module: str) -> Callable[[argparse.Namespace, Console], int | None]:
    """Return a function that imports `macloom.cli.<module>` when it is called and runs its `run`."""

    def run(options: argparse.Namespace, console: Console) -> int | None:
        return import_module(f"macloom.cli.{module}").run(options, console)

    return run


def positive(text: str) -> int:
    """Read an integer of at least one."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, not {text!r}")
    return int(text)


def widths(text: str) -> range:
    """Read a range of widths, both ends included."""
    low, colon, high = text.partition(":")
    if not (colon and low.isdecimal() and high.isdecimal() and int(low) <= int(high)):
        raise argparse.ArgumentTypeError(f"must be LOW:HIGH, such as 8:24, not {text!r}")
    return range(int(low), int(high) + 1)


def seed(text: str) -> int:
    """Read an integer of at least zero."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be an integer of at least 0, not {text!r}")
    return int(text)


def _add_common(parser: argparse.ArgumentParser, *, verb: bool) -> None:
    """Add the options that every verb has; they may stand before or after the verb."""

    def default(value: object) -> object:
        return argparse.SUPPRESS if verb else value

    common = parser.add_argument_group("common options")
    common.add_argument("--json", action="store_true", default=default(False), help="print the data as JSON")
    common.add_argument(
        "--seed", type=seed, default=default(0), metavar="N", help="seed of every random choice, kept in results (0)"
    )
    loud = common.add_mutually_exclusive_group()
    loud.add_argument(
        "-q",
        "--quiet",
        dest="verbosity",
        action="store_const",
        const=-1,
        default=default(0),
        help="no notes and no progress on stderr",
    )
    loud.add_argument(
        "-v",
        "--verbose",
        dest="verbosity",
        action="store_const",
        const=1,
        default=default(0),
        help="also say how long it took, and where a failure came from",
    )


def build_parser() -> Parser:
    """Return the parser of the whole command line; `run` of a parsed verb does its work."""
    parser = Parser(
        prog="macloom",
        description="What a number format does to a language model on an accelerator: accuracy, cycles and energy.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"macloom {__version__}")
    _add_common(parser, verb=False)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", dest="verb", required=True)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        verb = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
        verb.set_defaults(run=_verb(f"{name.replace('-', '_')}_verb"))
        _add_common(verb, verb=True)
        return verb

    demo = add("demo", "run every format on the embedded models and accelerators, and write a report")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="directory (runs/demo)")

    listing = add("list", "list the formats, accelerators, workloads, recipes, technologies or tensor cores")
    listing.add_argument("kind", choices=KINDS, metavar="KIND", help=", ".join(KINDS))

    show = add("show", "show one of them in full: a format's values, an accelerator, a workload's operations")
    show.add_argument("name", metavar="NAME", help="a name that `macloom list` prints, or a path to a TOML file")

    show.add_argument("--routing", metavar="R", help="experts of a workload: uniform, zipf, zipf:S, or a JSON file")

    quantize = add("quantize", "quantize a numpy array and measure the error")
    quantize.add_argument("file", type=Path, metavar="FILE.npy", help="array of numbers; its last axis is reduced")
    quantize.add_argument("--format", required=True, metavar="F", help="format, such as int4:group=128")
    quantize.add_argument("--out", type=Path, metavar="OUT.npy", help="where to write the quantized values")

    evaluate = add("evaluate", "measure what a recipe does to a model's accuracy")
    evaluate.add_argument("name", nargs="?", metavar="MODEL", help="embedded model or directory (tiny)")
    evaluate.add_argument("--model", metavar="NAME", help="the same, by name")
    evaluate.add_argument("--recipe", required=True, metavar="R", help="format, or path to a recipe in TOML")
    evaluate.add_argument("--text", type=Path, metavar="FILE", help="UTF-8 text (held-out standard library)")
    evaluate.add_argument("--windows", type=positive, metavar="N", help="windows of text to run")
    evaluate.add_argument("--context", type=positive, metavar="N", help="bytes, or tokens, in a window")
    evaluate.add_argument("--accumulator", metavar="A", help="in place of the recipe's: int16:saturate, fp32, ...")
    evaluate.add_argument(
        "--vector", default="float", metavar="V", help="norms, softmax and the like: float, exact or exact:UNIT (float)"
    )
    evaluate.add_argument(
        "--accumulator-sweep", type=widths, metavar="LOW:HIGH", help="run every register width and say which suffice"
    )
    evaluate.add_argument(
        "--accumulator-every", metavar="E", help="sweep: when the width applies: end, mac, N, or several (end)"
    )
    evaluate.add_argument("--bootstrap", type=positive, metavar="N", help="intervals from N resamples of the windows")
    evaluate.add_argument("--confidence", type=float, metavar="C", help="what they are to cover (0.95)")
    evaluate.add_argument("--lm-eval", metavar="T,...", help="tasks of lm-evaluation-harness (pip install lm_eval)")
    evaluate.add_argument("--lm-eval-path", type=Path, metavar="DIR", help="directory of your own tasks")
    evaluate.add_argument("--lm-eval-limit", type=positive, metavar="N", help="the most documents of a task")
    evaluate.add_argument("--bootstrap-over", default="window", metavar="U", help="window or document (window)")
    evaluate.add_argument("--out", type=Path, metavar="PATH", help="result file; a sweep's directory, to be resumed")
    from macloom.cli.own_options import add_calibration, add_own_model, add_state  # which read numbers as this does

    add_calibration(evaluate)
    add_own_model(evaluate)
    add_state(evaluate)

    from macloom.cli.serving_options import add_serving  # which read numbers as this module does
    from macloom.cli.study_options import add_studies

    add_studies(add)

    simulate = add("simulate", "measure the cycles, traffic and energy of a workload on an accelerator")
    simulate.add_argument("--workload", metavar="W", help="a name, or a model directory")
    simulate.add_argument("--accelerator", metavar="A", help="a name, or a path to a TOML file")
    simulate.add_argument("--recipe", metavar="R", help="format, or path to a recipe in TOML")
    simulate.add_argument("--phase", choices=("prefill", "decode"), default="prefill", help="(prefill)")
    simulate.add_argument("--sequence", type=positive, metavar="N", help="prefill: tokens of the prompt")
    simulate.add_argument("--context", type=positive, metavar="N", help="decode: keys the new token sees")
    simulate.add_argument("--batch", type=positive, default=1, metavar="N", help="sequences at a time (1)")
    simulate.add_argument(
        "--head-tokens", choices=("last", "all"), default="last", help="prefill: tokens that get logits (last)"
    )
    simulate.add_argument("--chunk", type=positive, metavar="N", help="prefill: run the prompt N tokens at a time")
    simulate.add_argument("--source", type=positive, metavar="N", help="tokens of the encoder before a decoder")
    simulate.add_argument(
        "--routing", default="uniform", metavar="R", help="experts: uniform, zipf, zipf:S, or a JSON file (uniform)"
    )
    simulate.add_argument("--dataflow", metavar="D", help="os, ws, is, or best for each product (the accelerator's)")
    simulate.add_argument("--objective", default="traffic", metavar="O", help="what mappings minimise (traffic)")
    simulate.add_argument("--fidelity", default="event", metavar="F", help="analytic, event or cycle (event)")
    simulate.add_argument("--mapping", type=Path, metavar="FILE", help="mappings in TOML or JSON")
    simulate.add_argument(
        "--save-mapping", type=Path, metavar="FILE", help="where to write the mappings that were used"
    )
    simulate.add_argument("--prefetch", action="store_true", help="load the next weights while DRAM idles")
    simulate.add_argument("--residency", action="store_true", help="keep tensors on chip between operations")
    simulate.add_argument("--out", type=Path, metavar="DIR", help="directory for the result files")
    simulate.add_argument("--heatmap", type=Path, metavar="FILE", help="picture of how busy each element is")
    simulate.add_argument("--roofline", type=Path, metavar="FILE", help="picture of each product under its roof")
    simulate.add_argument(
        "--scalesim-config", type=Path, metavar="FILE.cfg", help="run as SCALE-Sim would, in place of a workload"
    )
    simulate.add_argument("--topology", type=Path, metavar="FILE.csv", help="SCALE-Sim's layers")
    simulate.add_argument("--scalesim-version", choices=("v3", "v2"), default="v3", help="whose stalls (v3)")

    add_serving(add)

    trace = add("trace", "list the operations of a model of transformers, from its configuration alone")
    trace.add_argument("model", metavar="MODEL", help="a model directory, a config.json, or a name")
    trace.add_argument("--phase", choices=("prefill", "decode"), default="prefill", help="(prefill)")
    trace.add_argument("--sequence", type=positive, metavar="N", help="prefill: tokens of the prompt")
    trace.add_argument("--context", type=positive, metavar="N", help="decode: keys the new token sees")
    trace.add_argument("--batch", type=positive, default=1, metavar="N", help="sequences or images at a time (1)")
    trace.add_argument("--source", type=positive, metavar="N", help="tokens of the encoder before a decoder")
    trace.add_argument("--past", type=positive, default=0, metavar="N", help="prefill: tokens in the cache before (0)")
    trace.add_argument(
        "--head-tokens", choices=("all", "last"), default="all", help="prefill: tokens that get logits (all)"
    )
    trace.add_argument(
        "--routing", default="uniform", metavar="R", help="experts: uniform, zipf, zipf:S, or a JSON file (uniform)"
    )
    trace.add_argument("--out", type=Path, metavar="FILE.json", help="where to write the trace, which other verbs read")

    report = add("report", "draw the HTML report of a demo, or compare two simulations")
    report.add_argument("result", type=Path, metavar="RESULT.json", help="a result.json of demo, or of simulate")
    report.add_argument("other", type=Path, nargs="?", metavar="OTHER.json", help="a second one of simulate")
    report.add_argument("--out", type=Path, metavar="FILE.html", help="where to write it (beside the result)")

    verify = add("verify", "compare macloom with independent oracles; exit status 1 where anything differs")
    verify.add_argument("names", nargs="+", metavar="NAME", help="what to verify: " + ", ".join(VERIFIERS))
    verify.add_argument("--exhaustive", action="store_true", help="every input; the default is a sample of seconds")
    verify.add_argument("--jobs", type=positive, default=1, metavar="N", help="processes to use (1)")
    verify.add_argument("--out", type=Path, metavar="FILE", help="where to write the table: .md, or .json")

    rtl = add("rtl", "generate hardware of a format as Verilog, with a testbench, vectors and a waveform")
    rtl.add_argument("format", metavar="FORMAT", help="format, such as ovp4")
    rtl.add_argument(
        "--unit",
        required=True,
        metavar="U",
        help="decoder, encoder, scale-decoder, block-encoder, pe, fused-pe, block-dot, tensor-dot, array, hadamard, "
        "requantizer or fused-multiplier",
    )
    rtl.add_argument("--accumulator", metavar="ACC", help="register of the unit, such as int24 or block:bf16 (its own)")
    rtl.add_argument("--source", metavar="S", help="what encoders take: fp16, bf16, fp32, int16:fraction=4, ... (fp16)")
    rtl.add_argument(
        "--rounding",
        choices=("nearest_even", "nearest_away", "toward_zero", "to_odd"),
        metavar="M",
        help="of an encoder or a requantizer: nearest_even, nearest_away, toward_zero or to_odd (the format's)",
    )
    rtl.add_argument(
        "--overflow",
        choices=("saturate", "to_inf", "to_nan", "wrap"),
        metavar="O",
        help="of an encoder: saturate, to_inf, to_nan or wrap (saturate)",
    )
    rtl.add_argument("--size", type=positive, metavar="N", help="values of a Hadamard transform (8)")
    rtl.add_argument("--narrow", metavar="F", help="of a fused-pe: format of its four narrow elements, such as ovp4")
    rtl.add_argument("--rows", type=positive, metavar="R", help="rows of an array (8)")
    rtl.add_argument("--cols", type=positive, metavar="C", help="columns of an array (8)")
    rtl.add_argument("--dataflow", choices=("os", "ws"), metavar="D", help="array's: os or ws (os)")
    rtl.add_argument("--liberty", type=Path, metavar="FILE.lib", help="cells to say area and delay in")
    rtl.add_argument("--out", type=Path, metavar="DIR", help="directory (runs/rtl/FORMAT-U)")
    rtl.add_argument("--force", action="store_true", help="write into a directory that holds something")
    return parser
