"""Inputs that find mistakes: grid points, midpoints and their neighbours, extremes, heavy tails."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.element import ElementFormat
from macloom.formats.tensor import TensorFormat

FLOAT32_MAX = float(np.finfo(np.float32).max)
MAX_GRID_POINTS = 600

# Mantissa fields of float32 at which binades, shared exponents and narrow significands change.
BOUNDARY_MANTISSAS = (0, 1, 0x3FFFFF, 0x400000, 0x400001, 0x5FFFFF, 0x600000, 0x600001, 0x7FFFFE, 0x7FFFFF)


def say(ok: object, message: str) -> None:
    """Raise AssertionError with `message` unless `ok`."""
    if not ok:
        raise AssertionError(message)


def grid_sample(element: ElementFormat, count: int = MAX_GRID_POINTS) -> np.ndarray:
    """Return indices into `element.encodable`: all of a small grid, else its ends, its middle and an even spread."""
    size = len(element.encodable[0])
    if size <= count:
        return np.arange(size)
    zero = int(np.searchsorted(element.encodable[0], 0.0))
    edge = np.arange(24)
    near = np.clip(np.concatenate((edge, size - 1 - edge, zero - 12 + edge)), 0, size - 1)
    spread = np.linspace(0, size - 1, count - len(near)).astype(np.int64)
    return np.unique(np.concatenate((near, spread)))


def boundary_values(element: ElementFormat, count: int = MAX_GRID_POINTS) -> np.ndarray:
    """Return float64 grid points, the points halfway to the next one, and where overflow begins."""
    values = element.encodable[0]
    index = grid_sample(element, count)
    index = index[index < len(values) - 1]
    halfway = (values[index] + values[index + 1]) / 2
    edges = [values[-1], values[0]]
    if element.overflow_value is not None:
        above = element.overflow_value
        edges += [above, -above, (values[-1] + above) / 2, -(values[-1] + above) / 2]
    return np.concatenate((values[index], halfway, edges))


def probes(element: ElementFormat, count: int = MAX_GRID_POINTS, seed: int = 0) -> np.ndarray:
    """Return ascending float64 inputs: boundaries with both neighbours, subnormals, extremes, infinities, random."""
    rng = np.random.default_rng(seed)
    exact = boundary_values(element, count)
    largest = max(element.max_value, -element.min_value)
    smallest = float(np.min(np.abs(element.encodable[0][element.encodable[0] != 0])))
    random = np.concatenate(
        (
            rng.normal(size=60) * largest / 3,
            rng.normal(size=60) * smallest,
            np.exp2(rng.uniform(np.log2(smallest) - 2, np.log2(largest) + 2, 60)) * rng.choice([-1.0, 1.0], 60),
            float32_patterns(60, seed).astype(np.float64),
        )
    )
    tiny = [0.0, -0.0, 2.0**-149, -(2.0**-149), 2.0**-126, -(2.0**-126), smallest / 2, -smallest / 2, 5e-324, -5e-324]
    huge = [largest * 1.25, -largest * 1.25, largest * 1e6, -largest * 1e6, FLOAT32_MAX, -FLOAT32_MAX, 1e300, -1e300]
    near = (exact, np.nextafter(exact, np.inf), np.nextafter(exact, -np.inf))
    every = np.concatenate((*near, random, tiny, huge, [math.inf, -math.inf]))
    return every[np.lexsort((~np.signbit(every), every))]


def float32_probes(element: ElementFormat, count: int = MAX_GRID_POINTS, seed: int = 0) -> np.ndarray:
    """Return finite float32 inputs: boundaries with both float32 neighbours, all of bfloat16, random patterns."""
    wide = probes(element, count, seed)
    with np.errstate(over="ignore"):
        exact = wide[np.isfinite(wide)].astype(np.float32)
        every = np.concatenate(
            (exact, np.nextafter(exact, np.float32(np.inf)), np.nextafter(exact, -np.float32(np.inf)))
        )
    bfloat16 = (np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)).view(np.float32)
    every = np.concatenate((every, bfloat16, float32_patterns(2000, seed + 1)))
    every = every[np.isfinite(every)]
    return np.unique(every.view(np.uint32)).view(np.float32)


def float32_patterns(count: int, seed: int = 0) -> np.ndarray:
    """Return finite float32 values whose bit patterns are uniform."""
    patterns = np.random.default_rng(seed).integers(0, 1 << 32, count, dtype=np.uint64).astype(np.uint32)
    values = patterns.view(np.float32)
    return values[np.isfinite(values)]


@lru_cache(maxsize=256)
def stores_negatives(fmt: TensorFormat) -> bool:
    """Say whether the format accepts negative values."""
    try:
        fmt.encode(np.full(_any_shape(fmt), -1.0, np.float32))
    except MacloomError:
        return False
    return True


@lru_cache(maxsize=256)
def stores_zero(fmt: TensorFormat) -> bool:
    """Say whether zero is a value of the format's elements."""
    element = getattr(fmt, "element", None)
    return element is None or element.bits > 16 or bool(np.any(element.encodable[0] == 0))


def tensor(fmt: TensorFormat, shape: tuple[int, ...], seed: int = 0, signed: bool | None = None) -> np.ndarray:
    """Return a float32 tensor with a Gaussian body, a heavy tail, zeros of both signs and one large channel."""
    rng = np.random.default_rng([seed, *shape])
    x = rng.normal(size=shape or (1,)) * np.exp2(rng.integers(-2, 3, shape or (1,)))
    x = np.where(rng.random(x.shape) < 0.02, x * 24, x)
    if stores_zero(fmt):
        x = np.where(rng.random(x.shape) < 0.05, rng.choice([0.0, -0.0], x.shape), x)
    x = np.asarray(x, np.float32).reshape(shape)
    return x if (stores_negatives(fmt) if signed is None else signed) else np.abs(x, out=x)


LENGTHS = (1, 2, 3, 8, 33, 64, 130)


def _accepts(fmt: TensorFormat, shape: tuple[int, ...]) -> bool:
    try:
        fmt.encode(np.ones(shape, np.float32))
    except MacloomError:
        return False
    return True


def _any_shape(fmt: TensorFormat) -> tuple[int, ...]:
    length = fmt.block or 4
    for shape in ((length,), (2, length), (2, 2, length), (2, 2, 2, length)):
        if _accepts(fmt, shape):
            return shape
    raise AssertionError(f"{fmt.name}: refuses ones of every shape up to (2, 2, 2, {length}); it should store one")


@lru_cache(maxsize=256)
def shapes(fmt: TensorFormat) -> tuple[tuple[int, ...], ...]:
    """Return shapes that the format accepts: scalars, rows, matrices, batches; odd lengths, tails, single elements."""
    block = fmt.block or 16
    lengths = sorted({*LENGTHS, block, block + 1, 3 * block + 5})
    candidates = [(), *((n,) for n in lengths), *((3, n) for n in lengths[1::3]), (3, block), (1, 1), (5, 1)]
    candidates += [(2, 3, block), (2, 3, 33), (2, 1, 2, block), (2, 1, 2, 37)]
    return tuple(shape for shape in candidates if _accepts(fmt, shape))


def same_bits(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Compare float32 arrays bit for bit."""
    return np.asarray(a, np.float32).view(np.uint32) == np.asarray(b, np.float32).view(np.uint32)


def first_difference(a: np.ndarray, b: np.ndarray, x: np.ndarray | None = None) -> str:
    """Say where two arrays first differ in bits, or how their shapes do."""
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    if a.shape != b.shape:
        return f"shapes {a.shape} and {b.shape}"
    where = np.flatnonzero(~same_bits(a, b).reshape(-1))
    if not len(where):
        return "nowhere"
    i = int(where[0])
    came = "" if x is None else f" from {float(np.asarray(x).flat[i]).hex()}"
    return f"{len(where)} of {a.size}, first at {i}:{came} {float(a.flat[i])!r} and {float(b.flat[i])!r}"
