"""Dual-grained quantization: 4-bit weights whose groups scale to 8-bit integers (DGQ, arXiv 2310.04836)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.arrays import as_float32, check_finite, clip_share, output_for, rows_of
from macloom.formats.element import OperandClass
from macloom.formats.elements.integer import IntFormat
from macloom.formats.elements.minifloat import FP16
from macloom.formats.families import SEARCHED
from macloom.formats.grammar import CATALOG, Entry, Options, choice_option, integer_option
from macloom.formats.scales import Grain, Granularity, ScaleFormat, store_scale
from macloom.formats.tensor import Encoded, Operand, TensorFormat
from macloom.formats.tensors.affine import Affine

INT8 = IntFormat(width=8)
LIMIT = int(INT8.max_value)


class Zeros(StrEnum):
    """GROUPS: a zero point for every group. NONE: symmetric integers, from -8 to 7."""

    GROUPS = "groups"
    NONE = "none"


class Search(StrEnum):
    """How scales are found. EXTREMES: from each group's range. GRID: on a grid, by the least squared error: first
    the range of every group by itself, then the scale of the row that the group scales are integers of, with the
    ranges found and with the whole ones, so that it never errs more than EXTREMES."""

    EXTREMES = "extremes"
    GRID = "grid"


# Ours: the shares of a group's range, and of the largest row scale, that GRID tries.
GROUP_SHARES = tuple(1 - 0.02 * i for i in range(21))
ROW_SHARES = tuple(1 - 0.02 * i for i in range(26))


@dataclass(frozen=True, kw_only=True)
class DualGrained(Affine):
    """value = row scale * w8 with the 8-bit integer w8 = (q - zero) * group scale.

    The group scale is an integer from 1 to `top`. By default that is the largest that keeps every w8 within 8
    bits, 8 with zero points and 15 without, so that a whole row is one integer product; with a larger `top` a
    weight whose w8 would leave 8 bits takes the nearest q that does not. Each row's float16 scale is the largest of its
    groups' wishes divided by `top`; a group takes the nearest integer. Group scales are stored in `scale_bits`.

    Reconstruction: the paper searches both scales on a grid in two phases, and neither its grids nor the width
    of its integers (4 or 8 bits) are certain; `search`, `top` and `scale_bits` are arguments for that. Its smoothing
    of activations by percentile clipping belongs to the activations and is not part of this format.

    What `calibrate` returns and `encode` takes holds the row scale, group scale and zero point on a last
    axis of three.

    >>> import numpy as np
    >>> from macloom.formats import get_format
    >>> fmt = get_format("dgq4:group=2")
    >>> fmt.calibrate(np.float32([[-40.0, 80.0, 0.0, 15.0]])).tolist()
    [[[1.0, 8.0, 5.0], [1.0, 1.0, 0.0]]]
    """

    width: int = 4
    granularity: Granularity = Granularity(grain=Grain.GROUP, size=128)
    scale_format: ScaleFormat = FP16
    top: int = 0
    zeros: Zeros = Zeros.GROUPS
    search: Search = Search.EXTREMES
    scale_bits_each: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.granularity.grain is not Grain.GROUP:
            raise MacloomError(f"dgq.granularity: must be 'group', not {self.granularity.grain.value!r}")
        if self.scale_bits_each not in (4, 8):
            raise MacloomError(f"dgq.scale_bits: must be 4 or 8, not {self.scale_bits_each!r}")
        if not self.top:
            object.__setattr__(self, "top", min(LIMIT // self._reach, 1 << self.scale_bits_each))
        if not 1 <= self.top <= min(LIMIT, 1 << self.scale_bits_each):
            most = min(LIMIT, 1 << self.scale_bits_each)
            raise MacloomError(
                f"dgq.top: must be from 1 to {most}, which {self.scale_bits_each} bits hold, not {self.top}"
            )

    @property
    def _reach(self) -> int:
        """The largest magnitude of q - zero."""
        return self.largest if self.zeros is Zeros.GROUPS else 1 << (self.width - 1)

    @property
    def operand(self) -> OperandClass:
        """That of the 8-bit integers, which the decoder makes of the codes."""
        return INT8.operand

    @property
    def max_unit(self) -> int:
        return min(self._reach * self.top, LIMIT)

    @property
    def decoder_bits(self) -> int:
        return self.width

    def scale_bits(self, shape: tuple[int, ...]) -> int:
        groups = self.granularity.scale_shape(shape, self.name)
        rows = int(np.prod(groups[:-1], dtype=np.int64))
        zero_bits = self.width if self.zeros is Zeros.GROUPS else 0
        return rows * (FP16.bits + groups[-1] * (self.scale_bits_each + zero_bits))

    # -- calibration -------------------------------------------------------------------------------

    def calibrate(self, x: Any, clip: float | None = None) -> np.ndarray:
        """Return row scale, group scale and zero point of every group (..., groups, 3)."""
        x = as_float32(x)
        low, high = (np.asarray(end, np.float64) * clip_share(clip) for end in self.extremes(x))
        chosen = self._scales(self._largest_row(low, high), low, high)
        if self.search is Search.EXTREMES or clip is not None:
            return chosen
        best = self._group_errors(x, chosen).sum(axis=-1, keepdims=True)
        for ends in ((low, high), self._search_groups(x, low, high)):
            for share in ROW_SHARES:
                scale = self._scales(self._largest_row(*ends, share), *ends)
                error = self._group_errors(x, scale).sum(axis=-1, keepdims=True)
                better = error < best
                best, chosen = np.where(better, error, best), np.where(better[..., None], scale, chosen)
        return chosen

    def _largest_row(self, low: np.ndarray, high: np.ndarray, share: float = 1.0) -> np.ndarray:
        """Return the scale of each row (..., 1) that a share of its groups' largest wish asks for."""
        largest = self._wanted(low, high).max(axis=-1, keepdims=True) * np.float32(share)
        return store_scale((largest / np.float32(self.top)).astype(np.float32), FP16)

    def _wanted(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Return the scale that each group's range asks for."""
        if self.zeros is Zeros.GROUPS:
            return ((high - low) / self.largest).astype(np.float32)
        return (np.maximum(high / (self._reach - 1), -low / self._reach)).astype(np.float32)

    def _scales(self, row: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        group = np.clip(np.rint(self._wanted(low, high) / row), 1, self.top).astype(np.float32)
        if self.zeros is Zeros.GROUPS:
            zero = np.clip(np.rint(np.abs(low).astype(np.float32) / (row * group)), 0, self.largest)
        else:
            zero = np.full(group.shape, 1 << (self.width - 1))
        return np.stack((np.broadcast_to(row, group.shape), group, zero.astype(np.float32)), axis=-1)

    def _grouped(self, x: np.ndarray) -> np.ndarray:
        """Return a tensor as (..., groups, elements of a group)."""
        shape = x.shape or (1,)
        groups = self.granularity.scale_shape(shape, self.name)
        return x.reshape(*groups, shape[-1] // groups[-1])

    def _group_errors(self, x: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Return each group's squared error under scales (..., groups)."""
        values = self._values(self._codes(x, scale), scale, x.shape or (1,))
        return np.square(self._grouped(values).astype(np.float64) - self._grouped(x)).sum(axis=-1)

    def _search_groups(self, x: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the share of every group's range with the least error under a scale of its own."""
        parts = self._grouped(x).astype(np.float64)
        best, chosen = np.full(low.shape, np.inf), np.ones(low.shape)
        for share in GROUP_SHARES:
            step = np.maximum(self._wanted(low * share, high * share), np.float32(1e-38))[..., None].astype(np.float64)
            zero = np.rint(-low * share / step[..., 0])[..., None] if self.zeros is Zeros.GROUPS else self._reach
            q = np.clip(np.rint(parts / step) + zero, 0, self.largest)
            error = np.square((q - zero) * step - parts).sum(axis=-1)
            better = error < best
            best, chosen = np.where(better, error, best), np.where(better, share, chosen)
        return low * chosen, high * chosen

    # -- codes -------------------------------------------------------------------------------------

    def _parts(self, scale: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        expected = (*self.granularity.scale_shape(shape, self.name), 3)
        if scale.shape != expected:
            raise MacloomError(
                f"scale: must hold row scale, group scale and zero point on its last axis, shape {expected} for a "
                f"tensor of {shape}, not {scale.shape}"
            )
        row, group = scale[..., 0], scale[..., 1]
        if not np.all((group >= 1) & (group <= self.top) & (group == np.rint(group))):
            raise MacloomError(f"scale: group scales must be integers from 1 to {self.top}")
        if not np.all(row == row[..., :1]) or not np.array_equal(FP16.quantize(row), row):
            raise MacloomError("scale: a row must have one scale, a float16")
        if self.zeros is Zeros.NONE and not np.all(scale[..., 2] == 1 << (self.width - 1)):
            raise MacloomError(f"scale: zero points must be {1 << (self.width - 1)} without zero points of groups")
        return row, group, scale[..., 2]

    def spread(self, scale: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, int]:
        # Exact: 11 bits of the row scale times at most 8 of the group's.
        row, group, zero = self._parts(scale, shape)
        return super().spread(np.stack((row * group, zero), axis=-1), shape)

    def _codes(self, x: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Return the codes (x's shape) of nearest weights whose w8 stays within 8 bits."""
        codes, _, _ = super()._encode(x, scale, 1.0)
        if self._reach * self.top <= LIMIT:
            return codes
        _, group, zero = self._parts(np.asarray(scale, np.float32), x.shape or (1,))
        reach = np.floor(LIMIT / group)
        held = np.clip(self._grouped(codes), (zero - reach)[..., None], (zero + reach)[..., None])
        return held.astype(codes.dtype).reshape(codes.shape)

    def _encode(self, x: np.ndarray, scale: np.ndarray, clip: float) -> tuple[np.ndarray, np.ndarray, np.float32]:
        return self._codes(x, scale), np.array(scale, np.float32), np.float32(1)

    def _quantize(self, x: np.ndarray, scale: np.ndarray, clip: float, out: Any, template: Any) -> np.ndarray:
        if self._reach * self.top <= LIMIT:
            return super()._quantize(x, scale, clip, out, template)
        check_finite(np.abs(rows_of(x)), self.name)
        result = output_for(template, out, x.shape)
        result[...] = self._values(self._codes(x, scale), scale, x.shape)
        return result

    def _values(self, codes: np.ndarray, scale: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return self.decode(Encoded(self, shape, codes, np.asarray(scale, np.float32)))

    def operand_of(self, encoded: Encoded) -> Operand:
        shape = encoded.shape
        row, group, zero = self._parts(np.asarray(encoded.scales, np.float32), shape)
        block = shape[-1] // group.shape[-1]
        units = encoded.elements.astype(np.float32) - np.repeat(zero, block, axis=-1)
        units *= np.repeat(group, block, axis=-1)
        return Operand(units, 0, np.ascontiguousarray(row[..., :1]), shape[-1], encoded.outer, self.max_unit)


def _build(name: str, options: Options) -> TensorFormat:
    size = integer_option(options, "group", 128)
    return DualGrained(
        name=name,
        granularity=Granularity(grain=Grain.GROUP, size=size),
        zeros=choice_option(options, "zeros", *Zeros),
        search=choice_option(options, "search", *Search),
        top=integer_option(options, "top", 0),
        scale_bits_each=integer_option(options, "scale_bits", 4),
    )


CATALOG.add(
    "dgq4",
    Entry(
        family=SEARCHED,
        summary="4-bit weights with zero points, integer group scales and a float16 scale per row",
        source="Zhang et al., Dual Grained Quantization, 2023; a reconstruction",
        build=_build,
        keys=("group", "zeros", "search", "top", "scale_bits"),
        explains=(Zeros, Search),
    ),
)
