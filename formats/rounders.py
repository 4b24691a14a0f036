"""Round rows of a tensor to an element format with the kernel that suits it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from macloom._numba import available
from macloom.errors import MacloomError
from macloom.formats.arrays import NonFiniteError, check_finite, check_number
from macloom.formats.conversion import drop_negative_zero, encode_under
from macloom.formats.draws import draw_parts
from macloom.formats.element import ElementFormat
from macloom.formats.grid import lookup_table
from macloom.formats.policy import DEFAULT_POLICY, Overflow, Policy, Rounding, ZeroPolicy
from macloom.formats.threads import run_rows

# Elements that the ways without a kernel, and the draws of stochastic rounding, take at a time.
CHUNK, DRAWN = 1 << 16, 1 << 18
FAR_EXPONENT = 64  # see kernels.step.FAR
NO_DRAW = 2  # no fraction exceeds it


@dataclass(frozen=True, kw_only=True)
class Steps:
    """A grid with steps, as the kernels take it.

    Attributes:
        shift: float32 mantissa bits that the grid does not have.
        min_bits: the exponent field below which the step stays the same.
        lift: what makes an exponent field that of the magic number.
        step_scale: step of a binade over its power of two.
        far_bits: exponent field from which magnitudes are lowered, None where no magic number overflows.
        low, high: smallest and largest value.
        flip, sign_bit, keep_zero, mask: how codes show the sign, see `kernels.step`.
        signed_zero: whether the grid has -0.
    """

    shift: int
    min_bits: int
    lift: int
    step_scale: np.float32
    far_bits: int | None
    low: np.float32
    high: np.float32
    flip: int
    sign_bit: int
    keep_zero: int
    mask: int
    signed_zero: bool

    def zero(self, policy: ZeroPolicy) -> np.float32:
        """Return what is added to a value so that the sign of zero is right."""
        return np.float32(-0.0 if self.signed_zero and policy is ZeroPolicy.KEEP else 0.0)

    def sign(self, policy: ZeroPolicy) -> tuple[int, int, int, int]:
        """Return the kernels' arguments for the sign of codes."""
        return self.flip, self.sign_bit, self.keep_zero if policy is ZeroPolicy.KEEP else 0, self.mask

    @property
    def adder_rounds(self) -> bool:
        """Whether the adder's own rounding to nearest even is that of the grid's codes."""
        return self.far_bits is None and self.shift < 23

    def limits(self, rounding: Rounding) -> tuple[np.float32 | None, np.float32]:
        """Return the fractions of a step above which an odd (None: as the even one) and an even neighbour goes up."""
        half = np.float32(0.5)
        # A subnormal step times this must stay exact; fractions are multiples of 2**-shift there.
        below = np.nextafter(half, np.float32(0)) if self.far_bits is None else half - np.float32(2.0**-self.shift)
        never = np.float32(NO_DRAW)
        match rounding:
            case Rounding.NEAREST_EVEN:
                return below, half
            case Rounding.NEAREST_AWAY:
                return None, below
            case Rounding.TO_ODD:
                return never, np.float32(0)
            case _:
                return None, never


@lru_cache(maxsize=256)
def steps_of(element: ElementFormat) -> Steps | None:
    """Return the grid of a format that keeps a fixed number of mantissa bits, None for all others."""
    own_points = type(element).decision is not ElementFormat.decision
    if element.steps is None or element.bits > 16 or own_points:
        return None
    mantissa_bits, min_exponent = element.steps
    top = int(np.frexp(element.max_value)[1]) - 1
    if not (0 <= mantissa_bits <= 22 and -126 <= min_exponent <= top + 127 and top <= 127 and min_exponent <= 40):
        return None
    far = top + 23 - mantissa_bits > 127
    if far and min_exponent > 0:
        return None
    values, codes = element.encodable
    zero = int(np.searchsorted(values, 0.0))
    signed = element.min_value < 0
    signed_zero = element.negative_zero_code is not None
    twos_complement = signed and not signed_zero and int(codes[zero - 1]) == (1 << element.bits) - 1
    return Steps(
        shift=23 - mantissa_bits,
        min_bits=(min_exponent + 127) << 23,
        lift=(23 - mantissa_bits) << 23,
        step_scale=np.float32(2.0**-mantissa_bits),
        far_bits=(FAR_EXPONENT + 127) << 23 if far else None,
        low=np.float32(element.min_value),
        high=np.float32(element.max_value),
        flip=0xFFFFFFFF if twos_complement else 0,
        sign_bit=1 << (element.bits - 1) if signed and not twos_complement else 0,
        keep_zero=int(signed_zero),
        mask=(1 << element.bits) - 1,
        signed_zero=signed_zero,
    )


def encode_rows(
    element: ElementFormat,
    rows: np.ndarray,
    scales: np.ndarray,
    block: int,
    name: str,
    policy: Policy = DEFAULT_POLICY,
) -> np.ndarray:
    """Return the codes of rows / scales.

    Args:
        rows: float32, rows x length.
        scales: float32, rows x segments of `block` elements.

    Raises:
        MacloomError: the input holds NaN or infinities that the policy does not take.
    """
    codes = np.empty(rows.shape, element.code_dtype)
    _round(element, rows, scales, block, name, policy, codes, True)
    return codes


def quantize_rows(
    element: ElementFormat,
    rows: np.ndarray,
    scales: np.ndarray,
    block: int,
    out: np.ndarray,
    name: str,
    policy: Policy = DEFAULT_POLICY,
) -> None:
    """Write the values of rows / scales in the format, times the scales, to `out` (which may be `rows`).

    Equal to decoding what `encode_rows` returns, bit for bit. Raises as it does.
    """
    if element.bits > 16:
        check_finite(np.abs(rows), name)
        np.copyto(out, rows)
        return
    _round(element, rows, scales, block, name, policy, out, False)


def _round(
    element: ElementFormat,
    rows: np.ndarray,
    scales: np.ndarray,
    block: int,
    name: str,
    policy: Policy,
    out: np.ndarray,
    coded: bool,
) -> None:
    from macloom.formats.kernels import lookup as kernels
    from macloom.formats.kernels import step as step_kernels

    rounding = policy.rounding or element.default_rounding
    plain = policy.overflow is Overflow.SATURATE
    steps = steps_of(element) if plain else None
    random = rounding is Rounding.STOCHASTIC
    rounds_by_adding = steps is not None and rounding is Rounding.NEAREST_EVEN and steps.adder_rounds
    # Without compiled loops, which round by rule as fast, a table is several times faster.
    by_table = plain and not random and (steps is None or not (rounds_by_adding or available()))
    table = lookup_table(element, rounding) if by_table else None
    worst = np.empty(rows.shape[0], np.uint32)
    common = rows.shape[0], rows.size, rows, scales, block
    if steps is not None and rounds_by_adding:
        grid = steps.min_bits, steps.lift, steps.low, steps.high
        if coded:
            run_rows(step_kernels.step_codes, *common, steps.shift, *grid, *steps.sign(policy.zero), out, worst)
        else:
            run_rows(step_kernels.round_steps, *common, *grid, steps.zero(policy.zero), out, worst)
    elif steps is not None and table is None:
        last = steps.sign(policy.zero) if coded else (steps.zero(policy.zero),)
        kernel = step_kernels.direct_codes if coded else step_kernels.direct_steps
        grid = (
            *(steps.shift, steps.min_bits, steps.lift, steps.far_bits, steps.step_scale, steps.low, steps.high),
            *steps.limits(rounding),
        )
        if random:
            _with_draws(kernel, rows, scales, block, grid, last, policy, out, worst)
        else:
            run_rows(kernel, *common, *grid, None, 0, 1, *last, out, worst)
    elif table is not None:
        entries = table.wide_codes if coded else table.values
        kernel = kernels.lookup_codes if coded else kernels.lookup_values
        run_rows(kernel, *common, table.shift, table.limits, entries, out, worst)
        if policy.zero is ZeroPolicy.DROP:
            out[...] = drop_negative_zero(element, out) if coded else out + np.float32(0)
    else:
        _without_kernel(element, rows, scales, block, name, policy, out, coded)
        return
    check_finite(worst, name)


def _with_draws(
    kernel: Any,
    rows: np.ndarray,
    scales: np.ndarray,
    block: int,
    grid: tuple[Any, ...],
    last: tuple[Any, ...],
    policy: Policy,
    out: np.ndarray,
    worst: np.ndarray,
) -> None:
    """Run a kernel over chunks of whole rows, each with the draws of its elements in row-major order."""
    length = rows.shape[1]
    count = max(1, DRAWN // length)
    # Draws come four to a word, so that only chunks of whole words leave the order as it is.
    count = count if length % 4 == 0 else -(-count // 4) * 4
    starts = range(0, rows.shape[0], count)

    def use(index: int, draws: np.ndarray) -> None:
        start = starts[index]
        stop = min(start + count, rows.shape[0])
        kernel(start, stop, rows, scales, block, *grid, draws, start * length, policy.draw_bits, *last, out, worst)

    draw_parts(policy, [min(count, rows.shape[0] - start) * length for start in starts], use)


def _without_kernel(
    element: ElementFormat,
    rows: np.ndarray,
    scales: np.ndarray,
    block: int,
    name: str,
    policy: Policy,
    out: np.ndarray,
    coded: bool,
) -> None:
    """Convert chunks of whole rows by the general encoder; NaN and infinities pass where the policy takes them."""
    lenient = policy.overflow not in (Overflow.SATURATE, Overflow.WRAP)
    count = max(1, CHUNK // rows.shape[1])
    count = count if rows.shape[1] % 4 == 0 else -(-count // 4) * 4
    for first in range(0, rows.shape[0], count):
        chunk = rows[first : first + count]
        if not lenient:
            check_finite(np.abs(chunk), name)
        spread = np.repeat(scales[first : first + count], block, axis=1)[:, : rows.shape[1]]
        try:
            codes = encode_under(element, chunk / spread, policy)
        except NonFiniteError:
            check_number(np.abs(chunk), name)  # says it of the tensor's format
            raise
        out[first : first + count] = codes if coded else element.decode(codes) * spread


def decode_rows(
    element: ElementFormat, codes: np.ndarray, scales: np.ndarray, block: int, out: np.ndarray | None = None
) -> np.ndarray:
    """Return float32 element values times their segment's scale, rows x length, in `out` if there is one.

    Raises:
        MacloomError: a code lies outside [0, 2**bits).
    """
    from macloom.formats.kernels.lookup import decode_codes

    if codes.dtype not in (np.uint8, np.uint16):
        element.decode(codes)  # refuses what no code is
        codes = codes.astype(element.code_dtype)
    codes, scales = np.ascontiguousarray(codes), np.ascontiguousarray(scales, np.float32)
    if out is not None and out.shape != codes.shape:
        raise MacloomError(f"codes: must be {out.shape} for rows of that shape, not {codes.shape}")
    if len(scales) != len(codes) or not 0 <= scales.shape[1] * block - codes.shape[1] < block:
        raise MacloomError(
            f"scales: must be one for {block} elements of each row, not {scales.shape} for codes {codes.shape}"
        )
    values = np.empty(codes.shape, np.float32) if out is None else out
    worst = np.empty(codes.shape[0], np.uint32)
    run_rows(decode_codes, codes.shape[0], codes.size, codes, scales, block, element.float32_values, values, worst)
    if worst.size and int(worst.max()) >= 1 << element.bits:
        element.decode(codes)  # says which code is wrong
    return values
