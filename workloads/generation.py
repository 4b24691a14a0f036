"""What recipes make of a prompt, beside the unquantized model: the text, where it departs, how far each step is off.

A model of bytes computes every token from the whole text before it, as a prefill of that length; a model of your own
decodes with a KV cache, whose keys and values are rounded to the cache's format where they are read. The divergences
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
from macloom.workloads.accuracy import has_collapsed
from macloom.workloads.lm.checkpoint import LanguageModel
from macloom.workloads.recipe import Recipe, load_recipe
from macloom.workloads.scoring import perplexity_of
from macloom.workloads.steps import Progress, TimeLeft
from macloom.workloads.studied import Studied, TextModel, studied

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
    model: LanguageModel | str | Path | Studied,
    recipes: Sequence[Recipe | str | Path],
    prompt: str,
    tokens: int = 64,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    progress: Progress | None = None,
    **own: Any,
) -> Generation:
    """Let the unquantized model and every recipe continue `prompt`.

    Args:
        model: an embedded model, a directory, or an `Evaluator` or `ModelEvaluator`, whose calibration is used. A model
            of your own is wholly in memory, in float beside each recipe.
        recipes: recipes, format strings or TOML files.
        tokens: how many to write.
        temperature: divides the logits before a token is drawn; 0 takes the most probable.
        seed: draws one number per token, the same for all, so that equal probabilities give equal texts; also
            calibration, where no evaluator is given.
        progress: called as progress(what, steps done, steps in all).
        own: further arguments of `ModelEvaluator` for a model of your own, such as `calibration` or `scales`.

    Raises:
        MacloomError: an empty prompt, one that leaves no room for the tokens, a model that does not write text, or what
            the evaluator raises.
    """
    require_positive_integer("tokens", tokens)
    if isinstance(temperature, bool) or not isinstance(temperature, int | float) or not 0 <= temperature < math.inf:
        raise MacloomError(f"temperature: must be a number of at least 0, not {temperature!r}")
    resolved = [load_recipe(recipe) for recipe in recipes]
    given = studied(model, windows=1, default_context=CONTEXT, with_text=False, seed=seed, **own)
    unquantized = given.in_memory(None)
    begun = unquantized.encode(prompt) if prompt else torch.zeros(0, dtype=torch.int64)
    if not len(begun):
        raise MacloomError("prompt: must hold at least one token, not ''")
    limit = unquantized.positions
    if limit is not None and len(begun) + tokens > limit:
        raise MacloomError(
            f"prompt: must leave room for {tokens} tokens within the {limit} of the model, not be {len(begun)} long; "
            "shorten it or ask for fewer tokens"
        )
    writer = _Writer(begun, temperature, np.random.default_rng(seed).random(tokens))
    steps = TimeLeft(progress, 1 + len(resolved))
    steps.step("unquantized")
    written = writer.write(unquantized)
    scores = writer.scores(unquantized, written)
    found = [_continuation(unquantized, "unquantized", None, written, written, scores, scores)]
    for recipe in resolved:
        steps.step(recipe.name)
        quantized = given.in_memory(recipe)
        theirs = writer.write(quantized)
        found.append(
            _continuation(quantized, recipe.name, recipe, theirs, written, scores, writer.scores(quantized, written))
        )
    return Generation(
        model=unquantized.name,
        model_sha256=unquantized.sha256,
        prompt=prompt,
        temperature=float(temperature),
        seed=seed,
        continuations=tuple(found),
    )


class _Writer:
    """Continues one prompt with any model."""

    def __init__(self, prompt: Tensor, temperature: float, draws: np.ndarray) -> None:
        self.prompt, self.temperature, self.draws = prompt, temperature, draws

    def write(self, model: TextModel) -> tuple[int, ...]:
        read, more, written = model.reading(), self.prompt, list[int]()
        for draw in self.draws:
            written.append(self._next(read(more), float(draw)))
            more = torch.tensor(written[-1:])
        return tuple(written)

    def scores(self, model: TextModel, written: Sequence[int]) -> Tensor:
        """Return the log-probabilities of every token of a continuation, tokens x vocabulary."""
        text = torch.cat([self.prompt, torch.tensor(written)])[:-1]
        return F.log_softmax(model.logits(text[None])[0, len(self.prompt) - 1 :], -1)

    def _next(self, logits: Tensor, draw: float) -> int:
        if self.temperature == 0 or not bool(torch.isfinite(logits).all()):
            return int(logits.nan_to_num(nan=-math.inf).argmax())
        sums = (logits.double() / self.temperature).softmax(-1).cumsum(-1)
        return min(int(torch.searchsorted(sums, draw * float(sums[-1]), right=True)), len(logits) - 1)


def _continuation(
    model: TextModel,
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
        text=model.decode(torch.tensor(written)),
        departs=differing[0] if differing else None,
        kl_nats=tuple(kl),
        collapsed=has_collapsed(perplexity_of(nats), float(scores.shape[-1])),
    )
