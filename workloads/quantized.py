"""Quantized execution: every matrix product of a language model on encoded operands.

`GemmArithmetic` splits the forward pass into products with named operands; `RecordingArithmetic`
computes them in float and keeps calibration data; `QuantizedArithmetic` encodes the operands and
computes what the hardware would with `macloom.formats.gemm`. All else (norms, rope, softmax,
activation, residual) belongs to `VectorOps`, of which attention needs the softmax.
"""

from __future__ import annotations

import math
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from macloom.errors import MacloomError
from macloom.formats import Encoded, GemmReport, Grain, Granularity, IntFormat, Scaled, TensorFormat, gemm
from macloom.workloads.lm.model import FLOAT_VECTOR, VectorOps
from macloom.workloads.ops import Role
from macloom.workloads.recipe import Recipe
from macloom.workloads.search import GemmSample, OperandPlan, Plan, Sample

Observer = Callable[[str, Tensor], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Operand:
    """One side of a matrix product: values (..., rows, K), K being the reduction axis."""

    name: str
    role: Role
    values: Tensor


class GemmArithmetic:
    """An `Arithmetic` whose products all go through `product`, under the op names of a workload.

    Attention is two products per head: `scores` of queries and keys, times 1 / sqrt(head width), the
    softmax of `vector` (float32 unless given), then `values` of probabilities and values. Query heads
    that share keys are rows of one product. The reduction axis of `values` is the token axis, so a format
    whose scale spans several elements there mixes tokens of the window, as it does in prefill hardware.
    """

    def __init__(self, observe: Observer | None = None, vector: VectorOps = FLOAT_VECTOR) -> None:
        self._observe, self._vector = observe, vector
        self._rows: tuple[Tensor, Tensor] | None = None

    def product(self, op: str, a: Operand, b: Operand, bias: Tensor | None = None) -> Tensor:
        """Return a (..., M, K) times b (..., N, K) transposed, plus a bias (N,), in float32."""
        raise NotImplementedError

    def linear(self, name: str, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        # The same object for the same x, so that operations in a row see that they share an operand.
        if self._rows is None or self._rows[0] is not x:
            self._rows = (x, x.reshape(-1, x.shape[-1]))
        a = Operand(name="activation", role=Role.ACTIVATION, values=self._rows[1])
        b = Operand(name="weight", role=Role.WEIGHT, values=weight)
        return self.run(name, a, b, bias).view(*x.shape[:-1], -1)

    def attention(self, name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        batch, heads, length, width = q.shape
        query = q.reshape(batch, k.shape[1], -1, width)
        scores = self.run(
            f"{name}.scores",
            Operand(name="query", role=Role.ACTIVATION, values=query),
            Operand(name="key", role=Role.KV, values=k),
        )
        probability = self._vector.softmax(
            f"{name}.softmax", scores.view(batch, heads, length, length), 1 / math.sqrt(width)
        )
        out = self.run(
            f"{name}.values",
            Operand(name="probability", role=Role.PROBABILITY, values=probability.view(scores.shape)),
            Operand(name="value", role=Role.KV, values=v.transpose(-1, -2)),
        )
        return out.view(batch, heads, length, width)

    def stored(self, op: str, keys: Tensor) -> Tensor:
        """Return keys (..., head width) as a cache gives them back that holds them before rotation."""
        return keys

    def run(self, op: str, a: Operand, b: Operand, bias: Tensor | None = None) -> Tensor:
        """Return the product, shown to the observer."""
        out = self.product(op, a, b) if bias is None else self.product(op, a, b, bias)
        if self._observe is not None:
            self._observe(op, out)
        return out


class RecordingArithmetic(GemmArithmetic):
    """Float products, keeping a sample of every operand for the scale search.

    Args:
        rows: how many rows of an activation to keep, per operation.
        windows: how many windows of the batch to keep of attention operands.
        weight_rows: how many rows of a weight to keep, evenly spread; None: all.
        rng: draws the rows; the windows are the first ones.
    """

    def __init__(
        self,
        *,
        rows: int = 256,
        windows: int = 2,
        weight_rows: int | None = None,
        rng: np.random.Generator,
        observe: Observer | None = None,
        vector: VectorOps = FLOAT_VECTOR,
    ) -> None:
        super().__init__(observe, vector)
        self.samples: list[GemmSample] = []
        self._row_count, self._windows, self._weight_rows, self._rng = rows, windows, weight_rows, rng
        self._last: tuple[Tensor, Sample] | None = None

    def product(self, op: str, a: Operand, b: Operand, bias: Tensor | None = None) -> Tensor:
        out = self.multiply(a, b)
        out = out if bias is None else out.add_(bias)
        if self._last is None or self._last[0] is not a.values:
            self._last = (a.values, self._sample(a, len(self.samples), draw=True))
        self.samples.append(
            GemmSample(
                op=op, a=self._last[1], b=self._sample(b, len(self.samples)), output_extremes=_extremes(_to_numpy(out))
            )
        )
        return out

    def multiply(self, a: Operand, b: Operand) -> Tensor:
        """Return the product of two operands."""
        return torch.matmul(a.values, b.values.transpose(-1, -2))

    def _sample(self, operand: Operand, source: int, draw: bool = False) -> Sample:
        x = _to_numpy(operand.values)
        extremes = _extremes(x)
        if x.ndim > 2:
            x = x[: self._windows]
        count = self._row_count if x.ndim == 2 else max(1, self._row_count // 4)
        if draw and x.shape[-2] > count:
            x = x[..., np.sort(self._rng.choice(x.shape[-2], count, replace=False)), :]
        if operand.role is Role.WEIGHT and self._weight_rows is not None and len(x) > self._weight_rows:
            x = x[np.arange(self._weight_rows) * len(x) // self._weight_rows]
        # A copy: the sample must not keep the whole tensor alive.
        return Sample(name=operand.name, role=operand.role, rows=x.copy(), extremes=extremes, source=source)


class ExactRecording(RecordingArithmetic):
    """Recording on 16-bit integers per row and exact sums, which come out the same on any number of threads.

    Float products of a linear algebra library do not: their last bits depend on how it splits the work.
    """

    FORMAT = Scaled(name="int16:token", element=IntFormat(width=16), granularity=Granularity(grain=Grain.ROW))

    def multiply(self, a: Operand, b: Operand) -> Tensor:
        left, right = (self.FORMAT.encode(_to_numpy(o.values)) for o in (a, b))
        return torch.from_numpy(gemm(left, right, "exact"))


class QuantizedArithmetic(GemmArithmetic):
    """Products of encoded operands in the recipe's formats, accumulator and output format.

    A bias is added in float32 before the output is rounded to its format.

    Args:
        plan: how each operand is encoded, from `plan_operands`.
        observe: called with the name and result of every product.
        vector: what else attention does; float32 unless given.
        weights: encoded weights by operation; pass the same one only with the same recipe formats and plan.

    Attributes:
        reports: accumulator and overflow counts of every operation so far.
    """

    def __init__(
        self,
        recipe: Recipe,
        plan: Plan,
        observe: Observer | None = None,
        vector: VectorOps = FLOAT_VECTOR,
        weights: MutableMapping[str, Encoded] | None = None,
    ) -> None:
        super().__init__(observe, vector)
        self.recipe, self.plan = recipe, plan
        self.reports: dict[str, GemmReport] = {}
        self._weights: MutableMapping[str, Encoded] = {} if weights is None else weights
        self._last: tuple[Tensor, TensorFormat, float, Encoded] | None = None

    def product(self, op: str, a: Operand, b: Operand, bias: Tensor | None = None) -> Tensor:
        try:
            encoded_a = self._streamed(op, a)
            if b.role is not Role.WEIGHT:
                encoded_b = _encode(self._planned(op, b.name), b.values)
            else:
                self.encode_weight(op, b.values)
                encoded_b = self._weights[op]
            report = self.reports.setdefault(op, GemmReport())
            out = self.multiplied(op, encoded_a, encoded_b, report)
            if bias is not None:
                out += _to_numpy(bias)
            planned = self._planned(op, "output")
            return torch.from_numpy(planned.format.quantize(out, scale=planned.scale, out=out))
        except MacloomError as error:
            raise MacloomError(f"recipe {self.recipe.name!r}: {op}: {error}") from None

    def multiplied(self, op: str, a: Encoded, b: Encoded, report: GemmReport) -> np.ndarray:
        """Return the product of two encoded operands in the recipe's accumulator."""
        return gemm(a, b, self.recipe.accumulator_for(op), report)

    def stored(self, op: str, keys: Tensor) -> Tensor:
        planned = self._planned(op, "stored_key")
        return planned.format.quantize(keys.contiguous(), scale=planned.scale, clip=planned.choice.clip)

    def encode_weight(self, op: str, values: Tensor) -> None:
        """Encode the weight of an operation before its first product, which then needs no values of it."""
        if op not in self._weights:
            self._weights[op] = _encode(self._planned(op, "weight"), values)

    def _planned(self, op: str, operand: str) -> OperandPlan:
        try:
            return self.plan[op, operand]
        except KeyError:
            raise MacloomError(f"{operand}: must be in the plan; calibrate on the same model") from None

    def _streamed(self, op: str, a: Operand) -> Encoded:
        """Encode operand a, or return the previous encoding if this is the same tensor under the same plan."""
        planned = self._planned(op, a.name)
        if self._last is not None:
            values, fmt, clip, encoded = self._last
            if values is a.values and fmt == planned.format and clip == planned.choice.clip:
                return encoded
        encoded = _encode(planned, a.values)
        self._last = (a.values, planned.format, planned.choice.clip, encoded)
        return encoded


def _encode(planned: OperandPlan, values: Tensor) -> Encoded:
    return planned.format.encode(_to_numpy(values), scale=planned.scale, clip=planned.choice.clip)


def _to_numpy(values: Tensor) -> np.ndarray:
    """Return contiguous float32; no copy if `values` already is."""
    return values.detach().float().contiguous().numpy()


def _extremes(x: np.ndarray) -> np.ndarray:
    return np.array([x.min(), x.max()], np.float32)
