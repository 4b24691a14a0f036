"""What logits are worth: means, divergence, perplexity, noise, and their hash."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import numpy as np
from torch import Tensor

from macloom._noise import sqnr_db
from macloom.workloads.bootstrap import WindowScores


def perplexity_of(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf  # exp overflows a double at 709.8


def divergence(reference: Tensor, scores: Tensor) -> tuple[float, float]:
    """Return the mean KL(reference || scores) of log-probabilities, and how often both have the same maximum."""
    kl = mean((reference.exp() * (reference - scores)).sum(-1))
    # Rounding can make the sum of a model with itself -1e-17.
    return max(0.0, kl), mean(reference.argmax(-1) == scores.argmax(-1))


def mean(x: Tensor) -> float:
    """Return the mean in float64, added by numpy, which does not split the sum between threads."""
    return float(x.numpy().mean(dtype=np.float64))


def digest(logits: Tensor) -> str:
    """Return the sha256 of float32 logits, little-endian, every zero as +0."""
    return hashlib.sha256((logits.numpy() + np.float32(0)).astype("<f4").tobytes()).hexdigest()


def window_scores(reference: Tensor, scores: Tensor, following: Tensor) -> WindowScores:
    """Return the sums of every window.

    Args:
        reference, scores: log-probabilities of the unquantized and the quantized model, windows x T x vocabulary.
        following: the tokens to predict, windows x T.
    """
    kl = (reference.exp() * (reference - scores)).sum(-1)
    return WindowScores(
        tokens=np.full(len(following), float(following.shape[1])),
        reference_nats=-_sums(reference.gather(-1, following[..., None])[..., 0]),
        nats=-_sums(scores.gather(-1, following[..., None])[..., 0]),
        # Rounding can make the divergence of a model from itself -1e-17.
        kl_nats=np.maximum(_sums(kl), 0.0),
        agreements=_sums(reference.argmax(-1) == scores.argmax(-1)),
    )


def _sums(x: Tensor) -> np.ndarray:
    return x.numpy().sum(-1, dtype=np.float64)


class NoiseMeter:
    """Sums signal, noise and agreement in direction of every product on the first batch that passes."""

    def __init__(self, reference: Mapping[str, Tensor]) -> None:
        self._reference = reference
        self._sums: dict[str, tuple[float, float]] = {}
        self._cosine: dict[str, float] = {}

    def __call__(self, op: str, out: Tensor) -> None:
        if op not in self._sums:
            reference = self._reference[op]
            signal = float(reference.square().sum())
            self._sums[op] = signal, float((out - reference).square_().sum())
            length = math.sqrt(signal) * math.sqrt(float(out.square().sum()))
            self._cosine[op] = float((reference * out).sum()) / length if length > 0 else math.nan

    def sqnr_db(self) -> dict[str, float]:
        return {op: sqnr_db(signal, noise) for op, (signal, noise) in self._sums.items()}

    def cosine(self) -> dict[str, float]:
        """Return the cosine of the angle between the two results of each product, NaN if one is all zero."""
        return dict(self._cosine)
