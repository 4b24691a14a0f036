"""What must hold for every tensor format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from macloom.errors import MacloomError
from macloom.formats import threads
from macloom.formats.elements.decoded import DecodedFormat
from macloom.formats.outliers.sparse import all_values
from macloom.formats.tensor import Encoded, TensorFormat
from macloom.testing.comparison import CORE, check_refuses, check_same, matrix, samples, takes
from macloom.testing.inputs import (
    BOUNDARY_MANTISSAS,
    first_difference,
    float32_patterns,
    say,
    shapes,
    stores_negatives,
    stores_zero,
    tensor,
)
from macloom.testing.tensor_calls import check_inputs, check_nonfinite, check_out, check_torch


def check_quantize(fmt: TensorFormat) -> None:
    """quantize(x) is encode(x).decode(), bit for bit, and neither changes x nor shares its memory."""
    for x in samples(fmt):
        before = x.copy()
        encoded = fmt.encode(x)
        decoded = encoded.decode()
        check_same(fmt, "quantize and encode.decode", fmt.quantize(x), decoded, x)
        check_same(fmt, "the input before and after", x, before, x)
        x[...] = 3
        check_same(fmt, "decode before and after x was overwritten", encoded.decode(), decoded, before)
        np.asarray(encoded.decode())[...] = 5
        check_same(fmt, "decode before and after its result was overwritten", encoded.decode(), decoded, before)


def check_packing(fmt: TensorFormat) -> None:
    """Packed codes and scales are all there is: they give the values back and take exactly `bits`."""
    for x in samples(fmt):
        encoded = fmt.encode(x)
        codes = encoded.codes
        say(codes.dtype == np.uint8, f"{fmt.name}: packed codes are {codes.dtype}, not uint8")
        outer, side = float(encoded.outer), encoded.side
        again = fmt.from_packed(codes.copy(), encoded.scales, encoded.shape, outer, side)
        check_same(fmt, "decoded before and after packing", again.decode(), encoded.decode(), x)
        bits = 8 * codes.nbytes + fmt.scale_bits(x.shape or (1,)) + 8 * sum(a.nbytes for a in (side or {}).values())
        say(encoded.bits == bits, f"{fmt.name}, shape {x.shape}: bits is {encoded.bits}, but {bits} are stored")
        stated = side is not None or encoded.bits == fmt.storage_bits(x.shape)
        say(stated, f"{fmt.name}, shape {x.shape}: storage_bits differs from bits")
        check_refuses(fmt, "codes with a byte too many", lambda c=codes, e=encoded: fmt.from_packed(
            np.concatenate((c, c[..., :1]), axis=-1), e.scales, e.shape))  # fmt: skip


def check_scale(fmt: TensorFormat) -> None:
    """encode(x) calibrates on x; the scale is finite and serves other calls; half the clip gives no larger one."""
    for x in samples(fmt):
        scale = np.asarray(fmt.calibrate(x))
        say(bool(np.all(np.isfinite(scale))), f"{fmt.name}: calibrates a scale of {scale.max()}")
        check_same(
            fmt, "values with and without the calibrated scale", fmt.quantize(x, scale=scale), fmt.quantize(x), x
        )
        check_same(fmt, "decode with and without it", fmt.encode(x, scale=scale).decode(), fmt.encode(x).decode(), x)
        full, half = (np.asarray(fmt.calibrate(x, clip=c)) for c in (1.0, 0.5))
        if isinstance(fmt, CORE):
            one = not fmt.static_scale or scale.shape == ()
            say(one, f"{fmt.name}: one scale has shape {scale.shape}, not ()")
            say(bool(np.all((half > 0) & (half <= full))), f"{fmt.name}: clip=0.5 gives a larger scale than clip=1")
            smaller = bool(np.any(half < full)) or not np.any(x) or fmt.scale_bits(x.shape or (1,)) == 0
            smaller = smaller or np.array_equal(full, fmt.calibrate(x / 16, clip=1.0))  # the smallest scale there is
            say(smaller, f"{fmt.name}, shape {x.shape}: clip=0.5 gives the scale of clip=1")
        by_scale = fmt.quantize(x, scale=half, clip=0.5)
        check_same(fmt, "values by clip and by its scale", fmt.quantize(x, clip=0.5), by_scale, x)


def check_idempotent(fmt: TensorFormat) -> None:
    """With the scale fixed, a quantized tensor is its own quantization."""
    for x in samples(fmt):
        scale = fmt.calibrate(x)
        once = fmt.quantize(x, scale=scale)
        twice = fmt.quantize(once, scale=scale)
        same = np.array_equal(once, twice)
        say(same, f"{fmt.name}, shape {x.shape}: quantized twice, {first_difference(twice, once, x)}")


def check_power_of_two(fmt: TensorFormat) -> None:
    """Scaling a tensor by a power of two scales its quantization by the same, where scales follow the tensor."""
    x = matrix(fmt)
    if fmt.scale_bits(x.shape) == 0:
        return
    for x in samples(fmt):
        for k in (-4, 1, 3):
            factor = np.float32(2.0**k)
            got, want, follows = _scaled_both_ways(fmt, x, factor)
            if follows or isinstance(fmt, CORE):
                check_same(fmt, f"values of x * 2**{k} and values * 2**{k}", got, want, x)


def _scaled_both_ways(fmt: TensorFormat, x: np.ndarray, factor: np.float32) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return the values of x * factor, those of x times the factor, and whether the scales are as far apart."""
    try:
        got, want = np.asarray(fmt.quantize(x * factor)), np.asarray(fmt.quantize(x)) * factor
        follows = np.array_equal(fmt.calibrate(x * factor), np.asarray(fmt.calibrate(x)) * factor)
    except MacloomError:
        if isinstance(fmt, CORE):
            raise
        return x, x, False
    return got, want, follows


def check_zeros(fmt: TensorFormat) -> None:
    """All-zero tensors and single elements work; zero stays zero."""
    for shape in shapes(fmt):
        for zero in (np.zeros(shape, np.float32), -np.zeros(shape, np.float32)):
            q = np.asarray(fmt.quantize(zero))
            stays = not np.any(q) or not stores_zero(fmt)
            say(stays, f"{fmt.name}, shape {shape}: zeros become {q[q != 0][:1]}")
            check_same(fmt, "quantize and encode.decode of zeros", q, fmt.encode(zero).decode(), zero)
        for value in (1.0, 0.37, 1e-30, 1e30):
            _check_total(fmt, np.full(shape, value, np.float32))


@contextmanager
def _shared_between(count: int) -> Iterator[None]:
    """Let `count` threads share even small tensors."""
    least = threads.MIN_ELEMENTS_PER_THREAD
    try:
        threads.MIN_ELEMENTS_PER_THREAD = 1
        threads.set_threads(count)
        yield
    finally:
        threads.MIN_ELEMENTS_PER_THREAD = least
        threads.set_threads(None)


def check_threads(fmt: TensorFormat) -> None:
    """The number of threads does not change a bit."""
    x = tensor(fmt, (37, 3 * (fmt.block or 16)))
    x = x if takes(fmt, x) else np.stack((x, x))
    results: list[tuple[np.ndarray, Encoded]] = []
    for count in (1, 2, 3):
        with _shared_between(count):
            results.append((np.asarray(fmt.quantize(x)), fmt.encode(x)))
    q1, e1 = results[0]
    for count, (q, e) in enumerate(results[1:], 2):
        check_same(fmt, f"values with one thread and {count}", q1, q, x)
        say(np.array_equal(e1.elements, e.elements), f"{fmt.name}: codes differ between one thread and {count}")
        say(np.array_equal(e1.scales, e.scales), f"{fmt.name}: scales differ between one thread and {count}")


def check_exponents(fmt: TensorFormat) -> None:
    """Every exponent of float32, subnormal ones included, at the edges of its binade: finite and consistent."""
    signed = stores_negatives(fmt)
    length = fmt.block or 8
    exponents = np.arange(255, dtype=np.uint32)
    largest = ((exponents[:, None] << np.uint32(23)) | np.array(BOUNDARY_MANTISSAS, np.uint32)).view(np.float32)
    shares = np.random.default_rng(0).uniform(-1, 1, (len(exponents), length))
    shares[:, 0] = 1
    for n, row in enumerate(largest.T):
        x = (row[:, None] * shares).astype(np.float32)
        if not signed:
            x = np.abs(x)
        x = x if takes(fmt, x) else np.stack((x, x))
        _check_total(fmt, x)
        if fmt.static_scale:
            for single in x.reshape(-1, length)[n::31]:
                _check_total(fmt, single)
    x = float32_patterns(64 * length)[: 32 * length].reshape(32, length)
    x = x if signed else np.abs(x)
    _check_total(fmt, x if takes(fmt, x) else np.stack((x, x)))


def _check_total(fmt: TensorFormat, x: np.ndarray) -> None:
    try:
        q = np.asarray(fmt.quantize(x))
    except MacloomError:
        if isinstance(fmt, CORE):
            raise
        return
    top = float(np.abs(x).max())
    say(bool(np.all(np.isfinite(q))), f"{fmt.name}: a tensor whose largest magnitude is {top.hex()} gives {q.min()}")
    check_same(fmt, f"quantize and encode.decode (largest magnitude {top.hex()})", q, fmt.encode(x).decode(), x)


def check_operand(fmt: TensorFormat) -> None:
    """What the multipliers see, units * 2**e * scale, is the decoded value; no unit is larger than `max_unit`.

    Decode tables hold rounded values: their error is allowed, and 2**-9 in formats that have tables per tensor.
    """
    largest = fmt.max_unit
    for x in samples(fmt):
        encoded = fmt.encode(x)
        if len(encoded.shape) < 2:
            continue
        try:
            operand = encoded.operand()
        except MacloomError:
            say(fmt.block is None, f"{fmt.name}: gives no operand for a GEMM")
            return  # scales that change along the reduction axis
        say(operand.units.shape == x.shape, f"{fmt.name}: units have shape {operand.units.shape}, not {x.shape}")
        say(float(np.abs(operand.units).max()) <= largest, f"{fmt.name}: a unit is above max_unit {largest}")
        say(operand.max_unit <= largest, f"{fmt.name}: the operand's max_unit is above {largest}")
        units = operand.centred().units.astype(np.float64)
        scales = np.repeat(operand.scales, operand.block, axis=-1)[..., : x.shape[-1]].astype(np.float64)
        values = np.ldexp(units, operand.unit_exponent) * scales * float(operand.outer)
        if operand.sparse is not None:
            values = all_values(operand).astype(np.float64)
        decoded = np.asarray(encoded.decode(), np.float64)
        relative = 2.0**-22 if isinstance(fmt, CORE) else 2.0**-9
        inexact = scales * float(operand.outer) * _table_error(fmt)
        close = np.abs(values - decoded) <= relative * np.abs(decoded) + inexact + 2.0**-149
        i = int(np.argmin(close))
        say(bool(np.all(close)), f"{fmt.name}: the operand is {values.flat[i]} where {decoded.flat[i]} was decoded")


def _table_error(fmt: TensorFormat) -> float:
    """Return how far the operands of a decode table are from the values they stand for."""
    element = getattr(fmt, "element", None)
    if not isinstance(element, DecodedFormat):
        return 0.0
    codes = element.encodable[1]
    return float(np.abs(element.operand_values[codes] - element.values[codes]).max())


def check_facts(fmt: TensorFormat) -> None:
    """The figures that cost models read are consistent."""
    say(bool(fmt.name) and str(fmt) == fmt.name, f"{fmt.name!r}: str() must be the name")
    say(fmt.decoder_elements >= 1, f"{fmt.name}: a decoder read yields {fmt.decoder_elements} elements")
    say(fmt.decoder_bits >= 0, f"{fmt.name}: decoder_bits is {fmt.decoder_bits}")
    say(fmt.block is None or fmt.block >= 1, f"{fmt.name}: block is {fmt.block}")
    operand = fmt.operand
    say(operand.significand_bits >= 1, f"{fmt.name}: significand_bits is {operand.significand_bits}")
    say(operand.exponent_bits >= 0, f"{fmt.name}: exponent_bits is {operand.exponent_bits}")
    fits = fmt.max_unit < 1 << (operand.integer_bits - 1)
    say(fits, f"{fmt.name}: {fmt.max_unit} units do not fit {operand.integer_bits} signed bits")
    rows, length = 6, 16 * (fmt.block or 16)
    per_element = fmt.storage_bits((rows, length)) / (rows * length)
    least = fmt.code_bits * fmt.row_codes(length) / length
    say(per_element >= least, f"{fmt.name}: stores {per_element} bits per element, less than its codes take")
    say(fmt.storage_bits((rows, length)) >= fmt.storage_bits((1, length)), f"{fmt.name}: more rows take fewer bits")
    say(hash(fmt) == hash(fmt), f"{fmt.name}: must be hashable")


TENSOR_CHECKS: dict[str, Callable[[TensorFormat], None]] = {
    "quantize": check_quantize,
    "packing": check_packing,
    "scale": check_scale,
    "idempotent": check_idempotent,
    "power_of_two": check_power_of_two,
    "zeros": check_zeros,
    "out": check_out,
    "torch": check_torch,
    "inputs": check_inputs,
    "threads": check_threads,
    "exponents": check_exponents,
    "nonfinite": check_nonfinite,
    "operand": check_operand,
    "facts": check_facts,
}


def check_tensor_format(fmt: TensorFormat) -> None:
    """Raise AssertionError unless every property in `TENSOR_CHECKS` holds for `fmt`."""
    for check in TENSOR_CHECKS.values():
        check(fmt)
