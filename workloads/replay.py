"""Run a model again from the operation on where something changes, on the results of an earlier pass.

A pass of the unquantized model keeps what every product and every vector operation gave, in order. A later pass with
some operations quantized takes those results up to the first such operation and computes from there on: what a model
computes before it sees a difference does not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from macloom.workloads.lm.model import FLOAT_VECTOR, VectorOps
from macloom.workloads.partly import PartlyQuantized, multiply
from macloom.workloads.quantized import GemmArithmetic, Operand
from macloom.workloads.recipe import Recipe
from macloom.workloads.search import Plan


class Tape:
    """Results of one pass over one batch, in order; `products` has those of the products by name."""

    def __init__(self) -> None:
        self.results: list[Tensor] = []
        self.products: dict[str, Tensor] = {}

    def keep(self, compute: Callable[[], Tensor]) -> Tensor:
        """Compute the next result and keep it."""
        self.results.append(compute())
        return self.results[-1]


class Playback:
    """A later pass: gives the results of a tape up to the first change, then computes."""

    def __init__(self, tape: Tape) -> None:
        self.tape, self.live, self.position = tape, False, 0

    def change(self) -> None:
        """Say that the next result is another than on the tape."""
        self.live = True

    def keep(self, compute: Callable[[], Tensor]) -> Tensor:
        """Return the next result, computed only from the first change on."""
        if self.live:
            return compute()
        self.position += 1
        return self.tape.results[self.position - 1]


class TapedVector:
    """`VectorOps` whose results a tape or a playback keeps."""

    def __init__(self, tape: Tape | Playback, vector: VectorOps = FLOAT_VECTOR) -> None:
        self._tape, self._vector = tape, vector

    def positions(self, length: int, head_dim: int, theta: float, like: Tensor) -> Any:
        return self._vector.positions(length, head_dim, theta, like)

    def embed(self, name: str, x: Tensor) -> Tensor:
        return self._tape.keep(lambda: self._vector.embed(name, x))

    def norm(self, name: str, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return self._tape.keep(lambda: self._vector.norm(name, x, weight, eps))

    def rotate(self, name: str, x: Tensor, positions: Any) -> Tensor:
        return self._tape.keep(lambda: self._vector.rotate(name, x, positions))

    def softmax(self, name: str, scores: Tensor, scale: float) -> Tensor:
        return self._tape.keep(lambda: self._vector.softmax(name, scores, scale))

    def gated(self, name: str, gate: Tensor, up: Tensor) -> Tensor:
        return self._tape.keep(lambda: self._vector.gated(name, gate, up))

    def add(self, name: str, x: Tensor, y: Tensor) -> Tensor:
        return self._tape.keep(lambda: self._vector.add(name, x, y))


class TapedArithmetic(GemmArithmetic):
    """Float products, kept on a tape."""

    def __init__(self, tape: Tape, vector: VectorOps) -> None:
        super().__init__(vector=vector)
        self._tape = tape

    def product(self, op: str, a: Operand, b: Operand, bias: Tensor | None = None) -> Tensor:
        out = self._tape.keep(lambda: multiply(a, b, bias))
        self._tape.products[op] = out
        return out


class PlayedBack(PartlyQuantized):
    """One group of operations quantized, everything before it from a tape."""

    def __init__(self, playback: Playback, recipe: Recipe, plan: Plan, **given: Any) -> None:
        super().__init__(recipe, plan, reference=playback.tape.products, **given)
        self._playback = playback

    def unchanged(self, op: str, a: Operand, b: Operand, bias: Tensor | None) -> Tensor:
        return self._playback.keep(lambda: multiply(a, b, bias))

    def changed(self, op: str, a: Operand, b: Operand, bias: Tensor | None) -> Tensor:
        self._playback.change()
        return super().changed(op, a, b, bias)
