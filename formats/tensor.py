"""Tensor formats: how a whole tensor is stored, which is the unit that recipes name."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.arrays import (
    NonFiniteError,
    as_float32,
    check_finite,
    check_number,
    clip_share,
    is_torch,
    like,
    rows_of,
    same_memory,
    shares_memory,
    spoil,
)
from macloom.formats.element import ElementFormat, OperandClass
from macloom.formats.encoded import Encoded
from macloom.formats.operand import Operand, SparseMatrix
from macloom.formats.packing import pack, packed_row_bytes, unpack
from macloom.formats.policy import DEFAULT_POLICY, NO_GENERATOR, NanPolicy, Overflow, Policy, Rounding
from macloom.formats.scales import ScaleFormat, require_stored
from macloom.formats.threads import run_rows

__all__ = ["Encoded", "Operand", "SparseMatrix", "TensorFormat"]


def _largest(x: np.ndarray) -> np.ndarray:
    """Return the largest magnitude of each row."""
    from macloom.formats.kernels.lookup import absmax

    rows = rows_of(x)
    out = np.empty((rows.shape[0], 1), np.float32)
    run_rows(absmax, rows.shape[0], rows.size, rows, rows.shape[1], out)
    return out


class TensorFormat(ABC):
    """How a tensor of any shape is stored; the last axis is the reduction axis of a GEMM.

    Attributes:
        policy: how elements are rounded; formats that take other policies have it as a field.
        name: the catalog string, which `get_format` reads back to an equal format.
        element: the element format (the normal one where a tensor mixes two).
    """

    name: str
    element: ElementFormat
    policy: Policy = DEFAULT_POLICY
    first_high = False  # which end of a byte holds the first element

    # -- what a subclass states --------------------------------------------------------------------

    @property
    def block(self) -> int | None:
        """Elements along the reduction axis that share a scale; None for whole rows or tensors."""
        return None

    @property
    def static_scale(self) -> bool:
        """Whether one scale serves the whole tensor, so that calibration may fix it beforehand."""
        return False

    @property
    def stores(self) -> bool:
        """Whether there is a stored form; a model of released code may know values alone."""
        return True

    @property
    def scale_storage(self) -> ScaleFormat | None:
        """How scales that `encode` is given are stored, exactly; None where the format looks after that itself."""
        return None

    @property
    def encodes_by_row(self) -> bool:
        """Whether a row gives its codes and scales alone or, with `static_scale`, with the scale of the tensor.

        Under a clip ratio that scale follows from the tensor's extremes. Such a matrix can be encoded a few rows at
        a time, see `macloom.formats.by_rows`.
        """
        return False

    def scales_by_row(self, axes: int) -> bool | None:
        """Return whether the first axis of the scales of a tensor of so many axes is that of the tensor.

        False where its scales serve all rows, None where rows cannot be taken out of the stored form.
        """
        return None

    @abstractmethod
    def calibrate(self, x: Any, clip: float | None = None) -> np.ndarray:
        """Return the scale that `encode` takes, from data.

        Args:
            x: numpy or torch tensor of any shape.
            clip: the share of the largest magnitude that lands on the largest normal value. None
                takes the format's own rule (1 unless its class says otherwise).
        """

    @abstractmethod
    def _encode(self, x: np.ndarray, scale: np.ndarray, clip: float) -> tuple[np.ndarray, np.ndarray, np.float32]:
        """Return element codes, stored scales and the outer scale."""

    @abstractmethod
    def _quantize(self, x: np.ndarray, scale: np.ndarray, clip: float, out: Any, template: Any) -> np.ndarray: ...

    @abstractmethod
    def decode(self, encoded: Encoded) -> np.ndarray: ...

    @abstractmethod
    def operand_of(self, encoded: Encoded) -> Operand: ...

    @abstractmethod
    def scale_bits(self, shape: tuple[int, ...]) -> int:
        """Return the bits that the scales of a tensor of this shape take."""

    def decode_to(self, encoded: Encoded, out: np.ndarray) -> None:
        """Write what `decode` returns to `out`, contiguous float32 of the tensor's shape."""
        np.copyto(out, self.decode(encoded))

    def _encode_at_once(self, x: np.ndarray, clip: float) -> tuple[np.ndarray, np.ndarray, np.float32] | None:
        """Return what calibrating and encoding would, in one pass, where the format has one."""
        return None

    def _quantize_at_once(self, x: np.ndarray, clip: float, out: Any, template: Any) -> np.ndarray | None:
        """Return what calibrating and quantizing would, in one pass, where the format has one."""
        return None

    def drawing(self, rng: np.random.Generator | None) -> Self:
        """Return this format with a generator for stochastic rounding.

        Raises:
            MacloomError: the format does not round stochastically, or does and has no generator.
        """
        random = self.policy.rounding is Rounding.STOCHASTIC
        if rng is None:
            if random and self.policy.rng is None:
                raise MacloomError(NO_GENERATOR)
            return self
        if not isinstance(rng, np.random.Generator):
            raise MacloomError(
                f"rng: must be a numpy.random.Generator, not {type(rng).__name__}; use default_rng(seed)"
            )
        if not random:
            raise MacloomError(f"format {self.name!r}: takes no rng; only rounding=stochastic draws")
        return replace(self, policy=replace(self.policy, rng=rng))  # type: ignore[type-var]

    # -- what follows ------------------------------------------------------------------------------

    @property
    def code_bits(self) -> int:
        return self.element.bits

    @property
    def operand(self) -> OperandClass:
        """What a processing element multiplies after decoding."""
        return self.element.operand

    @property
    def largest_value(self) -> float:
        """The largest value before scaling, outliers included."""
        return self.element.max_value

    @property
    def max_unit(self) -> int:
        """The largest magnitude in units of the smallest step."""
        return self.element.largest_unit

    @property
    def decoder_bits(self) -> int:
        """Code bits that a border decoder reads at a time; 0 where codes already are the operand."""
        return self.element.decoder_bits

    @property
    def decoder_elements(self) -> int:
        """Elements that one read of a border decoder yields."""
        return 1

    def row_codes(self, length: int) -> int:
        """Return how many codes a row of `length` elements is stored as."""
        return length

    def element_shape(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """Return the shape of the codes of a tensor of `shape`; None where codes are arranged otherwise."""
        codes = self.row_codes(shape[-1] if shape else 1)
        return (*shape[:-1], codes) if shape or codes > 1 else ()

    def storage_bits(self, shape: tuple[int, ...]) -> int:
        """Return the exact stored bits of a tensor of `shape`: codes, scales, byte-aligned rows.

        >>> from macloom.formats import get_format
        >>> get_format("mxfp4").storage_bits((2, 64)), get_format("int4").storage_bits((2, 64))
        (544, 544)
        """
        if any(not isinstance(size, int | np.integer) or size < 0 for size in shape):
            raise MacloomError(f"shape: must be integers of 0 or more, not {tuple(shape)}")
        rows = math.prod(int(size) for size in shape[:-1])
        length = shape[-1] if shape else 1
        return rows * 8 * packed_row_bytes(self.row_codes(length), self.code_bits) + self.scale_bits(
            tuple(shape) or (1,)
        )

    def encoded_bits(self, encoded: Encoded) -> int:
        """Return the exact stored bits of an encoded tensor; its shape decides them unless there is side data."""
        return self.storage_bits(encoded.shape)

    def bits_per_element(self, length: int = 4096) -> float:
        """Return stored bits per element of a square matrix with rows of `length` elements."""
        return self.storage_bits((length, length)) / length**2

    def encode(
        self, x: Any, scale: Any = None, clip: float | None = None, rng: np.random.Generator | None = None
    ) -> Encoded:
        """Return `x` in stored form.

        Args:
            x: numpy or torch tensor of real numbers, any shape, the last axis being reduced.
            scale: what `calibrate` returned for this or other data; None calibrates on `x`.
            clip: passed to `calibrate` where that happens; where a format makes scales of blocks even
                under a given scale of the tensor, those follow it, too.

        Raises:
            MacloomError: `x` is empty or holds NaN or infinities, or the scale has the wrong shape or is
                one that the format cannot store.
        """
        array, drawing = as_float32(x), self.drawing(rng)
        made = drawing._encode_at_once(array, float(clip_share(clip))) if scale is None else None
        if made is None:
            given = self._scale(array, scale, clip)
            made = drawing._encode(array, given, float(clip_share(clip)))
        elements, scales, outer = made
        return Encoded(self, array.shape, elements, scales, outer, torch=like(x, array) is not array)

    def quantize(
        self,
        x: Any,
        scale: Any = None,
        clip: float | None = None,
        out: Any = None,
        rng: np.random.Generator | None = None,
        *,
        ste: str = "identity",
        **extra: Any,
    ) -> Any:
        """Return the values that `encode(x).decode()` gives, bit for bit, without storing codes.

        A torch tensor comes back as torch, on its device; contiguous float32 of the CPU is read, and written
        with `out`, without a copy. One that requires a gradient passes it straight through.

        Args:
            x, scale, clip, rng: as for `encode`.
            out: contiguous float32 tensor of the same shape to write to, `x` itself allowed. Where NaN or
                infinities are refused, `x` is left as it was, and an `out` of its own memory becomes NaN.
            ste: the gradient of a tensor that requires one: `identity`, or `clipped`, which is zero where
                the value saturates; see `macloom.formats.autograd`.
            extra: what a format's `encode` takes besides.
        """
        if is_torch(x) and x.requires_grad:
            from macloom.formats.autograd import straight_through

            return straight_through(self, x, scale, clip, out, rng, ste, **extra)  # type: ignore[arg-type]
        return self._write_quantized(x, scale, clip, out, rng, **extra)

    def _write_quantized(
        self, x: Any, scale: Any, clip: float | None, out: Any, rng: np.random.Generator | None
    ) -> Any:
        """Return what `quantize` does, of a tensor that requires no gradient."""
        array, drawing = as_float32(x), self.drawing(rng)
        in_place = out is not None and shares_memory(array, out)
        if in_place and not same_memory(array, out):
            raise MacloomError("out: must be the input itself or memory apart from it, not a part that overlaps it")
        if in_place and self.policy.overflow in (Overflow.SATURATE, Overflow.WRAP):
            check_finite(_largest(array), self.name)
        elif in_place and (self.policy.nan is NanPolicy.ERROR or self.element.nan_code is None):
            check_number(_largest(array), self.name)
        try:
            result = drawing._quantize_at_once(array, float(clip_share(clip)), out, x) if scale is None else None
            if result is None:
                given = self._scale(array, scale, clip)
                result = drawing._quantize(array, given, float(clip_share(clip)), out, x)
        except NonFiniteError:
            if out is not None and not in_place:
                spoil(out)
            raise
        return out if out is not None else like(x, result)

    def pack_elements(self, elements: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Return the codes of a tensor of `shape` as bytes (..., bytes per row)."""
        rows = pack(rows_of(elements), self.code_bits, self.first_high)
        return rows.reshape(*shape[:-1], rows.shape[-1])

    def from_packed(
        self,
        codes: np.ndarray,
        scales: np.ndarray,
        shape: tuple[int, ...],
        outer: float = 1.0,
        side: Mapping[str, np.ndarray] | None = None,
    ) -> Encoded:
        """Return the stored tensor whose packed codes, scales and side data are given, as read from a file or RTL.

        Raises:
            MacloomError: the codes do not have the bytes that the shape needs.
        """
        length = self.row_codes(shape[-1] if shape else 1)
        expected = (*shape[:-1], packed_row_bytes(length, self.code_bits))
        codes = np.asarray(codes)
        if codes.dtype.kind not in "ui" or (codes.size and not 0 <= int(codes.min()) <= int(codes.max()) <= 255):
            raise MacloomError(f"codes: must be bytes, integers from 0 to 255, not {codes.dtype} beyond that")
        codes = codes.astype(np.uint8, copy=False)
        if codes.shape != expected:
            raise MacloomError(f"codes: must have shape {expected} for a tensor of {tuple(shape)}, not {codes.shape}")
        rows = unpack(codes.reshape(-1, expected[-1]), self.code_bits, length, self.first_high)
        elements = rows.reshape((*shape[:-1], length) if shape or length > 1 else ())
        return Encoded(self, tuple(shape), elements, np.asarray(scales), np.float32(outer), side=side)

    def _scale(self, x: np.ndarray, scale: Any, clip: float | None) -> np.ndarray:
        if scale is None:
            return self.calibrate(x, clip)
        given = np.asarray(as_float32(scale, "scale"))
        if self.scale_storage is not None:
            require_stored(given, self.scale_storage, self.name)
        return given

    def __str__(self) -> str:
        return self.name
