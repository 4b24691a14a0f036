"""The kit finds mistakes: for each check a format with one fault, which the check must name."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from macloom.formats import FloatFormat, IntFormat, Overflow, Rounding, Scaled
from macloom.formats.element import OperandClass
from macloom.formats.scales import Grain, Granularity
from macloom.formats.tensor import Encoded, Operand
from macloom.testing import ELEMENT_CHECKS, TENSOR_CHECKS, check_element_format, check_tensor_format


@dataclasses.dataclass(frozen=True, kw_only=True)
class Faulty(FloatFormat):
    """E3M2 with one fault."""

    label: str = "faulty"
    exponent_bits: int = 3
    mantissa_bits: int = 2
    fault: str = ""

    def encode(  # type: ignore[override]
        self, x: np.ndarray, rounding: Rounding | None = None, overflow: Overflow = Overflow.SATURATE, **more: Any
    ) -> np.ndarray:
        x = np.asarray(x, np.float64)
        match self.fault:
            case "ties":
                return super().encode(np.nextafter(x, np.copysign(np.inf, x)), rounding, overflow, **more)
            case "monotone":
                return super().encode(np.where((x > 5) & (x < 5.5), x - 2, x), rounding, overflow, **more)
            case "symmetry":
                return super().encode(np.where(x < -1, x * 1.01, x), rounding, overflow, **more)
            case "flush":
                return super().encode(np.where(np.abs(x) < 0.25, 0, x), rounding, overflow, **more)
            case "nan":
                return super().encode(np.nan_to_num(x), rounding, overflow, **more)
            case "shape":
                return super().encode(np.atleast_1d(x), rounding, overflow, **more)
        return super().encode(x, rounding, overflow, **more)

    def pair(self, code: int) -> tuple[int, int]:
        e, i = super().pair(code)
        return (e, i + 1) if self.fault == "pair" and code == 9 else (e, i)

    def value(self, code: int) -> float:
        e, i = super().pair(code)
        return super().value(code) if self.fault != "pair" else i * 2.0**e

    @property
    def operand(self) -> OperandClass:  # type: ignore[override]
        true = super().operand
        return dataclasses.replace(true, significand_bits=3) if self.fault == "operand" else true

    @property
    def steps(self) -> tuple[int, int] | None:
        t, e = super().steps or (0, 0)
        return (t, e + 1) if self.fault == "kernel" else (t, e)

    @property
    def max_value(self) -> float:  # type: ignore[override]
        return super().max_value * (2 if self.fault == "table" else 1)


@pytest.mark.parametrize(
    "fault, check",
    [
        ("ties", "reference"),
        ("monotone", "monotone"),
        ("symmetry", "odd_symmetric"),
        ("flush", "round_trip"),
        ("monotone", "faithful"),
        ("nan", "specials"),
        ("shape", "shapes"),
        ("pair", "pairs"),
        ("operand", "pairs"),
        ("kernel", "kernels"),
        ("table", "table"),
        ("monotone", "stochastic"),
    ],
)
def test_element_check_finds_the_fault(fault: str, check: str) -> None:
    ELEMENT_CHECKS[check](Faulty())
    with pytest.raises(AssertionError, match="faulty"):
        ELEMENT_CHECKS[check](Faulty(fault=fault))


def test_every_element_check_has_been_seen_to_fail() -> None:
    with pytest.raises(AssertionError):
        check_element_format(Faulty(fault="ties"))
    check_element_format(Faulty())


@dataclasses.dataclass(frozen=True, kw_only=True)
class FaultyTensor(Scaled):
    """int4 groups of 8 with one fault."""

    name: str = "faulty"
    element: Any = IntFormat(width=4)
    granularity: Granularity = Granularity(grain=Grain.GROUP, size=8)
    fault: str = ""

    def calibrate(self, x: Any, clip: float | None = None) -> np.ndarray:
        if self.fault == "ignores NaN":
            x = np.nan_to_num(np.asarray(x, np.float32))
        if self.fault == "float64 scale":
            return super().calibrate(np.asarray(x, np.float64).astype(np.float32) + np.asarray(x, np.float64) * 0, clip)
        scale = super().calibrate(x, None if self.fault == "ignores clip" else clip)
        match self.fault:
            case "zero scale":
                return scale * np.float32(0)
            case "additive scale":
                return scale + np.float32(0.01)
            case "tiny scale":
                return np.where(scale < 1e-30, np.float32(np.inf), scale)
        return scale

    def _quantize(self, x: np.ndarray, scale: np.ndarray, clip: float, out: Any, template: Any) -> np.ndarray:
        if self.fault == "ignores NaN":
            x = np.nan_to_num(x)
        if self.fault == "own copy":
            out = None
        result = super()._quantize(x, scale, clip, out, template)
        match self.fault:
            case "reciprocal":
                scales = self._row_scales(scale, x.shape).reshape(*(x.shape or (1,))[:-1], -1)
                spread = np.repeat(scales, self.block or 1, axis=-1)[..., : (x.shape or (1,))[-1]].reshape(x.shape)
                return np.clip(np.rint(x * (1 / spread)), -7, 7).astype(np.float32) * spread
            case "in place":
                x[...] = result
            case "noise":
                result += np.float32(0.1) * np.abs(result).max()
        return result

    def decode(self, encoded: Encoded) -> np.ndarray:
        values = super().decode(encoded)
        return np.where(values == 0, np.float32(1e-3), values) if self.fault == "zero" else values

    def scale_bits(self, shape: tuple[int, ...]) -> int:
        return super().scale_bits(shape) * (2 if self.fault == "bits" and len(shape) == 1 else 1)

    def storage_bits(self, shape: tuple[int, ...]) -> int:
        return super().storage_bits(shape) + (1 if self.fault == "bits" else 0)

    def operand_of(self, encoded: Encoded) -> Operand:
        operand = super().operand_of(encoded)
        return dataclasses.replace(operand, unit_exponent=1) if self.fault == "operand" else operand

    @property
    def max_unit(self) -> int:
        return 8 if self.fault == "facts" else super().max_unit

    @property
    def decoder_elements(self) -> int:
        return 0 if self.fault == "facts" else 1


@pytest.mark.parametrize(
    "fault, check",
    [
        ("reciprocal", "quantize"),
        ("in place", "quantize"),
        ("bits", "packing"),
        ("ignores clip", "scale"),
        ("noise", "idempotent"),
        ("additive scale", "power_of_two"),
        ("zero", "zeros"),
        ("own copy", "out"),
        ("ignores NaN", "nonfinite"),
        ("zero scale", "inputs"),
        ("tiny scale", "exponents"),
        ("operand", "operand"),
        ("facts", "facts"),
    ],
)
def test_tensor_check_finds_the_fault(fault: str, check: str) -> None:
    TENSOR_CHECKS[check](FaultyTensor())
    with pytest.raises((AssertionError, ValueError)):
        TENSOR_CHECKS[check](FaultyTensor(fault=fault))


def test_a_format_of_ones_own_conforms_without_registration() -> None:
    check_tensor_format(FaultyTensor())


def test_thread_check_finds_a_result_that_depends_on_threads() -> None:
    class Depends(FaultyTensor):
        def _quantize(self, x: np.ndarray, scale: np.ndarray, clip: float, out: Any, template: Any) -> np.ndarray:
            from macloom.formats.threads import thread_count

            return super()._quantize(x, scale, clip, out, template) * np.float32(thread_count())

    with pytest.raises(AssertionError, match="one thread and 2"):
        TENSOR_CHECKS["threads"](Depends())


def test_torch_check_finds_a_format_that_returns_numpy() -> None:
    class Plain(FaultyTensor):
        def quantize(self, *given: Any, **more: Any) -> Any:
            return np.asarray(super().quantize(*given, **more))

    with pytest.raises(AssertionError, match="torch"):
        TENSOR_CHECKS["torch"](Plain())
