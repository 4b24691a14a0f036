"""Recipes in EleutherAI's lm-evaluation-harness: tasks of `lm_eval` on a model in a recipe's arithmetic.

`Scorer` does what the harness asks of a model and needs nothing of it; `lm_eval_model` wraps one as the harness's `LM`.
Texts become tokens, windows and continuations as in the harness's own `HFLM`, so that an unquantized model gets the
results that it gets there. The harness is no dependency of macloom: `pip install lm_eval` (tried with 0.4.13).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from macloom.errors import MacloomError, require_positive_integer
from macloom.workloads.recipe import Recipe, load_recipe
from macloom.workloads.steps import Progress, TimeLeft
from macloom.workloads.studied import Studied

MOST_TOKENS = 256  # to write where a task does not say, as the harness's own models have it


class Scorer:
    """Log-probabilities and continuations of texts under a recipe; None is the unquantized model.

    Texts longer than the model's context are cut at the left, as the harness's models do.
    """

    def __init__(self, model: Studied, recipe: Recipe | str | Path | None) -> None:
        self.model = model.in_memory(recipe)
        self.recipe = None if recipe is None else load_recipe(recipe)

    @property
    def name(self) -> str:
        return f"{self.model.name} in {self.recipe.name if self.recipe else 'float'}"

    def continuation(self, context: str, text: str) -> tuple[float, bool]:
        """Return the log-probability of `text` after `context`, in nats, and whether it is the most probable one.

        White space at the end of the context counts as the beginning of the text, whose tokens may include it.
        """
        if context:
            kept = context.rstrip()
            context, text = kept, context[len(kept) :] + text
        if context:
            whole, before = self._encode(context + text), self._encode(context)
            after = whole[len(before) :]
        else:
            before, after = self._start(), self.model.encode(text, special=False)
            if len(after) and after[0] == before[0]:
                after = after[1:]
        if not len(after):
            return 0.0, True
        return self._scored(torch.cat([before, after]), len(after))

    def whole(self, text: str) -> float:
        """Return the log-probability of a whole text, in windows of which each predicts what none before did.

        The last one reaches back over the one before it, so that it has as much context.
        """
        tokens = self._encode(text) if text else torch.zeros(0, dtype=torch.int64)
        if not len(tokens):
            return 0.0
        tokens, size = torch.cat([self._start(), tokens]), self.model.context
        return sum(self._scored(tokens[: end + 1], count)[0] for end, count in _windows(len(tokens) - 1, size))

    def write(self, context: str, stops: Sequence[str], most: int) -> str:
        """Return the most probable text after `context`, up to the first of `stops`, the end, or `most` tokens.

        The context is cut at the left so that the tokens have room.
        """
        require_positive_integer("tokens", most)
        begun = self._encode(context) if context else self._start()
        more = begun[-max(1, self.model.context - most) :]
        read, written = self.model.reading(), begun[:0]
        for _ in range(min(most, self.model.context)):
            more = read(more).argmax(-1, keepdim=True)
            if self.model.end is not None and int(more) == self.model.end:
                break
            written = torch.cat([written, more])
            found = self.model.decode(written, special=False)
            places = [found.index(stop) for stop in stops if stop and stop in found]
            if places:
                return found[: min(places)]
        return self.model.decode(written, special=False)

    def _encode(self, text: str) -> Tensor:
        """Return the tokens of a text, with special ones unless it begins with the one that begins texts."""
        start = self.model.start
        begins = None if start is None else self.model.decode(torch.tensor([start]))
        return self.model.encode(text, special=not (begins and text.startswith(begins)))

    def _start(self) -> Tensor:
        if self.model.start is None:
            raise MacloomError(
                f"model {self.model.name!r}: its tokenizer must have a token for the beginning or the end of a text"
            )
        return torch.tensor([self.model.start])

    def _scored(self, tokens: Tensor, last: int) -> tuple[float, bool]:
        """Return the log-probability of the last tokens given those before, and whether each is the most probable."""
        tokens = tokens[-(self.model.context + 1) :]
        last = min(last, len(tokens) - 1)
        scores = F.log_softmax(self.model.logits(tokens[None, :-1])[0, -last:], -1)
        expected = tokens[-last:]
        chosen = scores.gather(-1, expected[:, None]).double().sum()
        return float(chosen), bool((scores.argmax(-1) == expected).all())


def _windows(tokens: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the end of each window of a text and how many tokens it predicts.

    >>> list(_windows(10, 4))
    [(4, 4), (8, 4), (10, 2)]
    """
    for begin in range(0, tokens, size):
        end = min(begin + size, tokens)
        yield end, end - begin


def lm_eval_model(model: Studied, recipe: Recipe | str | Path | None, progress: Progress | None = None) -> Any:
    """Return a model in a recipe as the `LM` of lm-evaluation-harness, for `lm_eval.simple_evaluate(model=...)`.

    Args:
        model: an `Evaluator`, or a `ModelEvaluator` of a causal model, which is then wholly in memory.
        progress: called as progress(what, requests done, requests in all).

    Raises:
        MacloomError: the package `lm_eval` is not installed, or what the model raises.
    """
    LM = _harness("lm_eval.api.model").LM
    scorer = Scorer(model, recipe)

    def answered(what: str, requests: Sequence[Any], answer: Callable[..., Any]) -> list[Any]:
        steps, found = TimeLeft(progress, len(requests)), []
        for request in requests:
            steps.step(f"{scorer.name}: {what}")
            found.append(answer(*request.args))
        return found

    class MacloomLM(LM):
        """A macloom model; every request is one forward pass (or one per token written)."""

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            return answered("continuations", requests, scorer.continuation)

        def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
            return answered("whole texts", requests, scorer.whole)

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            return answered("texts written", requests, lambda *given: _until(scorer.write, *given))

    return MacloomLM()


def _until(write: Callable[[str, Sequence[str], int], str], context: str, settings: Mapping[str, Any]) -> str:
    if settings.get("do_sample") or settings.get("temperature", 0):
        raise MacloomError("lm-eval: must take the most probable token (do_sample false, temperature 0)")
    stops = settings.get("until") or []
    most = settings.get("max_gen_toks", settings.get("max_length", MOST_TOKENS))
    return write(context, [stops] if isinstance(stops, str) else list(stops), int(most))


def run_tasks(
    model: Studied,
    recipe: Recipe | str | Path | None,
    tasks: Sequence[str],
    *,
    include: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run tasks of lm-evaluation-harness and return their metrics by task, as the harness names them.

    Args:
        include: a directory of the user's own tasks (YAML), which need no download.
        limit: the most documents of a task.
        progress: called as progress(what, requests done, requests in all).

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
        model=lm_eval_model(model, recipe, progress), tasks=list(tasks), task_manager=manager, limit=limit,
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
