"""Scales that are not floats by themselves: powers of two, integers per row, doubly quantized ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.elements.minifloat import FP32, FloatFormat
from macloom.formats.scales import SMALLEST_SCALE, ScaleStorage, store_scale

POWER_BITS = 8


@dataclass(frozen=True, kw_only=True)
class PowerOfTwoScale(ScaleStorage):
    """An 8-bit exponent, rounded up, so that the largest magnitude of a granule never saturates.

    >>> PowerOfTwoScale().store(np.float32([0.75, 1.0, 1.01]))
    array([1., 1., 2.], dtype=float32)
    """

    @property
    def name(self) -> str:  # type: ignore[override]
        return "pow2"

    def store(self, scale: np.ndarray) -> np.ndarray:
        mantissa, exponent = np.frexp(np.maximum(scale, SMALLEST_SCALE))
        return np.ldexp(np.float32(1), np.minimum(exponent - (mantissa == 0.5), 127))

    def total_bits(self, shape: tuple[int, ...]) -> int:
        return POWER_BITS * math.prod(shape)


@dataclass(frozen=True, kw_only=True)
class IntegerScale(ScaleStorage):
    """Group scales that are integers 1 ... 2**width - 1 times a scale of the row (as in DGQ, arXiv 2310.04836).

    The largest group scale of a row takes the largest integer; the others the nearest one. The width
    of DGQ's integers is not certain (4 or 8 bits), which is why it is an argument. DGQ's row scales are
    float16, which loses digits below 2**-14; here they are float32 unless `row` says otherwise.

    >>> IntegerScale(width=4).store(np.float32([[15.0, 7.2, 0.1]]))
    array([[15.,  7.,  1.]], dtype=float32)
    """

    width: int
    row: FloatFormat = FP32
    grouped = True

    def __post_init__(self) -> None:
        if not isinstance(self.width, int) or not 2 <= self.width <= 8:
            raise MacloomError(f"scale.width: must be an integer from 2 to 8, not {self.width!r}")

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"int{self.width}"

    def encode(self, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the integers (uint8, the shape of `scale`) and the float32 scale of each row (..., 1)."""
        if scale.ndim == 0:
            raise MacloomError(f"scale: storage {self.name!r} needs several scales in a row; use 'group=N'")
        top = (1 << self.width) - 1
        row = store_scale(scale.max(axis=-1, keepdims=True) / np.float32(top), self.row)
        return np.clip(np.rint(scale / row), 1, top).astype(np.uint8), row

    def store(self, scale: np.ndarray) -> np.ndarray:
        codes, row = self.encode(scale)
        return codes.astype(np.float32) * row

    def total_bits(self, shape: tuple[int, ...]) -> int:
        return self.width * math.prod(shape) + self.row.bits * math.prod(shape[:-1])


@lru_cache(maxsize=1)
def dynamic_map() -> np.ndarray:
    """Return the 256 ascending values of bitsandbytes' signed dynamic 8-bit type (float32, -0.993 ... 1).

    Seven decades below 1, the one of 10**(i - 6) to 10**(i - 7) cut into 2**i equal steps whose middles
    are the values, with both signs; 0 and 1 besides (`create_dynamic_map`, bitsandbytes@95f9af3).
    """
    values = [0.0, 1.0]
    for i in range(7):
        edges = np.linspace(0.1, 1, (1 << i) + 1, dtype=np.float32)
        middles = ((edges[:-1] + edges[1:]) / np.float32(2)) * np.float32(10.0 ** (i - 6))
        values += [*middles.tolist(), *(-middles).tolist()]
    table = np.sort(np.array(values, np.float32))
    table.flags.writeable = False
    return table


@dataclass(frozen=True, kw_only=True)
class DoubleQuantizedScale(ScaleStorage):
    """Double quantization (Dettmers et al., QLoRA, 2023): 8-bit codes of the scales less their mean.

    Blocks of 256 scales share a float32 scale of their own, their largest deviation from the mean;
    the mean itself, a float32, is the tensor's. Codes are the nearest of `dynamic_map`. One departure
    from bitsandbytes@95f9af3: a scale that reads back as zero or less becomes the smallest positive one.
    """

    size: int = 256
    grouped = True
    by_row = False

    @property
    def name(self) -> str:  # type: ignore[override]
        return "dq"

    def encode(self, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.float32]:
        """Return codes (uint8, flat), the float32 scale of each block of scales, and the mean."""
        flat = np.ascontiguousarray(scale, np.float32).reshape(-1)
        mean = np.float32(flat.mean(dtype=np.float64))
        deviation = flat - mean
        starts = np.arange(0, len(flat), self.size)
        largest = np.maximum.reduceat(np.abs(deviation), starts)
        divisor = np.repeat(np.where(largest > 0, largest, np.float32(1)), self.size)[: len(flat)]
        table = dynamic_map().astype(np.float64)
        codes = np.searchsorted((table[:-1] + table[1:]) / 2, (deviation / divisor).astype(np.float64))
        return codes.astype(np.uint8), largest, mean

    def decode(self, codes: np.ndarray, largest: np.ndarray, mean: np.float32) -> np.ndarray:
        """Return the scales (float32, flat) that these parts stand for."""
        spread = np.repeat(largest, self.size)[: len(codes)]
        return np.maximum(dynamic_map()[codes] * spread + mean, SMALLEST_SCALE)

    def store(self, scale: np.ndarray) -> np.ndarray:
        return self.decode(*self.encode(scale)).reshape(scale.shape)

    def total_bits(self, shape: tuple[int, ...]) -> int:
        count = math.prod(shape)
        return 8 * count + 32 * -(-count // self.size) + 32


SCALE_STORAGES: dict[str, ScaleStorage] = {
    s.name: s for s in (PowerOfTwoScale(), IntegerScale(width=4), IntegerScale(width=8), DoubleQuantizedScale())
}
