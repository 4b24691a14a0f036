"""Scale search: one procedure, one objective and one budget for every format.

Comparing formats under unequal searches is the classic mistake, so nothing here asks a format what
it is. The searched number is the clip ratio, the fraction of the absolute maximum that lands on the
format's largest normal value. Where one scale serves a whole tensor, that scale is fixed here from
calibration data; weights and finer granularities get their scales from the tensor itself with the
searched clip ratio.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from macloom.errors import MacloomError
from macloom.formats import TensorFormat, get_accumulator
from macloom.workloads.ops import Role
from macloom.workloads.recipe import Objective, Recipe, Search

Memo = MutableMapping[Any, "Choice"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """What calibration keeps of one operand: rows to measure errors on, and the extremes of all of it.

    `rows` is float32, (..., rows, K), K being the reduction axis. `extremes` holds the minimum and
    the maximum of the whole calibration tensor. Operands with the same `source` are one tensor, and
    are encoded once: the inputs of q, k and v, or of gate and up.
    """

    name: str
    role: Role
    rows: np.ndarray
    extremes: np.ndarray
    source: int


@dataclass(frozen=True, kw_only=True, eq=False)
class GemmSample:
    """Calibration data of one matrix product: both operands and the extremes of its result."""

    op: str
    a: Sample
    b: Sample
    output_extremes: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The outcome of one search: the clip ratio, its error, and the error without clipping.

    Errors are squared errors relative to the squared unquantized tensor (or product).
    """

    clip: float
    error: float
    absmax_error: float


@dataclass(frozen=True, kw_only=True, eq=False)
class OperandPlan:
    """How one operand of one operation is encoded. `scale` None means: from the tensor, at run time."""

    op: str
    operand: str
    role: Role
    format: TensorFormat
    scale: np.ndarray | None
    choice: Choice

    def to_dict(self) -> dict[str, Any]:
        """Return the search record that a result carries."""
        return {
            "op": self.op,
            "operand": self.operand,
            "format": self.format.name,
            "scale": "calibrated" if self.scale is not None else "own",
            "clip": self.choice.clip,
            "error": self.choice.error,
            "absmax_error": self.choice.absmax_error,
        }


Plan = dict[tuple[str, str], OperandPlan]


def squared_error(x: np.ndarray, y: np.ndarray, gram: np.ndarray | None = None) -> float:
    """Return |y - x|^2, or tr(D G D^T) of D = y - x, the squared error of D's product with B if G = B^T B.

    Args:
        x, y: float32, (..., rows, K).
        gram: (..., K, K), batch axes as x.
    """
    d = y - x
    weighted = d if gram is None else np.matmul(d, gram)
    # Row sums in float32, their total in float64: the same on any number of threads.
    return max(0.0, float(np.einsum("...k,...k->...", d, weighted).sum(dtype=np.float64)))


def search_clip(
    fmt: TensorFormat,
    rows: np.ndarray,
    search: Search,
    *,
    extremes: np.ndarray | None = None,
    gram: np.ndarray | None = None,
) -> Choice:
    """Return the clip ratio with the smallest error; of equal ones, the largest.

    Args:
        rows: float32, (..., rows, K), what the error is measured on.
        extremes: minimum and maximum that a calibrated scale comes from; None: each granule's own.
        gram: weights of the error, see `squared_error`.
    """
    signal = squared_error(np.zeros_like(rows), rows, gram)
    candidates = search.candidates

    def scale(clip: float) -> np.ndarray | None:
        return None if extremes is None else fmt.calibrate(extremes, clip)

    # A format without a scale to choose gives every candidate the same result; the first one wins.
    source = rows if extremes is None else extremes
    if np.array_equal(fmt.calibrate(source, candidates[0]), fmt.calibrate(source, candidates[-1])):
        candidates = candidates[:1]
    errors = []
    quantized = np.empty_like(rows)
    for clip in candidates:
        fmt.quantize(rows, scale=scale(clip), clip=clip, out=quantized)
        errors.append(squared_error(rows, quantized, gram) / signal if signal else 0.0)
    if not all(map(math.isfinite, errors)):
        raise MacloomError(f"search: {fmt.name} gives a non-finite error on the calibration data; check the model")
    best = int(np.argmin(errors))  # argmin returns the first of equal errors
    return Choice(clip=candidates[best], error=errors[best], absmax_error=errors[0])


def _gram(other: np.ndarray) -> np.ndarray:
    return np.matmul(np.swapaxes(other, -1, -2), other)


def _shared(samples: Iterable[GemmSample], recipe: Recipe) -> dict[tuple[int, str], list[GemmSample]]:
    """Group the operations that read one `a` tensor in one format."""
    groups: dict[tuple[int, str], list[GemmSample]] = {}
    for s in samples:
        groups.setdefault((s.a.source, recipe.format_for(s.a.role, s.op).name), []).append(s)
    return groups


def plan_operands(recipe: Recipe, samples: Sequence[GemmSample], memo: Memo | None = None) -> Plan:
    """Search every operand and output of every operation; the result is keyed by (op, operand).

    Outputs are not searched: their clip ratio is 1. A tensor that several operations read in the same
    format gets one clip ratio, chosen for the sum of their errors.

    Args:
        samples: calibration data, one per operation.
        memo: remembers searches between recipes; pass the same one only with the same samples.
    """
    memo = {} if memo is None else memo
    plan: Plan = {}

    def searched(ops: tuple[str, ...], x: Sample, fmt: TensorFormat, gram: Callable[[], np.ndarray]) -> Choice:
        key = (ops, x.name, fmt.name, recipe.search)
        if key not in memo:
            weighted = recipe.search.objective is Objective.OUTPUT_MSE
            extremes = x.extremes if _calibrated(fmt, x.role) else None
            memo[key] = search_clip(fmt, x.rows, recipe.search, extremes=extremes, gram=gram() if weighted else None)
        return memo[key]

    def add(op: str, x: Sample, fmt: TensorFormat, choice: Choice) -> None:
        scale = fmt.calibrate(x.extremes, choice.clip) if _calibrated(fmt, x.role) else None
        plan[op, x.name] = OperandPlan(op=op, operand=x.name, role=x.role, format=fmt, scale=scale, choice=choice)

    for group in _shared(samples, recipe).values():
        a, ops = group[0].a, tuple(s.op for s in group)
        fmt = recipe.format_for(a.role, ops[0])
        choice = searched(ops, a, fmt, lambda group=group: np.sum([_gram(s.b.rows) for s in group], axis=0))
        for s in group:
            add(s.op, a, fmt, choice)
    for s in samples:
        fmt = recipe.format_for(s.b.role, s.op)
        add(s.op, s.b, fmt, searched((s.op,), s.b, fmt, lambda s=s: _gram(s.a.rows)))
        out = Sample(name="output", role=Role.OUTPUT, rows=s.output_extremes, extremes=s.output_extremes, source=-1)
        add(s.op, out, recipe.format_for(Role.OUTPUT, s.op), Choice(clip=1.0, error=0.0, absmax_error=0.0))
    return plan


def _calibrated(fmt: TensorFormat, role: Role) -> bool:
    """Weights are known when they are encoded; other tensors with one scale get it from calibration."""
    return fmt.static_scale and role is not Role.WEIGHT


def check_accumulators(recipe: Recipe, samples: Sequence[GemmSample]) -> None:
    """Raise before anything slow if an operation's formats do not suit the recipe's accumulator.

    Raises:
        MacloomError: the message names the operation and what would fit.
    """
    for sample in samples:
        name = recipe.accumulator_for(sample.op)
        if name is None:
            continue
        a, b = (recipe.format_for(s.role, sample.op).encode(s.rows[..., :1, :]) for s in (sample.a, sample.b))
        try:
            get_accumulator(name).check(a.operand(), b.operand())
        except MacloomError as error:
            raise MacloomError(f"recipe {recipe.name!r}: {sample.op}: {error}") from None
