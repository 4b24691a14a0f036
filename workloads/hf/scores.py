"""Sums over the scored tokens of each window, a few rows of logits at a time."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from macloom.workloads.hf.text import Windows
from macloom.workloads.scoring import WindowScores

ROWS = 32
"""Rows of logits that are in float32 log-probabilities at a time: vocabularies are wide."""


class Scorer:
    """Compares the logits of two models, window by window."""

    def __init__(self, windows: Windows) -> None:
        self._windows = windows
        self._sums = np.zeros((len(windows), 5))
        self.skipped_nats = 0.0
        self.nonfinite = 0

    def add(self, window: int, reference: Tensor, logits: Tensor) -> None:
        """Count one window; logits are (T, vocabulary), or (vocabulary) for an image."""
        reference, logits = self._scored(window, reference), self._scored(window, logits)
        sums, bad = np.zeros(5), 0
        targets = self._targets(window)
        for start in range(0, len(reference), ROWS):
            rows = slice(start, start + ROWS)
            bad += int((~torch.isfinite(logits[rows])).sum())
            p, q = (t[rows].log_softmax(-1) for t in (reference, logits))
            kl = float((p.exp() * (p - q)).sum(-1).double().sum())
            same = float((p.argmax(-1) == q.argmax(-1)).sum())
            nats = [math.nan] * 2 if targets is None else [_nats(t, targets[rows]) for t in (p, q)]
            sums += [len(p), *nats, kl if math.isfinite(kl) else math.inf, same]
        self.nonfinite += bad
        if bad:
            sums[2:4] = math.inf if targets is not None else math.nan, math.inf
        sums[3] = max(0.0, sums[3])  # rounding can make a model's divergence from itself -1e-17
        self._sums[window] = sums

    def add_skipped(self, window: int, logits: Tensor) -> None:
        """Count one window of the model without its blocks."""
        targets = self._targets(window)
        if targets is None:
            self.skipped_nats = math.nan
            return
        for rows, chosen in zip(self._scored(window, logits).split(ROWS), targets.split(ROWS), strict=True):
            self.skipped_nats += _nats(rows.log_softmax(-1), chosen)

    @property
    def by_window(self) -> WindowScores:
        names = ("tokens", "reference_nats", "nats", "kl_nats", "agreements")
        return WindowScores(**dict(zip(names, self._sums.T.copy(), strict=True)))

    def _scored(self, window: int, logits: Tensor) -> Tensor:
        if logits.ndim == 1:
            return logits[None]
        scored = self._windows.scored[window]
        return logits if bool(scored.all()) else logits[scored]  # a mask makes a copy

    def _targets(self, window: int) -> Tensor | None:
        if self._windows.targets is None:
            return None
        return self._windows.targets[window][self._windows.scored[window]]


def _nats(scores: Tensor, targets: Tensor) -> float:
    return -float(scores.gather(-1, targets[:, None]).double().sum())
