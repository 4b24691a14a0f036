"""Twin-log quantization (TLQ of LRQ-DiT): each sign of each row has its own logarithmic grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.arrays import as_float32, check_finite, output_for, rows_of
from macloom.formats.element import ElementFormat, OperandClass
from macloom.formats.elements.codebook import Mode
from macloom.formats.elements.decoded import DecodedFormat, Table
from macloom.formats.elements.minifloat import FP16
from macloom.formats.families import LOGARITHMIC
from macloom.formats.grammar import CATALOG, Entry, Options, as_choice, choice_option, integer_option
from macloom.formats.tensor import Encoded, Operand, TensorFormat
from macloom.formats.threads import run_rows

# Candidates of the released search (LRQ-DiT@84398f3): what is added to magnitudes, and the quantile of the logarithm.
OFFSETS = (0.0, 0.001, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
QUANTILES = (0.98, 0.99, 0.999, 0.9999, 0.99999)
# Ours: the shares of a row's log range, from its largest magnitude down, that the paper-form search tries.
SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
SMALLEST_STEP = 2.0**-10  # keeps the integer offset within 16 bits
EMPTY = (1.0, -126.0)  # step and offset of a sign that a row does not hold: a negligible magnitude
PARAMETERS = 5  # step and offset of each sign, and what was added to the magnitudes


@dataclass(frozen=True, kw_only=True)
class TwinLogLevels(DecodedFormat):
    """The codes of a row whose steps are 1 and whose largest magnitudes are 1: a sign and powers of two.

    >>> [TwinLogLevels(width=3).value(code) for code in range(8)]
    [0.125, 0.25, 0.5, 1.0, -0.125, -0.25, -0.5, -1.0]
    """

    width: int
    table: Table | None = None  # type: ignore[override]

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"twinlog{self.width}"

    @property
    def bits(self) -> int:
        return self.width

    def value(self, code: int) -> float:
        top = (1 << (self.width - 1)) - 1
        return math.ldexp(-1.0 if code > top else 1.0, (code & top) - top)


@dataclass(frozen=True, kw_only=True)
class TwinLog(TensorFormat):
    """value = sign * (2**((q + z) * step) - offset), with a step and an integer z for each sign of each row.

    PAPER (LRQ-DiT, arXiv 2508.03485): the code is the sign and a q of width - 1 bits; the offset is 0 and
    there is no exact zero, which takes the smallest positive value. q is the nearest in the logarithm.
    Steps and z come from the row's magnitudes of that sign, of whose log range a share is kept; the
    two shares (one a sign, for the whole tensor) are searched for the least squared error. The search
    grid is a reconstruction. Steps are stored as float16, z as 16-bit integers.

    UPSTREAM is the released code (LRQ-DiT@84398f3), which differs: it adds an offset, searched with
    two quantiles of the logarithm; lanes of the other sign count as logarithm 0 in each range; a range
    has 2**(width - 1) steps, of which positive q reach all but the last and negative q all; zero stays
    zero; the smallest values may come out with the other sign. That makes 2**width + 2 values, so that
    codes take a bit more than `width`: 0 is zero, then come the positive and the negative q. Logarithms
    are computed in float64.

    Multipliers see each row's table of values as float16 relative to its largest, which is the scale.
    `clip` sets both shares (both quantiles upstream) instead of searching them.
    """

    name: str
    width: int
    mode: Mode = Mode.PAPER

    def __post_init__(self) -> None:
        object.__setattr__(self, "mode", as_choice("twinlog.mode", self.mode, Mode))
        if not isinstance(self.width, int) or not 2 <= self.width <= 7:
            raise MacloomError(f"twinlog.width: must be an integer from 2 to 7, not {self.width!r}")

    @property
    def element(self) -> ElementFormat:  # type: ignore[override]
        return TwinLogLevels(width=self.width)

    @property
    def code_bits(self) -> int:
        return self.width + (self.mode is Mode.UPSTREAM)

    @property
    def operand(self) -> OperandClass:
        return FP16.operand

    @property
    def max_unit(self) -> int:
        return FP16.largest_unit

    @property
    def decoder_bits(self) -> int:
        return self.code_bits

    def scale_bits(self, shape: tuple[int, ...]) -> int:
        rows = math.prod(shape[:-1])
        return rows * 64 if self.mode is Mode.PAPER else rows * 96 + 32

    @property
    def _tops(self) -> tuple[int, int]:
        """The largest q of positive and of negative values."""
        half = 1 << (self.width - 1)
        return (half - 1, half - 1 if self.mode is Mode.PAPER else half)

    # -- parameters --------------------------------------------------------------------------------

    def calibrate(self, x: Any, clip: float | None = None) -> np.ndarray:
        """Return the parameters of each row, (..., 5): step and z of positive, then of negative values, offset."""
        array = as_float32(x)
        rows = rows_of(array)
        check_finite(np.abs(rows), self.name)
        if clip is not None and not 0 < clip <= 1:
            raise MacloomError(f"clip: must be above 0 and at most 1, not {clip!r}")
        shares = SHARES if self.mode is Mode.PAPER else QUANTILES
        shares = shares if clip is None else (clip,)
        offsets = OFFSETS if self.mode is Mode.UPSTREAM and clip is None else (0.0,)
        found = [self._search(rows, offset, shares) for offset in offsets]
        _, best = min(found, key=lambda result: result[0])
        return best.astype(np.float32).reshape(*array.shape[:-1], PARAMETERS)

    def _search(self, rows: np.ndarray, offset: float, shares: tuple[float, ...]) -> tuple[float, np.ndarray]:
        """Return the least squared error under an offset, and the parameters of each row that give it."""
        from macloom.formats.kernels.twinlog import twin_errors

        held = [rows * sign > 0 for sign in (1, -1)]
        magnitudes = np.abs(rows.astype(np.float64)) + offset
        logarithms = [np.log2(np.where(h, magnitudes, 1.0)) for h in held]
        sides = list(zip(logarithms, held, strict=True))
        last = np.full(len(rows), offset)
        choices = [np.column_stack((*self._range(*sides[0], s), *self._range(*sides[1], s), last)) for s in shares]
        if len(choices) == 1:
            return 0.0, choices[0]
        points, levels = (np.stack(t) for t in zip(*(self._grid(c) for c in choices), strict=True))
        errors = np.zeros((len(rows), len(shares), 2))
        run_rows(twin_errors, len(rows), rows.size * len(shares), rows, points, levels, errors)
        totals = errors.sum(axis=0)
        positive, negative = totals.argmin(axis=0)  # the first of equal ones
        best = choices[positive].copy()
        best[:, 2:4] = choices[negative][:, 2:4]
        return float(totals[positive, 0] + totals[negative, 1]), best

    def _range(self, logarithms: np.ndarray, held: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the step and z of each row for one sign, from the logarithms of its magnitudes and 0 elsewhere."""
        present = held.any(axis=1)
        if self.mode is Mode.UPSTREAM:
            high = np.quantile(logarithms, share, axis=1, method="nearest")
            low = logarithms.min(axis=1)
            step = (high - low) / (1 << (self.width - 1))
        else:
            high = np.where(present, np.where(held, logarithms, -np.inf).max(axis=1), 0.0)
            low = np.where(present, np.where(held, logarithms, np.inf).min(axis=1), 0.0)
            low = high - share * (high - low)
            step = np.maximum((high - low) / self._tops[0], SMALLEST_STEP).astype(np.float16).astype(np.float64)
        present &= step > 0
        step = np.where(present, step, EMPTY[0])
        return step, np.where(present, np.rint(low / step), EMPTY[1])

    def _grid(self, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the decision points (rows, 2, n) and magnitudes (rows, 2, n + 1) of both signs, float64."""
        step, z, offset = parameters[:, [0, 2], None], parameters[:, [1, 3], None], parameters[:, 4, None, None]
        q = np.arange(max(self._tops) + 1)
        with np.errstate(over="ignore"):
            points = np.exp2((q[:-1] + 0.5 + z) * step) - offset
            levels = np.exp2((q + z) * step) - offset
        points[:, 0, self._tops[0] :] = np.inf
        return points, levels

    # -- codes -------------------------------------------------------------------------------------

    def _parameters(self, scale: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        expected = (*shape[:-1], PARAMETERS)
        if scale.shape != expected:
            raise MacloomError(f"scale: must have shape {expected} for a tensor of {shape}, not {scale.shape}")
        parameters = scale.reshape(-1, PARAMETERS).astype(np.float64)
        if not np.all(np.isfinite(parameters)) or not np.all(parameters[:, [0, 2]] > 0):
            raise MacloomError(f"scale: format {self.name!r} takes finite parameters and positive steps only")
        return parameters

    def _tables(self, scale: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Return the float32 value of every code of every row."""
        _, levels = self._grid(self._parameters(scale, shape))
        positive, negative = levels[:, 0, : self._tops[0] + 1], -levels[:, 1]
        zero = np.zeros((len(levels), int(self.mode is Mode.UPSTREAM)))
        largest = np.finfo(np.float32).max
        return np.clip(np.concatenate((zero, positive, negative), axis=1), -largest, largest).astype(np.float32)

    def _encode(self, x: np.ndarray, scale: np.ndarray, clip: float) -> tuple[np.ndarray, np.ndarray, np.float32]:
        rows = rows_of(x)
        check_finite(np.abs(rows), self.name)
        from macloom.formats.kernels.twinlog import twin_codes

        points, _ = self._grid(self._parameters(scale, x.shape or (1,)))
        codes = np.empty(rows.shape, np.uint8)
        zero = int(self.mode is Mode.UPSTREAM)
        run_rows(twin_codes, len(rows), rows.size, rows, points, self._tops[0] + 1, zero, codes)
        return codes.reshape(x.shape), np.asarray(scale, np.float32), np.float32(1)

    def decode(self, encoded: Encoded) -> np.ndarray:
        codes, tables = rows_of(encoded.elements), self._tables(encoded.scales, encoded.shape or (1,))
        if codes.size and int(codes.max()) >= tables.shape[1]:
            raise MacloomError(f"format {self.name!r}: code {int(codes.max())} is not in [0, {tables.shape[1]})")
        return np.take_along_axis(tables, codes.astype(np.intp), axis=1).reshape(encoded.shape)

    def _quantize(self, x: np.ndarray, scale: np.ndarray, clip: float, out: Any, template: Any) -> np.ndarray:
        result = output_for(template, out, x.shape)
        elements, scales, outer = self._encode(x, scale, clip)
        result[...] = self.decode(Encoded(self, x.shape, elements, scales, outer))
        return result

    def operand_of(self, encoded: Encoded) -> Operand:
        tables = self._tables(encoded.scales, encoded.shape)
        largest = np.abs(tables).max(axis=1, keepdims=True)
        units = np.ldexp(FP16.quantize(tables / largest), -FP16.unit_exponent).astype(np.float32)
        elements = np.take_along_axis(units, rows_of(encoded.elements).astype(np.intp), axis=1)
        scales = largest.reshape(*encoded.shape[:-1], 1)
        return Operand(
            elements.reshape(encoded.shape), FP16.unit_exponent, scales, encoded.shape[-1], encoded.outer, self.max_unit
        )


def _twinlog4(name: str, options: Options) -> TensorFormat:
    return TwinLog(name=name, width=integer_option(options, "bits", 4), mode=choice_option(options, "mode", *Mode))


CATALOG.add(
    "twinlog4",
    Entry(
        family=LOGARITHMIC,
        summary="4-bit logarithms with a grid of their own for each sign of each row",
        source="LRQ-DiT, arXiv 2508.03485; parts are reconstructions",
        build=_twinlog4,
        keys=("bits", "mode"),
    ),
)
