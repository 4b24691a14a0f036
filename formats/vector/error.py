"""How far the pipelines of a vector unit are from float64: largest and mean error of every operation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from macloom.formats.vector.arrays import activate, add, encode, multiply, norm, rotate, round_to, softmax
from macloom.formats.vector.number import Fixed
from macloom.formats.vector.operations import Curve, Encode
from macloom.formats.vector.unit import VectorUnit

ROWS, LENGTH, RANGE, THETA, EPS = 256, 256, 8.0, 10000.0, 1e-5


@dataclass(frozen=True, kw_only=True)
class OperationError:
    """Absolute errors of one operation against float64, of inputs that are lane numbers already.

    Attributes:
        largest, mean: of the absolute error.
        bias: mean of the signed error.
        magnitude: the largest exact result, to compare with.
    """

    operation: str
    cases: int
    largest: float
    mean: float
    bias: float
    magnitude: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def vector_errors(unit: VectorUnit, seed: int = 0) -> tuple[OperationError, ...]:
    """Return the errors of every operation of a unit.

    Activations see 65,536 values evenly from -8 to 8; the others rows of 256 normal values (softmax:
    scores of standard deviation 3, times 1 / 8 and times 1) rounded to the lanes first, so that only
    the pipeline's own error counts.
    """
    return tuple(_errors(unit, np.random.default_rng(seed)))


def _errors(unit: VectorUnit, rng: np.random.Generator) -> Iterator[OperationError]:
    def lanes(x: np.ndarray) -> np.ndarray:
        return round_to(x.astype(np.float32), unit.number(float(np.abs(x).max())))

    normal = np.clip(rng.normal(size=(ROWS, LENGTH)), -RANGE, RANGE)
    for scale in (0.125, 1.0):
        scores = lanes(3 * normal)
        exact = np.exp((scores - scores.max(-1, keepdims=True).astype(np.float64)) * scale)
        got = softmax(scores, unit.softmax_for(float(np.abs(scores).max())), scale)
        yield _compare(f"softmax, scale {scale:g}", got, exact / exact.sum(-1, keepdims=True))

    x, gain = lanes(normal), lanes(1 + 0.25 * np.clip(rng.normal(size=LENGTH), -3, 3))
    wide = x.astype(np.float64)
    exact = wide / np.sqrt((wide * wide).mean(-1, keepdims=True) + EPS) * gain
    op = unit.norm_for(float(np.abs(x).max()), float(np.abs(gain).max()), float(np.abs(exact).max()))
    yield _compare("RMSNorm", norm(x, op, gain, EPS), exact)

    bias = lanes(0.5 * np.clip(rng.normal(size=LENGTH), -3, 3))
    centre = wide - wide.mean(-1, keepdims=True)
    exact = centre / np.sqrt((centre * centre).mean(-1, keepdims=True) + EPS) * gain + bias
    largest = float(max(np.abs(gain).max(), np.abs(bias).max()))
    op = replace(unit.norm_for(float(np.abs(x).max()), largest, float(np.abs(exact).max())), centred=True)
    yield _compare("LayerNorm", norm(x, op, gain, EPS, bias), exact)

    exact = _rotated(wide)
    yield _compare("rope", rotate(x, unit.rope_for(float(np.abs(x).max())), THETA), exact)

    line = lanes(np.linspace(-RANGE, RANGE, 1 << 16))
    for curve, function in CURVES.items():
        op = unit.activation_for(float(np.abs(line).max()), RANGE)
        yield _compare(curve.value, activate(line, op, curve), function(line.astype(np.float64)))

    other = lanes(np.roll(normal, 1))
    largest = max(float(np.abs(x).max()), float(np.abs(other).max()))
    total, product = wide + other, wide * other
    sum_op = unit.sum_for(largest, largest, float(np.abs(total).max()))
    yield _compare("residual add", add(x, other, sum_op), total)
    product_op = unit.product_for(largest, largest, float(np.abs(product).max()))
    yield _compare("multiply", multiply(x, other, product_op), product)

    step = RANGE / 127
    codes = encode(x, Encode(input=unit.number(largest), output=Fixed(bits=8, fraction=0)), step)
    yield _compare("encode to int8, in steps", codes, np.clip(wide / step, -128, 127))


def _compare(operation: str, got: np.ndarray, exact: np.ndarray) -> OperationError:
    error = got.astype(np.float64) - exact
    return OperationError(
        operation=operation,
        cases=error.size,
        largest=float(np.abs(error).max()),
        mean=float(np.abs(error).mean()),
        bias=float(error.mean()),
        magnitude=float(np.abs(exact).max()),
    )


def _rotated(x: np.ndarray) -> np.ndarray:
    half = x.shape[-1] // 2
    angles = np.arange(x.shape[0])[:, None] * THETA ** (-np.arange(half) / half)
    a, b, c, s = x[:, :half], x[:, half:], np.cos(angles), np.sin(angles)
    return np.concatenate((a * c - b * s, b * c + a * s), -1)


def _silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def _gelu(x: np.ndarray) -> np.ndarray:
    return x * np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in x])


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


CURVES: dict[Curve, Callable[[np.ndarray], np.ndarray]] = {
    Curve.RELU: lambda x: np.maximum(x, 0),
    Curve.SILU: _silu,
    Curve.GELU: _gelu,
    Curve.GELU_TANH: _gelu_tanh,
}
