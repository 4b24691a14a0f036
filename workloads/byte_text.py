"""A model of bytes in memory in one arithmetic, from texts to logits; every call computes the whole text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from macloom.formats import Encoded
from macloom.workloads.lm.model import FLOAT, Arithmetic
from macloom.workloads.quantized import QuantizedArithmetic
from macloom.workloads.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from macloom.workloads.evaluator import Evaluator


class ByteTextModel:
    """A `TextModel` of bytes; see there. A recipe of None runs unquantized."""

    def __init__(self, evaluator: Evaluator, recipe: Recipe | str | Path | None) -> None:
        self._evaluator = evaluator
        self.name, self.sha256, self.context = evaluator.model.name, evaluator.model.sha256, evaluator.context
        self.positions: int | None = evaluator.model.config.max_position_embeddings
        self._arithmetic: Arithmetic = FLOAT
        if recipe is not None:
            weights: dict[str, Encoded] = {}
            resolved = load_recipe(recipe)
            self._arithmetic = QuantizedArithmetic(resolved, evaluator.plan(resolved), weights=weights)

    @property
    def start(self) -> int | None:
        return 0  # the byte that stands between the documents of the training text

    @property
    def end(self) -> int | None:
        return None

    def encode(self, text: str, special: bool = True) -> Tensor:
        return self._evaluator.encode(text)

    def decode(self, tokens: Tensor, special: bool = True) -> str:
        return self._evaluator.decode(tokens)

    def logits(self, tokens: Tensor) -> Tensor:
        # The last column of what the evaluator takes is predicted only; nobody asks for it here.
        return self._evaluator.logits(self._arithmetic, tokens=F.pad(tokens, (0, 1)))

    def reading(self) -> Callable[[Tensor], Tensor]:
        text = torch.zeros(0, dtype=torch.int64)

        def read(tokens: Tensor) -> Tensor:
            nonlocal text
            text = torch.cat([text, tokens])
            return self.logits(text[None])[0, -1]

        return read
