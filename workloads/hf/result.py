"""What a recipe does to a user's model: the record of one evaluation, in tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from macloom import __version__
from macloom.workloads.recipe import Recipe
from macloom.workloads.scoring import WindowScores, perplexity_of

# A cell counts as collapsed within this many nats per token of the level of a model that knows nothing.
COLLAPSE_MARGIN_NATS = 0.1


@dataclass(frozen=True, kw_only=True)
class ModelAccuracy:
    """What a recipe does to a model on a text, or on images.

    Perplexities are per scored token: every token of a causal model's text, the masked tokens of a masked
    model's; an image classifier has none, and `bits_per_byte` needs a tokenizer that says what it split. `kl_nats`
    is the mean over them of KL(reference || quantized), `top1_agreement` the share for which both models
    predict the same. `sqnr_db` and `cosine` compare the result of each product in the two runs, each run on its
    own path, on the first batch. `blocks_skipped_perplexity` is that of the model without its blocks;
    `collapsed` says that perplexity is within 0.1 nats of it, or of guessing uniformly, or worse: such a cell is
    not to be ranked. `floating` names products that stayed in float32, if any did, and `searches` how every
    operand was scaled. `documents` has the number of the document in which each window begins.
    """

    model: str
    model_sha256: str
    kind: str
    parameters: int
    recipe: Recipe
    scales: str
    rope: str
    text: str
    text_sha256: str
    windows: int
    context: int
    stride: int
    seed: int
    calibration_text: str
    calibration_sha256: str
    calibration_windows: int
    vocabulary: int
    scored_bytes: int | None
    by_window: WindowScores = field(repr=False)
    blocks_skipped_nats: float
    nonfinite_logits: int
    overflows: Mapping[str, int]
    sqnr_db: Mapping[str, float] = field(repr=False)
    cosine: Mapping[str, float] = field(repr=False)
    sqnr_windows: int
    floating: tuple[str, ...]
    searches: tuple[Mapping[str, Any], ...] = field(repr=False)
    documents: np.ndarray | None = field(default=None, repr=False)
    version: str = __version__

    def _mean(self, name: str) -> float:
        return float(getattr(self.by_window, name).sum() / self.by_window.tokens.sum())

    @property
    def perplexity(self) -> float:
        return _perplexity(self._mean("nats"))

    @property
    def reference_perplexity(self) -> float:
        return _perplexity(self._mean("reference_nats"))

    @property
    def blocks_skipped_perplexity(self) -> float:
        return _perplexity(self.blocks_skipped_nats)

    @property
    def kl_nats(self) -> float:
        return self._mean("kl_nats")

    @property
    def top1_agreement(self) -> float:
        return self._mean("agreements")

    @property
    def bits_per_byte(self) -> float:
        """Bits of the text's information per UTF-8 byte of the scored tokens; NaN where bytes are unknown."""
        if not self.scored_bytes:
            return math.nan
        return float(self.by_window.nats.sum()) / math.log(2) / self.scored_bytes

    @property
    def collapse_perplexity(self) -> float:
        floor = self.blocks_skipped_perplexity
        return min(floor, float(self.vocabulary)) if math.isfinite(floor) else float(self.vocabulary)

    @property
    def collapsed(self) -> bool:
        if math.isnan(self.perplexity):  # images: nothing to predict
            return self.nonfinite_logits > 0
        return not math.log(self.perplexity) < math.log(self.collapse_perplexity) - COLLAPSE_MARGIN_NATS

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON; a number that is not finite becomes None."""
        numbers = (
            "perplexity", "bits_per_byte", "kl_nats", "top1_agreement", "reference_perplexity",
            "blocks_skipped_perplexity", "collapse_perplexity",
        )  # fmt: skip
        plain = (
            "kind", "parameters", "scales", "rope", "windows", "context", "stride", "seed", "calibration_windows",
            "vocabulary", "scored_bytes", "collapsed", "nonfinite_logits", "sqnr_windows", "version",
        )  # fmt: skip
        return {
            "model": {"name": self.model, "sha256": self.model_sha256},
            "recipe": self.recipe.to_dict(),
            "text": {"name": self.text, "sha256": self.text_sha256},
            "calibration_text": {"name": self.calibration_text, "sha256": self.calibration_sha256},
            **{name: getattr(self, name) for name in plain},
            **{name: _finite(getattr(self, name)) for name in numbers},
            "overflows": dict(self.overflows),
            "floating": list(self.floating),
            "sqnr_db": {op: _finite(value) for op, value in self.sqnr_db.items()},
            "cosine": {op: _finite(value) for op, value in self.cosine.items()},
            "search": [dict(record) for record in self.searches],
        }


def _perplexity(nats: float) -> float:
    return nats if math.isnan(nats) else perplexity_of(nats)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
