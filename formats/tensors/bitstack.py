"""BitStack (arXiv 2410.23918): weights as a stack of sign planes with low-rank magnitudes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from macloom.errors import MacloomError, require_positive_integer
from macloom.formats.arrays import as_float32, check_finite, clip_share, output_for, rows_of
from macloom.formats.element import ElementFormat
from macloom.formats.elements.codebook import Mode
from macloom.formats.elements.minifloat import FP16
from macloom.formats.families import SEARCHED
from macloom.formats.grammar import CATALOG, Entry, Options, choice_option, integer_option
from macloom.formats.tensor import Encoded, Operand, TensorFormat
from macloom.formats.tensors.half import half_operand, to_half

MAX_PLANES = 16


def activation_scales(activations: np.ndarray) -> np.ndarray:
    """Return the magnitude of every channel: its norm over the tokens of a sample, the mean over samples, plus 0.001.

    As `get_act_scale` of xinghaow99/BitStack@9f333d6.

    Args:
        activations: (samples, tokens, channels).

    >>> activation_scales(np.float32([[[3.0, 0.0], [4.0, 1.0]]]))
    array([5.001, 1.001])
    """
    if np.ndim(activations) != 3:
        raise MacloomError(f"activations: must be (samples, tokens, channels), not shape {np.shape(activations)}")
    return np.linalg.norm(np.asarray(activations, np.float64), axis=1).mean(axis=0) + 1e-3


@dataclass(frozen=True, kw_only=True)
class BitStack(TensorFormat):
    """W = sum over planes of S * (U V^T), S the signs of what earlier planes left, U V^T of rank `rank`.

    Each plane's U (rows x rank) and V (columns x rank) come from the largest singular values of the
    magnitudes of the residual, their square roots split evenly, and are stored as float16. The sign of
    zero is +. The sum is rounded to float16, which is what multiplies. Any prefix of the planes is a
    smaller format, see `decode_prefix`. The released script has 16 planes of rank 16.

    In PAPER mode the residual is that of the stored factors. UPSTREAM (xinghaow99/BitStack@9f333d6)
    takes it from the factors before they are rounded to float16.

    `column_scales` (`activation_scales`) weights the columns by the activations that meet them: magnitudes are
    scaled by it before the singular values are taken. The released code keeps the scaled weights and divides the
    activations, or the norm in front, by the same; here V is divided, so that decoded values are those of the
    weights and nothing more is stored. Both are one product up to rounding.

    `calibrate` returns the factors (matrices, planes, rank, rows + columns), U before V. Scalars and
    vectors are matrices of one row. `clip` has no effect.

    >>> import numpy as np
    >>> fmt = BitStack(name="b", planes=1, rank=1)
    >>> fmt.quantize(np.float32([[1, -2], [-2, 4]]))
    array([[ 1., -2.],
           [-2.,  4.]], dtype=float32)
    """

    name: str
    planes: int = 4
    rank: int = 16
    mode: Mode = Mode.PAPER

    def __post_init__(self) -> None:
        require_positive_integer("bitstack.rank", self.rank)
        if not isinstance(self.planes, int) or not 1 <= self.planes <= MAX_PLANES:
            raise MacloomError(f"bitstack.planes: must be from 1 to {MAX_PLANES}, not {self.planes!r}")

    @property
    def element(self) -> ElementFormat:  # type: ignore[override]
        return FP16

    @property
    def code_bits(self) -> int:
        """Sign bits per element."""
        return self.planes

    @property
    def decoder_bits(self) -> int:
        return self.planes

    def _shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Return a tensor's matrices, rows and columns."""
        return math.prod(shape[:-2]), shape[-2] if len(shape) > 1 else 1, shape[-1] if shape else 1

    def _factor_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        matrices, rows, columns = self._shape(shape)
        return matrices, self.planes, min(self.rank, rows, columns), rows + columns

    def scale_bits(self, shape: tuple[int, ...]) -> int:
        return FP16.bits * math.prod(self._factor_shape(shape))

    def storage_bits(self, shape: tuple[int, ...]) -> int:
        matrices, rows, columns = self._shape(tuple(shape))
        return 8 * matrices * rows * self.planes * -(-columns // 8) + self.scale_bits(shape)

    def calibrate(self, x: Any, clip: float | None = None, column_scales: Any = None) -> np.ndarray:
        """Return the factors; `column_scales` (columns) are positive, None weights all columns alike."""
        clip_share(clip)
        x = as_float32(x)
        check_finite(np.abs(rows_of(x)), self.name)
        matrices, rows, columns = self._shape(x.shape)
        weight = np.ones(columns) if column_scales is None else np.asarray(column_scales, np.float64)
        if weight.shape != (columns,) or not np.all((weight > 0) & np.isfinite(weight)):
            raise MacloomError(f"column_scales: must be {columns} positive numbers, not shape {weight.shape}")
        factors = np.empty(self._factor_shape(x.shape), np.float32)
        rank = factors.shape[2]
        rest = x.reshape(matrices, rows, columns).astype(np.float64)
        for p in range(self.planes):
            u, s, vt = np.linalg.svd(np.abs(rest) * weight, full_matrices=False)
            root = np.sqrt(s[:, :rank])
            plane = np.concatenate((np.swapaxes(u, 1, 2)[:, :rank], vt[:, :rank] / weight), axis=2) * root[:, :, None]
            factors[:, p] = to_half(plane) if self.mode is Mode.PAPER else plane
            rest = rest - _signs(rest) * _product(factors[:, p], rows)
        return factors

    def encode(
        self,
        x: Any,
        scale: Any = None,
        clip: float | None = None,
        rng: np.random.Generator | None = None,
        *,
        column_scales: Any = None,
    ) -> Encoded:
        """Return `x` in stored form; `column_scales` as in `calibrate`, where that happens."""
        return super().encode(x, self.calibrate(x, clip, column_scales) if scale is None else scale, clip, rng)

    def _check(self, scale: np.ndarray, shape: tuple[int, ...]) -> None:
        expected = self._factor_shape(shape)
        if scale.shape != expected or not np.all(np.isfinite(scale)):
            raise MacloomError(f"scale: must hold finite factors of shape {expected}, not {scale.shape}")

    def _encode(self, x: np.ndarray, scale: np.ndarray, clip: float) -> tuple[np.ndarray, np.ndarray, np.float32]:
        self._check(scale, x.shape)
        check_finite(np.abs(rows_of(x)), self.name)
        matrices, rows, columns = self._shape(x.shape)
        used = to_half(scale) if self.mode is Mode.PAPER else scale
        rest = x.reshape(matrices, rows, columns).astype(np.float64)
        codes = np.zeros(rest.shape, np.uint16)
        for p in range(self.planes):
            signs = _signs(rest)
            codes |= (signs > 0).astype(np.uint16) << np.uint16(p)
            rest = rest - signs * _product(used[:, p], rows)
        return codes.reshape(x.shape), to_half(scale), np.float32(1)

    def _values(self, elements: np.ndarray, factors: np.ndarray, shape: tuple[int, ...], planes: int) -> np.ndarray:
        self._check(factors, shape)
        matrices, rows, columns = self._shape(shape)
        codes = elements.reshape(matrices, rows, columns)
        total = np.zeros(codes.shape)
        for p in range(planes):
            signs = 2.0 * ((codes >> np.uint16(p)) & np.uint16(1)) - 1.0
            total += signs * _product(factors[:, p], rows)
        return to_half(total).reshape(shape)

    def _quantize(self, x: np.ndarray, scale: np.ndarray, clip: float, out: Any, template: Any) -> np.ndarray:
        result = output_for(template, out, x.shape)
        codes, factors, _ = self._encode(x, scale, clip)
        result[...] = self._values(codes, factors, x.shape, self.planes)
        return result

    def decode(self, encoded: Encoded) -> np.ndarray:
        return self.decode_prefix(encoded, self.planes)

    def decode_prefix(self, encoded: Encoded, planes: int) -> np.ndarray:
        """Return what the first `planes` planes alone give."""
        if not 1 <= planes <= self.planes:
            raise MacloomError(f"bitstack: must take from 1 to {self.planes} planes, not {planes}")
        return self._values(encoded.elements, np.asarray(encoded.scales, np.float32), encoded.shape, planes)

    def operand_of(self, encoded: Encoded) -> Operand:
        return half_operand(self.decode(encoded))

    def pack_elements(self, elements: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Return sign planes as bytes, bit 1 for +, the first element in the highest bit; plane after plane."""
        rows = rows_of(elements)
        planes = [np.packbits((rows >> np.uint16(p)) & np.uint16(1), axis=1) for p in range(self.planes)]
        return np.concatenate(planes, axis=1).reshape(*shape[:-1], -1)

    def from_packed(
        self, codes: np.ndarray, scales: np.ndarray, shape: tuple[int, ...], outer: float = 1.0, side: Any = None
    ) -> Encoded:
        columns = self._shape(tuple(shape))[2]
        width = -(-columns // 8)
        expected = (*shape[:-1], self.planes * width)
        codes = np.asarray(codes, np.uint8)
        if codes.shape != expected:
            raise MacloomError(f"codes: must have shape {expected} for a tensor of {tuple(shape)}, not {codes.shape}")
        rows = codes.reshape(-1, self.planes, width)
        elements = np.zeros((len(rows), columns), np.uint16)
        for p in range(self.planes):
            elements |= np.unpackbits(rows[:, p], axis=1)[:, :columns].astype(np.uint16) << np.uint16(p)
        return Encoded(self, tuple(shape), elements.reshape(shape), np.asarray(scales), np.float32(outer), side=side)


def _signs(x: np.ndarray) -> np.ndarray:
    return np.where(x < 0, -1.0, 1.0)


def _product(plane: np.ndarray, rows: int) -> np.ndarray:
    """Return U V^T in float64 of one plane's factors (matrices, rank, rows + columns)."""
    u, v = plane[:, :, :rows].astype(np.float64), plane[:, :, rows:].astype(np.float64)
    return np.matmul(np.swapaxes(u, 1, 2), v)


def _build(name: str, options: Options) -> TensorFormat:
    return BitStack(
        name=name,
        planes=integer_option(options, "planes", 4),
        rank=integer_option(options, "rank", 16),
        mode=choice_option(options, "mode", *Mode),
    )


CATALOG.add(
    "bitstack",
    Entry(
        family=SEARCHED,
        summary="4 sign planes with magnitudes of rank 16 (planes=, rank=)",
        source="Wang et al., BitStack, ICLR 2025",
        build=_build,
        keys=("planes", "rank", "mode"),
        explains=(activation_scales,),
    ),
)
