"""The vector unit on whole tensors: numpy or torch in, the same kind out, float32 that holds lane numbers.

Each function equals its namesake in `macloom.formats.vector.reference` bit for bit, on any number of threads.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.arrays import as_float32, like
from macloom.formats.threads import run_rows
from macloom.formats.vector import reference
from macloom.formats.vector.functions import ratio
from macloom.formats.vector.number import Fixed, Float, Number, Pair, Shift
from macloom.formats.vector.operations import Activation, Curve, Encode, Norm, Product, Rope, Softmax, Sum
from macloom.formats.vector.table import Newton, Table

_KINDS = {Shift.FLOOR: 0, Shift.HALF_UP: 1, Shift.NEAREST_EVEN: 2}
_FLOAT, _SINGLE = 3, 4
NumberTuple = tuple[int, int, int, float, float, float, float]


def number_tuple(number: Number) -> NumberTuple:
    """Return what the kernels know of a number kind: kind, mantissa bits, least exponent, steps per 1, step, limits.

    The limits are in steps for fixed-point numbers, else values.
    """
    if isinstance(number, Fixed):
        scale = 2.0**number.fraction
        return (_KINDS[number.rounding], 0, 0, scale, 1 / scale, float(number.low), float(number.high))
    largest = float(number.largest.fraction)
    kind = _SINGLE if (number.exponent_bits, number.mantissa_bits) == (8, 23) else _FLOAT
    return (kind, number.mantissa_bits, number.emin, 1.0, 1.0, -largest, largest)


@lru_cache(maxsize=64)
def _columns(coefficients: tuple[tuple[int, ...], ...]) -> np.ndarray:
    columns = np.array(coefficients, np.int64).reshape(-1)
    columns.setflags(write=False)
    return columns


def table_tuple(table: Table, coefficients: tuple[tuple[int, ...], ...]) -> tuple[np.ndarray, int, int, int]:
    """Return what the kernels know of a table."""
    return _columns(coefficients), table.entries, table.argument - table.index_bits, _KINDS[table.rounding]


def newton_tuple(unit: Newton, coefficients: tuple[tuple[int, ...], ...]) -> tuple[Any, ...]:
    """Return what the kernels know of a reciprocal or a root."""
    start = table_tuple(unit.table, coefficients)
    return (*start, unit.fraction - unit.table.fraction, unit.fraction, unit.iterations, _KINDS[unit.rounding])


def _real(x: Any, what: str) -> np.ndarray:
    array = as_float32(x, what)
    # numpy's extremes of data with NaN are NaN.
    if not (np.isfinite(array.max()) and np.isfinite(array.min())):
        raise MacloomError(f"{what}: must hold finite numbers; a vector unit has neither NaN nor infinity")
    return array


def _exact_float(pair: Pair) -> float:
    return float(pair.fraction)


def round_to(x: Any, number: Number) -> Any:
    """Return `x` in a number kind.

    >>> import numpy as np
    >>> round_to(np.float32([0.3, -100]), Fixed(bits=8, fraction=4))
    array([ 0.3125, -8.    ], dtype=float32)
    """
    from macloom.formats.vector import kernels

    array = _real(x, "vector input")
    out = np.empty(array.shape, np.float32)
    run_rows(kernels.rounds, array.size, array.size, array.reshape(-1), number_tuple(number), out.reshape(-1))
    return like(x, out)


def softmax(x: Any, op: Softmax, scale: float = 1.0, valid: np.ndarray | None = None) -> Any:
    """Return the probabilities of scores (..., K) along the last axis.

    Args:
        scale: positive factor of the scores, such as 1 / sqrt(head width); folded into a constant.
        valid: how many leading scores of a row count, for each of the last axes but one; the rest get
            exactly 0. None: all.
    """
    from macloom.formats.vector import kernels

    array = _real(x, "softmax scores")
    length = array.shape[-1]
    op.check_row(length)
    counts = np.array([length], np.int64) if valid is None else np.ascontiguousarray(valid, np.int64).reshape(-1)
    rows = array.reshape(-1, length)
    if len(rows) % len(counts) or counts.min() < 1 or counts.max() > length:
        raise MacloomError(f"softmax: valid: must hold counts from 1 to {length} for the last rows of {array.shape}")
    c, table = op.constant(scale), op.exponential.table
    out = np.empty(rows.shape, np.float32)
    run_rows(
        kernels.softmax, len(rows), rows.size, rows, counts, number_tuple(op.input), c.i,
        op.input.fraction - c.e - table.argument, table_tuple(table, op.exponential.coefficients), table.argument,
        table.fraction, newton_tuple(op.reciprocal, op.reciprocal.coefficients), op.block or length,
        number_tuple(op.output), out,
    )  # fmt: skip
    return like(x, out.reshape(array.shape))


def norm(x: Any, op: Norm, gain: Any, eps: float, bias: Any = None) -> Any:
    """Return RMSNorm (LayerNorm where `op.centred`) along the last axis."""
    from macloom.formats.vector import kernels

    array = _real(x, "norm input")
    length = array.shape[-1]
    g = _vector(gain, op.gain, length, "norm gain")
    b = np.empty(0) if bias is None else _vector(bias, op.gain, length, "norm bias")
    if not 0 <= eps < 2.0**30:
        raise MacloomError(f"norm: eps: must be a number of at least 0, not {eps!r}")
    rows, c = array.reshape(-1, length), op.constant(length)
    out = np.empty(rows.shape, np.float32)
    newton = newton_tuple(op.root, op.root.coefficients)
    middle, output = number_tuple(op.normalised), number_tuple(op.output)
    if isinstance(op.input, Float):
        assert op.accumulate is not None
        small = op.accumulate.round(Pair(-128, ratio(Fraction(eps), 128)))
        run_rows(
            kernels.float_norm, len(rows), rows.size, rows, g, b, number_tuple(op.input), number_tuple(op.accumulate),
            _exact_float(c), _exact_float(small), op.centred, op.lanes, newton, middle, output, out,
        )  # fmt: skip
    else:
        exponent = c.e - 2 * op.input.fraction
        run_rows(
            kernels.fixed_norm, len(rows), rows.size, rows, g, b, number_tuple(op.input), c.i, -c.e,
            ratio(Fraction(eps), -exponent), exponent, op.centred, newton, middle, output, out,
        )  # fmt: skip
    return like(x, out.reshape(array.shape))


def _vector(x: Any, number: Number, length: int, what: str) -> np.ndarray:
    values = np.asarray(round_to(as_float32(x, what), number), np.float64)
    if values.shape != (length,):
        raise MacloomError(f"{what}: must have shape ({length},), not {values.shape}")
    return values


@lru_cache(maxsize=8)
def rope_table(op: Rope, length: int, width: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines and sines, float64 (length, width / 2), of the reference's table."""
    columns = reference.rope_table(op, length, width, theta)
    both = np.array([[[_exact_float(c), _exact_float(s)] for c, s in column] for column in columns])
    cosine, sine = (np.ascontiguousarray(both[..., i].T) for i in (0, 1))
    return cosine, sine


def rotate(x: Any, op: Rope, theta: float) -> Any:
    """Return rotary position embedding of x (..., T, D): halves are paired, and position is the last axis but one."""
    from macloom.formats.vector import kernels

    array = _real(x, "rope input")
    if array.ndim < 2 or array.shape[-1] % 2:
        raise MacloomError(f"rope: needs shape (..., positions, even width), not {array.shape}")
    cosine, sine = rope_table(op, array.shape[-2], array.shape[-1], float(theta))
    rows = array.reshape(-1, array.shape[-1])
    out = np.empty(rows.shape, np.float32)
    product = number_tuple(op.output if op.product is None else op.product)
    run_rows(
        kernels.rope, len(rows), rows.size, rows, cosine, sine, number_tuple(op.input), op.product is None, product,
        number_tuple(op.output), out,
    )  # fmt: skip
    return like(x, out.reshape(array.shape))


def activate(x: Any, op: Activation, curve: Curve | str) -> Any:
    """Return the activation function of every element."""
    from macloom.formats.vector import kernels

    array = _real(x, "activation input")
    out = np.empty(array.shape, np.float32)
    flat, result, coefficients = array.reshape(-1), out.reshape(-1), op.coefficients(curve)
    given, output = number_tuple(op.input), number_tuple(op.output)
    if coefficients is None:
        run_rows(kernels.relu, array.size, array.size, flat, given, output, result)
    else:
        run_rows(
            kernels.activate, array.size, array.size, flat, given, table_tuple(op.table, coefficients),
            op.table.argument, 2.0**op.argument_fraction, op.table.fraction, output, result,
        )  # fmt: skip
    return like(x, out)


def _binary(kernel: str, x: Any, y: Any, op: Sum | Product) -> Any:
    from macloom.formats.vector import kernels

    left, right = _real(x, "left operand"), _real(y, "right operand")
    if left.shape != right.shape:
        raise MacloomError(f"vector operands: must have one shape, not {left.shape} and {right.shape}")
    out = np.empty(left.shape, np.float32)
    run_rows(
        getattr(kernels, kernel), left.size, left.size, left.reshape(-1), right.reshape(-1), number_tuple(op.left),
        number_tuple(op.right), number_tuple(op.output), out.reshape(-1),
    )  # fmt: skip
    return like(x, out)


def add(x: Any, y: Any, op: Sum) -> Any:
    """Return x + y element by element."""
    return _binary("add", x, y, op)


def multiply(x: Any, y: Any, op: Product) -> Any:
    """Return x * y element by element."""
    return _binary("multiply", x, y, op)


def encode(x: Any, op: Encode, scale: float) -> Any:
    """Return the integer codes of x / scale, int32."""
    from macloom.formats.vector import kernels

    array = _real(x, "encode input")
    out = np.empty(array.shape, np.int32)
    run_rows(
        kernels.encode, array.size, array.size, array.reshape(-1), number_tuple(op.input),
        _exact_float(op.multiplier(scale)), number_tuple(op.output), out.reshape(-1),
    )  # fmt: skip
    return like(x, out)
