"""Dynamic block scales in one pass: the scale of each block is found, stored and used while it is in cache.

Equal, bit for bit, to calibrating first and rounding then; every function returns None (or False)
where no kernel fits, so that the caller takes those two steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from macloom.formats.arrays import check_finite
from macloom.formats.element import ElementFormat
from macloom.formats.elements.minifloat import FloatFormat
from macloom.formats.policy import DEFAULT_POLICY, Policy, Rounding, ZeroPolicy
from macloom.formats.rounders import Steps, steps_of
from macloom.formats.threads import run_rows

SMALLEST = 2.0**-126


@dataclass(frozen=True)
class PowerRule:
    """How the bits of the largest magnitude become the biased exponent of a power-of-two scale.

    Attributes:
        carry: what is added to the bits before the exponent field is taken.
        offset: what is subtracted from that field.
        most: the largest biased exponent.
    """

    carry: int
    offset: int
    most: int


@dataclass(frozen=True)
class GroupRule:
    """How the largest magnitude becomes a stored scale: divided by `largest` and `outer`, held, rounded.

    Attributes:
        low, high: range of the scale before it is rounded to `stored`.
        empty: scale of a block of zeros.
    """

    stored: FloatFormat
    largest: float
    low: float
    high: float
    empty: float
    outer: np.float32 = np.float32(1)

    def arguments(self) -> tuple[Any, ...] | None:
        """Return the kernels' arguments, None for scale formats that the adder does not round."""
        low, high = max(self.low, SMALLEST), self.high
        fixed = np.float32(self.largest), self.outer
        if self.stored.bits > 16:
            return *fixed, False, 0, 0, np.float32(low), np.float32(high), np.float32(self.empty)
        steps = steps_of(self.stored)
        if steps is None or not steps.adder_rounds:
            return None
        smallest = self.stored.encodable[0][self.stored.encodable[0] > 0][0]
        low, high = max(low, float(smallest)), min(high, self.stored.max_value)
        bounds = np.float32(low), np.float32(high), np.float32(self.empty)
        return *fixed, True, steps.min_bits, steps.lift, *bounds


def _plain_steps(element: ElementFormat, policy: Policy) -> Steps | None:
    steps = steps_of(element)
    rounding = policy.rounding or element.default_rounding
    if steps is None or not steps.adder_rounds or rounding is not Rounding.NEAREST_EVEN:
        return None
    return steps if policy == DEFAULT_POLICY or policy == Policy(rounding=rounding) else None


def _run(kernel: Callable[..., Any], rows: np.ndarray, size: int, name: str, *arguments: Any) -> None:
    worst = np.empty(rows.shape[0], np.uint32)
    run_rows(kernel, rows.shape[0], rows.size, rows, size, *arguments, worst)
    check_finite(worst, name)


def quantize_by_power(
    element: ElementFormat, rows: np.ndarray, size: int, rule: PowerRule, clip: float, out: np.ndarray, name: str,
    policy: Policy = DEFAULT_POLICY,
) -> bool:  # fmt: skip
    """Write blocks of `size` elements rounded under their own power-of-two scales to `out`.

    Raises:
        MacloomError: the rows hold NaN or infinities.
    """
    from macloom.formats.kernels.block import power_values

    steps = _plain_steps(element, policy)
    if steps is None:
        return False
    grid = steps.min_bits, steps.lift, steps.low, steps.high, steps.zero(ZeroPolicy.KEEP)
    _run(power_values, rows, size, name, np.float32(clip), rule.carry, rule.offset, rule.most, *grid, out)
    return True


def encode_by_power(
    element: ElementFormat, rows: np.ndarray, size: int, rule: PowerRule, clip: float, name: str,
    policy: Policy = DEFAULT_POLICY,
) -> tuple[np.ndarray, np.ndarray] | None:  # fmt: skip
    """Return the codes and the biased scale exponents (uint8, rows x blocks); see `quantize_by_power`."""
    from macloom.formats.kernels.block import power_codes

    steps = _plain_steps(element, policy)
    if steps is None:
        return None
    codes = np.empty(rows.shape, element.code_dtype)
    scales = np.empty((rows.shape[0], math.ceil(rows.shape[1] / size)), np.uint8)
    grid = steps.shift, steps.min_bits, steps.lift, steps.low, steps.high, *steps.sign(ZeroPolicy.KEEP)
    _run(power_codes, rows, size, name, np.float32(clip), rule.carry, rule.offset, rule.most, *grid, codes, scales)
    return codes, scales


def quantize_by_group(
    element: ElementFormat, rows: np.ndarray, size: int, rule: GroupRule, clip: float, out: np.ndarray, name: str,
    policy: Policy = DEFAULT_POLICY,
) -> bool:  # fmt: skip
    """Write blocks of `size` elements rounded under their own stored scales to `out`."""
    from macloom.formats.kernels.block import grouped_values

    steps, arguments = _plain_steps(element, policy), rule.arguments()
    if steps is None or arguments is None:
        return False
    grid = steps.min_bits, steps.lift, steps.low, steps.high, steps.zero(ZeroPolicy.KEEP)
    _run(grouped_values, rows, size, name, np.float32(clip), *arguments, *grid, out)
    return True


def encode_by_group(
    element: ElementFormat, rows: np.ndarray, size: int, rule: GroupRule, clip: float, name: str,
    policy: Policy = DEFAULT_POLICY,
) -> tuple[np.ndarray, np.ndarray] | None:  # fmt: skip
    """Return the codes and the scales (float32 without `outer`, rows x blocks)."""
    from macloom.formats.kernels.block import grouped_codes

    steps, arguments = _plain_steps(element, policy), rule.arguments()
    if steps is None or arguments is None:
        return None
    codes = np.empty(rows.shape, element.code_dtype)
    scales = np.empty((rows.shape[0], math.ceil(rows.shape[1] / size)), np.float32)
    grid = steps.shift, steps.min_bits, steps.lift, steps.low, steps.high, *steps.sign(ZeroPolicy.KEEP)
    _run(grouped_codes, rows, size, name, np.float32(clip), *arguments, *grid, codes, scales)
    return codes, scales
