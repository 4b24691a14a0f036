"""What recipes make of a prompt, beside the unquantized model: the text, where it departs, how far each step is off.

Every token is computed from the whole text before it, without a cache, as a prefill of that length. The divergences
are taken on the unquantized model's own continuation, so that they compare at equal text, whatever each recipe wrote.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from macloom import __version__
from macloom.errors import MacloomError, require_positive_integer
from macloom.formats import Encoded
from macloom.workloads.accuracy import has_collapsed
from macloom.workloads.evaluator import Evaluator
from macloom.workloads.lm.checkpoint import LanguageModel, load_model
from macloom.workloads.lm.model import FLOAT, Arithmetic
from macloom.workloads.quantized import QuantizedArithmetic
from macloom.workloads.recipe import Recipe, load_recipe
from macloom.workloads.scoring import perplexity_of
from macloom.workloads.steps import Progress

CONTEXT = 256  # of the windows that scales are calibrated on, where the model has room


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """What one recipe wrote; the unquantized model has no recipe.

    `departs` is the place, in tokens of the continuation, of the first token that differs from the unquantized
    model's; None where all are the same. `kl_nats[i]` is KL(unquantized || recipe) of token i, both after the
    prompt and the unquantized model's first i tokens. `collapsed` says that the recipe predicts that text no
    better than guessing.
    """

    name: str
    recipe: Recipe | None = field(repr=False)
    tokens: tuple[int, ...]
    text: str
    departs: int | None
    kl_nats: tuple[float, ...]
    collapsed: bool

    @property
    def mean_kl_nats(self) -> float:
        return float(np.mean(self.kl_nats))

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "recipe": None if self.recipe is None else self.recipe.to_dict(),
            "text": self.text,
            "tokens": list(self.tokens),
            "departs": self.departs,
            "mean_kl_nats": _finite(self.mean_kl_nats),
            "kl_nats": [_finite(kl) for kl in self.kl_nats],
            "collapsed": self.collapsed,
        }


@dataclass(frozen=True, kw_only=True)
class Generation:
    """Continuations of one prompt, the unquantized model's first; at temperature 0 the most probable token is taken."""

    model: str
    model_sha256: str
    prompt: str
    temperature: float
    seed: int
    continuations: tuple[Continuation, ...]
    version: str = __version__

    @property
    def reference(self) -> Continuation:
        return self.continuations[0]

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON; a number that is not finite becomes None."""
        return {
            "model": {"name": self.model, "sha256": self.model_sha256},
            "prompt": self.prompt,
            "temperature": self.temperature,
            "seed": self.seed,
            "continuations": [c.to_dict() for c in self.continuations],
            "version": self.version,
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def generate(
    model: LanguageModel | str | Path | Evaluator,
    recipes: Sequence[Recipe | str | Path],
    prompt: str,
    tokens: int = 64,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Generation:
    """Let the unquantized model and every recipe continue `prompt`.

    Args:
        model: what `Evaluator` takes, or an `Evaluator`, whose calibration is used.
        recipes: recipes, format strings or TOML files.
        tokens: how many to write.
        temperature: divides the logits before a token is drawn; 0 takes the most probable.
        seed: draws one number per token, the same for all, so that equal probabilities give equal texts; also
            calibration, where no evaluator is given.
        progress: called as progress(what, steps done, steps in all).

    Raises:
        MacloomError: an empty prompt, one that leaves no room for the tokens, or what `Evaluator` raises.
    """
    require_positive_integer("tokens", tokens)
    if isinstance(temperature, bool) or not isinstance(temperature, int | float) or not 0 <= temperature < math.inf:
        raise MacloomError(f"temperature: must be a number of at least 0, not {temperature!r}")
    resolved = [load_recipe(recipe) for recipe in recipes]
    evaluator = _evaluator(model, seed) if isinstance(model, str | Path | LanguageModel) else model
    begun = evaluator.encode(prompt)
    if not len(begun):
        raise MacloomError("prompt: must hold at least one token, not ''")
    limit = evaluator.model.config.max_position_embeddings
    if len(begun) + tokens > limit:
        raise MacloomError(
            f"prompt: must leave room for {tokens} tokens within the {limit} of the model, not be {len(begun)} long; "
            "shorten it or ask for fewer tokens"
        )
    draws = np.random.default_rng(seed).random(tokens)
    report = progress or (lambda text, done, total: None)
    writer = _Writer(evaluator, begun, temperature, draws)
    report("unquantized", 0, 1 + len(resolved))
    written = writer.write(FLOAT)
    scores = writer.scores(FLOAT, written)
    found = [_continuation(evaluator, "unquantized", None, written, written, scores, scores)]
    for i, recipe in enumerate(resolved, 1):
        report(recipe.name, i, 1 + len(resolved))
        weights: dict[str, Encoded] = {}
        plan = evaluator.plan(recipe)
        arithmetic = QuantizedArithmetic(recipe, plan, weights=weights)
        theirs = writer.write(arithmetic)
        found.append(
            _continuation(evaluator, recipe.name, recipe, theirs, written, scores, writer.scores(arithmetic, written))
        )
    return Generation(
        model=evaluator.model.name,
        model_sha256=evaluator.model.sha256,
        prompt=prompt,
        temperature=float(temperature),
        seed=seed,
        continuations=tuple(found),
    )


def _evaluator(model: LanguageModel | str | Path, seed: int) -> Evaluator:
    loaded = model if isinstance(model, LanguageModel) else load_model(model)
    return Evaluator(loaded, windows=1, context=min(CONTEXT, loaded.config.max_position_embeddings), seed=seed)


class _Writer:
    """Continues one prompt with any arithmetic."""

    def __init__(self, evaluator: Evaluator, prompt: Tensor, temperature: float, draws: np.ndarray) -> None:
        self.evaluator, self.prompt, self.temperature, self.draws = evaluator, prompt, temperature, draws

    def write(self, arithmetic: Arithmetic) -> tuple[int, ...]:
        text = self.prompt
        for draw in self.draws:
            text = torch.cat([text, torch.tensor([self._next(self._logits(arithmetic, text)[-1], float(draw))])])
        return tuple(text[len(self.prompt) :].tolist())

    def scores(self, arithmetic: Arithmetic, written: Sequence[int]) -> Tensor:
        """Return the log-probabilities of every token of a continuation, tokens x vocabulary."""
        text = torch.cat([self.prompt, torch.tensor(written)])[:-1]
        return F.log_softmax(self._logits(arithmetic, text)[len(self.prompt) - 1 :], -1)

    def _logits(self, arithmetic: Arithmetic, text: Tensor) -> Tensor:
        # The last column of what `logits` takes is predicted only; nobody asks for it here.
        return self.evaluator.logits(arithmetic, tokens=F.pad(text, (0, 1))[None])[0]

    def _next(self, logits: Tensor, draw: float) -> int:
        if self.temperature == 0 or not bool(torch.isfinite(logits).all()):
            return int(logits.nan_to_num(nan=-math.inf).argmax())
        sums = (logits.double() / self.temperature).softmax(-1).cumsum(-1)
        return min(int(torch.searchsorted(sums, draw * float(sums[-1]), right=True)), len(logits) - 1)


def _continuation(
    evaluator: Evaluator,
    name: str,
    recipe: Recipe | None,
    written: tuple[int, ...],
    expected: tuple[int, ...],
    reference: Tensor,
    scores: Tensor,
) -> Continuation:
    differing = [i for i, (a, b) in enumerate(zip(expected, written, strict=True)) if a != b]
    if bool(torch.isfinite(scores).all()):
        kl = (reference.exp() * (reference - scores)).sum(-1).clamp(min=0).double().tolist()
        nats = -float(scores.gather(-1, torch.tensor(expected)[:, None]).double().mean())
    else:
        kl, nats = [math.inf] * len(expected), math.inf
    return Continuation(
        name=name,
        recipe=recipe,
        tokens=written,
        text=evaluator.decode(torch.tensor(written)),
        departs=differing[0] if differing else None,
        kl_nats=tuple(kl),
        collapsed=has_collapsed(perplexity_of(nats), float(scores.shape[-1])),
    )
