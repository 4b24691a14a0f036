"""The vector operations of a language model on a vector unit: every bit defined, whatever the machine.

Fixed-point lanes need a binary point per tensor. `RangeVector` finds the magnitudes on calibration data:
it computes with the unit `fp32`, whose results do not depend on threads or linear algebra libraries.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from macloom.errors import MacloomError, unknown
from macloom.formats.vector import (
    Curve,
    VectorUnit,
    activate,
    add,
    get_vector_unit,
    list_vector_units,
    multiply,
    norm,
    rotate,
    round_to,
    softmax,
)

FLOAT_NAME = "float"
EXACT_NAME = "exact"
DEFAULT_UNIT = "fp32"


def vector_unit(text: str) -> VectorUnit | None:
    """Return the unit that `float`, `exact` or `exact:<name>` names; None for float.

    Raises:
        MacloomError: another word, or an unknown unit; the nearest names are given.

    >>> vector_unit("exact:bf16").name, vector_unit("exact").name, vector_unit("float")
    ('bf16', 'fp32', None)
    """
    head, colon, name = text.partition(":") if isinstance(text, str) else (text, "", "")
    if head == FLOAT_NAME and not colon:
        return None
    if head != EXACT_NAME or (colon and name not in list_vector_units()):
        known = [FLOAT_NAME, EXACT_NAME, *(f"{EXACT_NAME}:{unit}" for unit in list_vector_units())]
        raise unknown("vector", text, known)
    return get_vector_unit(name or DEFAULT_UNIT)


class ExactVector:
    """`VectorOps` on a vector unit.

    Args:
        ranges: the largest magnitude of every tensor, by `<operation>/<tensor>`, as `RangeVector` finds it;
            units with floating-point lanes need none.
    """

    def __init__(self, unit: VectorUnit, ranges: Mapping[str, float] | None = None) -> None:
        self.unit, self.ranges = unit, ranges

    def _largest(self, name: str, tensor: str) -> float:
        if self.ranges is None:
            return 0.0  # floating-point lanes are the same for every magnitude
        try:
            return self.ranges[f"{name}/{tensor}"]
        except KeyError:
            raise MacloomError(
                f"vector: {name}/{tensor}: must be among the calibrated ranges; calibrate on the same model"
            ) from None

    def embed(self, name: str, x: Tensor) -> Tensor:
        return round_to(x, self.unit.number(self._largest(name, "output")))

    def norm(self, name: str, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        op = self.unit.norm_for(*(self._largest(name, t) for t in ("x", "gain", "output")))
        return norm(x, op, weight, eps)

    def positions(self, length: int, head_dim: int, theta: float, like: Tensor) -> Any:
        return theta

    def rotate(self, name: str, x: Tensor, positions: Any) -> Tensor:
        return rotate(x, self.unit.rope_for(self._largest(name, "x")), positions)

    def softmax(self, name: str, scores: Tensor, scale: float) -> Tensor:
        visible = np.arange(1, scores.shape[-1] + 1)
        return softmax(scores, self.unit.softmax_for(self._largest(name, "x")), scale, visible)

    def gated(self, name: str, gate: Tensor, up: Tensor) -> Tensor:
        x, act = self._largest(name, "x"), self._largest(name, "act")
        gated = activate(gate, self.unit.activation_for(x, act), Curve.SILU)
        op = self.unit.product_for(act, self._largest(name, "up"), self._largest(name, "output"))
        return multiply(gated, up, op)

    def add(self, name: str, x: Tensor, y: Tensor) -> Tensor:
        return add(x, y, self.unit.sum_for(*(self._largest(name, t) for t in ("x", "y", "output"))))


class RangeVector(ExactVector):
    """The unit `fp32`, noting the largest magnitude of every tensor in `ranges`."""

    def __init__(self) -> None:
        super().__init__(get_vector_unit(DEFAULT_UNIT))
        self.ranges: dict[str, float] = {}

    def _largest(self, name: str, tensor: str) -> float:
        return 0.0

    def _note(self, name: str, **tensors: Tensor) -> None:
        for tensor, x in tensors.items():
            key = f"{name}/{tensor}"
            self.ranges[key] = max(self.ranges.get(key, 0.0), float(x.detach().abs().max()))

    def embed(self, name: str, x: Tensor) -> Tensor:
        y = super().embed(name, x)
        self._note(name, output=y)
        return y

    def norm(self, name: str, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        y = super().norm(name, x, weight, eps)
        self._note(name, x=x, gain=weight, output=y)
        return y

    def rotate(self, name: str, x: Tensor, positions: Any) -> Tensor:
        self._note(name, x=x)
        return super().rotate(name, x, positions)

    def softmax(self, name: str, scores: Tensor, scale: float) -> Tensor:
        self._note(name, x=scores)
        return super().softmax(name, scores, scale)

    def gated(self, name: str, gate: Tensor, up: Tensor) -> Tensor:
        act = activate(gate, self.unit.activation_for(0.0, 0.0), Curve.SILU)
        y = super().gated(name, gate, up)
        self._note(name, x=gate, act=act, up=up, output=y)
        return y

    def add(self, name: str, x: Tensor, y: Tensor) -> Tensor:
        total = super().add(name, x, y)
        self._note(name, x=x, y=y, output=total)
        return total
