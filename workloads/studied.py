"""What a study of accuracy asks of a model: the interface that embedded models and a user's own have in common.

`Evaluator` runs a model of bytes, `ModelEvaluator` any model of transformers from its directory. Sensitivity maps,
mixed precision, calibration studies, continuations and tasks of lm-evaluation-harness are written against `Studied`
and `TextModel`, so that what runs on one runs on the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from macloom.errors import MacloomError
from macloom.workloads.recipe import Recipe
from macloom.workloads.sensitivity_map import MapSums
from macloom.workloads.steps import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from macloom.workloads.bootstrap import WindowScores
    from macloom.workloads.journal import Journal
    from macloom.workloads.lm.data import Text
    from macloom.workloads.sensitivity_map import Key


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is studied: a model, the windows of a text, and what its scales are calibrated on.

    `unit` is what a window holds: `byte`, `token` or `image`.
    """

    model: str
    model_sha256: str
    text: str
    text_sha256: str
    windows: int
    context: int
    seed: int
    calibration_text: str
    calibration_sha256: str
    unit: str


@dataclass(frozen=True, kw_only=True)
class MapRequest:
    """Which cells of a sensitivity map to run.

    Attributes:
        recipes: by name of the format, what a group alone runs in.
        groups: the operations of each group.
        keys: group, role and format of each cell.
    """

    recipes: Mapping[str, Recipe]
    groups: Mapping[str, tuple[str, ...]]
    keys: tuple[Key, ...]


class Outcome(Protocol):
    """What one run says; `Accuracy` and `ModelAccuracy` are such. Perplexities of images are NaN."""

    @property
    def perplexity(self) -> float: ...
    @property
    def reference_perplexity(self) -> float: ...
    @property
    def kl_nats(self) -> float: ...
    @property
    def top1_agreement(self) -> float: ...
    @property
    def collapsed(self) -> bool: ...
    @property
    def by_window(self) -> WindowScores | None: ...


class TextModel(Protocol):
    """A model in memory in one arithmetic, from texts to logits.

    Attributes:
        name, sha256: of the model; `context`: the most tokens it is given at once.
        positions: the longest text it can read, None for any.
    """

    name: str
    sha256: str
    context: int
    positions: int | None

    @property
    def start(self) -> int | None:
        """The token before a text without context; None where there is none."""
        ...

    @property
    def end(self) -> int | None:
        """The token that ends a text; None where there is none."""
        ...

    def encode(self, text: str, special: bool = True) -> Tensor:
        """Return the tokens of a text, int64 (T); `special`: with those that the tokenizer puts around it."""
        ...

    def decode(self, tokens: Tensor, special: bool = True) -> str:
        """Return the text of tokens; `special`: with the special tokens among them."""
        ...

    def logits(self, tokens: Tensor) -> Tensor:
        """Return the logits (B, T, vocabulary) of tokens (B, T)."""
        ...

    def reading(self) -> Callable[[Tensor], Tensor]:
        """Return a function that reads more tokens (T) of one text at each call and returns the last one's logits."""
        ...


class Studied(Protocol):
    """A model and a text, ready to run any number of recipes."""

    @property
    def subject(self) -> Subject: ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """What else decides the results, ready for JSON."""
        ...

    @property
    def operands(self) -> Mapping[str, frozenset[str]]:
        """The roles of the operands of every product, in the order of execution."""
        ...

    def resolved(self, recipe: Recipe | str | Path) -> Recipe:
        """Return a recipe as this model runs it: its exceptions by this model's names."""
        ...

    def run(self, recipe: Recipe | str | Path) -> Outcome: ...

    def recalibrated(
        self, calibration: Text | str | Path | None = None, windows: int | None = None, seed: int | None = None
    ) -> Studied:
        """Return the same model and text with scales from other data; None keeps what there is."""
        ...

    def map_sums(self, request: MapRequest, journal: Journal, progress: Progress | None = None) -> MapSums:
        """Run the cells of a sensitivity map; those that the journal holds are not run again."""
        ...

    def in_memory(self, recipe: Recipe | str | Path | None) -> TextModel:
        """Return the model in a recipe, or unquantized, wholly in memory; nothing else must run meanwhile."""
        ...


BYTES_TAKE = {"text", "batch", "seed", "calibration", "calibration_windows"}
"""What a model of bytes takes besides windows and context."""


def studied(
    model: Any,
    *,
    windows: int,
    context: int | None = None,
    default_context: int | None = None,
    with_text: bool = True,
    **given: Any,
) -> Studied:
    """Return a model and a text to study, from an embedded model's name, a directory, or a model.

    Args:
        model: anything that is `Studied` already is returned as it is.
        context: tokens in a window; None: `default_context`, or the model's limit if that is less.
        default_context: None: 256 for a model of bytes, 2048 for another.
        with_text: whether it is run on a text; without, a model of your own reads none but what it is calibrated on.
        given: further arguments of `Evaluator` or `ModelEvaluator`; those that are None are left out.
    """
    from macloom.workloads.evaluator import CONTEXT, Evaluator
    from macloom.workloads.lm.checkpoint import LanguageModel, is_byte_llama, load_model

    if not isinstance(model, str | Path | LanguageModel):
        return model
    given = {name: value for name, value in given.items() if value is not None}
    if isinstance(model, LanguageModel) or is_byte_llama(model):
        for name in given.keys() - BYTES_TAKE:
            raise MacloomError(
                f"{name}: must be left out for a model of bytes, not {given[name]!r}; it is for your own model"
            )
        loaded = model if isinstance(model, LanguageModel) else load_model(model)
        if context is None:
            context = CONTEXT
            if default_context is not None:
                context = min(default_context, loaded.config.max_position_embeddings)
        return Evaluator(loaded, windows=windows, context=context, **given)
    import numpy as np

    from macloom.workloads.hf.evaluator import ModelEvaluator
    from macloom.workloads.hf.text import DEFAULT_CONTEXT
    from macloom.workloads.lm.data import stdlib_text

    if not with_text:
        given |= {"text": np.zeros(1 + max(context or 0, default_context or DEFAULT_CONTEXT), np.int64)}
        given.setdefault("calibration", stdlib_text("train"))
    if default_context is not None:
        given["default_context"] = default_context
    return ModelEvaluator(model, windows=windows, context=context, **given)
