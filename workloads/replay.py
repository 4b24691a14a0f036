"""Run a model again from the operation on where something changes, on the results of an earlier pass.

A pass of the unquantized model keeps what every product and every vector operation gave, in order. A later pass with
some operations quantized takes those results up to the first such operation and computes from there on: what a model
computes before it sees a difference does not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, MutableMapping
from typing import Any

import torch
from torch import Tensor

from macloom.formats import Encoded
from macloom.workloads.lm.model import FLOAT_VECTOR, VectorOps
from macloom.workloads.ops import Role
from macloom.workloads.quantized import GemmArithmetic, Operand, QuantizedArithmetic
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


def multiply(a: Operand, b: Operand, bias: Tensor | None = None) -> Tensor:
    """Return the float product of two operands, plus a bias."""
    out = torch.matmul(a.values, b.values.transpose(-1, -2))
    return out if bias is None else out + bias


class TapedArithmetic(GemmArithmetic):
    """Float products, kept on a tape."""

    def __init__(self, tape: Tape, vector: VectorOps) -> None:
        super().__init__(vector=vector)
        self._tape = tape

    def product(self, op: str, a: Operand, b: Operand, bias: Tensor | None = None) -> Tensor:
        out = self._tape.keep(lambda: multiply(a, b, bias))
        self._tape.products[op] = out
        return out


class PartlyQuantized(GemmArithmetic):
    """Float products, except that `ops` run on operands in a recipe's formats.

    With a role, only operands of that role are rounded to the recipe's format and the product is float; without one,
    both are encoded and multiplied in the recipe's arithmetic, output format included.

    Attributes:
        signal, noise: sums over the products of `ops` of the squared unquantized result and of the squared
            difference from it.
    """

    def __init__(
        self,
        playback: Playback,
        vector: VectorOps,
        recipe: Recipe,
        plan: Plan,
        ops: Collection[str],
        role: Role | None,
        weights: MutableMapping[str, Encoded],
    ) -> None:
        super().__init__(vector=vector)
        self._playback, self._ops, self._role = playback, ops, role
        self._plan, self._weights = plan, weights
        self._exact = QuantizedArithmetic(recipe, plan, vector=vector, weights=weights)
        self.signal = self.noise = 0.0

    def product(self, op: str, a: Operand, b: Operand, bias: Tensor | None = None) -> Tensor:
        if op not in self._ops or self._role not in (None, a.role, b.role):
            return self._playback.keep(lambda: multiply(a, b, bias))
        self._playback.change()
        if self._role is None:
            out = self._exact.product(op, a, b, bias)
        else:
            out = multiply(self._rounded(op, a), self._rounded(op, b), bias)
        reference = self._playback.tape.products[op]
        self.signal += float(reference.square().sum())
        self.noise += float((out - reference).square().sum())
        return out

    def _rounded(self, op: str, operand: Operand) -> Operand:
        if operand.role != self._role:
            return operand
        planned = self._plan[op, operand.name]
        values = operand.values.detach().float().contiguous().numpy()
        if operand.role is not Role.WEIGHT:
            rounded = planned.format.quantize(values, scale=planned.scale, clip=planned.choice.clip)
        else:
            if op not in self._weights:
                self._weights[op] = planned.format.encode(values, scale=planned.scale, clip=planned.choice.clip)
            rounded = self._weights[op].decode()
        return Operand(name=operand.name, role=operand.role, values=torch.from_numpy(rounded))
