"""Recipes in EleutherAI's lm-evaluation-harness: tasks of `lm_eval` on a model in a recipe's arithmetic.

`Scorer` does what the harness asks of a model and needs nothing of it; `lm_eval_model` wraps one as the harness's `LM`.
The harness is no dependency of macloom: `pip install lm_eval` (written against 0.4.13).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from macloom.errors import MacloomError, require_positive_integer
from macloom.formats import Encoded
from macloom.workloads.evaluator import Evaluator
from macloom.workloads.lm.model import FLOAT, Arithmetic
from macloom.workloads.quantized import QuantizedArithmetic
from macloom.workloads.recipe import Recipe, load_recipe

START = 0  # the byte that stands before a text without context, as between the documents of the training text
MOST_TOKENS = 256  # to write where a task does not say, as the harness's own models have it


class Scorer:
    """Log-probabilities and continuations of texts under a recipe; None is the unquantized model.

    Texts longer than the evaluator's context are cut at the left, as the harness's models do.
    """

    def __init__(self, evaluator: Evaluator, recipe: Recipe | str | Path | None) -> None:
        self.evaluator = evaluator
        self.recipe = None if recipe is None else load_recipe(recipe)
        self._arithmetic: Arithmetic = FLOAT
        if self.recipe is not None:
            weights: dict[str, Encoded] = {}
            self._arithmetic = QuantizedArithmetic(self.recipe, evaluator.plan(self.recipe), weights=weights)

    @property
    def name(self) -> str:
        return f"{self.evaluator.model.name} in {self.recipe.name if self.recipe else 'float'}"

    def continuation(self, context: str, text: str) -> tuple[float, bool]:
        """Return the log-probability of `text` after `context`, in nats, and whether it is the most probable one."""
        before, after = self._tokens(context), self.evaluator.encode(text)
        if not len(after):
            return 0.0, True
        return self._scored(torch.cat([before if len(before) else _start(), after]), len(after))

    def whole(self, text: str) -> float:
        """Return the log-probability of a whole text, in windows of the context that do not overlap."""
        tokens = torch.cat([_start(), self._tokens(text)])
        size, total = self.evaluator.context, 0.0
        for begin in range(0, len(tokens) - 1, size):
            window = tokens[begin : begin + size + 1]
            total += self._scored(window, len(window) - 1)[0]
        return total

    def write(self, context: str, stops: Sequence[str], most: int) -> str:
        """Return the most probable text after `context`, up to the first of `stops` or `most` tokens."""
        require_positive_integer("tokens", most)
        begun = self._tokens(context)
        begun = begun if len(begun) else _start()
        written = begun[:0]
        for _ in range(most):
            text = torch.cat([begun, written])[-self.evaluator.context :]
            written = torch.cat([written, self._logits(text)[-1:].argmax(-1)])
            found = self.evaluator.decode(written)
            places = [found.index(stop) for stop in stops if stop and stop in found]
            if places:
                return found[: min(places)]
        return self.evaluator.decode(written)

    def _tokens(self, text: str) -> Tensor:
        return self.evaluator.encode(text) if text else torch.zeros(0, dtype=torch.int64)

    def _scored(self, tokens: Tensor, last: int) -> tuple[float, bool]:
        """Return the log-probability of the last tokens given those before, and whether each is the most probable."""
        tokens = tokens[-(self.evaluator.context + 1) :]
        last = min(last, len(tokens) - 1)
        scores = F.log_softmax(self._logits(tokens[:-1])[-last:], -1)
        expected = tokens[-last:]
        chosen = scores.gather(-1, expected[:, None]).double().sum()
        return float(chosen), bool((scores.argmax(-1) == expected).all())

    def _logits(self, tokens: Tensor) -> Tensor:
        return self.evaluator.logits(self._arithmetic, tokens=F.pad(tokens, (0, 1))[None])[0]


def _start() -> Tensor:
    return torch.tensor([START])


def lm_eval_model(evaluator: Evaluator, recipe: Recipe | str | Path | None) -> Any:
    """Return a model in a recipe as the `LM` of lm-evaluation-harness, for `lm_eval.simple_evaluate(model=...)`.

    Raises:
        MacloomError: the package `lm_eval` is not installed.
    """
    LM = _harness("lm_eval.api.model").LM
    scorer = Scorer(evaluator, recipe)

    class MacloomLM(LM):
        """A macloom model; every request is one forward pass (or one per token written)."""

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            return [scorer.continuation(*request.args) for request in requests]

        def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
            return [scorer.whole(request.args[0]) for request in requests]

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            return [_until(scorer.write, *request.args) for request in requests]

    return MacloomLM()


def _until(write: Callable[[str, Sequence[str], int], str], context: str, settings: Mapping[str, Any]) -> str:
    if settings.get("do_sample") or settings.get("temperature", 0):
        raise MacloomError("lm-eval: must take the most probable token (do_sample false, temperature 0)")
    stops = settings.get("until") or []
    most = settings.get("max_gen_toks", settings.get("max_length", MOST_TOKENS))
    return write(context, [stops] if isinstance(stops, str) else list(stops), int(most))


def run_tasks(
    evaluator: Evaluator,
    recipe: Recipe | str | Path | None,
    tasks: Sequence[str],
    *,
    include: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Run tasks of lm-evaluation-harness and return their metrics by task, as the harness names them.

    Args:
        include: a directory of the user's own tasks (YAML), which need no download.
        limit: the most documents of a task.

    Raises:
        MacloomError: the package `lm_eval` is not installed, or a task is not known to it.
    """
    if not tasks:
        raise MacloomError("lm-eval: must have at least one task to run")
    harness = _harness("lm_eval")
    manager = _harness("lm_eval.tasks").TaskManager(include_path=None if include is None else str(include))
    for task in tasks:
        if not manager.match_tasks([task]):
            raise MacloomError(f"lm-eval: must know the task {task!r}; give the directory of its YAML, or another name")
    found = harness.simple_evaluate(
        model=lm_eval_model(evaluator, recipe), tasks=list(tasks), task_manager=manager, limit=limit,
        bootstrap_iters=0, random_seed=seed, numpy_random_seed=seed, torch_random_seed=seed, fewshot_random_seed=seed,
    )  # fmt: skip
    return {task: dict(metrics) for task, metrics in found["results"].items()}


def _harness(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise MacloomError(
            f"lm-eval: needs the package lm_eval ({error.name or error} is missing); pip install lm_eval"
        ) from None
