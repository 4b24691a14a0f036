"""What a recipe does to a language model's accuracy: the record of one evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from macloom import __version__
from macloom.workloads.bootstrap import WindowScores
from macloom.workloads.recipe import Recipe
from macloom.workloads.search import OperandPlan

# A cell counts as collapsed within this many nats per byte of the level of a model that knows nothing.
COLLAPSE_MARGIN_NATS = 0.1
BYTES = 256


def has_collapsed(perplexity: float, level: float) -> bool:
    """Return whether a perplexity is no better than that of a model that knows nothing, with a margin of 0.1 nats.

    >>> has_collapsed(250.0, 256.0), has_collapsed(4.2, 256.0), has_collapsed(math.inf, 256.0)
    (True, False, True)
    """
    return not math.log(perplexity) < math.log(level) - COLLAPSE_MARGIN_NATS


@dataclass(frozen=True, kw_only=True)
class VectorCost:
    """What an exact vector unit changes: the same recipe, plan and text with float32 vector operations beside it.

    `kl_nats` is the mean over predicted bytes of KL(float vector || exact vector), `top1_agreement` the
    fraction of bytes for which both predict the same byte.
    """

    float_perplexity: float
    kl_nats: float
    top1_agreement: float

    def to_dict(self) -> dict[str, Any]:
        return {
            "float_perplexity": _finite(self.float_perplexity),
            "kl_nats": _finite(self.kl_nats),
            "top1_agreement": _finite(self.top1_agreement),
        }


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """What a recipe does to a model on a text.

    Perplexities and bits are per byte. `kl_nats` is the mean over predicted bytes of
    KL(reference || quantized), `top1_agreement` the fraction of bytes for which both models predict the
    same byte. `sqnr_db` compares the result of each product in the two runs, each run on its own path:
    10 log10(sum r^2 / sum (q - r)^2), over the first `sqnr_windows` windows, before masking; `cosine` has
    sum r q / (|r| |q|) of the same. `by_window` holds the sums of each window, for intervals. `collapsed`
    says that perplexity is within 0.1 nats per byte of `collapse_perplexity`, the smaller of the
    blocks-zeroed model's and of guessing uniformly, or worse: such a cell is not to be ranked.
    `unigram_perplexity` is what a model reaches that ignores the context. `overflows` counts the sums
    that did not fit the accumulator, for the operations that had any.

    `vector` names the vector operations: `float`, or `exact:<unit>` with the unit's parameters in
    `vector_unit`, what it costs in `vector_cost`, and in `logits_sha256` the hash of the float32 logits
    in little-endian order, which is the same on any number of threads.
    """

    model: str
    model_sha256: str
    recipe: Recipe
    text: str
    text_sha256: str
    windows: int
    context: int
    stride: int
    seed: int
    calibration_text: str
    calibration_sha256: str
    perplexity: float
    kl_nats: float
    top1_agreement: float
    reference_perplexity: float
    blocks_zeroed_perplexity: float
    unigram_perplexity: float
    nonfinite_logits: int
    overflows: Mapping[str, int]
    sqnr_db: Mapping[str, float]
    sqnr_windows: int
    searches: tuple[OperandPlan, ...] = field(repr=False)
    vector: str = "float"
    vector_unit: Mapping[str, Any] | None = field(default=None, repr=False)
    vector_cost: VectorCost | None = None
    logits_sha256: str | None = None
    cosine: Mapping[str, float] = field(default_factory=dict)
    by_window: WindowScores | None = field(default=None, repr=False)
    version: str = __version__

    @property
    def bits_per_byte(self) -> float:
        return math.log2(self.perplexity)

    @property
    def collapse_perplexity(self) -> float:
        return min(self.blocks_zeroed_perplexity, float(BYTES))

    @property
    def collapsed(self) -> bool:
        return has_collapsed(self.perplexity, self.collapse_perplexity)

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON; a number that is not finite becomes None."""
        numbers = (
            "perplexity", "bits_per_byte", "kl_nats", "top1_agreement", "reference_perplexity",
            "blocks_zeroed_perplexity", "unigram_perplexity", "collapse_perplexity",
        )  # fmt: skip
        return {
            "model": {"name": self.model, "sha256": self.model_sha256},
            "recipe": self.recipe.to_dict(),
            "text": {"name": self.text, "sha256": self.text_sha256},
            "calibration_text": {"name": self.calibration_text, "sha256": self.calibration_sha256},
            "windows": self.windows,
            "context": self.context,
            "stride": self.stride,
            "seed": self.seed,
            **{name: _finite(getattr(self, name)) for name in numbers},
            "collapsed": self.collapsed,
            "nonfinite_logits": self.nonfinite_logits,
            "overflows": dict(self.overflows),
            "vector": self.vector,
            "vector_unit": None if self.vector_unit is None else dict(self.vector_unit),
            "vector_cost": None if self.vector_cost is None else self.vector_cost.to_dict(),
            "logits_sha256": self.logits_sha256,
            "sqnr_windows": self.sqnr_windows,
            "sqnr_db": {op: _finite(value) for op, value in self.sqnr_db.items()},
            "cosine": {op: _finite(value) for op, value in self.cosine.items()},
            "search": [planned.to_dict() for planned in self.searches],
            "version": self.version,
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
