"""Measure recipes on language models, and keep what they did as the records of a result."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from macloom.errors import MacloomError
from macloom.explore.pictures import Quantizer, value_picture
from macloom.explore.records import AccuracyCell, FormatInfo, ModelInfo, TextInfo, ValuePicture
from macloom.explore.result import finite
from macloom.workloads import Evaluator, Recipe

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from macloom.workloads import Accuracy, LanguageModel

# Called with what is under way, how many steps are done, and how many there are.
Progress = Callable[[str, int, int], None]

# The picture of values shows the two operands of this product: the second layer's attention input.
PICTURED_LAYER = 1
PICTURED_OP = "self_attn.q_proj"


@dataclass(frozen=True, kw_only=True)
class TextCut:
    """What accuracy is measured on: a text (None: the held-out standard library) and its windows of bytes."""

    text: str | Path | None = None
    windows: int = 8
    context: int = 256


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The accuracy part of a result."""

    text: TextInfo
    models: tuple[ModelInfo, ...]
    cells: tuple[AccuracyCell, ...]
    pictures: tuple[ValuePicture, ...]


def format_info(recipe: Recipe) -> FormatInfo:
    """Describe the weight format of a recipe."""
    weight = recipe.weight
    return FormatInfo(name=recipe.name, element_bits=weight.element.bits, weight_bits=weight.bits_per_element())


def measure(
    models: Sequence[LanguageModel], recipes: Sequence[Recipe], cut: TextCut, seed: int, step: Callable[[str], None]
) -> Measured:
    """Run every recipe on every model, one thread per model; `step` is called with what comes next.

    Each thread computes alone, so that results do not depend on the number of processors. The
    pictures of values are taken from the last model.
    """
    if not models or not recipes:
        raise MacloomError("demo: must have at least one model and one format")
    results = _in_threads(models, lambda model, stopped: _evaluate(model, recipes, cut, seed, step, stopped))
    first = results[0][0]
    text = TextInfo(name=first.text, sha256=first.text_sha256, windows=first.windows, context=first.context)
    step(f"picture of the values in {models[-1].name}")
    return Measured(
        text=text,
        models=tuple(_model_info(model, found[0]) for model, found in zip(models, results, strict=True)),
        cells=tuple(_cell(accuracy) for found in results for accuracy in found),
        pictures=_pictures(models[-1], results[-1], seed),
    )


def _in_threads(
    models: Sequence[LanguageModel], work: Callable[[LanguageModel, Event], list[Accuracy]]
) -> list[list[Accuracy]]:
    """Call `work` for each model in a thread of its own; the first error, or Ctrl-C, stops the others."""
    import torch

    stopped = Event()
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(
        min(len(models), os.cpu_count() or 1), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        try:
            futures = [pool.submit(work, model, stopped) for model in models]
            for future in as_completed(futures):
                future.result()
            return [future.result() for future in futures]
        finally:
            stopped.set()
            torch.set_num_threads(threads)


def _evaluate(
    model: LanguageModel,
    recipes: Sequence[Recipe],
    cut: TextCut,
    seed: int,
    step: Callable[[str], None],
    stopped: Event,
) -> list[Accuracy]:
    evaluator = Evaluator(model, cut.text, windows=cut.windows, context=cut.context, seed=seed)
    results = []
    for recipe in recipes:
        if stopped.is_set():
            break
        step(f"accuracy of {recipe.name} on {model.name}")
        results.append(evaluator.run(recipe))
    return results


def _model_info(model: LanguageModel, accuracy: Accuracy) -> ModelInfo:
    return ModelInfo(
        name=model.name,
        sha256=model.sha256,
        parameters=sum(t.numel() for t in model.parameters.values()),
        perplexity=accuracy.reference_perplexity,
        zeroed_perplexity=accuracy.blocks_zeroed_perplexity,
    )


def _cell(accuracy: Accuracy) -> AccuracyCell:
    return AccuracyCell(
        format=accuracy.recipe.name,
        model=accuracy.model,
        perplexity=finite(accuracy.perplexity),
        bits_per_byte=finite(accuracy.bits_per_byte),
        kl_nats=finite(accuracy.kl_nats),
        top1=finite(accuracy.top1_agreement),
        collapsed=accuracy.collapsed,
        sqnr_db={op: finite(v) for op, v in accuracy.sqnr_db.items()},
    )


class _Tap:
    """Float arithmetic that keeps both operands of one linear product."""

    def __init__(self, name: str) -> None:
        from macloom.workloads.lm.model import FLOAT

        self._name, self._float = name, FLOAT
        self.operands: tuple[Tensor, Tensor] | None = None

    def linear(self, name: str, x: Tensor, weight: Tensor) -> Tensor:
        if name == self._name:
            self.operands = (x.reshape(-1, x.shape[-1]), weight)
        return self._float.linear(name, x, weight)

    def attention(self, name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self._float.attention(name, q, k, v)


def _operands(model: LanguageModel, op: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return activation (bytes x channels) and weight (outputs x channels) of a product, on training text."""
    import numpy as np
    import torch

    from macloom.workloads.lm.data import stdlib_text
    from macloom.workloads.lm.model import forward

    length = min(256, model.config.max_position_embeddings)
    text = np.frombuffer(stdlib_text("train").data, np.uint8)
    start = np.random.default_rng(seed).integers(0, len(text) - length)
    tokens = torch.from_numpy(text[start : start + length].astype(np.int64))[None]
    tap = _Tap(op)
    with torch.inference_mode():
        forward(model.parameters, model.config, tokens, tap)
    assert tap.operands is not None
    activation, weight = (t.float().numpy() for t in tap.operands)
    return activation, weight


def _pictures(model: LanguageModel, results: Sequence[Accuracy], seed: int) -> tuple[ValuePicture, ...]:
    layer = min(PICTURED_LAYER, model.config.num_hidden_layers - 1)
    op = f"model.layers.{layer}.{PICTURED_OP}"
    activation, weight = _operands(model, op, seed)
    pictures = []
    for operand, x, tensor in (
        ("activation", activation, f"the input of {op}"),
        ("weight", weight, f"the weight of {op}"),
    ):
        quantizers = []
        for result in results:
            plan = next(p for p in result.searches if (p.op, p.operand) == (op, operand))
            quantizers.append(
                Quantizer(label=result.recipe.name, format=plan.format, scale=plan.scale, clip=plan.choice.clip)
            )
        pictures.append(value_picture(x, quantizers, model=model.name, tensor=tensor, role=operand))
    return tuple(pictures)
