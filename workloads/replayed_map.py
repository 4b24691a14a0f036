"""The cells of a sensitivity map of a model of bytes, which share the unquantized pass over each batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from macloom.formats import Encoded
from macloom.workloads.journal import Journal
from macloom.workloads.ops import Role
from macloom.workloads.replay import Playback, PlayedBack, Tape, TapedArithmetic, TapedVector
from macloom.workloads.scoring import window_scores
from macloom.workloads.search import Plan
from macloom.workloads.sensitivity_map import ALL, CellSums, MapSums
from macloom.workloads.steps import Progress, TimeLeft
from macloom.workloads.studied import MapRequest

if TYPE_CHECKING:
    from macloom.workloads.evaluator import Evaluator

Part = tuple[str, str, str, int]
"""A cell and the first window of a batch."""


def replayed_map(
    evaluator: Evaluator, request: MapRequest, journal: Journal, progress: Progress | None = None
) -> MapSums:
    """Run every cell on every batch, all cells of a batch behind one unquantized pass over it."""
    if progress is not None:
        progress("unquantized", 0, 1)
    done = {_part(record): _sums(record) for record in journal.records}
    batches = range(0, evaluator.windows, evaluator.batch)
    steps = TimeLeft(progress, len(batches) * len(request.keys), len(done))
    runs = _Runs(evaluator, request)
    for begin in batches:
        tape: Tape | None = None
        for key in request.keys:
            if (*key, begin) in done:
                continue
            steps.step(f"{key[0]}: {key[1]} in {key[2]}")
            tape = runs.tape(begin) if tape is None else tape
            found = runs.run(begin, tape, *key)
            done[*key, begin] = found
            journal.append({"cell": list(key), "window": begin, **asdict(found)})
    level = min(evaluator.blocks_zeroed_perplexity, float(evaluator.reference.shape[-1]))
    return MapSums(
        reference_perplexity=evaluator.reference_perplexity,
        collapse_perplexity=level,
        cells={key: _added(done[*key, begin] for begin in batches) for key in request.keys},
    )


def _part(record: dict[str, Any]) -> Part:
    group, role, fmt = record["cell"]
    return group, role, fmt, record["window"]


def _sums(record: dict[str, Any]) -> CellSums:
    return CellSums(scores=tuple(record["scores"]), signal=record["signal"], noise=record["noise"])


def _added(parts: Iterator[CellSums]) -> CellSums:
    total = next(parts)
    for part in parts:
        total = total + part
    return total


class _Runs:
    """Runs groups on batches of windows; a tape serves all cells of its batch."""

    def __init__(self, evaluator: Evaluator, request: MapRequest) -> None:
        self.evaluator, self.request = evaluator, request
        self.plans: dict[str, Plan] = {name: evaluator.plan(recipe) for name, recipe in request.recipes.items()}
        self.weights: dict[str, dict[str, Encoded]] = {name: {} for name in request.recipes}

    def tape(self, begin: int) -> Tape:
        """Return what the unquantized model gives on a batch."""
        tape = Tape()
        vector = TapedVector(tape)
        self.evaluator.logits(TapedArithmetic(tape, vector), tokens=self._tokens(begin), vector=vector)
        return tape

    def _tokens(self, begin: int) -> torch.Tensor:
        return self.evaluator.tokens[begin : begin + self.evaluator.batch]

    def run(self, begin: int, tape: Tape, group: str, role: str, fmt: str) -> CellSums:
        """Return the sums over the windows of a batch."""
        playback = Playback(tape)
        vector = TapedVector(playback)
        arithmetic = PlayedBack(
            playback,
            self.request.recipes[fmt],
            self.plans[fmt],
            ops=frozenset(self.request.groups[group]),
            role=None if role == ALL else Role(role),
            weights=self.weights[fmt],
            vector=vector,
        )
        tokens = self._tokens(begin)
        logits = self.evaluator.logits(arithmetic, tokens=tokens, vector=vector)
        scores = F.log_softmax(logits, -1)
        found = window_scores(self.evaluator.reference[begin : begin + len(tokens)], scores, tokens[:, 1:])
        sums = tuple(float(x) for x in found.table().sum(0))
        return CellSums(scores=sums, signal=arithmetic.signal, noise=arithmetic.noise)
