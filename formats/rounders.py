"""Round rows of a tensor to an element format with the kernel that suits it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from macloom.formats.arrays import check_finite
from macloom.formats.element import ElementFormat
from macloom.formats.grid import lookup_table
from macloom.formats.threads import run_rows


@lru_cache(maxsize=128)
def step_parameters(element: ElementFormat) -> tuple[Any, ...] | None:
    """Return the arguments of `kernels.round_steps` for a format whose grid has steps, else None."""
    if element.steps is None:
        return None
    mantissa_bits, min_exponent = element.steps
    signed_zero = element.bits > 16 or element.negative_zero_code is not None
    return (
        23 - mantissa_bits,
        int(np.float32(2.0**min_exponent).view(np.uint32)),
        np.float32(2.0 ** (min_exponent - mantissa_bits + 23)),
        np.float32(element.min_value),
        np.float32(element.max_value),
        np.float32(-0.0 if signed_zero else 0.0),
    )


@lru_cache(maxsize=128)
def sign_rule(element: ElementFormat) -> int:
    """Return how the codes of a step grid show the sign, read off the codes of the smallest step."""
    from macloom.formats.kernels import CLAMP_TO_ZERO, ONE_ZERO, SIGNED_ZERO, TWOS_COMPLEMENT

    if element.min_value == 0:
        return CLAMP_TO_ZERO
    if element.negative_zero_code is not None:
        return SIGNED_ZERO
    values, codes = element.encodable
    zero = int(np.searchsorted(values, 0.0))
    return TWOS_COMPLEMENT if codes[zero - 1] == (1 << element.bits) - 1 else ONE_ZERO


def encode_rows(element: ElementFormat, rows: np.ndarray, scales: np.ndarray, block: int, name: str) -> np.ndarray:
    """Return the codes of rows / scales.

    Args:
        rows: float32, rows x length.
        scales: float32, rows x segments of `block` elements.

    Raises:
        MacloomError: the input holds NaN or infinities.
    """
    from macloom.formats.kernels import lookup, step_codes

    codes = np.empty(rows.shape, element.code_dtype)
    worst = np.empty(rows.shape[0], np.uint32)
    common = rows.shape[0], rows.size, rows, scales, block
    steps = step_parameters(element)
    table = None if steps else lookup_table(element)
    if steps:
        run_rows(step_codes, *common, *steps[:-1], element.bits, sign_rule(element), codes, worst)
    elif table:
        run_rows(lookup, *common, table.shift, table.codes, codes, worst)
    else:
        check_finite(np.abs(rows), name)
        return element.encode(rows / np.repeat(scales, block, axis=1)[:, : rows.shape[1]])
    check_finite(worst, name)
    return codes


def quantize_rows(
    element: ElementFormat, rows: np.ndarray, scales: np.ndarray, block: int, out: np.ndarray, name: str
) -> None:
    """Write the values of rows / scales in the format, times the scales, to `out` (which may be `rows`).

    Equal to decoding what `encode_rows` returns, bit for bit. Raises as it does.
    """
    from macloom.formats.kernels import lookup_values, round_steps

    worst = np.empty(rows.shape[0], np.uint32)
    steps = step_parameters(element)
    if steps is not None:
        run_rows(round_steps, rows.shape[0], rows.size, rows, scales, block, *steps, out, worst)
    else:
        table = lookup_table(element)
        if table is None:
            check_finite(np.abs(rows), name)
            spread = np.repeat(scales, block, axis=1)[:, : rows.shape[1]]
            np.multiply(element.quantize(rows / spread), spread, out=out)
            return
        run_rows(lookup_values, rows.shape[0], rows.size, rows, scales, block, table.shift, table.values, out, worst)
    check_finite(worst, name)


def decode_rows(element: ElementFormat, codes: np.ndarray, scales: np.ndarray, block: int) -> np.ndarray:
    """Return float32 element values times their segment's scale, rows x length."""
    values = element.decode(codes)
    for s in range(scales.shape[1]):
        values[:, s * block : (s + 1) * block] *= scales[:, s : s + 1]
    return values
