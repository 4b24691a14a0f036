"""Ternary and binary values: multiplication without a multiplier."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.arrays import rows_of
from macloom.formats.element import ElementFormat
from macloom.formats.families import TERNARY
from macloom.formats.grammar import (
    CATALOG,
    Entry,
    Options,
    as_choice,
    choice_option,
    granularity_option,
    stored_scale_option,
)
from macloom.formats.packing import packed_row_bytes
from macloom.formats.scales import Grain
from macloom.formats.tensor import Encoded, TensorFormat
from macloom.formats.tensors.statistic import Statistic, StatisticScaled, statistic_scaled

# The authors' layer (schneiderkamplab/bitlinear) clamps the measure of the weights to this.
SMALLEST_TERNARY_SCALE = 1e-5
TRITS_PER_BYTE = 5  # 3**5 = 243 of 256
TRIT_WEIGHTS = np.array([1, 3, 9, 27, 81], np.uint8)
TRIT_OF_CODE = np.array([0, 1, 0, 2], np.uint8)
CODE_OF_TRIT = np.array([0, 1, 3], np.uint8)


@dataclass(frozen=True, kw_only=True)
class Ternary(ElementFormat):
    """-1, 0 and 1 in two bits, two's complement; the code 0b10 is not used.

    >>> [Ternary().value(code) for code in (0, 1, 3)]
    [0.0, 1.0, -1.0]
    """

    @property
    def name(self) -> str:  # type: ignore[override]
        return "ternary"

    @property
    def bits(self) -> int:
        return 2

    @property
    def decoder_bits(self) -> int:
        return 0

    def pair(self, code: int) -> tuple[int, int]:
        return (0, (0, 1, -2, -1)[code])

    def value(self, code: int) -> float:
        return math.nan if code == 0b10 else float(self.pair(code)[1])


@dataclass(frozen=True, kw_only=True)
class Binary(ElementFormat):
    """1 and -1 in one bit, the sign; zero of either sign is 1.

    >>> Binary().value(0), Binary().value(1)
    (1.0, -1.0)
    """

    @property
    def name(self) -> str:  # type: ignore[override]
        return "binary"

    @property
    def bits(self) -> int:
        return 1

    def pair(self, code: int) -> tuple[int, int]:
        return (0, -1 if code else 1)

    def value(self, code: int) -> float:
        return float(self.pair(code)[1])


class Packing(StrEnum):
    """BITS: two bits an element. TRITS: five elements a byte, as digits to the base 3, the first the lowest."""

    BITS = "bits"
    TRITS = "trits"


@dataclass(frozen=True, kw_only=True)
class TernaryScaled(StatisticScaled):
    """Scaled ternary values. BitNet b1.58 puts the mean magnitude on 1, b1.58 Reloaded the median.

    Values of half the scale and less become 0. The scale is at least 1e-5. The released layer of
    b1.58 Reloaded takes the lower of two middle values as the median (`lower_median`) and multiplies
    by the reciprocal of the scale, where x is divided by it here.

    >>> import numpy as np
    >>> fmt = TernaryScaled(name="t", packing=Packing.TRITS)
    >>> fmt.quantize(np.float32([3, -1, 2, -2])).tolist(), fmt.storage_bits((1, 10)) - 32
    ([2.0, 0.0, 2.0, -2.0], 16)
    """

    element: ElementFormat = Ternary()
    statistic: Statistic = Statistic.MEAN
    floor: float = SMALLEST_TERNARY_SCALE
    packing: Packing = Packing.BITS

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "packing", as_choice("ternary.packing", self.packing, Packing))

    def _row_bytes(self, length: int) -> int:
        if self.packing is Packing.BITS:
            return packed_row_bytes(length, 2)
        return -(-length // TRITS_PER_BYTE)

    def storage_bits(self, shape: tuple[int, ...]) -> int:
        shape = tuple(shape) or (1,)
        return math.prod(shape[:-1]) * 8 * self._row_bytes(shape[-1]) + self.scale_bits(shape)

    def pack_elements(self, elements: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        if self.packing is Packing.BITS:
            return super().pack_elements(elements, shape)
        rows = rows_of(elements)
        rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % TRITS_PER_BYTE)))
        digits = TRIT_OF_CODE[rows].reshape(len(rows), -1, TRITS_PER_BYTE)
        packed = (digits * TRIT_WEIGHTS).sum(axis=2, dtype=np.uint8)
        return packed.reshape(*shape[:-1], packed.shape[-1])

    def from_packed(
        self,
        codes: np.ndarray,
        scales: np.ndarray,
        shape: tuple[int, ...],
        outer: float = 1.0,
        side: Mapping[str, np.ndarray] | None = None,
    ) -> Encoded:
        if self.packing is Packing.BITS:
            return super().from_packed(codes, scales, shape, outer, side)
        length = shape[-1] if shape else 1
        codes, expected = np.asarray(codes, np.uint8), (*shape[:-1], self._row_bytes(length))
        if codes.shape != expected:
            raise MacloomError(f"codes: must have shape {expected} for a tensor of {tuple(shape)}, not {codes.shape}")
        if codes.size and int(codes.max()) >= 3**TRITS_PER_BYTE:
            raise MacloomError(f"codes: must be below {3**TRITS_PER_BYTE}, not {int(codes.max())}")
        digits = codes[..., None] // TRIT_WEIGHTS % np.uint8(3)
        elements = CODE_OF_TRIT[digits].reshape(*shape[:-1], -1)[..., :length].reshape(shape)
        return Encoded(self, tuple(shape), np.ascontiguousarray(elements), np.asarray(scales), np.float32(outer))


def _ternary(name: str, options: Options) -> TensorFormat:
    granularity = granularity_option(options, Grain.TENSOR)
    return TernaryScaled(
        name=name,
        granularity=granularity,
        scale_format=stored_scale_option(options, granularity),
        statistic=choice_option(options, "rule", Statistic.MEAN, Statistic.MEDIAN, Statistic.LOWER_MEDIAN),
        packing=choice_option(options, "packing", *Packing),
    )


CATALOG.add(
    "ternary",
    Entry(
        family=TERNARY,
        summary="-1, 0, 1 times the mean (or median) magnitude",
        source="BitNet b1.58, 2024 (mean); BitNet b1.58 Reloaded, arXiv 2407.09527 (median)",
        build=_ternary,
        keys=("rule", "packing"),
        words=True,
    ),
)
CATALOG.add(
    "binary",
    Entry(
        family=TERNARY,
        summary="the sign times the mean magnitude",
        source="Rastegari et al., XNOR-Net, ECCV 2016",
        build=statistic_scaled(Binary(), Statistic.MEAN, Statistic.RMS),
        keys=("rule",),
        words=True,
    ),
)
