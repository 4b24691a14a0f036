"""The sensitivity map: what one layer alone in a low-precision format does to the model.

Every group of operations (one operation, a block or a layer) runs in every format, one at a time, everything else
unquantized: once with all operands and the output in the recipe's arithmetic, and once for each operand role with only
the operands of that role rounded. All cells run on the same windows and share the unquantized pass
(`macloom.workloads.replay`), so that a cell costs only the part of the model behind its group.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from macloom._noise import sqnr_db
from macloom.errors import MacloomError, unknown
from macloom.formats import Encoded
from macloom.workloads.accuracy import has_collapsed
from macloom.workloads.bootstrap import WindowScores
from macloom.workloads.evaluator import Evaluator
from macloom.workloads.groups import By, grouped
from macloom.workloads.lm.checkpoint import LanguageModel, is_byte_llama
from macloom.workloads.lm.data import Text
from macloom.workloads.ops import Role
from macloom.workloads.recipe import Recipe, Search, load_recipe
from macloom.workloads.replay import PartlyQuantized, Playback, Tape, TapedArithmetic, TapedVector
from macloom.workloads.scoring import perplexity_of, window_scores
from macloom.workloads.search import GemmSample, Plan
from macloom.workloads.sensitivity_map import ALL, ROLES, SensitivityCell, SensitivityMap
from macloom.workloads.steps import Progress

if TYPE_CHECKING:
    from macloom.workloads.hf.evaluator import ModelEvaluator
    from macloom.workloads.own_sensitivity import OwnModel

CONTEXT = 256


def sensitivity(
    model: LanguageModel | str | Path | Evaluator | ModelEvaluator | OwnModel,
    formats: Sequence[str],
    *,
    by: By | str = By.OPERATION,
    roles: Sequence[str] | None = None,
    text: Text | str | Path | None = None,
    windows: int = 8,
    context: int | None = None,
    batch: int = 4,
    seed: int = 0,
    search: Search | None = None,
    without: Collection[str] = (),
    progress: Progress | None = None,
) -> SensitivityMap:
    """Run every group of operations alone in every format.

    Args:
        model: what `Evaluator` takes, or an `Evaluator`, whose text, windows and calibration are used. A model of
            your own, or its `ModelEvaluator`, runs whole for every cell, see `macloom.workloads.own_sensitivity`.
        formats: format names; a TOML recipe stands for its formats by role, without its exceptions.
        by: what forms a group: `operation`, `block` or `layer`.
        roles: `all`, `weight`, `activation`, `kv`, `probability`, or several of them; None: every one, or `all`
            for a model of your own, which has no other.
        context: bytes per window (256); tokens for a model of your own.
        search: the scale search, as in a recipe.
        without: operations that are in no group.
        progress: called as progress(what, steps done, steps in all).

    Raises:
        MacloomError: an unknown format, grouping or role, or what `Evaluator` raises.
    """
    if isinstance(model, LanguageModel) or (isinstance(model, str | Path) and is_byte_llama(model)):
        model = Evaluator(model, text, windows=windows, context=context or CONTEXT, batch=batch, seed=seed)
    if not isinstance(model, Evaluator):
        return _own(model, formats, by, roles, search, without, progress, text, windows, context, seed)
    evaluator = model
    recipes = one_format_recipes(formats, search or Search())
    wanted = _roles(ROLES if roles is None else roles)
    samples = evaluator.samples()
    groups = grouped((s.op for s in samples if s.op not in without), by)
    if not groups:
        raise MacloomError("sensitivity: must have at least one operation; all are left out")
    keys = [
        (group, role, fmt)
        for fmt in recipes
        for role in wanted
        for group, ops in groups.items()
        if role == ALL or role in _roles_of(samples, ops)
    ]
    report = progress or (lambda text, done, total: None)
    report("unquantized", 0, 1)
    reference, level = evaluator.reference, evaluator.blocks_zeroed_perplexity
    level = min(level, float(reference.shape[-1]))
    runs = _Runs(evaluator, recipes, groups)
    parts: dict[tuple[str, str, str], list[tuple[WindowScores, float, float]]] = {key: [] for key in keys}
    total = len(runs.batches) * len(keys)
    done = 0
    for begin, tape in runs.tapes():
        for key in keys:
            report(f"{key[0]}: {key[1]} in {key[2]}", done, total)
            parts[key].append(runs.run(begin, tape, *key))
            done += 1
    return SensitivityMap(
        model=evaluator.model.name,
        model_sha256=evaluator.model.sha256,
        text=evaluator.text.name,
        text_sha256=evaluator.text.sha256,
        windows=evaluator.windows,
        context=evaluator.context,
        seed=evaluator.seed,
        calibration_text=evaluator.calibration_text.name,
        calibration_sha256=evaluator.calibration_text.sha256,
        by=By(by).value,
        formats=tuple(recipes),
        roles=wanted,
        operations=groups,
        search=search or Search(),
        reference_perplexity=evaluator.reference_perplexity,
        collapse_perplexity=level,
        cells=tuple(_cell(key, parts[key], level) for key in keys),
    )


def _own(
    model: str | Path | ModelEvaluator | OwnModel, formats: Sequence[str], by: By | str, roles: Sequence[str] | None,
    search: Search | None, without: Collection[str], progress: Progress | None, text: Text | str | Path | None,
    windows: int, context: int | None, seed: int,
) -> SensitivityMap:  # fmt: skip
    """Map a user's own model."""
    from macloom.workloads.own_sensitivity import own_sensitivity

    if roles is not None and _roles(roles) != (ALL,):
        raise MacloomError(f"roles: must be {ALL!r} for a model of your own, not {', '.join(roles)}")
    if isinstance(model, str | Path):
        from macloom.workloads.hf.evaluator import ModelEvaluator

        model = ModelEvaluator(model, text, windows=windows, context=context, seed=seed)
    return own_sensitivity(model, formats, by=by, search=search, without=without, progress=progress)


def one_format_recipes(formats: Sequence[str], search: Search) -> dict[str, Recipe]:
    """Return for each format the recipe that has it everywhere, the output head included."""
    if isinstance(formats, str) or not formats:
        raise MacloomError(f"formats: must be a list of at least one format, not {formats!r}")
    loaded = [load_recipe(name) for name in formats]
    recipes = {r.name: replace(r, overrides=(), search=search) for r in loaded}
    if len(recipes) < len(loaded):
        raise MacloomError(f"formats: must be different, not {', '.join(r.name for r in loaded)}")
    return recipes


def _roles(roles: Sequence[str]) -> tuple[str, ...]:
    for role in roles:
        if role not in ROLES:
            raise unknown("roles", role, ROLES)
    if not roles:
        raise MacloomError(f"roles: must be at least one of {', '.join(ROLES)}")
    return tuple(role for role in ROLES if role in roles)


def _roles_of(samples: Sequence[GemmSample], ops: Sequence[str]) -> set[str]:
    return {str(side.role) for s in samples if s.op in ops for side in (s.a, s.b)}


class _Runs:
    """Runs groups on batches of windows; a tape serves all cells of its batch."""

    def __init__(
        self, evaluator: Evaluator, recipes: Mapping[str, Recipe], groups: Mapping[str, Sequence[str]]
    ) -> None:
        self.evaluator, self.recipes, self.groups = evaluator, recipes, groups
        self.plans: dict[str, Plan] = {name: evaluator.plan(recipe) for name, recipe in recipes.items()}
        self.weights: dict[str, dict[str, Encoded]] = {name: {} for name in recipes}
        self.batches = list(range(0, evaluator.windows, evaluator.batch))

    def tapes(self) -> Iterator[tuple[int, Tape]]:
        """Yield the first window of each batch and what the unquantized model gives on it."""
        for begin in self.batches:
            tape = Tape()
            vector = TapedVector(tape)
            self.evaluator.logits(TapedArithmetic(tape, vector), tokens=self._tokens(begin), vector=vector)
            yield begin, tape

    def _tokens(self, begin: int) -> torch.Tensor:
        return self.evaluator.tokens[begin : begin + self.evaluator.batch]

    def run(self, begin: int, tape: Tape, group: str, role: str, fmt: str) -> tuple[WindowScores, float, float]:
        """Return the scores of the windows of a batch, and signal and noise of the group's products."""
        playback = Playback(tape)
        vector = TapedVector(playback)
        arithmetic = PartlyQuantized(
            playback,
            vector,
            self.recipes[fmt],
            self.plans[fmt],
            frozenset(self.groups[group]),
            None if role == ALL else Role(role),
            self.weights[fmt],
        )
        tokens = self._tokens(begin)
        logits = self.evaluator.logits(arithmetic, tokens=tokens, vector=vector)
        scores = F.log_softmax(logits, -1)
        found = window_scores(self.evaluator.reference[begin : begin + len(tokens)], scores, tokens[:, 1:])
        return found, arithmetic.signal, arithmetic.noise


def _cell(
    key: tuple[str, str, str], parts: Sequence[tuple[WindowScores, float, float]], level: float
) -> SensitivityCell:
    group, role, fmt = key
    sums = np.sum([scores.table().sum(0) for scores, _, _ in parts], axis=0)
    tokens, reference, nats, kl, agreed = (float(x) for x in sums)
    finite = math.isfinite(nats) and math.isfinite(kl)
    perplexity = perplexity_of(nats / tokens) if finite else math.inf
    return SensitivityCell(
        group=group,
        role=role,
        format=fmt,
        perplexity=perplexity,
        loss_nats=(nats - reference) / tokens if finite else math.inf,
        kl_nats=kl / tokens if finite else math.inf,
        top1_agreement=agreed / tokens if finite else math.nan,
        sqnr_db=sqnr_db(sum(signal for _, signal, _ in parts), sum(noise for _, _, noise in parts)),
        collapsed=has_collapsed(perplexity, level),
    )
