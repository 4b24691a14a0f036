"""One group of operations in a recipe, everything else in float: the arithmetic of a sensitivity map's cell."""

from __future__ import annotations

from collections.abc import Collection, Mapping, MutableMapping

import torch
from torch import Tensor

from macloom.formats import Encoded
from macloom.workloads.lm.model import FLOAT_VECTOR, VectorOps
from macloom.workloads.ops import Role
from macloom.workloads.quantized import GemmArithmetic, Operand, QuantizedArithmetic
from macloom.workloads.recipe import Recipe
from macloom.workloads.search import Plan


def multiply(a: Operand, b: Operand, bias: Tensor | None = None) -> Tensor:
    """Return the float product of two operands, plus a bias."""
    out = torch.matmul(a.values, b.values.transpose(-1, -2))
    return out if bias is None else out.add_(bias)


class PartlyQuantized(GemmArithmetic):
    """Float products, except that `ops` run on operands in a recipe's formats.

    With a role, only operands of that role are rounded to the recipe's format and the product is float; without one,
    both are encoded and multiplied in the recipe's arithmetic, output format included. Keys that a cache holds before
    rotation are an operand of the scores of their attention, in the role of the cache.

    Args:
        reference: results of the products of the unquantized model on the same tokens, by operation.
        weights: encoded weights by operation; pass the same one only with the same recipe formats and plan.

    Attributes:
        signal, noise: sums over the products of `ops` of the squared unquantized result and of the squared
            difference from it.
    """

    def __init__(
        self,
        recipe: Recipe,
        plan: Plan,
        *,
        ops: Collection[str],
        role: Role | None,
        weights: MutableMapping[str, Encoded],
        reference: Mapping[str, Tensor],
        vector: VectorOps = FLOAT_VECTOR,
    ) -> None:
        super().__init__(vector=vector)
        self._ops, self._role, self._plan, self._weights, self._reference = ops, role, plan, weights, reference
        self._exact = QuantizedArithmetic(recipe, plan, vector=vector, weights=weights)
        self._rounded_keys: set[str] = set()
        self.signal = self.noise = 0.0

    def product(self, op: str, a: Operand, b: Operand, bias: Tensor | None = None) -> Tensor:
        if op not in self._ops:
            return self.unchanged(op, a, b, bias)
        if self._role in (None, a.role, b.role):
            out = self.changed(op, a, b, bias)
        elif op in self._rounded_keys:
            out = multiply(a, b, bias)
        else:
            return self.unchanged(op, a, b, bias)
        self.note(op, out)
        return out

    def unchanged(self, op: str, a: Operand, b: Operand, bias: Tensor | None) -> Tensor:
        """Return the float product of an operation that the recipe does not concern."""
        return multiply(a, b, bias)

    def changed(self, op: str, a: Operand, b: Operand, bias: Tensor | None) -> Tensor:
        """Return the product of an operation in the recipe."""
        if self._role is None:
            return self._exact.product(op, a, b, bias)
        return multiply(self._rounded(op, a), self._rounded(op, b), bias)

    def note(self, op: str, out: Tensor) -> None:
        """Add a result to the signal and the noise."""
        reference = self._reference[op]
        self.signal += float(reference.square().sum())
        self.noise += float((out - reference).square().sum())

    def stored(self, op: str, keys: Tensor) -> Tensor:
        scores = f"{op.rpartition('.')[0]}.scores"
        if scores not in self._ops or self._role not in (None, Role.KV):
            return keys
        self._rounded_keys.add(scores)
        return self._exact.stored(op, keys)

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
