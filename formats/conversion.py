"""Conversion of plain values under any policy: the vectorised form of `reference.encode_reference`."""

from __future__ import annotations

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.arrays import NonFiniteError
from macloom.formats.element import ElementFormat
from macloom.formats.elements.integer import IntFormat
from macloom.formats.grid import encode_with_table
from macloom.formats.policy import DRAW_BITS, NanPolicy, Overflow, Policy, Rounding, ZeroPolicy


def encode_under(element: ElementFormat, x: np.ndarray, policy: Policy) -> np.ndarray:
    """Return the codes of `x` under a policy; stochastic rounding is exact for float32 values.

    Raises:
        MacloomError: `x` holds NaN that the policy or the format does not take, or the policy asks for
            what the format lacks.
    """
    rounding = policy.rounding or element.default_rounding
    if policy.nan is NanPolicy.ERROR and np.isnan(x).any():
        raise NonFiniteError(f"format {element.name!r}: the input holds NaN, which the policy nan=error refuses")
    if policy.overflow is Overflow.WRAP:
        codes = _wrapped(element, x, rounding, policy)
    elif rounding is Rounding.STOCHASTIC:
        codes = _stochastic(element, x, policy)
    else:
        codes = encode_with_table(element, x, rounding, policy.overflow)
    return drop_negative_zero(element, codes) if policy.zero is ZeroPolicy.DROP else codes


def drop_negative_zero(element: ElementFormat, codes: np.ndarray) -> np.ndarray:
    """Return codes in which -0 is +0."""
    if element.negative_zero_code is None:
        return codes
    values, plain = element.encodable
    zero = element.code_dtype(plain[np.searchsorted(values, 0.0)])
    return np.where(codes == element.negative_zero_code, zero, codes)


def _stochastic(element: ElementFormat, x: np.ndarray, policy: Policy) -> np.ndarray:
    """Round magnitudes up where draw / 2**k < the fraction of the step; saturate."""
    if policy.overflow is not Overflow.SATURATE:
        raise MacloomError(f"overflow: stochastic rounding saturates; {policy.overflow.value!r} is not defined for it")
    draws = policy.draw(x.size).reshape(x.shape) >> np.uint16(DRAW_BITS - policy.draw_bits)
    values, codes = element.encodable
    with np.errstate(invalid="ignore"):  # signalling NaN become quiet
        wide = np.asarray(x, np.float64)
    held = np.clip(np.where(np.isnan(wide), 0, wide), values[0], values[-1])
    lower = np.clip(np.searchsorted(values, held, side="right") - 1, 0, len(values) - 2)
    negative = held < 0
    near, far = np.where(negative, lower + 1, lower), np.where(negative, lower, lower + 1)
    # Both terms are exact but the distance, whose rounding error (Knuth, TAOCP 4.2.2, theorem B) decides ties.
    base = values[near]
    distance = held - base
    error = (held - (distance - (distance - held))) - (base + (distance - held))
    threshold = np.ldexp(draws * (values[far] - base), -policy.draw_bits)
    up = np.where(negative, distance - threshold < -error, distance - threshold > -error)
    chosen = codes[np.where(up, far, near)].astype(element.code_dtype)
    plain = np.isnan(wide) | ((held == 0) & np.any(values == 0))
    exact = encode_with_table(element, np.where(plain, x, values[0]), Rounding.NEAREST_EVEN, policy.overflow)
    chosen = np.where(plain, exact, chosen)
    if element.negative_zero_code is not None:
        zero = codes[np.searchsorted(values, 0.0)]
        chosen = np.where((chosen == zero) & np.signbit(wide), element.code_dtype(element.negative_zero_code), chosen)
    return chosen.astype(element.code_dtype)


def _wrapped(element: ElementFormat, x: np.ndarray, rounding: Rounding, policy: Policy) -> np.ndarray:
    """Round to integers without bounds and keep the low bits."""
    if not isinstance(element, IntFormat):
        raise MacloomError(f"overflow: 'wrap' belongs to integers, not to format {element.name!r}; use 'saturate'")
    steps = np.ldexp(np.asarray(x, np.float64), element.fraction_bits)
    if not np.isfinite(steps).all():
        raise MacloomError(f"format {element.name!r}: wrapping needs finite input; clean it or use overflow=saturate")
    magnitude = np.abs(steps)
    floor = np.floor(magnitude)
    rest = magnitude - floor
    match rounding:
        case Rounding.NEAREST_EVEN:
            rounded = np.rint(magnitude)
        case Rounding.NEAREST_AWAY:
            rounded = floor + (rest >= 0.5)
        case Rounding.TOWARD_ZERO:
            rounded = floor
        case Rounding.TO_ODD:
            rounded = floor + ((rest > 0) & (np.fmod(floor, 2) == 0))
        case Rounding.STOCHASTIC:
            draws = policy.draw(x.size).reshape(x.shape) >> np.uint16(DRAW_BITS - policy.draw_bits)
            rounded = floor + (draws < np.ldexp(rest, policy.draw_bits))
    low_bits = np.fmod(np.copysign(rounded, steps), 2.0**element.width).astype(np.int64)
    return (low_bits & ((1 << element.width) - 1)).astype(element.code_dtype)
