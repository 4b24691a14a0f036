"""Codebooks: formats given by the list of their values, with a decode table in hardware."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from functools import cached_property
from itertools import pairwise

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.element import MAX_TABLE_BITS
from macloom.formats.elements.decoded import DecodedFormat, Table, check_table, choose_table, table_option
from macloom.formats.families import CODEBOOK
from macloom.formats.grammar import (
    CATALOG,
    SCALE_FORMATS,
    WORDS,
    Builder,
    Entry,
    Options,
    as_choice,
    choice_option,
    granularity_option,
    integer_option,
    note_option,
    stored_scale_option,
)
from macloom.formats.scale_storage import SCALE_STORAGES
from macloom.formats.scales import Grain, Granularity
from macloom.formats.tensor import TensorFormat
from macloom.formats.tensors.scaled import Scaled


class Ties(StrEnum):
    """Which value a decision point itself takes: the even code's, the lower one, or the one nearer to zero."""

    EVEN = "even"
    LOWER = "lower"
    TOWARD_ZERO = "toward_zero"


class Mode(StrEnum):
    """PAPER: the nearest value. UPSTREAM: the decision points written in the released code."""

    PAPER = "paper"
    UPSTREAM = "upstream"


@dataclass(frozen=True, kw_only=True)
class Codebook(DecodedFormat):
    """The value of code c is levels[c]; codes beyond the list are not used.

    `levels` are rounded to float32 at birth. `points` are the decision points between neighbouring
    values in ascending order where they are not halfway, also as float32.

    >>> book = Codebook(label="thirds", levels=(0.0, 1.0, -1.0, 0.3333))
    >>> book.bits, book.encode([0.6, 0.7, -9.0]).tolist()
    (2, [3, 1, 2])
    """

    label: str
    levels: tuple[float, ...]
    ties: Ties = Ties.EVEN
    points: tuple[float, ...] | None = None
    table: Table | None = None  # type: ignore[override]

    def __post_init__(self) -> None:
        object.__setattr__(self, "ties", as_choice("codebook.ties", self.ties, Ties))
        if not 2 <= len(self.levels) <= 1 << MAX_TABLE_BITS or not np.all(np.isfinite(self.levels)):
            raise MacloomError(f"codebook.levels: must be 2 to {1 << MAX_TABLE_BITS} finite values")
        object.__setattr__(self, "levels", tuple(float(np.float32(v)) for v in self.levels))
        if len({(v, math.copysign(1, v)) for v in self.levels}) != len(self.levels):
            raise MacloomError("codebook.levels: must be distinct as float32 values")
        if self.points is not None:
            points = tuple(float(np.float32(p)) for p in self.points)
            object.__setattr__(self, "points", points)
            values = self.encodable[0].tolist()
            if len(points) != len(values) - 1:
                raise MacloomError(f"codebook.points: must be {len(values) - 1} for these levels, not {len(points)}")
            for p, (lower, upper) in zip(points, pairwise(values), strict=True):
                if not lower <= p <= upper:
                    raise MacloomError(f"codebook.points: must lie between {lower:g} and {upper:g} there, not {p:g}")
        if self.table is None:
            object.__setattr__(self, "table", choose_table(self))
        assert self.table is not None
        check_table("codebook.table", self, self.table)

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.label

    @property
    def bits(self) -> int:
        return (len(self.levels) - 1).bit_length()

    def value(self, code: int) -> float:
        return self.levels[code] if code < len(self.levels) else math.nan

    @cached_property
    def _point_above(self) -> dict[int, float]:
        return dict(zip(self.encodable[1].tolist(), self.points or (), strict=False))

    def decision(self, lower: int, upper: int) -> Fraction | None:
        return Fraction(self._point_above[lower]) if self.points else None

    def tie_goes_up(self, lower: int, upper: int) -> bool:
        match self.ties:
            case Ties.LOWER:
                return False
            case Ties.TOWARD_ZERO:
                return self.value(upper) <= 0
            case Ties.EVEN:
                return super().tie_goes_up(lower, upper)


# bitsandbytes-foundation/bitsandbytes@95f9af3: the float32 constants of the QLoRA data types.
NF4_LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
NF4_POINTS = (
    -0.8480964004993439, -0.6106329262256622, -0.4599952697753906, -0.33967943489551544, -0.23460740596055984,
    -0.13791173323988914, -0.045525018125772476, 0.03979014977812767, 0.1202552504837513, 0.2035212516784668,
    0.2920137718319893, 0.3893125355243683, 0.5016634166240692, 0.6427869200706482, 0.8614784181118011,
)  # fmt: skip
FP4_TWELFTHS = (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0)
FP4_POINTS = (0.00260417, 0.0859375, 0.20833333, 0.29166667, 0.4166667, 0.583333, 0.8333333)
# Yoshida, NF4 Isn't Information Theoretically Optimal, 2023, for blocks of 64; bitsandbytes stores it descending.
AF4_LEVELS = (
    1.0, 0.72424863, 0.55496234, 0.42563882, 0.31675666, 0.21961274, 0.12934483, 0.04273164,
    0.0, -0.04934812, -0.14982478, -0.25607552, -0.3736951, -0.51243739, -0.69441008, -1.0,
)  # fmt: skip


def nf4(mode: Mode = Mode.PAPER, table: Table | None = None) -> Codebook:
    """Return NF4 of QLoRA (Dettmers et al., 2023): quantiles of the normal distribution, and zero.

    A tie takes the lower value. UPSTREAM differs where bitsandbytes' decision points are not the
    exact midpoints: for six float32 numbers, each the end of an interval. It also multiplies by the
    reciprocal of the scale; here x is divided by the scale in either mode.
    """
    points = NF4_POINTS if mode is Mode.UPSTREAM else None
    return Codebook(label="nf4", levels=NF4_LEVELS, ties=Ties.LOWER, points=points, table=table)


def fp4_bnb(mode: Mode = Mode.PAPER, table: Table | None = None) -> Codebook:
    """Return the FP4 of bitsandbytes: sign and 0, 1/16, 2, 3, 4, 6, 8, 12 twelfths; not the OCP E2M1.

    A tie takes the smaller magnitude. UPSTREAM differs by its rounded decision points, the one at
    7/12 being written 0.583333. In either mode, unlike there, an input of -0 keeps its sign.
    """
    magnitudes = tuple(v / 12 for v in FP4_TWELFTHS)
    points = (*(-p for p in reversed(FP4_POINTS)), *FP4_POINTS) if mode is Mode.UPSTREAM else None
    levels = (*magnitudes, *(-v for v in magnitudes))
    return Codebook(label="fp4_bnb", levels=levels, ties=Ties.TOWARD_ZERO, points=points, table=table)


def af4(_mode: Mode = Mode.PAPER, table: Table | None = None) -> Codebook:
    """Return AF4 for blocks of 64: the levels of smallest expected absolute error on normal data."""
    return Codebook(label="af4", levels=AF4_LEVELS, table=table)


@dataclass(frozen=True, kw_only=True)
class BlockwiseCodebook(Scaled):
    """A codebook times the largest magnitude of each block; the first element is in the high half of a byte."""

    first_high = True


def fit_codebook(
    x: np.ndarray, width: int, weights: np.ndarray | None = None, iterations: int = 100, label: str = "fitted"
) -> Codebook:
    """Return the codebook of 2**width values with the least weighted squared error that Lloyd's method finds.

    It starts from evenly spaced quantiles, so that equal data gives equal codebooks, and stops when
    nothing moves. Data with fewer distinct values gives fewer levels.

    Args:
        x: data of any shape.
        weights: importance of each element, as `x`; all equal if None.

    Raises:
        MacloomError: fewer than two distinct values, or weights of another shape or not positive.

    >>> fit_codebook(np.array([0, 0, 1, 5, 5, 6]), 1).levels
    (0.3333333432674408, 5.333333492279053)
    """
    x = np.asarray(x, np.float64)
    mass = np.ones(x.shape) if weights is None else np.asarray(weights, np.float64)
    if mass.shape != x.shape or not np.all(mass > 0):
        raise MacloomError(f"weights: must be positive and of the data's shape {x.shape}, not {mass.shape}")
    order = np.argsort(x, axis=None, kind="stable")
    values, mass = x.reshape(-1)[order], mass.reshape(-1)[order]
    total = np.concatenate(([0.0], np.cumsum(mass)))
    moment = np.concatenate(([0.0], np.cumsum(mass * values)))
    quantiles = (np.arange(1 << width) + 0.5) / (1 << width) * total[-1]
    levels = np.unique(values[np.searchsorted(total[1:], quantiles)])
    for _ in range(iterations):
        edges = np.concatenate(([0], np.searchsorted(values, (levels[:-1] + levels[1:]) / 2), [len(values)]))
        held = total[edges[1:]] - total[edges[:-1]]
        means = (moment[edges[1:]] - moment[edges[:-1]])[held > 0] / held[held > 0]
        if np.array_equal(means, levels):
            break
        levels = means
    distinct = np.unique(levels.astype(np.float32)).tolist()
    if len(distinct) < 2:
        raise MacloomError("fit_codebook: the data must hold at least two distinct values")
    return Codebook(label=label, levels=tuple(distinct))


def _blockwise(make: Callable[[Mode, Table | None], Codebook]) -> Builder:
    def build(name: str, options: Options) -> TensorFormat:
        block = Granularity(grain=Grain.GROUP, size=integer_option(options, "block", 64))
        named = [key for key in options if key in WORDS or key in ("group", "axis")]
        if named and "block" in options:
            raise MacloomError(f"format options: name one granularity, not block and {named[0]}")
        granularity = granularity_option(options, Grain.TENSOR) if named else block
        mode = choice_option(options, "mode", Mode.PAPER, Mode.UPSTREAM)
        note_option(options, "scale", f"{', '.join((*SCALE_FORMATS, *SCALE_STORAGES))} (fp32)")
        return BlockwiseCodebook(
            name=name,
            element=make(mode, table_option(options)),
            granularity=granularity,
            scale_format=stored_scale_option({"scale": "fp32", **options}, granularity),
        )

    return build


def _fill() -> None:
    bnb = "bitsandbytes-foundation/bitsandbytes@95f9af3"
    for make, summary, source in (
        (nf4, "16 quantiles of the normal distribution", f"Dettmers et al., QLoRA, 2023; {bnb}"),
        (fp4_bnb, "the 4-bit float of bitsandbytes (not OCP E2M1)", bnb),
        (
            af4,
            "16 levels of least absolute error",
            f"Yoshida, NF4 Isn't Information Theoretically Optimal, 2023; {bnb}",
        ),
    ):
        summary += ", blocks of 64 scaled by their largest magnitude"
        keys = ("block", "table") if make is af4 else ("block", "mode", "table")
        name = make.__name__
        CATALOG.add(
            name,
            Entry(
                family=CODEBOOK,
                summary=summary,
                source=source,
                build=_blockwise(make),
                keys=keys,
                words=True,
                explains=(make,),
            ),
        )


_fill()
