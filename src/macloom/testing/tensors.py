"""What must hold for every tensor format."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.block import Block
from macloom.formats.decoded import DecodedFormat
from macloom.formats.ovp import Ovp
from macloom.formats.scaled import Scaled
from macloom.formats.tensor import Encoded, TensorFormat
from macloom.formats.threads import set_threads
from macloom.testing.inputs import (
    BOUNDARY_MANTISSAS,
    first_difference,
    float32_patterns,
    same_bits,
    say,
    shapes,
    stores_negatives,
    stores_zero,
    tensor,
)


def _samples(fmt: TensorFormat) -> Iterator[np.ndarray]:
    signed = stores_negatives(fmt)
    for shape in shapes(fmt):
        yield tensor(fmt, shape, signed=signed)


def _matrix(fmt: TensorFormat, seed: int = 0) -> np.ndarray:
    """Return one tensor of the richest shape that the format accepts."""
    return tensor(fmt, max(shapes(fmt), key=lambda s: (len(s) >= 2, len(s) <= 3, math.prod(s))), seed)


def _same(fmt: TensorFormat, what: str, got: np.ndarray, want: np.ndarray, x: np.ndarray) -> None:
    got, want = np.asarray(got), np.asarray(want)
    same = got.dtype == want.dtype and got.shape == want.shape and bool(np.all(same_bits(got, want)))
    say(same, f"{fmt.name}, shape {x.shape}: {what} differ in {first_difference(got, want, x)} ({got.dtype})")


def _refuses(fmt: TensorFormat, what: str, call: Callable[[], object]) -> None:
    try:
        call()
    except MacloomError:
        return
    raise AssertionError(f"{fmt.name}: accepts {what}; it must raise MacloomError")


def check_quantize(fmt: TensorFormat) -> None:
    """quantize(x) is encode(x).decode(), bit for bit, and neither changes x nor shares its memory."""
    for x in _samples(fmt):
        before = x.copy()
        encoded = fmt.encode(x)
        decoded = encoded.decode()
        _same(fmt, "quantize and encode.decode", fmt.quantize(x), decoded, x)
        _same(fmt, "the input before and after", x, before, x)
        x[...] = 3
        _same(fmt, "decode before and after x was overwritten", encoded.decode(), decoded, before)
        np.asarray(encoded.decode())[...] = 5
        _same(fmt, "decode before and after its result was overwritten", encoded.decode(), decoded, before)


def check_packing(fmt: TensorFormat) -> None:
    """Packed codes and scales are all there is: they give the values back and take exactly `bits`."""
    for x in _samples(fmt):
        encoded = fmt.encode(x)
        codes = encoded.codes
        say(codes.dtype == np.uint8, f"{fmt.name}: packed codes are {codes.dtype}, not uint8")
        outer, side = float(encoded.outer), encoded.side
        again = fmt.from_packed(codes.copy(), encoded.scales, encoded.shape, outer, side)
        _same(fmt, "decoded before and after packing", again.decode(), encoded.decode(), x)
        bits = 8 * codes.nbytes + fmt.scale_bits(x.shape or (1,))
        say(encoded.bits == bits, f"{fmt.name}, shape {x.shape}: bits is {encoded.bits}, but {bits} are stored")
        say(encoded.bits == fmt.storage_bits(x.shape), f"{fmt.name}, shape {x.shape}: storage_bits differs from bits")
        _refuses(fmt, "codes with a byte too many", lambda c=codes, e=encoded: fmt.from_packed(
            np.concatenate((c, c[..., :1]), axis=-1), e.scales, e.shape))  # fmt: skip


def check_scale(fmt: TensorFormat) -> None:
    """encode(x) calibrates on x; the scale is finite and serves other calls; half the clip gives no larger one."""
    for x in _samples(fmt):
        scale = np.asarray(fmt.calibrate(x))
        say(bool(np.all(np.isfinite(scale))), f"{fmt.name}: calibrates a scale of {scale.max()}")
        _same(fmt, "values with and without the calibrated scale", fmt.quantize(x, scale=scale), fmt.quantize(x), x)
        _same(fmt, "decode with and without it", fmt.encode(x, scale=scale).decode(), fmt.encode(x).decode(), x)
        full, half = (np.asarray(fmt.calibrate(x, clip=c)) for c in (1.0, 0.5))
        if isinstance(fmt, Scaled | Block | Ovp):
            one = not fmt.static_scale or scale.shape == ()
            say(one, f"{fmt.name}: one scale has shape {scale.shape}, not ()")
            say(bool(np.all((half > 0) & (half <= full))), f"{fmt.name}: clip=0.5 gives a larger scale than clip=1")
        by_scale = fmt.quantize(x, scale=half, clip=0.5)
        _same(fmt, "values by clip and by its scale", fmt.quantize(x, clip=0.5), by_scale, x)


def check_idempotent(fmt: TensorFormat) -> None:
    """With the scale fixed, a quantized tensor is its own quantization."""
    for x in _samples(fmt):
        scale = fmt.calibrate(x)
        once = fmt.quantize(x, scale=scale)
        twice = fmt.quantize(once, scale=scale)
        same = np.array_equal(once, twice)
        say(same, f"{fmt.name}, shape {x.shape}: quantized twice, {first_difference(twice, once, x)}")


def check_power_of_two(fmt: TensorFormat) -> None:
    """Scaling a tensor by a power of two scales its quantization by the same, where scales follow the tensor."""
    x = _matrix(fmt)
    if fmt.scale_bits(x.shape) == 0:
        return
    follows = np.array_equal(fmt.calibrate(x * np.float32(2)), np.asarray(fmt.calibrate(x)) * np.float32(2))
    if not follows and not isinstance(fmt, Scaled | Block | Ovp):
        return
    for x in _samples(fmt):
        for k in (-4, 1, 3):
            factor = np.float32(2.0**k)
            got, want = np.asarray(fmt.quantize(x * factor)), np.asarray(fmt.quantize(x)) * factor
            _same(fmt, f"values of x * 2**{k} and values * 2**{k}", got, want, x)


def check_zeros(fmt: TensorFormat) -> None:
    """All-zero tensors and single elements work; zero stays zero."""
    for shape in shapes(fmt):
        for zero in (np.zeros(shape, np.float32), -np.zeros(shape, np.float32)):
            q = np.asarray(fmt.quantize(zero))
            stays = not np.any(q) or not stores_zero(fmt)
            say(stays, f"{fmt.name}, shape {shape}: zeros become {q[q != 0][:1]}")
            _same(fmt, "quantize and encode.decode of zeros", q, fmt.encode(zero).decode(), zero)
        for value in (1.0, 0.37, 1e-30, 1e30):
            x = np.full(shape, value, np.float32)
            q = fmt.quantize(x)
            say(bool(np.all(np.isfinite(q))), f"{fmt.name}, shape {shape}: {value} becomes {np.max(q)}")
            _same(fmt, "quantize and encode.decode of a constant", q, fmt.encode(x).decode(), x)


def check_out(fmt: TensorFormat) -> None:
    """out= receives the values and is returned, x itself allowed; what cannot hold them is refused."""
    for x in _samples(fmt):
        want = np.asarray(fmt.quantize(x))
        out = np.full(x.shape, np.nan, np.float32)
        say(fmt.quantize(x, out=out) is out, f"{fmt.name}: quantize(out=) does not return out")
        _same(fmt, "values with and without out", out, want, x)
        alias = x.copy()
        fmt.quantize(alias, out=alias)
        _same(fmt, "values in place and apart", alias, want, x)
    x = _matrix(fmt)
    strided = np.empty((*x.shape[:-1], 2 * x.shape[-1]), np.float32)[..., ::2]
    frozen = np.empty_like(x)
    frozen.flags.writeable = False
    wrong = {
        "out of float64": np.empty(x.shape, np.float64),
        "out of another shape": np.empty((*x.shape, 2), np.float32),
        "strided out": strided,
        "read-only out": frozen,
        "a list as out": x.tolist(),
    }
    for what, out in wrong.items():
        _refuses(fmt, what, lambda o=out: fmt.quantize(x, out=o))


def check_torch(fmt: TensorFormat) -> None:
    """torch tensors in give torch tensors out, with the bits that numpy gives."""
    import torch

    for x in _samples(fmt):
        t = torch.from_numpy(x.copy())
        want = np.asarray(fmt.quantize(x))
        for what, got in {
            "quantize": fmt.quantize(t),
            "decode": fmt.encode(t).decode(),
            "quantize with gradients on": fmt.quantize(t.clone().requires_grad_()),
            "out": fmt.quantize(t, out=torch.empty_like(t)),
            "quantize with calibrated scale": fmt.quantize(t, scale=fmt.calibrate(t)),
        }.items():
            say(isinstance(got, torch.Tensor), f"{fmt.name}: {what} of a torch tensor is {type(got).__name__}")
            _same(fmt, f"torch's and numpy's values ({what})", got.numpy(), want, x)
    x = _matrix(fmt)
    t = torch.from_numpy(x).to(torch.bfloat16)
    want = np.asarray(fmt.quantize(t.float().numpy()))
    _same(fmt, "values of bfloat16 and float32", fmt.quantize(t).numpy(), want, x)
    _same(fmt, "scales of bfloat16 and float32", fmt.calibrate(t), fmt.calibrate(t.float().numpy()), x)


def check_inputs(fmt: TensorFormat) -> None:
    """Strided, float64, float16 and integer inputs give what their float32 copies give; others are refused."""
    x = _matrix(fmt)
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), np.float32)
    wide[..., ::2] = x
    small = np.clip(np.round(x * 4), -100, 100)
    for given in (wide[..., ::2], x.astype(np.float64), small.astype(np.float16), small.astype(np.int32)):
        plain = np.array(given, np.float32)
        _same(fmt, f"values of {given.dtype} and float32", fmt.quantize(given), fmt.quantize(plain), plain)
        _same(fmt, f"scales of {given.dtype} and float32", fmt.calibrate(given), fmt.calibrate(plain), plain)
    _refuses(fmt, "an empty tensor", lambda: fmt.encode(np.empty((0, x.shape[-1]), np.float32)))
    _refuses(fmt, "an empty tensor", lambda: fmt.quantize(np.empty((0,), np.float32)))
    _refuses(fmt, "an empty tensor to calibrate on", lambda: fmt.calibrate(np.empty((0,), np.float32)))
    _refuses(fmt, "complex numbers", lambda: fmt.quantize(x.astype(np.complex64)))
    scale = np.asarray(fmt.calibrate(x))
    if fmt.scale_bits(x.shape):
        for bad in (0.0, -1.0, math.nan, math.inf):
            wrong = np.full(scale.shape, bad, np.float32)
            _refuses(fmt, f"a scale of {bad}", lambda s=wrong: fmt.quantize(x, scale=s))
            _refuses(fmt, f"a scale of {bad}", lambda s=wrong: fmt.encode(x, scale=s))
        _refuses(fmt, "too many scales", lambda: fmt.encode(x, scale=np.ones((7, *scale.shape), np.float32)))
    for bad in (0.0, -1.0, math.nan, math.inf):
        _refuses(fmt, f"clip={bad}", lambda c=bad: fmt.encode(x, clip=c))


def check_threads(fmt: TensorFormat) -> None:
    """The number of threads does not change a bit."""
    shape = (530, 512) if fmt.block is None or 512 % fmt.block == 0 else (530, 512 - 512 % fmt.block)
    x = tensor(fmt, shape)
    results: list[tuple[np.ndarray, Encoded]] = []
    try:
        for count in (1, 2):
            set_threads(count)
            results.append((np.asarray(fmt.quantize(x)), fmt.encode(x)))
    finally:
        set_threads(None)
    (q1, e1), (q2, e2) = results
    _same(fmt, "values with one thread and two", q1, q2, x)
    say(np.array_equal(e1.elements, e2.elements), f"{fmt.name}: codes differ between one thread and two")
    say(np.array_equal(e1.scales, e2.scales), f"{fmt.name}: scales differ between one thread and two")


def check_exponents(fmt: TensorFormat) -> None:
    """Every exponent of float32, subnormal ones included, at the edges of its binade: finite and consistent."""
    signed = stores_negatives(fmt)
    length = fmt.block or 8
    exponents = np.arange(255, dtype=np.uint32)
    largest = ((exponents[:, None] << np.uint32(23)) | np.array(BOUNDARY_MANTISSAS, np.uint32)).view(np.float32)
    shares = np.random.default_rng(0).uniform(-1, 1, (len(BOUNDARY_MANTISSAS), length))
    shares[:, 0] = 1
    for row in largest:
        x = (row[:, None] * shares).astype(np.float32)
        if not signed:
            x = np.abs(x)
        x = x if _takes(fmt, x) else np.stack((x, x))
        _check_total(fmt, x)
        if fmt.static_scale:
            for single in x[..., :, :].reshape(-1, length)[::9]:
                _check_total(fmt, single)
    x = float32_patterns(64 * length)[: 32 * length].reshape(32, length)
    x = x if signed else np.abs(x)
    _check_total(fmt, x if _takes(fmt, x) else np.stack((x, x)))


def _takes(fmt: TensorFormat, x: np.ndarray) -> bool:
    try:
        fmt.encode(np.ones_like(x))
    except MacloomError:
        return False
    return True


def _check_total(fmt: TensorFormat, x: np.ndarray) -> None:
    q = np.asarray(fmt.quantize(x))
    top = float(np.abs(x).max())
    say(bool(np.all(np.isfinite(q))), f"{fmt.name}: a tensor whose largest magnitude is {top.hex()} gives {q.min()}")
    _same(fmt, f"quantize and encode.decode (largest magnitude {top.hex()})", q, fmt.encode(x).decode(), x)


def check_nonfinite(fmt: TensorFormat) -> None:
    """NaN and infinities anywhere in a tensor are refused, whether or not the scale is given."""
    x = _matrix(fmt)
    scale = fmt.calibrate(x)
    for bad in (math.nan, math.inf, -math.inf):
        for position in (0, x.size // 2, x.size - 1):
            y = x.copy()
            y.flat[position] = bad
            _refuses(fmt, f"{bad} at {position}", lambda v=y: fmt.encode(v))
            _refuses(fmt, f"{bad} at {position}", lambda v=y: fmt.quantize(v))
            _refuses(fmt, f"{bad} at {position} with a scale", lambda v=y: fmt.encode(v, scale=scale))
            _refuses(fmt, f"{bad} at {position} with a scale", lambda v=y: fmt.quantize(v, scale=scale))
    _refuses(fmt, "a float64 beyond float32", lambda: fmt.encode(np.full(x.shape, 1e300)))


def check_operand(fmt: TensorFormat) -> None:
    """What the multipliers see, units * 2**e * scale, is the decoded value; no unit is larger than `max_unit`.

    Decode tables hold rounded values: their error is allowed, and 2**-9 in formats that have tables per tensor.
    """
    for x in _samples(fmt):
        encoded = fmt.encode(x)
        if len(encoded.shape) < 2:
            continue
        try:
            operand = encoded.operand()
        except MacloomError:
            say(fmt.block is None, f"{fmt.name}: gives no operand for a GEMM")
            return  # scales that change along the reduction axis
        say(operand.units.shape == x.shape, f"{fmt.name}: units have shape {operand.units.shape}, not {x.shape}")
        say(np.abs(operand.units).max() <= fmt.max_unit, f"{fmt.name}: a unit is above max_unit {fmt.max_unit}")
        say(operand.max_unit <= fmt.max_unit, f"{fmt.name}: the operand's max_unit is above {fmt.max_unit}")
        units = operand.centred().units.astype(np.float64)
        scales = np.repeat(operand.scales, operand.block, axis=-1)[..., : x.shape[-1]].astype(np.float64)
        values = np.ldexp(units, operand.unit_exponent) * scales * float(operand.outer)
        if operand.sparse is not None:
            rows = np.repeat(np.arange(values[..., 0].size), np.diff(operand.sparse.pointers))
            values.reshape(-1, x.shape[-1])[rows, operand.sparse.columns] += operand.sparse.values
        decoded = np.asarray(encoded.decode(), np.float64)
        relative = 2.0**-22 if isinstance(fmt, Scaled | Block | Ovp) else 2.0**-9
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
    say(per_element >= fmt.code_bits, f"{fmt.name}: stores {per_element} bits per element, less than one code")
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
