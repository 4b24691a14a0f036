"""Intervals around what `macloom evaluate` measures, where the user asks for them."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from macloom.errors import MacloomError, unknown
from macloom.workloads.bootstrap import bootstrap, documents_of_windows

if TYPE_CHECKING:
    import numpy as np

    from macloom.workloads.accuracy import Accuracy
    from macloom.workloads.hf.result import ModelAccuracy

UNITS = ("window", "document")
NAMES = {
    "perplexity": ("perplexity", ".4f", 1.0),
    "reference_perplexity": ("  unquantized", ".4f", 1.0),
    "perplexity_ratio": ("  ratio of both", ".4f", 1.0),
    "kl_nats": ("KL to unquantized", ".4f", 1.0),
    "top1_agreement": ("top-1 agreement, %", ".2f", 100.0),
}


def check(options: Namespace) -> None:
    """Raise before anything slow where the options of the bootstrap contradict each other."""
    if options.bootstrap_over not in UNITS:
        raise unknown("--bootstrap-over", options.bootstrap_over, UNITS)
    if options.bootstrap is None and (options.confidence is not None or options.bootstrap_over != "window"):
        raise MacloomError("--confidence, --bootstrap-over: belong to --bootstrap; give the number of resamples")


def intervals(accuracy: Accuracy | ModelAccuracy, options: Namespace, seed: int) -> dict[str, Any] | None:
    """Return the intervals that the options ask for, ready for JSON; None where they ask for none."""
    if options.bootstrap is None:
        return None
    scores = accuracy.by_window
    if scores is None:
        raise MacloomError("--bootstrap: must have finite logits to draw from; this recipe gave some that are not")
    if options.bootstrap_over == "document":
        scores = scores.grouped(_documents(accuracy, options, len(scores)))
    confidence = 0.95 if options.confidence is None else options.confidence
    found = bootstrap(scores, options.bootstrap, confidence=confidence, seed=seed, over=options.bootstrap_over)
    return found.to_dict()


def _documents(accuracy: Accuracy | ModelAccuracy, options: Namespace, windows: int) -> np.ndarray:
    """Return the number of the document in which each window begins."""
    from macloom.workloads.accuracy import Accuracy
    from macloom.workloads.lm.data import SEPARATOR, load_text

    if isinstance(accuracy, Accuracy):
        return documents_of_windows(load_text(options.text).data, accuracy.context + 1, windows, SEPARATOR)
    if accuracy.documents is None:
        raise MacloomError(
            "--bootstrap-over: must be 'window' for images, and where the tokenizer does not say what it split"
        )
    return accuracy.documents


def lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Return a line of text for each interval, and one that says how they were made."""
    methods = sorted({interval["method"] for interval in found["intervals"].values()} - {"constant"})
    drawn = f"{found['resamples']:,} resamples of {found['units']} {found['over']}s"
    head = (f"intervals at {100 * found['confidence']:g} %", f"{drawn}, {', '.join(methods) or 'constant'}")
    rows = []
    for name, (title, digits, factor) in NAMES.items():
        low, high = (found["intervals"][name][end] for end in ("low", "high"))
        shown = "not finite" if low is None or high is None else f"{factor * low:{digits}} to {factor * high:{digits}}"
        rows.append((title, shown))
    return [head, *rows]
