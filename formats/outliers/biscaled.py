"""BiScaled-FxP (Jain et al., BiScaled-DNN, DAC 2019): integers with a fine or a coarse power-of-two scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.arrays import as_float32, check_finite, clip_share, rows_of
from macloom.formats.element import OperandClass
from macloom.formats.elements.integer import IntFormat
from macloom.formats.families import SPARSE
from macloom.formats.grammar import CATALOG, Entry, Options, choice_option, integer_option
from macloom.formats.outliers.dense_sparse import Parts, SideFormat, share_count, share_threshold
from macloom.formats.outliers.sparse import Layout, SparseStore, row_indices
from macloom.formats.outliers.sparse_options import fraction_option
from macloom.formats.tensor import Encoded, Operand, TensorFormat

MIN_EXPONENT = -126


@dataclass(frozen=True, kw_only=True)
class BiScaled(SideFormat):
    """Every element is an integer times 2**fine or 2**coarse; positions tell which elements are coarse.

    The coarse scale is the smallest power of two at which the largest magnitude does not saturate. The fine
    one is the smallest at which at most `share` of the elements saturate, but at most 2**`shift` below the
    coarse one. An element beyond the fine range is coarse if that is strictly nearer than the largest fine
    value. Scales are stored as two 8-bit exponents. `calibrate` returns both scales, (2,).

    From the abstract: two scale factors for elements of the same width, and a block-sparse format that
    stores only the indices of the coarse elements. Reconstructions, and therefore options: the rule that
    chooses the scales, the largest distance between them, and the layout (blocks of 16 with a count and a
    4-bit place per coarse element). No code was released. `storage_bits` takes exactly `share` for
    coarse elements.

    >>> import numpy as np
    >>> from macloom.formats import get_format
    >>> encoded = get_format("biscaled6:share=0.25").encode(np.float32([1, -3, 25.25, 500]))
    >>> encoded.scales.tolist(), encoded.decode()
    ([1.0, 32.0], array([  1.,  -3.,  25., 512.], dtype=float32))
    """

    name: str
    width: int = 6
    share: float = 0.03
    shift: int = 8
    store: SparseStore = SparseStore(layout=Layout.CHUNK, value=None)

    def __post_init__(self) -> None:
        if not isinstance(self.width, int) or not 2 <= self.width <= 8:
            raise MacloomError(f"biscaled.width: must be an integer from 2 to 8, not {self.width!r}")
        if not isinstance(self.shift, int) or not 1 <= self.shift <= 16:
            raise MacloomError(f"biscaled.shift: must be an integer from 1 to 16, not {self.shift!r}")
        if not 0 <= self.share < 1:
            raise MacloomError(f"biscaled.share: must be from 0 to below 1, not {self.share!r}")
        if self.store.value is not None:
            raise MacloomError("biscaled.store: must store positions only, coarse elements have their code")

    @property
    def element(self) -> IntFormat:  # type: ignore[override]
        return IntFormat(width=self.width)

    @property
    def operand(self) -> OperandClass:
        """The integer, and an exponent that is 0 or the distance of the scales."""
        return OperandClass(
            significand_bits=self.width,
            exponent_bits=self.shift.bit_length(),
            integer_bits=1 + self.max_unit.bit_length(),
        )

    @property
    def max_unit(self) -> int:
        return int(self.element.max_value) << self.shift

    def scale_bits(self, shape: tuple[int, ...]) -> int:
        return 2 * 8

    def side_bits(self, shape: tuple[int, ...]) -> int:
        rows = math.prod(shape[:-1])
        return self.store.bits(rows, shape[-1], share_count(self.share, rows * shape[-1]))

    def _exponent(self, magnitude: float) -> int:
        """Return the smallest exponent at which a magnitude does not saturate, and no code exceeds float32."""
        if magnitude == 0:
            return 0
        mantissa, exponent = math.frexp(magnitude / self.element.max_value)
        return min(max(exponent - (mantissa == 0.5), MIN_EXPONENT), 128 - int(self.element.max_value).bit_length())

    def calibrate(self, x: Any, clip: float | None = None) -> np.ndarray:
        magnitudes = np.abs(as_float32(x)).reshape(-1)
        check_finite(magnitudes, self.name)
        factor = float(clip_share(clip))
        coarse = self._exponent(float(magnitudes.max()) * factor)
        inside = float(share_threshold(magnitudes, self.share)) * factor
        fine = self._exponent(inside) if inside > 0 else coarse
        return np.ldexp(np.float32(1), np.array([max(fine, coarse - self.shift), coarse], np.int32))

    def _scales(self, scale: np.ndarray) -> tuple[np.float32, np.float32]:
        if scale.shape != (2,):
            raise MacloomError(f"scale: must be the fine and the coarse scale, not shape {scale.shape}")
        if not np.all(scale > 0) or not np.all(np.isfinite(scale)) or np.any(np.frexp(scale)[0] != 0.5):
            raise MacloomError(f"scale: must be two powers of two, not {scale.tolist()}")
        if not 1 <= scale[1] / scale[0] <= 2**self.shift:
            raise MacloomError(
                f"scale: the coarse one must be 1 to {2**self.shift} times the fine one, not {scale[1] / scale[0]:g}"
            )
        return scale[0], scale[1]

    def encode_parts(self, x: np.ndarray, scale: np.ndarray, clip: float) -> Parts:
        fine, coarse = self._scales(scale)
        rows, largest = rows_of(x), np.float32(self.element.max_value)
        near, far = (np.clip(np.rint(rows / s), -largest, largest) for s in (fine, coarse))
        beyond = np.abs(rows.astype(np.float64)) > np.float64(largest) * fine
        errors = (np.abs(rows.astype(np.float64) - q.astype(np.float64) * s) for q, s in ((near, fine), (far, coarse)))
        of_near, of_far = errors
        mask = beyond & (of_far < of_near)
        integers = np.where(mask, far, near).astype(np.int16)
        codes = (integers & ((1 << self.width) - 1)).astype(np.uint8)
        return codes.reshape(x.shape), np.array([fine, coarse], np.float32), self.store.pack(mask)

    def _units(self, encoded: Encoded) -> tuple[np.ndarray, np.float32]:
        """Return the elements in units of the fine scale, and that scale."""
        fine, coarse = self._scales(np.asarray(encoded.scales, np.float32))
        units = self.element.decode(rows_of(encoded.elements))
        pointers, columns = self.store.positions(encoded.side or {}, *units.shape)
        units[row_indices(pointers), columns] *= coarse / fine
        return units.reshape(encoded.shape), fine

    def decode(self, encoded: Encoded) -> np.ndarray:
        units, fine = self._units(encoded)
        units *= fine
        return units

    def operand_of(self, encoded: Encoded) -> Operand:
        units, fine = self._units(encoded)
        scales = np.full((*units.shape[:-1], 1), fine, np.float32)
        return Operand(units, 0, scales, units.shape[-1], np.float32(1), self.max_unit)


def _build(name: str, options: Options) -> TensorFormat:
    return BiScaled(
        name=name,
        share=fraction_option(options, "share", 0.03),
        shift=integer_option(options, "shift", 8),
        store=SparseStore(
            layout=choice_option(options, "layout", Layout.CHUNK, Layout.CSR, Layout.COORDINATE),
            value=None,
            chunk=integer_option(options, "block", 16),
        ),
    )


CATALOG.add(
    "biscaled6",
    Entry(
        family=SPARSE,
        summary="6-bit integers with a fine or a coarse power-of-two scale, block-sparse index of coarse ones",
        source="Jain et al., BiScaled-DNN, DAC 2019; scale rule and index layout are a reconstruction",
        build=_build,
        keys=("share", "shift", "layout", "block"),
    ),
)
