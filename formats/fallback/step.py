"""Rounding to grids with steps; see `macloom.formats.kernels.step`, whose arithmetic this repeats."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from macloom.formats.fallback.tiles import EXPONENT, MAGNITUDE, SIGN, Buffers, Piece, note_largest, pieces

U32, F32 = np.uint32, np.float32
FAR, FAR_BITS = F32(2.0**64), U32(64 << 23)
HALF = 1 << 22  # the leading bit of a mantissa


def _magic(scaled: np.ndarray, buffer: np.ndarray, min_bits: int, lift: int, low: Any, high: Any) -> Any:
    """Return 1.5 M for each element, M being the power of two whose last place is the grid's step there.

    One number does where no value leaves the binades of the smallest step, as with integers.
    """
    lift = lift + HALF
    if max(int(np.abs(bound).view(U32) & EXPONENT) for bound in (low, high)) <= min_bits:
        return U32((min_bits + lift) & 0xFFFFFFFF).view(F32)
    magic = buffer.view(U32)
    np.bitwise_and(scaled.view(U32), EXPONENT, out=magic)
    np.maximum(buffer, U32(min_bits).view(F32), out=buffer)
    np.add(magic, U32(lift & 0xFFFFFFFF), out=magic)
    return buffer


def nearest(
    scaled: np.ndarray,
    buffer: np.ndarray,
    scratch: np.ndarray,
    min_bits: int,
    lift: int,
    low: Any,
    high: Any,
    zero: Any,
) -> np.ndarray:
    """Return the nearest grid values in `scaled` or `buffer`, all three of which are overwritten.

    Sums of magnitude 1.5 M keep the step for either sign; only zeros lose theirs.
    """
    np.clip(scaled, low, high, out=scaled)
    magic = _magic(scaled, buffer, min_bits, lift, low, high)
    np.add(scaled, magic, out=scratch)
    np.subtract(scratch, magic, out=scratch)
    if np.signbit(zero):
        bits = scaled.view(U32)
        np.bitwise_and(bits, SIGN, out=bits)
        np.bitwise_or(bits, scratch.view(U32), out=bits)
        return scaled
    return scratch


def _with_sign(code: np.ndarray, bits: np.ndarray, flip: int, sign_bit: int, keep_zero: int, mask: int) -> np.ndarray:
    """Give magnitudes' codes (uint32, changed in place) the sign of the patterns `bits`, which are overwritten."""
    if flip:
        turn = np.right_shift(bits.view(np.int32), np.int32(31), out=bits.view(np.int32)).view(U32)
        np.bitwise_xor(code, turn, out=code)
        np.subtract(code, turn, out=code)
    np.bitwise_and(code, U32(mask), out=code)
    if sign_bit:
        np.right_shift(bits, U32(32 - int(sign_bit).bit_length()), out=bits)
        np.bitwise_and(bits, U32(sign_bit), out=bits)
        if not keep_zero:
            np.multiply(bits, code != 0, out=bits)
        np.bitwise_or(code, bits, out=code)
    return code


def nearest_code(
    scaled: np.ndarray, first: np.ndarray, second: np.ndarray, shift: int, min_bits: int, lift: int, low: Any,
    high: Any, flip: int, sign_bit: int, keep_zero: int, mask: int,
) -> np.ndarray:  # fmt: skip
    """Return the codes (uint32, in one of the buffers) of the nearest grid values; all three are overwritten."""
    np.clip(scaled, low, high, out=scaled)
    bits, exponent, code = scaled.view(U32), first.view(U32), second.view(U32)
    magic = _magic(scaled, first, min_bits, lift, low, high)
    if flip and magic is not first:
        np.add(scaled, magic, out=second)
        np.subtract(code, magic.view(U32), out=code)
        return np.bitwise_and(code, U32(mask), out=code)
    np.abs(scaled, out=second)
    np.add(second, magic, out=second)
    np.subtract(code, magic.view(U32), out=code)
    if magic is not first:
        return _with_sign(code, bits, flip, sign_bit, keep_zero, mask)
    np.subtract(exponent, U32((min_bits + lift + HALF) & 0xFFFFFFFF), out=exponent)
    np.right_shift(exponent, U32(shift), out=exponent)
    np.add(code, exponent, out=code)
    return _with_sign(code, bits, flip, sign_bit, keep_zero, mask)


def round_steps(start, stop, x, scales, block, min_bits, lift, low, high, zero, out, worst):
    """Write the value nearest to x / scale, ties to even, saturated, times the scale."""
    worst[start:stop] = 0
    buffers = Buffers(3)
    with np.errstate(all="ignore"):
        for piece in pieces(start, stop, x.shape[1], scales.shape[1], block):
            scaled, buffer, scratch = buffers.shaped(piece)
            scale, values = piece.per_segment(scales), piece.of(x)
            note_largest(values, scratch, piece, worst)
            np.divide(values, scale, out=scaled)
            rounded = nearest(scaled, buffer, scratch, min_bits, lift, low, high, zero)
            np.multiply(rounded, scale, out=piece.of(out))


def step_codes(
    start, stop, x, scales, block, shift, min_bits, lift, low, high, flip, sign_bit, keep_zero, mask, out, worst
):
    """Write the code of the value nearest to x / scale."""
    worst[start:stop] = 0
    buffers = Buffers(3)
    with np.errstate(all="ignore"):
        for piece in pieces(start, stop, x.shape[1], scales.shape[1], block):
            scaled, first, second = buffers.shaped(piece)
            values = piece.of(x)
            note_largest(values, second, piece, worst)
            np.divide(values, piece.per_segment(scales), out=scaled)
            piece.of(out)[...] = nearest_code(
                scaled, first, second, shift, min_bits, lift, low, high, flip, sign_bit, keep_zero, mask
            )


def _by_pattern(
    bits: np.ndarray, shift: int, limit_odd: Any, limit_even: Any, drawn: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return values and codes of magnitudes' patterns on a grid whose codes are the leading bits of float32."""
    code, unit = bits >> U32(shift), 1 << int(shift)
    rest = np.bitwise_and(bits, U32(unit - 1), out=bits)
    if drawn is not None:
        up = rest > drawn * F32(unit)
    elif limit_odd is None:
        up = rest > U32(limit_even * unit)
    else:
        odd, even = int(limit_odd * unit), int(limit_even * unit)
        limit = np.multiply(code & U32(1), U32((odd - even) & 0xFFFFFFFF))
        up = rest > np.add(limit, U32(even), out=limit)
    np.add(code, up, out=code)
    return (code << U32(shift)).view(F32), code


def _directed(
    scaled: np.ndarray, scratch: np.ndarray, shift: int, min_bits: int, lift: int, far_bits: int | None,
    step_scale: Any, low: Any, high: Any, limit_odd: Any, limit_even: Any, drawn: np.ndarray | None, coded: bool,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Round magnitudes by rule: return the values and, with `coded`, their codes, both without sign."""
    magnitude = np.clip(scaled, low, high, out=scratch)
    bits = np.bitwise_and(magnitude.view(U32), MAGNITUDE, out=magnitude.view(U32))
    if min_bits == 1 << 23:
        return _by_pattern(bits, shift, limit_odd, limit_even, drawn)
    far = None if far_bits is None else bits >= U32(far_bits)
    if far is not None:
        np.subtract(bits, far * FAR_BITS, out=bits)
    exponent = np.bitwise_and(bits, EXPONENT)
    np.maximum(exponent, U32(min_bits), out=exponent)
    magic_bits = exponent + U32(lift)
    magic, step = magic_bits.view(F32), exponent.view(F32) * step_scale
    floor = np.add(magnitude, magic)
    np.subtract(floor, magic, out=floor)
    np.subtract(floor, (floor > magnitude) * step, out=floor)
    code = exponent
    if coded or (drawn is None and limit_odd is not None):
        np.right_shift(np.subtract(exponent, U32(min_bits), out=code), U32(shift), out=code)
        np.add(code, (floor + magic).view(U32) - magic_bits, out=code)
    rest = np.subtract(magnitude, floor, out=magnitude)
    if drawn is not None:
        up = rest > np.multiply(drawn, step, out=drawn)
    elif limit_odd is None:
        up = rest > step * limit_even
    else:
        up = rest > step * np.where((code & U32(1)) != 0, limit_odd, limit_even)
    value = np.add(floor, np.multiply(up, step, out=step), out=floor)
    if coded:
        np.add(code, up, out=code)
    if far is not None:
        value *= np.where(far, FAR, F32(1))
        code += far * (FAR_BITS >> U32(shift))
    return value, code


def _drawn(draws: np.ndarray | None, draw_from: int, piece: Piece, x: np.ndarray, draw_bits: int) -> np.ndarray | None:
    """Return the draws' leading bits as numbers in [0, 1), None where there are no draws."""
    if draws is None:
        return None
    own = replace(piece, row=piece.row - draw_from // x.shape[1]).of(draws.reshape(-1, x.shape[1]))
    return (own >> np.uint16(16 - draw_bits)).astype(F32) * F32(2.0**-draw_bits)


def direct_steps(
    start, stop, x, scales, block, shift, min_bits, lift, far_bits, step_scale, low, high, limit_odd, limit_even,
    draws, draw_from, draw_bits, zero, out, worst,
):  # fmt: skip
    """Write x / scale rounded by rule or by draws, saturated, times the scale."""
    worst[start:stop] = 0
    buffers = Buffers(2)
    with np.errstate(all="ignore"):
        for piece in pieces(start, stop, x.shape[1], scales.shape[1], block):
            scaled, scratch = buffers.shaped(piece)
            scale, values = piece.per_segment(scales), piece.of(x)
            note_largest(values, scratch, piece, worst)
            np.divide(values, scale, out=scaled)
            rounded, _ = _directed(
                scaled, scratch, shift, min_bits, lift, far_bits, step_scale, low, high, limit_odd, limit_even,
                _drawn(draws, draw_from, piece, x, draw_bits), False,
            )  # fmt: skip
            signs, result = np.maximum(scaled, low, out=scaled).view(U32), rounded.view(U32)
            np.bitwise_or(result, np.bitwise_and(signs, SIGN, out=signs), out=result)
            np.multiply(np.add(rounded, zero, out=rounded), scale, out=piece.of(out))


def direct_codes(
    start, stop, x, scales, block, shift, min_bits, lift, far_bits, step_scale, low, high, limit_odd, limit_even,
    draws, draw_from, draw_bits, flip, sign_bit, keep_zero, mask, out, worst,
):  # fmt: skip
    """Write the codes of what `direct_steps` writes."""
    worst[start:stop] = 0
    buffers = Buffers(2)
    with np.errstate(all="ignore"):
        for piece in pieces(start, stop, x.shape[1], scales.shape[1], block):
            scaled, scratch = buffers.shaped(piece)
            values = piece.of(x)
            note_largest(values, scratch, piece, worst)
            np.divide(values, piece.per_segment(scales), out=scaled)
            _, code = _directed(
                scaled, scratch, shift, min_bits, lift, far_bits, step_scale, low, high, limit_odd, limit_even,
                _drawn(draws, draw_from, piece, x, draw_bits), True,
            )  # fmt: skip
            sign = np.maximum(scaled, low).view(U32)
            piece.of(out)[...] = _with_sign(code, sign, flip, sign_bit, keep_zero, mask)
