"""A model wholly in memory under one recipe: prefill, decode with a KV cache, greedy generation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from macloom.errors import MacloomError, require_positive_integer
from macloom.workloads.hf.calibration import Calibration, Scales, plan_part
from macloom.workloads.hf.evaluator import ModelEvaluator
from macloom.workloads.hf.interfaces import Route
from macloom.workloads.hf.keys import plan_stored
from macloom.workloads.hf.lean import FloatProducts
from macloom.workloads.hf.products import Watch
from macloom.workloads.hf.skeleton import Kind
from macloom.workloads.quantized import GemmArithmetic, QuantizedArithmetic
from macloom.workloads.recipe import Recipe
from macloom.workloads.search import check_accumulators


class ResidentModel:
    """A causal model whose weights stay in memory, encoded in the recipe's formats; a `TextModel`.

    Args:
        evaluator: gives the model, the calibration windows and their settings; it must not run meanwhile.
        recipe: a recipe, a format string, a TOML file; None runs in float32.
    """

    def __init__(self, evaluator: ModelEvaluator, recipe: Recipe | str | Path | None) -> None:
        skeleton = evaluator.skeleton
        if skeleton.kind is not Kind.CAUSAL:
            raise MacloomError(f"model {skeleton.name!r}: must be a {Kind.CAUSAL}, not a {skeleton.kind}")
        self._reader, self._model = evaluator.reader, skeleton.model
        self.name, self.sha256 = skeleton.name, evaluator.checkpoint.sha256
        self.context, self.positions = evaluator.text.length, skeleton.positions
        if any(p.is_meta for p in self._model.parameters()):
            evaluator.weights.fill(self._model, "")
        self._route = Route(FloatProducts(), evaluator.rope)
        self._watch = Watch(self._model)
        self._arithmetic: GemmArithmetic = self._route.arithmetic
        if recipe is not None:
            self._arithmetic = self._calibrated(evaluator, evaluator.resolved(recipe))

    def _calibrated(self, evaluator: ModelEvaluator, recipe: Recipe) -> QuantizedArithmetic:
        tokens = evaluator.calibration_inputs["input_ids"]
        parts = tokens.split(evaluator.batch)
        calibration = Calibration(len(parts), np.random.default_rng(evaluator.seed))
        for part in parts:
            self._arithmetic = calibration.recorder()
            self._run(part)
        samples = calibration.samples
        check_accumulators(recipe, samples)
        plan = plan_part(recipe, samples, evaluator.scales)
        plan |= plan_stored(recipe, self._route.stored, evaluator.scales is Scales.DYNAMIC)
        self._route.stored.clear()
        return QuantizedArithmetic(recipe, plan)

    @property
    def start(self) -> int | None:
        """The tokenizer's token for the beginning of a text, or else for the end of one."""
        begin = self._reader.tokenizer.bos_token_id
        return self.end if begin is None else int(begin)

    @property
    def end(self) -> int | None:
        end = self._reader.tokenizer.eos_token_id
        return None if end is None else int(end)

    def encode(self, text: str, special: bool = True) -> Tensor:
        return torch.from_numpy(self._reader.encode(text, special)[0])

    def decode(self, tokens: Tensor, special: bool = True) -> str:
        return self._reader.tokenizer.decode(tokens.tolist(), skip_special_tokens=not special)

    def logits(self, tokens: Tensor, cache: Any = None) -> Tensor:
        """Return the logits (B, T, vocabulary) of tokens (B, T).

        Args:
            cache: from `new_cache`; holds the keys and values of earlier tokens, and of these afterwards.
        """
        return self._run(tokens, cache)

    def _run(self, tokens: Tensor, cache: Any = None) -> Tensor:
        self._route.arithmetic = self._arithmetic
        with self._watch.running(self._route):
            out = self._model(input_ids=tokens, past_key_values=cache, use_cache=cache is not None)
        return out.logits.float()

    def new_cache(self) -> Any:
        """Return an empty KV cache of transformers; windows of the model's attention included."""
        from transformers import DynamicCache

        return DynamicCache(config=self._model.config)

    def reading(self) -> Callable[[Tensor], Tensor]:
        """Return a function that reads more tokens (T) of one text at each call, with a KV cache."""
        cache = self.new_cache()
        return lambda tokens: self._run(tokens[None], cache)[0, -1]

    def generate(self, tokens: Tensor, count: int) -> Tensor:
        """Return the `count` tokens, (B, count), that follow `tokens` (B, T), the most probable one each time."""
        require_positive_integer("tokens", count)
        cache, found = self.new_cache(), []
        step = tokens
        for _ in range(count):
            step = self._run(step, cache)[:, -1:].argmax(-1)
            found.append(step)
        return torch.cat(found, 1)


def generate(
    directory: str | Path, recipe: Recipe | str | Path | None, prompt: str, tokens: int, **options: Any
) -> str:
    """Return what a local model writes after `prompt` in the recipe's arithmetic, greedily.

    The whole model must fit in memory.

    Args:
        recipe: None runs in float32.
        tokens: how many to write.
        options: `calibration`, `calibration_windows`, `context`, `scales`, `rope`, `seed` of `ModelEvaluator`.

    Raises:
        MacloomError: as `ModelEvaluator`, or a prompt and tokens that exceed the model's positions.
    """
    evaluator = ModelEvaluator(directory, **{"windows": 1, "calibration_windows": 2, "default_context": 256, **options})
    ids = torch.from_numpy(evaluator.reader.encode(prompt)[0])[None]
    limit = evaluator.skeleton.positions
    if limit is not None and ids.shape[1] + tokens > limit:
        raise MacloomError(
            f"tokens: must be at most {limit - ids.shape[1]}, what the prompt leaves of {limit}, not {tokens}"
        )
    if not ids.shape[1]:
        raise MacloomError("prompt: must be at least one token, not empty")
    return evaluator.reader.tokenizer.decode(ResidentModel(evaluator, recipe).generate(ids, tokens)[0])
