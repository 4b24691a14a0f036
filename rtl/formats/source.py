"""What encoders take: codes of floats up to float32 and of integers up to 16 bits, and where an encoder's code changes.

Inputs of up to 16 bits are all tried. Of float32 the points at which a code changes are found by bisection over the
order of its patterns, which needs no more than that codes never go back as values grow: every rounding but the
stochastic one and every overflow but the wrapping one is so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from macloom.errors import MacloomError, unknown
from macloom.formats.element import ElementFormat
from macloom.formats.elements.integer import IntFormat
from macloom.formats.elements.minifloat import BF16, FP16, FP32, FloatFormat
from macloom.formats.policy import Overflow, Rounding
from macloom.rtl.formats.interval_search import intervals

Source = FloatFormat | IntFormat
# Inputs and codes of more bits are not listed one by one.
WIDEST_LISTED = 16
FLOATS = {source.name: source for source in (FP16, BF16, FP32)}


INTEGER = re.compile(r"(u?)int([0-9]+)(?::fraction=([0-9]+))?")


def get_source(text: str) -> Source:
    """Return the format of an encoder's input by its name, such as `fp32` or `int16:fraction=4`.

    Integers are two's complement (`uint12`: unsigned), in steps of 2**-fraction.

    Raises:
        MacloomError: there is no such format.

    >>> get_source("int16:fraction=4").name
    'int16f4'
    """
    found = INTEGER.fullmatch(text)
    if found:
        unsigned, width, fraction = found.groups()
        return IntFormat(width=int(width), signed=not unsigned, symmetric=False, fraction_bits=int(fraction or 0))
    if text not in FLOATS:
        raise unknown("rtl.source", text, [*FLOATS, "int16", "int16:fraction=4", "uint16"])
    return FLOATS[text]


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What an encoder does: element format, format of its input, rounding and overflow.

    Attributes:
        rounding: None takes the element's own.
    """

    element: ElementFormat
    source: Source
    rounding: Rounding | None = None
    overflow: Overflow = Overflow.SATURATE

    def __post_init__(self) -> None:
        if (self.source.bits > WIDEST_LISTED and self.source != FP32) or self.element.bits > WIDEST_LISTED:
            raise MacloomError(
                f"rtl: an encoder of {self.element.name!r} from {self.source.name!r} does not exist: codes have at most"
                f" {WIDEST_LISTED} bits, and so have inputs but fp32; take fp32, fp16, bf16 or a fixed-point operand"
            )
        if self.rounding is Rounding.STOCHASTIC:
            raise MacloomError("rtl: encoders do not draw random numbers; choose another rounding than 'stochastic'")

    @property
    def mode(self) -> Rounding:
        return self.rounding or self.element.default_rounding

    @property
    def listed(self) -> bool:
        """Whether the codes of all inputs are listed one by one."""
        return self.source.bits <= WIDEST_LISTED

    def codes(self, patterns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the software's codes (int64) of input patterns, and where they are defined.

        They are not for a NaN without a code, nor for what is not finite where integers wrap.
        """
        x = values_of(self.source, patterns)
        if self.overflow is Overflow.WRAP:
            defined = np.isfinite(x)
        else:
            defined = ~np.isnan(x) | (self.element.nan_code is not None)
        with np.errstate(invalid="ignore"):
            codes = self.element.encode(np.where(defined, x, 0.0), self.mode, self.overflow)
        return codes.astype(np.int64), defined


def values_of(source: Source, patterns: np.ndarray) -> np.ndarray:
    """Return the values (float64) of patterns (integers, without sign) of a source."""
    if source.bits <= WIDEST_LISTED:
        return source.values[patterns]
    with np.errstate(invalid="ignore"):  # signalling NaN become quiet
        return np.asarray(patterns).astype(np.uint32).view(np.float32).astype(np.float64)


@lru_cache(maxsize=64)
def code_table(conversion: Conversion) -> tuple[np.ndarray, np.ndarray]:
    """Return the code (int64) of every input pattern, and where it is defined."""
    return conversion.codes(np.arange(1 << conversion.source.bits))


@lru_cache(maxsize=64)
def changes(conversion: Conversion) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Return where the code of a signed float changes: starts of runs and codes, for each sign over the other bits.

    >>> from macloom.formats import get_format
    >>> (starts, codes), _ = changes(Conversion(element=get_format("fp4_e2m1").element, source=FP32))
    >>> np.uint32(starts[:4]).view(np.float32).tolist(), codes[:4].tolist()
    ([0.0, 0.2500000298023224, 0.75, 1.2500001192092896], [0, 1, 2, 3])
    """
    return _half(conversion, 0), _half(conversion, 1)


def _half(conversion: Conversion, negative: int) -> tuple[np.ndarray, np.ndarray]:
    source, element = conversion.source, conversion.element
    assert isinstance(source, FloatFormat)
    top = infinity_of(source)
    sign = negative << (source.bits - 1)

    def rank(patterns: np.ndarray) -> np.ndarray:
        """Return what never falls as magnitudes grow."""
        value = element.values[conversion.codes(patterns | sign)[0]]
        return np.where(np.isnan(value), np.inf, np.where(np.isinf(value), np.finfo(float).max, _turned(value)))

    def _turned(value: np.ndarray) -> np.ndarray:
        return -value if negative else value

    finite = element.values[np.isfinite(element.values)]
    wanted = np.unique(np.concatenate((_turned(finite), [np.finfo(float).max, np.inf])))
    low, high = np.full(len(wanted), -1), np.full(len(wanted), top + 1)
    while np.any(high - low > 1):
        middle = (low + high) // 2
        reached = rank(np.maximum(middle, 0)) >= wanted
        low, high = np.where(reached, low, middle), np.where(reached, middle, high)
    starts = np.unique(np.concatenate(([0], np.maximum(high[high <= top], 0))))
    if element.nan_code is not None:
        starts = np.append(starts, top + 1)
    runs, codes = intervals(conversion.codes(starts | sign)[0])
    return starts[runs], codes


def finite_patterns(source: FloatFormat, index: np.ndarray) -> np.ndarray:
    """Return the patterns of finite values by their number: positive ones as they ascend, then negative ones."""
    if source.bits <= WIDEST_LISTED:
        return np.flatnonzero(np.isfinite(source.values))[index]
    top = infinity_of(source)
    return np.where(index < top, index, index - top + (1 << (source.bits - 1)))


def finite_count(source: FloatFormat) -> int:
    """Return how many patterns are finite values."""
    return int(np.isfinite(source.values).sum()) if source.bits <= WIDEST_LISTED else 2 * infinity_of(source)


def infinity_of(source: FloatFormat) -> int:
    """Return the pattern of infinity of a float whose top exponent is for it and NaN."""
    return ((1 << source.exponent_bits) - 1) << source.mantissa_bits


def operands(conversion: Conversion, count: int, seed: int) -> np.ndarray:
    """Return float32 patterns: those about every change of code, or some of them, corners, and random ones."""
    rng = np.random.default_rng(seed)
    sign = 1 << (conversion.source.bits - 1)
    top = infinity_of(FP32)
    corners = np.array([0, 1, (1 << 23) - 1, 1 << 23, 127 << 23, top - 1, top, top + 1, sign - 1])
    if conversion.overflow is Overflow.WRAP:
        assert isinstance(conversion.element, IntFormat)
        halves = np.arange(4 << conversion.element.width) / 2 ** (1 + conversion.element.fraction_bits)
        points = halves.astype(np.float32).view(np.uint32).astype(np.int64)
        points = np.concatenate((points, points | sign))
    else:
        points = np.concatenate([starts | k * sign for k, (starts, _) in enumerate(changes(conversion))])
    near = (points[:, None] + np.arange(-1, 2)).ravel()
    if len(near) > count:
        near = rng.choice(near, count)
    low, high = (int(np.quantile(points & (sign - 1), q)) for q in (0.05, 0.95))
    among = rng.integers(max(low - (4 << 23), 0), min(high + (4 << 23), top) + 1, count // 4) | rng.choice([0, sign])
    anything = rng.integers(0, 2 * sign, count // 4)
    return np.concatenate((corners, corners | sign, near, among, anything)) & (2 * sign - 1)
