"""A tensor in its stored form: codes, scales and side data, and what can be read from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.arrays import output_for, spoil
from macloom.formats.operand import Operand
from macloom.formats.packing import largest_code

if TYPE_CHECKING:
    from macloom.formats.tensor import TensorFormat


@dataclass(frozen=True, eq=False)
class Encoded:
    """A tensor in its stored form.

    Attributes:
        format: the tensor format.
        shape: shape of the tensor; the last axis is the reduction axis.
        elements: one code per element (uint8 or uint16), the row padded as the format stores it.
        scales: the stored scales, as codes or float32, as the format says.
        outer: a scale of the whole tensor, where the format has a second level.
        side: arrays stored besides, in their stored width (positions and values of outliers, tables).
    """

    format: TensorFormat
    shape: tuple[int, ...]
    elements: np.ndarray
    scales: np.ndarray
    outer: np.float32 = field(default=np.float32(1))
    torch: bool = False
    side: Mapping[str, np.ndarray] | None = None

    @cached_property
    def codes(self) -> np.ndarray:
        """The element codes packed into bytes: (..., bytes per row)."""
        self.check_codes()
        return self.format.pack_elements(self.elements, self.shape)

    @property
    def bits(self) -> int:
        """Stored bits of this very tensor: codes, scales, padding and side data."""
        return self.format.encoded_bits(self)

    def decode(self, out: Any = None) -> Any:
        """Return the float32 values, numpy or torch (on the CPU) as the tensor came.

        Args:
            out: contiguous float32 tensor of the same shape, numpy or torch, to write to. A fresh one costs
                more than the decoding, for the system clears its memory; an old one does not.

        Raises:
            MacloomError: a code lies outside [0, 2**code_bits), the scales do not fit the tensor (`out` then
                is NaN), or `out` has another shape or type.
        """
        if out is None:
            self.check_codes()
            return _return(self.format.decode(self), self.torch)
        array = output_for(None, out, self.shape)
        if any(np.may_share_memory(array, part) for part in (self.elements, self.scales)):
            raise MacloomError("out: must not be the memory of the codes or scales; pass a fresh array")
        try:
            self.check_codes()
            if _own_decoder(type(self.format)):
                np.copyto(array, self.format.decode(self))
            else:
                self.format.decode_to(self, array)
        except MacloomError:
            spoil(out)
            raise
        return out

    def check_codes(self) -> None:
        """Raise if an element's code has more bits than the format stores."""
        elements, width = self.elements, self.format.code_bits
        if not isinstance(elements, np.ndarray) or elements.dtype.kind not in "ui":
            kind = elements.dtype if isinstance(elements, np.ndarray) else type(elements).__name__
            raise MacloomError(f"format {self.format.name!r}: codes must be an array of unsigned integers, not {kind}")
        expected = self.format.element_shape(self.shape)
        if expected is not None and elements.shape != expected:
            raise MacloomError(
                f"format {self.format.name!r}: codes must have shape {expected} for a tensor of {self.shape}, "
                f"not {elements.shape}"
            )
        if elements.dtype.kind == "i" and int(elements.min(initial=0)) < 0:
            raise MacloomError(f"format {self.format.name!r}: code {int(elements.min())} is not in [0, {1 << width})")
        if width < 8 * self.elements.itemsize and largest_code(self.elements) >> width:
            bad = int(self.elements[self.elements >> width != 0].flat[0])
            raise MacloomError(f"format {self.format.name!r}: code {bad} is not in [0, {1 << width})")

    @property
    def has_rows(self) -> bool:
        """Whether `rows` can take rows out of the stored form."""
        return self.side is None and len(self.shape) > 1 and self.format.scales_by_row(len(self.shape)) is not None

    def rows(self, part: slice) -> Encoded:
        """Return a stretch of the tensor's first axis in stored form, sharing its memory.

        It decodes to those rows of the whole tensor's values, bit for bit, and its operand has the same units and
        scales. A large matrix is so multiplied a few rows at a time and never decoded as a whole.

        Raises:
            MacloomError: the format stores something that rows share (see `has_rows`), or there are no rows in `part`.

        >>> import numpy as np
        >>> from macloom.formats import get_format
        >>> encoded = get_format("int4").encode(np.float32([[7, 1], [2, -3], [5, 4]]))
        >>> encoded.rows(slice(1, 3)).decode()
        array([[ 2., -3.],
               [ 5.,  4.]], dtype=float32)
        """
        if not self.has_rows:
            raise MacloomError(
                f"format {self.format.name!r}: stores no rows apart for a tensor of {self.shape}; decode the whole"
            )
        count = len(range(*part.indices(self.shape[0])))
        if not count:
            raise MacloomError(f"rows: must hold at least one of the {self.shape[0]} rows, not {part}")
        own = self.format.scales_by_row(len(self.shape))
        return replace(
            self,
            shape=(count, *self.shape[1:]),
            elements=self.elements[part],
            scales=np.asarray(self.scales)[part] if own else self.scales,
        )

    def operand(self) -> Operand:
        """Return what the multipliers see; a GEMM needs no more. It is kept for the next product."""
        return self._operand

    @cached_property
    def _operand(self) -> Operand:
        self.check_codes()
        return replace(self.format.operand_of(self), format=self.format)


def _return(values: np.ndarray, torch: bool) -> Any:
    if torch:
        from torch import from_numpy

        return from_numpy(values)
    return values


def _own_decoder(kind: type) -> bool:
    """Say whether a class changes the `decode` of the class whose `decode_to` it inherits."""
    return next("decode_to" not in vars(c) for c in kind.__mro__ if {"decode", "decode_to"} & vars(c).keys())
