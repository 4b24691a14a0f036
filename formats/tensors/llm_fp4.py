"""LLM-FP4 (Liu et al., EMNLP 2023): 4-bit floats whose exponent bias and format are searched.

A real-valued exponent bias b~ is a scale: with an element format of bias b, scale = 2**(b - b~), and
init from the largest magnitude puts that on the largest value. Formats are E3M0, E2M1 and E1M2, all
codes finite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from macloom.errors import MacloomError, unknown
from macloom.formats.arrays import as_float32, largest_factor
from macloom.formats.elements.codebook import Mode
from macloom.formats.elements.minifloat import FloatFormat
from macloom.formats.families import SEARCHED
from macloom.formats.grammar import (
    CATALOG,
    Entry,
    Options,
    choice_option,
    granularity_option,
    note_option,
    scale_option,
)
from macloom.formats.rounders import quantize_rows
from macloom.formats.scales import SMALLEST_SCALE, Grain, Granularity, store_scale
from macloom.formats.tensor import TensorFormat
from macloom.formats.tensors.scaled import Scaled
from macloom.formats.tensors.statistic import granules
from macloom.formats.threads import run_rows

# gamma_1, gamma_2 and k of the paper; the code has 101 values and uses the first 100.
LOWEST, HIGHEST, COUNT = 0.01, 1.2, 100
CHUNK = 1 << 20


class EvenSignificand(FloatFormat):
    """A float whose ties go to the even significand: without mantissa bits, to 2 rather than 1, and to 0.

    >>> EvenSignificand(label="e3m0", exponent_bits=3, mantissa_bits=0, bias=0).quantize(np.array([3.0, 6.0, 1.0]))
    array([4., 8., 0.], dtype=float32)
    """

    @property
    def steps(self) -> tuple[int, int] | None:
        return super().steps if self.mantissa_bits else None

    def tie_goes_up(self, lower: int, upper: int) -> bool:
        if self.mantissa_bits:
            return super().tie_goes_up(lower, upper)
        a, b = self.value(lower), self.value(upper)
        return a > 0 or b == 0


def _element(exponent_bits: int, mantissa_bits: int) -> EvenSignificand:
    return EvenSignificand(
        label=f"e{exponent_bits}m{mantissa_bits}", exponent_bits=exponent_bits, mantissa_bits=mantissa_bits
    )


ELEMENTS = {e.label: e for e in (_element(2, 1), _element(3, 0), _element(1, 2))}


def bias_of(scale: np.ndarray, element: FloatFormat) -> np.ndarray:
    """Return the exponent bias b~ (float64) that a scale stands for.

    >>> round(float(bias_of(np.float32(1 / 6), ELEMENTS["e2m1"])), 5)
    3.58496
    """
    return (element.bias or 0) - np.log2(np.asarray(scale, np.float64))


def candidates(scale: np.ndarray, element: FloatFormat, mode: Mode) -> list[np.ndarray]:
    """Return the scales to try, from those that put the largest magnitude on the largest value.

    PAPER: the largest value at 0.01 ... 1.2 times the largest magnitude, 100 equal steps. UPSTREAM
    (nbasyl/LLM-FP4@0598c95) multiplies the bias by the first 100 of 101 such factors, which is an
    exponential sweep, downwards or upwards as the sign of the bias is.
    """
    top = largest_factor(element.max_value)
    if mode is Mode.PAPER:
        tried = [np.asarray(scale, np.float64) * f for f in np.linspace(LOWEST, HIGHEST, COUNT)]
    else:
        bias = bias_of(scale, element)
        factors = np.linspace(LOWEST, HIGHEST, COUNT + 1)[:COUNT]
        tried = [np.exp2(np.clip((element.bias or 0) - bias * f, -200, 200)) for f in factors]
    return [np.clip(s, SMALLEST_SCALE, top).astype(np.float32) for s in tried]


def least_error(tried: list[np.ndarray], error: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return, element by element, the first candidate with the smallest error."""
    best = np.full(tried[0].shape, np.inf)
    chosen = tried[0].copy()
    for scale in tried:
        e = error(scale)
        better = e < best
        best, chosen = np.where(better, e, best), np.where(better, scale, chosen)
    return chosen.astype(np.float32)


def error_by_row(
    element: FloatFormat, rows: np.ndarray, weights: np.ndarray, name: str
) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function from one scale per row to each row's squared error, columns weighted (float64)."""
    from macloom.formats.kernels.error import squared_errors

    quantized, errors = np.empty_like(rows), np.empty(len(rows))

    def error(scale: np.ndarray) -> np.ndarray:
        quantize_rows(element, rows, scale.reshape(-1, 1), rows.shape[1], quantized, name)
        run_rows(squared_errors, len(rows), rows.size, rows, quantized, weights, errors)
        return errors.copy()

    return error


@dataclass(frozen=True, kw_only=True)
class SearchedFloat(Scaled):
    """A scaled float whose scale (exponent bias) is searched for the least squared error of each granule.

    With `clip` there is no search: that share of the largest magnitude lands on the largest value. The
    paper measures a layer's output instead, see `search_layer`.

    >>> from macloom.formats import get_format
    >>> get_format("llm_fp4").quantize(np.float32([[0.9, -0.33, 0.05, 0.61, -1.0]]), clip=1.0).round(4)
    array([[ 1.    , -0.3333,  0.0833,  0.6667, -1.    ]], dtype=float32)
    """

    element: FloatFormat  # type: ignore[assignment]
    mode: Mode = Mode.PAPER

    def calibrate(self, x: Any, clip: float | None = None) -> np.ndarray:
        start = super().calibrate(x, clip)
        if clip is not None or self.granularity.grain is Grain.NONE:
            return start
        x = as_float32(x)
        groups = np.ascontiguousarray(granules(x, self.granularity, self.name))
        groups = groups.reshape(-1, groups.shape[-1])
        flat = np.ascontiguousarray(start, np.float32).reshape(-1)
        rows = max(1, CHUNK // groups.shape[1])
        parts = [self._search(groups[i : i + rows], flat[i : i + rows]) for i in range(0, len(groups), rows)]
        return np.concatenate(parts).reshape(start.shape)

    def _search(self, groups: np.ndarray, start: np.ndarray) -> np.ndarray:
        error = error_by_row(self.element, groups, np.ones(groups.shape[1], np.float32), self.name)
        tried = [store_scale(scale, self.scale_format) for scale in candidates(start, self.element, self.mode)]
        chosen = least_error(tried, error)
        return np.where(np.any(groups != 0, axis=1), chosen, start)


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerChoice:
    """What `search_layer` found: formats and scales of both operands, and the squared output error."""

    weight: SearchedFloat
    weight_scale: np.ndarray
    activation: SearchedFloat
    activation_scale: np.ndarray
    error: float


def search_layer(
    weight: np.ndarray,
    inputs: np.ndarray,
    rounds: int = 3,
    elements: Mapping[str, FloatFormat] = ELEMENTS,
    mode: Mode = Mode.PAPER,
) -> LayerChoice:
    """Choose formats and biases of a layer's weights and activations for the least output error (FPQ).

    Every round searches the weights' biases (one per output channel), the activations' bias (one per
    tensor), the weights' format, the activations' format, each against the exact output. A new format
    keeps the ratio of its scale to the one that its largest magnitude asks for; that detail of the
    format steps is a reconstruction.

    Args:
        weight: (N, K); a row is an output channel.
        inputs: (samples, K); the paper takes 32.
    """
    if weight.ndim != 2 or inputs.ndim != 2 or weight.shape[1] != inputs.shape[1]:
        raise MacloomError(f"search_layer: needs shapes (N, K) and (samples, K), not {weight.shape} and {inputs.shape}")
    w, x = as_float32(weight), as_float32(inputs)
    exact = x.astype(np.float64) @ w.astype(np.float64).T
    rows, whole = Granularity(grain=Grain.ROW), Granularity(grain=Grain.TENSOR)
    first = next(iter(elements.values()))
    wf = SearchedFloat(name="weight", element=first, granularity=rows, mode=mode)
    af = SearchedFloat(name="activation", element=first, granularity=whole, mode=mode)

    def start(fmt: SearchedFloat, data: np.ndarray) -> np.ndarray:
        return fmt.calibrate(data, 1.0)

    def values(fmt: SearchedFloat, data: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return fmt.quantize(data, scale).astype(np.float64)

    def error(wq: np.ndarray, xq: np.ndarray) -> np.ndarray:
        return np.square(xq @ wq.T - exact).sum(axis=0)

    def with_element(fmt: SearchedFloat, data: np.ndarray, scale: np.ndarray) -> list[tuple[Any, np.ndarray]]:
        ratio = scale.astype(np.float64) / start(fmt, data)
        options = [replace(fmt, element=e) for e in elements.values()]
        return [(f, np.asarray(start(f, data) * ratio, np.float32)) for f in options]

    ws, xs = start(wf, w), start(af, x)
    for _ in range(rounds):
        xq = values(af, x, xs)
        ws = least_error(candidates(start(wf, w), wf.element, mode), lambda s, q=xq, f=wf: error(values(f, w, s), q))
        wq = values(wf, w, ws)
        xs = least_error(
            candidates(start(af, x), af.element, mode),
            lambda s, q=wq, f=af: np.asarray(error(q, values(f, x, s)).sum()),
        )
        xq = values(af, x, xs)
        wf, ws = min(with_element(wf, w, ws), key=lambda c: error(values(c[0], w, c[1]), xq).sum())
        wq = values(wf, w, ws)
        af, xs = min(with_element(af, x, xs), key=lambda c: error(wq, values(c[0], x, c[1])).sum())
    total = float(error(values(wf, w, ws), values(af, x, xs)).sum())
    return LayerChoice(weight=wf, weight_scale=ws, activation=af, activation_scale=xs, error=total)


def element_option(options: Options) -> EvenSignificand:
    note_option(options, "format", f"{', '.join(ELEMENTS)} (e2m1)")
    name = options.get("format", "e2m1")
    if name not in ELEMENTS:
        raise unknown("format option format", name, ELEMENTS)
    return ELEMENTS[name]


def _weights(name: str, options: Options) -> TensorFormat:
    granularity = granularity_option(options, Grain.ROW)
    return SearchedFloat(
        name=name,
        element=element_option(options),
        granularity=granularity,
        scale_format=scale_option(options, granularity),
        mode=choice_option(options, "mode", *Mode),
    )


def _fill() -> None:
    source = "Liu et al., LLM-FP4, EMNLP 2023"
    CATALOG.add(
        "llm_fp4",
        Entry(
            family=SEARCHED,
            summary="4-bit floats (format=e2m1, e3m0 or e1m2) with a searched exponent bias per row",
            source=source,
            build=_weights,
            keys=("format", "mode"),
            words=True,
        ),
    )


_fill()
