"""Operands as a tensor core reads them: what it takes, and significands with exponents."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.element import ElementFormat
from macloom.formats.operand import Operand
from macloom.formats.tensor_core.presets import presets_taking
from macloom.formats.tensor_core.record import TensorCoreAccumulator

NO_EXPONENT, INFINITE, NOT_A_NUMBER = -10000, 20000, 30000


@runtime_checkable
class ScaledBlocks(Protocol):
    """A tensor format whose scales are codes of an element format."""

    @property
    def scale_format(self) -> ElementFormat: ...


def check(tc: TensorCoreAccumulator, a: Operand, b: Operand) -> None:
    """Raise unless the instruction takes both operands.

    Raises:
        MacloomError: with what the instruction takes and the presets that take the operand.
    """
    for side, operand in (("A", a), ("B", b)):
        fmt = operand.format
        if fmt is None:
            raise MacloomError(f"gemm: accumulator {tc.name!r} needs encoded tensors, whose format says how they align")
        taken = ", ".join(element.name for element in tc.takes)
        if fmt.element not in tc.takes:
            others = presets_taking(fmt.element, False) + presets_taking(fmt.element, True)
            advice = f"{fmt.name!r} fits {', '.join(others)}" if others else f"encode it as one of {taken}"
            raise MacloomError(f"gemm: accumulator {tc.name!r} takes {taken}, not {side}'s {fmt.name!r}; {advice}")
        if fmt.max_unit != fmt.element.largest_unit:
            raise MacloomError(
                f"gemm: accumulator {tc.name!r} takes {taken}, not {side}'s {fmt.name!r}, which has values beyond "
                f"those of its {fmt.element.name}; decode it and encode it as one of {taken}"
            )
        if operand.zeros is not None and tc.register.mantissa_bits:
            raise MacloomError(f"gemm: accumulator {tc.name!r} has no zero points, which {side}'s {fmt.name!r} has")
        if tc.scale_block:
            _check_scales(tc, side, operand)


def _check_scales(tc: TensorCoreAccumulator, side: str, operand: Operand) -> None:
    fmt = operand.format
    assert fmt is not None
    scale = scale_element(operand)
    if scale not in tc.scales or operand.block != tc.scale_block:
        names = " or ".join(element.name for element in tc.scales)
        held = "no scales of blocks" if scale is None else f"a scale ({scale.name}) for every {operand.block} elements"
        raise MacloomError(
            f"gemm: accumulator {tc.name!r} takes one scale ({names}) for every {tc.scale_block} elements along K, "
            f"not {side}'s {fmt.name!r} with {held}"
        )


def scale_element(operand: Operand) -> ElementFormat | None:
    """Return the element format of the scales of blocks, None where there are none."""
    return operand.format.scale_format if isinstance(operand.format, ScaledBlocks) else None


@dataclass(frozen=True)
class Side:
    """One operand in the instruction's terms.

    Attributes:
        values: float32 (..., rows, K); scales of the instruction not applied.
        mantissa_bits, min_exponent: of the element format.
        shift: int32 like `values`, exponents of the scales to be added; 0 for none.
        broken: bool like `values`, where a scale is NaN; None for nowhere.
    """

    values: np.ndarray
    mantissa_bits: int
    min_exponent: int
    shift: np.ndarray | None = None
    broken: np.ndarray | None = None

    @cached_property
    def exponents(self) -> np.ndarray:
        """int32: stored exponents, NO_EXPONENT for zeros and INFINITE or NOT_A_NUMBER for what is not finite."""
        bits = self.values.view(np.int32)
        e = np.maximum(((bits >> 23) & 255) - 127, self.min_exponent)
        if self.shift is not None:
            e = e + self.shift
        e = np.where(self.values == 0, NO_EXPONENT, e)
        finite = np.isfinite(self.values)
        if not finite.all():
            e = np.where(finite, e, np.where(np.isnan(self.values), NOT_A_NUMBER, INFINITE))
        if self.broken is not None:
            e = np.where(self.broken, NOT_A_NUMBER, e)
        return e.astype(np.int32)

    @cached_property
    def span(self) -> tuple[int, int]:
        """The smallest and largest exponents of finite values other than zero; (0, 0) without any."""
        e = self.exponents
        used = e[(e > NO_EXPONENT) & (e < INFINITE)]
        return (int(used.min()), int(used.max())) if used.size else (0, 0)

    @cached_property
    def special(self) -> np.ndarray:
        """bool (..., rows): which rows hold something that is not finite."""
        return np.asarray((self.exponents >= INFINITE).any(axis=-1))

    @cached_property
    def scaled(self) -> np.ndarray:
        """float32: values times scales, zero where not finite; only where exact, see `lanes_are_exact`."""
        v = self.values if self.shift is None else np.ldexp(self.values, self.shift)
        return np.where(self.exponents >= INFINITE, np.float32(0), v).astype(np.float32, copy=False)

    @cached_property
    def significands(self) -> np.ndarray:
        """int32: values in units of 2**(exponent - mantissa bits), the sign alone where infinite."""
        infinite = np.isinf(self.values)
        finite = np.where(np.isfinite(self.values), self.values, 0)
        e = self.exponents if self.shift is None else self.exponents - self.shift
        power = np.where((self.exponents >= INFINITE) | (finite == 0), 0, self.mantissa_bits - e)
        whole = np.ldexp(finite.astype(np.float64), power).astype(np.int32)
        return np.where(infinite, np.sign(self.values), whole).astype(np.int32)

    @cached_property
    def fractions(self) -> np.ndarray:
        """float32: values over 2**exponent, below 2 in magnitude, zero where not finite."""
        e = self.exponents if self.shift is None else self.exponents - self.shift
        finite = self.exponents < INFINITE
        e = np.where(finite & (self.values != 0), e, 0)
        return np.ldexp(np.where(finite, self.values, np.float32(0)), -e).astype(np.float32, copy=False)

    @cached_property
    def short_exponents(self) -> np.ndarray:
        """int16: exponents, those of zeros and of what is not finite being NO_EXPONENT."""
        return np.where(self.exponents >= INFINITE, NO_EXPONENT, self.exponents).astype(np.int16)

    def padded(self, count: int) -> Side:
        """Return the same with `count` zeros at the end of K; nothing that instructions scale."""
        values = np.pad(self.values, [(0, 0)] * (self.values.ndim - 1) + [(0, count)])
        return Side(values, self.mantissa_bits, self.min_exponent)

    def part(self, index: np.ndarray | slice) -> Side:
        """Return the columns of K that `index` picks."""
        cut = [None if x is None else np.ascontiguousarray(x[..., index]) for x in (self.shift, self.broken)]
        return Side(np.ascontiguousarray(self.values[..., index]), self.mantissa_bits, self.min_exponent, *cut)


@dataclass(frozen=True)
class GroupedSide:
    """One operand whose groups share a scale inside the instruction.

    Attributes:
        units: float32 (..., rows, K), integers in units of 2**unit, K padded to whole blocks.
        masks: int32 (..., rows, groups), a bit for each element that is not zero; none where the scale is zero.
        significands, exponents: float64 and int32 (..., rows, groups), of the scales.
        broken: bool (..., rows, groups), where a scale is NaN.
    """

    units: np.ndarray
    unit: int
    masks: np.ndarray
    significands: np.ndarray
    exponents: np.ndarray
    broken: np.ndarray

    def part(self, index: np.ndarray, tc: TensorCoreAccumulator) -> GroupedSide:
        """Return the columns of K that `index` picks, filled up to whole blocks; only the end of K is within one."""
        missing = -len(index) % tc.block
        columns = np.concatenate([index, index[-1] + 1 + np.arange(missing)]) if missing else index
        groups = columns[:: tc.group] // tc.group
        arrays = (self.masks, self.significands, self.exponents, self.broken)
        units = np.ascontiguousarray(self.units[..., columns])
        return GroupedSide(units, self.unit, *(np.ascontiguousarray(x[..., groups]) for x in arrays))


def grouped_side(tc: TensorCoreAccumulator, operand: Operand) -> GroupedSide:
    """Return an operand as an instruction with groups reads it."""
    element = scale_element(operand)
    assert element is not None
    min_exponent = element.steps[1] if element.steps is not None else -127  # E8M0 has no smallest step
    units = pad(operand.units, tc.block)
    count = units.shape[-1] // tc.group
    scales = np.repeat(operand.scales, operand.block // tc.group, axis=-1).astype(np.float64)
    scales = np.pad(scales[..., :count], [(0, 0)] * (scales.ndim - 1) + [(0, max(0, count - scales.shape[-1]))])
    broken = np.isnan(scales)
    scales = np.where(broken, 0, scales)
    exponents = np.maximum(np.frexp(scales)[1] - 1, min_exponent).astype(np.int32)
    bits = (units != 0).reshape(*units.shape[:-1], count, tc.group) @ (1 << np.arange(tc.group, dtype=np.int32))
    masks = np.where(scales == 0, 0, bits).astype(np.int32)
    return GroupedSide(units, operand.unit_exponent, masks, np.ldexp(scales, -exponents), exponents, broken)


def side_of(tc: TensorCoreAccumulator, operand: Operand) -> Side:
    """Return an operand as the instruction reads it; scales of the instruction become part of the exponents."""
    assert operand.format is not None
    steps = operand.format.element.steps
    assert steps is not None
    mantissa_bits, min_exponent = steps
    if tc.reads is not None:
        mantissa_bits, min_exponent = tc.reads.mantissa_bits, tc.reads.min_exponent
    with np.errstate(invalid="ignore"):  # signalling NaN
        values = np.ldexp(operand.units, operand.unit_exponent).astype(np.float32, copy=False)
    if tc.operand_mantissa:
        dropped = np.int32(-1) << np.int32(mantissa_bits - tc.operand_mantissa)
        values = np.where(np.isnan(values), values, (values.view(np.int32) & dropped).view(np.float32))
        mantissa_bits = tc.operand_mantissa
    if not tc.scale_block or tc.group > 1:
        return Side(np.ascontiguousarray(values), mantissa_bits, min_exponent)
    spread = np.repeat(operand.scales, operand.block, axis=-1)[..., : values.shape[-1]]
    broken = np.isnan(spread)
    shift = np.where(broken, 0, np.frexp(spread)[1] - 1).astype(np.int32)
    return Side(np.ascontiguousarray(values), mantissa_bits, min_exponent, shift, broken if broken.any() else None)


def dealt(tc: TensorCoreAccumulator, depth: int) -> np.ndarray:
    """Return the places along K in the order in which the blocks of consecutive instructions take them.

    They go beyond `depth` where that ends within an instruction.

    >>> from macloom.formats.accumulator import get_accumulator
    >>> dealt(get_accumulator("tc:hopper-fp8-sync-fp16"), 5)[:20].tolist()
    [0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29, 2, 3, 6, 7]
    """
    places = np.arange(-(-depth // tc.k) * tc.k)
    return places.reshape(-1, tc.block // tc.run, tc.k // tc.block, tc.run).swapaxes(1, 2).ravel()


def pad(array: np.ndarray, multiple: int, value: float = 0) -> np.ndarray:
    """Return the array with its last axis filled up to a multiple."""
    missing = -array.shape[-1] % multiple
    if not missing:
        return np.ascontiguousarray(array)
    return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, missing)], constant_values=value)
