"""Evaluation of a language model under a recipe, beside the unquantized and the blocks-zeroed model.

The text is cut into windows of `context` + 1 bytes, spread evenly and without overlap; each is
predicted from its own first byte on, so every score uses at most `context` bytes of context.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, MutableMapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from macloom.errors import MacloomError, require_positive_integer
from macloom.formats import Encoded
from macloom.workloads.accuracy import BYTES, Accuracy, VectorCost
from macloom.workloads.byte_text import ByteTextModel
from macloom.workloads.exact_vector import ExactVector, RangeVector, vector_unit
from macloom.workloads.journal import Journal
from macloom.workloads.lm.checkpoint import LanguageModel, is_byte_llama, load_model
from macloom.workloads.lm.data import Text, load_text, stdlib_text
from macloom.workloads.lm.model import FLOAT, FLOAT_VECTOR, Arithmetic, VectorOps, forward
from macloom.workloads.quantized import ExactRecording, Observer, QuantizedArithmetic, RecordingArithmetic
from macloom.workloads.recipe import Recipe, load_recipe
from macloom.workloads.scoring import NoiseMeter, digest, divergence, mean, perplexity_of, window_scores
from macloom.workloads.search import GemmSample, Memo, Plan, check_accumulators, plan_operands
from macloom.workloads.sensitivity_map import MapSums
from macloom.workloads.steps import Progress, Steps
from macloom.workloads.studied import MapRequest, Subject, TextModel

if TYPE_CHECKING:
    from macloom.workloads.hf.result import ModelAccuracy

CALIBRATION_WINDOWS = 8
CONTEXT, BATCH = 256, 4


def evaluate(
    model: LanguageModel | str | Path,
    recipe: Recipe | str | Path,
    text: Text | str | Path | np.ndarray | None = None,
    *,
    accumulator: str | None = None,
    vector: str = "float",
    windows: int = 16,
    context: int | None = None,
    batch: int | None = None,
    seed: int = 0,
    calibration: Text | str | Path | np.ndarray | None = None,
    calibration_windows: int = CALIBRATION_WINDOWS,
    progress: Progress | None = None,
    **own: Any,
) -> Accuracy | ModelAccuracy:
    """Run `model` on `text` in the recipe's arithmetic and compare it with the unquantized model.

    A directory that holds anything but a Llama of bytes is run by `macloom.workloads.hf.evaluator.ModelEvaluator`,
    block by block, and gives a `ModelAccuracy`, per token. Use an `Evaluator` for several recipes on an embedded
    model: it runs the unquantized models once.

    Args:
        model: a model, the name of an embedded one, or a local directory in Hugging Face's layout.
        recipe: a recipe, a format string, or a TOML file.
        text: a text or a file; None: held-out packages of the running Python's standard library. Token ids, an
            integer array, for a model of your own.
        accumulator: a name for `macloom.formats.get_accumulator` in place of the recipe's own.
        vector: `float` runs norms, rope, softmax, activations and residuals in torch's float32; `exact` or
            `exact:<unit>` runs them on a vector unit, with every bit of the model defined, and measures
            what that costs against float.
        windows: how many windows; fewer if the text holds fewer.
        context: bytes per window (256); tokens for a model of your own (2048, or its limit).
        batch: windows per forward pass (4; 1 for a model of your own); a format that takes one scale of a whole
            tensor at run time (none with `static_scale` does) takes it from the windows of one pass.
        seed: draws the calibration windows and rows.
        calibration: what scales are calibrated on, as `text`; None: the training half of the standard library.
        calibration_windows: how many windows of it.
        progress: called as progress(what, steps done, steps in all).
        own: for a model of your own: `images`, `stride`, `scales`, `rope`, `edge_layers`, `edge_format`,
            `activations` and `state`, see `ModelEvaluator`.

    Raises:
        MacloomError: unknown model, recipe, accumulator or vector unit, an accumulator that cannot take the
            recipe's formats, missing or too short text, non-finite reference logits.
    """
    resolved = load_recipe(recipe).with_accumulator(accumulator)
    unit = vector_unit(vector)
    if isinstance(model, LanguageModel) or is_byte_llama(model):
        for name, value in own.items():
            raise MacloomError(
                f"{name}: must be left out for a model of bytes, not {value!r}; it is for your own model"
            )
        if isinstance(text, np.ndarray) or isinstance(calibration, np.ndarray):
            raise MacloomError("text: must be a text or a file for a model of bytes, not an array")
        evaluator = Evaluator(
            model, text, windows=windows, context=CONTEXT if context is None else context,
            batch=BATCH if batch is None else batch, seed=seed, calibration=calibration,
            calibration_windows=calibration_windows, progress=progress,
        )  # fmt: skip
        return evaluator.run(resolved, vector=vector)
    if unit is not None:
        raise MacloomError(f"vector: must be 'float' for a model of your own, not {vector!r}")
    from macloom.workloads.hf.evaluator import ModelEvaluator

    given: dict[str, Any] = {} if batch is None else {"batch": batch}
    return ModelEvaluator(
        model, text, windows=windows, context=context, seed=seed, calibration=calibration,
        calibration_windows=calibration_windows, progress=progress, **given, **own,
    ).run(resolved)  # fmt: skip


class Evaluator:
    """A model of bytes and a text (`Studied`), ready to run any number of recipes; arguments as for `evaluate`.

    Args:
        calibration: a text or a file that scales are calibrated on; None: the training half of the standard library.
        calibration_windows: how many windows of it, drawn at random.

    Attributes:
        tokens: windows x (context + 1); the last column is only predicted.
    """

    def __init__(
        self,
        model: LanguageModel | str | Path,
        text: Text | str | Path | None = None,
        *,
        windows: int = 16,
        context: int = 256,
        batch: int = 4,
        seed: int = 0,
        calibration: Text | str | Path | None = None,
        calibration_windows: int = CALIBRATION_WINDOWS,
        progress: Progress | None = None,
    ) -> None:
        for name, value in (("windows", windows), ("context", context), ("batch", batch)):
            require_positive_integer(name, value)
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
        self.tokens = torch.from_numpy(self.text.windows(context + 1, windows).astype(np.int64))
        self.windows, self.context, self.batch = len(self.tokens), context, batch
        self.stride = len(self.text.data) // (context + 1) * (context + 1) // self.windows
        self._steps = Steps(progress)
        self._calibrate_on(calibration, calibration_windows, seed)

    def _calibrate_on(self, source: Text | str | Path | None, windows: int, seed: int) -> None:
        require_positive_integer("calibration_windows", windows)
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise MacloomError(f"seed: must be a non-negative integer, not {seed!r}")
        self.calibration_text = self._training_text if source is None else load_text(source)
        if len(self.calibration_text.data) <= self.context:
            raise MacloomError(
                f"calibration text {self.calibration_text.name!r}: must hold more than one context of {self.context} "
                f"bytes, not {len(self.calibration_text.data)}; give a longer text or a shorter context"
            )
        self.calibration_windows, self.seed = windows, seed
        self._memos: dict[bool, Memo] = {False: {}, True: {}}

    def recalibrated(
        self, calibration: Text | str | Path | None = None, windows: int | None = None, seed: int | None = None
    ) -> Evaluator:
        """Return an evaluator of the same model and text that calibrates on other data.

        What the unquantized model gave is shared. None keeps the text, the number of windows or the seed.
        """
        for name in ("reference", "blocks_zeroed_perplexity", "_reference_products"):
            getattr(self, name)  # computed once, then shared
        other = copy.copy(self)
        for name in ("_calibration", "_exact"):
            other.__dict__.pop(name, None)
        other._calibrate_on(
            self.calibration_text if calibration is None else calibration,
            self.calibration_windows if windows is None else windows,
            self.seed if seed is None else seed,
        )
        return other

    @property
    def subject(self) -> Subject:
        return Subject(
            model=self.model.name, model_sha256=self.model.sha256, text=self.text.name, text_sha256=self.text.sha256,
            windows=self.windows, context=self.context, seed=self.seed, calibration_text=self.calibration_text.name,
            calibration_sha256=self.calibration_text.sha256, unit="byte",
        )  # fmt: skip

    @property
    def settings(self) -> dict[str, Any]:
        return {"batch": self.batch, "calibration_windows": self.calibration_windows}

    @property
    def operands(self) -> dict[str, frozenset[str]]:
        return {s.op: frozenset(str(side.role) for side in (s.a, s.b)) for s in self.samples()}

    def resolved(self, recipe: Recipe | str | Path) -> Recipe:
        return load_recipe(recipe)

    def map_sums(self, request: MapRequest, journal: Journal, progress: Progress | None = None) -> MapSums:
        from macloom.workloads.replayed_map import replayed_map

        return replayed_map(self, request, journal, progress)

    def in_memory(self, recipe: Recipe | str | Path | None) -> TextModel:
        return ByteTextModel(self, recipe)

    def encode(self, text: str) -> Tensor:
        """Return the tokens of a text, int64: its UTF-8 bytes."""
        return torch.tensor(list(text.encode()), dtype=torch.int64)

    def decode(self, tokens: Tensor) -> str:
        """Return the text of tokens; bytes that are not UTF-8 become U+FFFD."""
        return bytes(tokens.tolist()).decode(errors="replace")

    def run(self, recipe: Recipe | str | Path, *, accumulator: str | None = None, vector: str = "float") -> Accuracy:
        """Search scales, run the quantized model, and compare; arguments as for `evaluate`."""
        resolved, unit = load_recipe(recipe).with_accumulator(accumulator), vector_unit(vector)
        passes = -(-self.windows // self.batch)
        phases = {"unquantized": 2 * passes, "calibration": 1, "scale search": 1, "quantized": passes}
        self._steps.begin(phases | ({"float vector operations": passes} if unit else {}))
        self._steps.enter("unquantized")
        reference, _ = self.reference, self.blocks_zeroed_perplexity
        plan = self.plan(resolved, exact=unit is not None)
        self._steps.enter("quantized")
        noise = NoiseMeter(self._reference_products)
        weights: dict[str, Encoded] = {}
        arithmetic, logits = self.quantized_logits(resolved, plan, noise, self.operations(vector), weights)
        nonfinite = int((~torch.isfinite(logits)).sum())
        if nonfinite:
            nats, kl, top1 = math.inf, math.inf, math.nan
            scores = torch.full_like(logits, math.nan)
        else:
            scores = F.log_softmax(logits, -1)
            nats = self.nats(scores)
            kl, top1 = divergence(reference, scores)
        cost = None
        if unit:
            self._steps.enter("float vector operations")
            cost = self._vector_cost(resolved, plan, scores, weights)
        self._steps.end()
        return Accuracy(
            vector=f"exact:{unit.name}" if unit else "float",
            vector_unit=unit.to_dict() if unit else None,
            vector_cost=cost,
            logits_sha256=digest(logits) if unit else None,
            model=self.model.name,
            model_sha256=self.model.sha256,
            recipe=resolved,
            text=self.text.name,
            text_sha256=self.text.sha256,
            windows=self.windows,
            context=self.context,
            stride=self.stride,
            seed=self.seed,
            calibration_text=self.calibration_text.name,
            calibration_sha256=self.calibration_text.sha256,
            perplexity=perplexity_of(nats),
            kl_nats=kl,
            top1_agreement=top1,
            reference_perplexity=self.reference_perplexity,
            blocks_zeroed_perplexity=self.blocks_zeroed_perplexity,
            unigram_perplexity=self.unigram_perplexity,
            nonfinite_logits=nonfinite,
            overflows={op: report.overflows for op, report in arithmetic.reports.items() if report.overflows},
            sqnr_db=noise.sqnr_db(),
            cosine=noise.cosine(),
            by_window=None if nonfinite else window_scores(reference, scores, self.tokens[:, 1:]),
            sqnr_windows=min(self.batch, self.windows),
            searches=tuple(p for (_, operand), p in plan.items() if operand != "output"),
        )

    def plan(self, recipe: Recipe, *, exact: bool = False) -> Plan:
        """Search the scales of every operand on calibration windows of the training text.

        Args:
            exact: calibrate on exact sums of 16-bit integers, not on float products, whose last bits depend
                on threads.
        """
        self._steps.enter("calibration")
        samples = self.samples("exact" if exact else "float")
        check_accumulators(recipe, samples)
        self._steps.enter("scale search")
        return plan_operands(recipe, samples, self._memos[exact])

    def samples(self, vector: str = "float") -> list[GemmSample]:
        """Return the calibration data of every product, for runs with these vector operations."""
        return self._calibration if vector_unit(vector) is None else self._exact[0]

    def operations(self, vector: str) -> VectorOps:
        """Return the vector operations of this name, fixed-point lanes placed for this model."""
        unit = vector_unit(vector)
        return FLOAT_VECTOR if unit is None else ExactVector(unit, self._exact[1])

    def quantized_logits(
        self,
        recipe: Recipe,
        plan: Plan,
        observe: Observer | None = None,
        vector: VectorOps = FLOAT_VECTOR,
        weights: MutableMapping[str, Encoded] | None = None,
    ) -> tuple[QuantizedArithmetic, Tensor]:
        """Return the arithmetic, with its overflow reports, and the logits of all windows."""
        arithmetic = QuantizedArithmetic(recipe, plan, observe, vector, weights)
        return arithmetic, self.logits(arithmetic, vector=vector)

    def _vector_cost(
        self, recipe: Recipe, plan: Plan, scores: Tensor, weights: MutableMapping[str, Encoded]
    ) -> VectorCost:
        logits = self.quantized_logits(recipe, plan, weights=weights)[1]
        if not bool(torch.isfinite(logits).all()):
            return VectorCost(float_perplexity=math.inf, kl_nats=math.inf, top1_agreement=math.nan)
        floating = F.log_softmax(logits, -1)
        kl, top1 = divergence(floating, scores)
        return VectorCost(float_perplexity=perplexity_of(self.nats(floating)), kl_nats=kl, top1_agreement=top1)

    @cached_property
    def reference_perplexity(self) -> float:
        """Perplexity of the unquantized model."""
        return perplexity_of(self.nats(self.reference))

    @cached_property
    def blocks_zeroed_perplexity(self) -> float:
        """Perplexity with every o_proj and down_proj zero, so that only embedding, norm and head act."""
        zeroed = {
            name: torch.zeros_like(t) if name.endswith((".o_proj.weight", ".down_proj.weight")) else t
            for name, t in self.model.parameters.items()
        }
        logits = self._forward(FLOAT, self.tokens, zeroed)
        return perplexity_of(self.nats(F.log_softmax(logits, -1)))

    @cached_property
    def unigram_perplexity(self) -> float:
        """Perplexity of the byte frequencies of the training text, which use no context at all."""
        counts = np.bincount(np.frombuffer(self._training_text.data, np.uint8), minlength=BYTES) + 1
        scores = torch.from_numpy(np.log(counts / counts.sum()))
        return perplexity_of(self.nats(scores.expand(*self.tokens[:, 1:].shape, BYTES)))

    def float_logits(self) -> Tensor:
        """Return the logits of the unquantized model, windows x context x bytes."""
        return self.logits(FLOAT)

    def logits(
        self, arithmetic: Arithmetic, *, tokens: Tensor | None = None, vector: VectorOps = FLOAT_VECTOR
    ) -> Tensor:
        """Return the float32 logits of `tokens`, a batch at a time; None: of all windows of the text.

        Args:
            tokens: (B, T + 1), the last column being predicted only, T at most the model's limit.
        """
        return self._forward(arithmetic, self.tokens if tokens is None else tokens, self.model.parameters, vector)

    @cached_property
    def reference(self) -> Tensor:
        """Log-probabilities of the unquantized model, windows x context x bytes."""
        logits = self.float_logits()
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
        self.logits(recorder, tokens=self.tokens[: self.batch])
        return products

    @cached_property
    def _training_text(self) -> Text:
        return stdlib_text("train")

    @cached_property
    def _calibration(self) -> list[GemmSample]:
        rng, tokens = self._calibration_tokens()
        recorder = RecordingArithmetic(rng=rng)
        with torch.inference_mode():
            forward(self.model.parameters, self.model.config, tokens, recorder)
        return recorder.samples

    @cached_property
    def _exact(self) -> tuple[list[GemmSample], dict[str, float]]:
        """Calibration data and magnitudes of vector operands, the same on any number of threads."""
        rng, tokens = self._calibration_tokens()
        ranges = RangeVector()
        recorder = ExactRecording(rng=rng, vector=ranges)
        with torch.inference_mode():
            forward(self.model.parameters, self.model.config, tokens, recorder, ranges)
        return recorder.samples, ranges.ranges

    def _calibration_tokens(self) -> tuple[np.random.Generator, Tensor]:
        rng = np.random.default_rng(self.seed)
        flat = np.frombuffer(self.calibration_text.data, np.uint8)
        starts = rng.integers(0, len(flat) - self.context, self.calibration_windows)
        return rng, torch.from_numpy(np.stack([flat[s : s + self.context] for s in starts]).astype(np.int64))

    def _forward(
        self,
        arithmetic: Arithmetic,
        tokens: Tensor,
        parameters: Mapping[str, Tensor],
        vector: VectorOps = FLOAT_VECTOR,
    ) -> Tensor:
        parts = []
        with torch.inference_mode():
            for part in tokens.split(self.batch):
                parts.append(forward(parameters, self.model.config, part[:, :-1], arithmetic, vector).float())
                self._steps.step()
        return torch.cat(parts)

    def nats(self, scores: Tensor) -> float:
        """Mean negative log-probability of the text, per byte."""
        chosen = scores.gather(-1, self.tokens[:, 1:, None])
        return -mean(chosen)
