"""Evaluation of a language model under a recipe, beside the unquantized and the blocks-zeroed model.

The text is cut into windows of `context` + 1 bytes, spread evenly and without overlap; each is
predicted from its own first byte on, so every score uses at most `context` bytes of context.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from macloom._noise import sqnr_db
from macloom.errors import MacloomError, require_positive_integer
from macloom.workloads.accuracy import BYTES, Accuracy
from macloom.workloads.lm.checkpoint import LanguageModel, load_model
from macloom.workloads.lm.data import Text, stdlib_text, text_from_file
from macloom.workloads.lm.model import FLOAT, Arithmetic, forward
from macloom.workloads.quantized import QuantizedArithmetic, RecordingArithmetic
from macloom.workloads.recipe import Recipe, load_recipe
from macloom.workloads.search import GemmSample, Memo, Plan, plan_operands

CALIBRATION_WINDOWS = 8


def evaluate(
    model: LanguageModel | str | Path,
    recipe: Recipe | str | Path,
    text: Text | str | Path | None = None,
    *,
    windows: int = 16,
    context: int = 256,
    batch: int = 4,
    seed: int = 0,
) -> Accuracy:
    """Run `model` on `text` in the recipe's arithmetic and compare it with the unquantized model.

    Scales are calibrated on the training half of the standard library, whatever `text` is. Use an
    `Evaluator` for several recipes: it runs the unquantized models once.

    Args:
        model: a model, the name of an embedded one, or a checkpoint directory.
        recipe: a recipe, a format string, or a TOML file.
        text: a text or a file; None: held-out packages of the running Python's standard library.
        windows: how many windows; fewer if the text holds fewer.
        context: bytes per window.
        batch: windows per forward pass; a format that takes one scale of a whole tensor at run time
            (none with `static_scale` does) takes it from the windows of one pass.
        seed: draws the calibration windows and rows.

    Raises:
        MacloomError: unknown model or recipe, missing or too short text, non-finite reference logits.
    """
    evaluator = Evaluator(model, text, windows=windows, context=context, batch=batch, seed=seed)
    return evaluator.run(recipe)


class Evaluator:
    """A model and a text, ready to run any number of recipes; arguments as for `evaluate`."""

    def __init__(
        self,
        model: LanguageModel | str | Path,
        text: Text | str | Path | None = None,
        *,
        windows: int = 16,
        context: int = 256,
        batch: int = 4,
        seed: int = 0,
    ) -> None:
        for name, value in (("windows", windows), ("context", context), ("batch", batch)):
            require_positive_integer(name, value)
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise MacloomError(f"seed: must be a non-negative integer, not {seed!r}")
        self.model = model if isinstance(model, LanguageModel) else load_model(model)
        config = self.model.config
        if config.vocab_size != BYTES:
            raise MacloomError(
                f"model {self.model.name!r}: must have a byte vocabulary, not {config.vocab_size} tokens"
            )
        if context > config.max_position_embeddings:
            raise MacloomError(
                f"context: must be at most {config.max_position_embeddings}, the model's limit, not {context}"
            )
        self.text = load_text(text)
        self._tokens = _cut(self.text, context + 1, windows)
        self.windows, self.context, self.batch, self.seed = len(self._tokens), context, batch, seed
        self.stride = len(self.text.data) // (context + 1) * (context + 1) // self.windows
        self._memo: Memo = {}

    def run(self, recipe: Recipe | str | Path) -> Accuracy:
        """Search scales, run the quantized model, and compare."""
        resolved = load_recipe(recipe)
        reference = self._reference
        plan = self.plan(resolved)
        noise = _NoiseMeter(self._reference_products)
        arithmetic = QuantizedArithmetic(resolved, plan, noise)
        logits = self._forward(arithmetic)
        nonfinite = int((~torch.isfinite(logits)).sum())
        if nonfinite:
            nats, kl, top1 = math.inf, math.inf, math.nan
        else:
            scores = F.log_softmax(logits, -1)
            nats = self._nats(scores)
            # Rounding can make the sum of a model with itself -1e-17.
            kl = max(0.0, float((reference.exp() * (reference - scores)).sum(-1).mean(dtype=torch.float64)))
            top1 = float((reference.argmax(-1) == scores.argmax(-1)).double().mean())
        return Accuracy(
            model=self.model.name,
            model_sha256=self.model.sha256,
            recipe=resolved,
            text=self.text.name,
            text_sha256=self.text.sha256,
            windows=self.windows,
            context=self.context,
            stride=self.stride,
            seed=self.seed,
            calibration_text=self._calibration_text.name,
            calibration_sha256=self._calibration_text.sha256,
            perplexity=_perplexity(nats),
            kl_nats=kl,
            top1_agreement=top1,
            reference_perplexity=self.reference_perplexity,
            blocks_zeroed_perplexity=self.blocks_zeroed_perplexity,
            unigram_perplexity=self.unigram_perplexity,
            nonfinite_logits=nonfinite,
            overflows={op: report.overflows for op, report in arithmetic.reports.items() if report.overflows},
            sqnr_db=noise.sqnr_db(),
            sqnr_windows=min(self.batch, self.windows),
            searches=tuple(p for (_, operand), p in plan.items() if operand != "output"),
        )

    def plan(self, recipe: Recipe) -> Plan:
        """Search the scales of every operand on calibration windows of the training text."""
        return plan_operands(recipe, self._calibration, self._memo)

    @cached_property
    def reference_perplexity(self) -> float:
        """Perplexity of the unquantized model."""
        return _perplexity(self._nats(self._reference))

    @cached_property
    def blocks_zeroed_perplexity(self) -> float:
        """Perplexity with every o_proj and down_proj zero, so that only embedding, norm and head act."""
        zeroed = {
            name: torch.zeros_like(t) if name.endswith((".o_proj.weight", ".down_proj.weight")) else t
            for name, t in self.model.parameters.items()
        }
        logits = self._forward(FLOAT, zeroed)
        return _perplexity(self._nats(F.log_softmax(logits, -1)))

    @cached_property
    def unigram_perplexity(self) -> float:
        """Perplexity of the byte frequencies of the training text, which use no context at all."""
        counts = np.bincount(np.frombuffer(self._calibration_text.data, np.uint8), minlength=BYTES) + 1
        scores = torch.from_numpy(np.log(counts / counts.sum()))
        return _perplexity(self._nats(scores.expand(*self._tokens[:, 1:].shape, BYTES)))

    @cached_property
    def _reference(self) -> Tensor:
        """Log-probabilities of the unquantized model, windows x context x bytes."""
        logits = self._forward(FLOAT)
        bad = int((~torch.isfinite(logits)).sum())
        if bad:
            raise MacloomError(
                f"model {self.model.name!r}: must give finite logits, not {bad} that are NaN or infinite; "
                "the checkpoint may be damaged"
            )
        return F.log_softmax(logits, -1)

    @cached_property
    def _reference_products(self) -> dict[str, Tensor]:
        """Results of every product of the unquantized model, on the first batch."""
        products: dict[str, Tensor] = {}
        recorder = RecordingArithmetic(rng=np.random.default_rng(0), rows=1, windows=1, observe=products.__setitem__)
        self._forward(recorder, tokens=self._tokens[: self.batch])
        return products

    @cached_property
    def _calibration_text(self) -> Text:
        return stdlib_text("train")

    @cached_property
    def _calibration(self) -> list[GemmSample]:
        rng = np.random.default_rng(self.seed)
        flat = np.frombuffer(self._calibration_text.data, np.uint8)
        starts = rng.integers(0, len(flat) - self.context, CALIBRATION_WINDOWS)
        tokens = torch.from_numpy(np.stack([flat[s : s + self.context] for s in starts]).astype(np.int64))
        recorder = RecordingArithmetic(rng=rng)
        with torch.inference_mode():
            forward(self.model.parameters, self.model.config, tokens, recorder)
        return recorder.samples

    def _forward(
        self, arithmetic: Arithmetic, parameters: Mapping[str, Tensor] | None = None, tokens: Tensor | None = None
    ) -> Tensor:
        """Return float32 logits of all windows, a batch at a time."""
        tokens = self._tokens if tokens is None else tokens
        parameters = self.model.parameters if parameters is None else parameters
        with torch.inference_mode():
            parts = [
                forward(parameters, self.model.config, part[:, :-1], arithmetic).float()
                for part in tokens.split(self.batch)
            ]
        return torch.cat(parts)

    def _nats(self, scores: Tensor) -> float:
        """Mean negative log-probability of the text, per byte."""
        chosen = scores.gather(-1, self._tokens[:, 1:, None])
        return -float(chosen.mean(dtype=torch.float64))


class _NoiseMeter:
    """Sums signal and noise of every product on the first batch that passes."""

    def __init__(self, reference: Mapping[str, Tensor]) -> None:
        self._reference = reference
        self._sums: dict[str, tuple[float, float]] = {}

    def __call__(self, op: str, out: Tensor) -> None:
        if op not in self._sums:
            reference = self._reference[op]
            self._sums[op] = float(reference.square().sum()), float((out - reference).square_().sum())

    def sqnr_db(self) -> dict[str, float]:
        return {op: sqnr_db(signal, noise) for op, (signal, noise) in self._sums.items()}


def load_text(source: Text | str | Path | None) -> Text:
    """Return a text from a file, or the held-out half of the standard library for None."""
    if isinstance(source, Text):
        return source
    try:
        return stdlib_text("held-out") if source is None else text_from_file(source)
    except ValueError as error:
        raise MacloomError(str(error)) from None


def _cut(text: Text, length: int, count: int) -> Tensor:
    try:
        windows = text.windows(length, count)
    except ValueError as error:
        raise MacloomError(str(error)) from None
    return torch.from_numpy(windows.astype(np.int64))


def _perplexity(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf  # exp overflows a double at 709.8
