"""How much the calibration text matters: a recipe under several texts, numbers of windows and draws of them.

After "Outliers and Calibration Sets Have Diminishing Effect on Quantization of Modern LLMs" (arXiv:2405.20835), which
compares calibration on text of different quality and content with nonsense. The scales of activations come from the
calibration text, so a recipe whose scales are all taken at run time does not depend on it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from macloom import __version__
from macloom._registry import Registry
from macloom.errors import MacloomError, require_positive_integer
from macloom.workloads.bootstrap import bootstrap
from macloom.workloads.journal import Journal
from macloom.workloads.lm.checkpoint import LanguageModel
from macloom.workloads.lm.data import Text, stdlib_text, text_from_file
from macloom.workloads.recipe import Recipe, load_recipe
from macloom.workloads.steps import Progress, TimeLeft
from macloom.workloads.studied import Outcome, Studied, studied

NONSENSE_BYTES = 1 << 16
RESAMPLES = 1000  # of the windows, for the interval of a run
RUNS = "runs.jsonl"


def _drawn(low: int, high: int) -> Callable[[], bytes]:
    """Return a maker of bytes from `low` to `high`, equally probable, the same every time."""
    return lambda: np.random.default_rng(0).integers(low, high + 1, NONSENSE_BYTES).astype(np.uint8).tobytes()


def _shuffled() -> bytes:
    data = np.frombuffer(stdlib_text("train").data[:NONSENSE_BYTES], np.uint8)
    return np.random.default_rng(0).permutation(data).tobytes()


# Texts by name; any other name is that of a file.
TEXTS: Registry[Callable[[], bytes]] = Registry("calibration text")
TEXTS.add("train", lambda: stdlib_text("train").data)
TEXTS.add("shuffled", _shuffled)
TEXTS.add("ascii", _drawn(0x20, 0x7E))
TEXTS.add("bytes", _drawn(0, 255))


def calibration_text(source: str | Path | Text) -> Text:
    """Return a text to calibrate on.

    Args:
        source: `train` (the training text), `shuffled` (its bytes in random order), `ascii` or `bytes` (drawn at
            random), a file, or a text.
    """
    if isinstance(source, Text):
        return source
    if str(source) in TEXTS:
        return Text(name=str(source), data=TEXTS.get(str(source))())
    try:
        return text_from_file(source)
    except MacloomError:
        known = ", ".join(TEXTS)
        raise MacloomError(f"calibration text: must be one of {known} or a file, not {str(source)!r}") from None


@dataclass(frozen=True, kw_only=True)
class CalibrationRun:
    """One recipe calibrated on `windows` windows of a text, drawn with `seed`.

    `ratio` is the perplexity over the unquantized model's, `ratio_low` to `ratio_high` its interval at 95 % from the
    bootstrap over windows, both models on the same ones; None where there are fewer than two or no finite score.
    """

    recipe: str
    text: str
    windows: int
    seed: int
    perplexity: float
    kl_nats: float
    top1_agreement: float
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    collapsed: bool


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The runs of one recipe that agree in text and number of windows, or in less: perplexities, and the mean KL.

    `deviation` is the sample standard deviation, None for a single run; collapsed runs count in `collapsed` and in the
    extremes.
    """

    recipe: str
    text: str | None
    windows: int | None
    runs: int
    mean: float
    deviation: float | None
    low: float
    high: float
    kl_nats: float
    collapsed: int


@dataclass(frozen=True, kw_only=True)
class CalibrationStudy:
    """Every run, and how far perplexity spreads over them."""

    model: str
    model_sha256: str
    text: str
    text_sha256: str
    windows: int
    context: int
    reference_perplexity: float
    recipes: tuple[Recipe, ...] = field(repr=False)
    texts: tuple[Text, ...] = field(repr=False)
    counts: tuple[int, ...]
    seeds: tuple[int, ...]
    runs: tuple[CalibrationRun, ...]
    unit: str = "token"
    version: str = __version__

    def spread(self, recipe: str, text: str | None = None, windows: int | None = None) -> Spread:
        """Return the spread of the runs of a recipe; None takes every text, or every number of windows."""
        found = [r for r in self.runs if r.recipe == recipe and text in (None, r.text) and windows in (None, r.windows)]
        if not found:
            raise MacloomError(f"calibration study: must have a run of {recipe!r} on {text!r} with {windows} windows")
        levels = np.array([r.perplexity for r in found])
        finite = np.isfinite(levels).all()
        return Spread(
            recipe=recipe,
            text=text,
            windows=windows,
            runs=len(found),
            mean=float(levels.mean()) if finite else math.inf,
            deviation=float(levels.std(ddof=1)) if finite and len(found) > 1 else None,
            low=float(levels.min()),
            high=float(levels.max()),
            kl_nats=float(np.mean([r.kl_nats for r in found])),
            collapsed=sum(r.collapsed for r in found),
        )

    def spreads(self) -> list[Spread]:
        """Return the spread of every recipe, text and number of windows."""
        return [self.spread(r.name, t.name, count) for r in self.recipes for t in self.texts for count in self.counts]

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON; a number that is not finite becomes None."""
        return {
            "model": {"name": self.model, "sha256": self.model_sha256},
            "text": {"name": self.text, "sha256": self.text_sha256},
            "windows": self.windows,
            "context": self.context,
            "unit": self.unit,
            "reference_perplexity": self.reference_perplexity,
            "recipes": [r.to_dict() for r in self.recipes],
            "calibration_texts": [{"name": t.name, "sha256": t.sha256} for t in self.texts],
            "calibration_windows": list(self.counts),
            "seeds": list(self.seeds),
            "spreads": [_json(s) for s in self.spreads()],
            "overall": [_json(self.spread(r.name)) for r in self.recipes],
            "runs": [_json(r) for r in self.runs],
            "version": self.version,
        }

    def to_csv(self) -> str:
        """Return a table with a line per run."""
        out = io.StringIO()
        names = list(CalibrationRun.__dataclass_fields__)
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([getattr(run, name) for name in names] for run in self.runs)
        return out.getvalue()


def _json(record: CalibrationRun | Spread) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in vars(record).items()}


def calibration_study(
    model: LanguageModel | str | Path | Studied,
    recipes: Sequence[Recipe | str | Path],
    texts: Sequence[str | Path | Text] = ("train", "shuffled", "ascii", "bytes"),
    counts: Sequence[int] = (1, 4, 16),
    draws: int = 3,
    *,
    text: Text | str | Path | None = None,
    windows: int = 8,
    context: int | None = None,
    batch: int | None = None,
    seed: int = 0,
    state: str | Path | None = None,
    progress: Progress | None = None,
    **own: Any,
) -> CalibrationStudy:
    """Evaluate recipes with scales from every text, number of windows and draw of windows.

    Args:
        model: an embedded model, a directory, or an `Evaluator` or `ModelEvaluator`, whose text and windows are used.
        recipes: recipes, format strings or TOML files.
        texts: what `calibration_text` takes.
        counts: how many windows of the text to calibrate on.
        draws: how many draws of that many windows, with the seeds `seed`, `seed` + 1, ...
        context: bytes per window (256); tokens for a model of your own (2048, or its limit).
        batch: windows per forward pass (4; 1 for a model of your own).
        state: a directory that keeps finished runs, so that an interrupted study goes on.
        progress: called as progress(what, steps done, steps in all).
        own: further arguments of `ModelEvaluator` for a model of your own.

    Raises:
        MacloomError: no recipe, text or number, one given twice, a text that is not there or shorter than a window, an
            image classifier, or a state of another study.
    """
    resolved = [load_recipe(recipe) for recipe in recipes]
    sources = [calibration_text(source) for source in texts]
    for what, names in (
        ("recipes", [r.name for r in resolved]),
        ("texts", [t.name for t in sources]),
        ("counts", list(counts)),
    ):
        if not names or len(set(names)) < len(names):
            raise MacloomError(f"{what}: must be at least one, all different, not {names!r}")
    for count in counts:
        require_positive_integer("counts", count)
    require_positive_integer("draws", draws)
    subject = studied(model, text=text, windows=windows, context=context, batch=batch, seed=seed, **own)
    about = subject.subject
    seeds = tuple(range(about.seed, about.seed + draws))
    journal = Journal(None if state is None else Path(state) / RUNS, _identity(subject), "study")
    done = {tuple(record["key"]): record["run"] for record in journal.records}
    tried = [(t, count, drawn, recipe) for t in sources for count in counts for drawn in seeds for recipe in resolved]
    keys = [(_digest(recipe), t.sha256, t.name, recipe.name, count, drawn) for t, count, drawn, recipe in tried]
    steps = TimeLeft(progress, len(tried), sum(key in done for key in keys))
    runs, level, calibrated, held = [], None, subject, None
    for key, (source, count, drawn, recipe) in zip(keys, tried, strict=True):
        if key not in done:
            steps.step(f"{recipe.name} on {count} windows of {source.name}")
            if held != (source.name, count, drawn):
                calibrated, held = subject.recalibrated(source, count, drawn), (source.name, count, drawn)
            accuracy = calibrated.run(recipe)
            if math.isnan(accuracy.perplexity):
                raise MacloomError("model: must predict tokens for a study of calibration texts, not classify images")
            done[key] = {**_record(accuracy), "reference_perplexity": accuracy.reference_perplexity}
            journal.append({"key": list(key), "run": done[key]})
        found = dict(done[key])
        level = found.pop("reference_perplexity")
        runs.append(CalibrationRun(recipe=recipe.name, text=source.name, windows=count, seed=drawn, **found))
    assert level is not None
    return CalibrationStudy(
        model=about.model,
        model_sha256=about.model_sha256,
        text=about.text,
        text_sha256=about.text_sha256,
        windows=about.windows,
        context=about.context,
        reference_perplexity=level,
        recipes=tuple(resolved),
        texts=tuple(sources),
        counts=tuple(counts),
        seeds=seeds,
        runs=tuple(runs),
        unit=about.unit,
    )


def _identity(subject: Studied) -> dict[str, Any]:
    about = {**asdict(subject.subject), "settings": dict(subject.settings)}
    for name in ("seed", "calibration_text", "calibration_sha256"):
        about.pop(name)
    about["settings"].pop("calibration_windows", None)
    return about


def _digest(recipe: Recipe) -> str:
    """Return a hash of everything that a recipe holds."""
    return hashlib.sha256(json.dumps(recipe.to_dict(), sort_keys=True).encode()).hexdigest()


def _record(accuracy: Outcome) -> dict[str, Any]:
    scores, ratio = accuracy.by_window, None
    if scores is not None and len(scores) > 1:
        found = bootstrap(scores, RESAMPLES).intervals["perplexity_ratio"]
        ratio = found if math.isfinite(found.value) else None
    return {
        "perplexity": accuracy.perplexity,
        "kl_nats": accuracy.kl_nats,
        "top1_agreement": accuracy.top1_agreement,
        "ratio": None if ratio is None else ratio.value,
        "ratio_low": None if ratio is None else ratio.low,
        "ratio_high": None if ratio is None else ratio.high,
        "collapsed": accuracy.collapsed,
    }
