"""Outlier-victim pairs whose normal type is chosen per tensor, as the OliVe paper does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.arrays import as_float32
from macloom.formats.element import OperandClass
from macloom.formats.outliers.ovp import Ovp
from macloom.formats.outliers.ovp_search import granule_rows, search_scales
from macloom.formats.tensor import Encoded, Operand, TensorFormat


@dataclass(frozen=True, kw_only=True)
class AdaptiveOvp(TensorFormat):
    """One of several outlier-victim pair formats for a whole tensor, by squared error after the search.

    `calibrate` returns scales with a last axis of 2: the scale, and the number of the chosen format,
    the first of the best. What `encode` returns belongs to that format, which counts the bits of the
    choice (`Ovp.selector_bits`).

    >>> import numpy as np
    >>> from macloom.formats import get_format
    >>> encoded = get_format("ovp4:normal=adaptive").encode(np.float32([1, 2, 16, 1, 4, 3, 8, 2]))
    >>> encoded.format.name
    'ovp4:normal=adaptive,chosen=flint4'
    """

    name: str
    choices: tuple[Ovp, ...]
    first_high = True

    def __post_init__(self) -> None:
        if len(self.choices) < 2 or len({(c.granularity, c.normal.bits) for c in self.choices}) != 1:
            raise MacloomError("ovp.choices: must be at least two formats of one width and granularity")

    @property
    def element(self) -> Any:  # type: ignore[override]
        return self.choices[0].element

    @property
    def block(self) -> int | None:
        return self.choices[0].block

    @property
    def static_scale(self) -> bool:
        return self.choices[0].static_scale

    @property
    def operand(self) -> OperandClass:
        operand = self.choices[0].operand
        for choice in self.choices[1:]:
            operand = operand.union(choice.operand)
        return operand

    @property
    def largest_value(self) -> float:
        return max(choice.largest_value for choice in self.choices)

    @property
    def max_unit(self) -> int:
        return max(choice.max_unit for choice in self.choices)

    @property
    def decoder_bits(self) -> int:
        return self.choices[0].decoder_bits

    @property
    def decoder_elements(self) -> int:
        return self.choices[0].decoder_elements

    def row_codes(self, length: int) -> int:
        return self.choices[0].row_codes(length)

    def scale_bits(self, shape: tuple[int, ...]) -> int:
        return self.choices[0].scale_bits(shape)

    def calibrate(self, x: Any, clip: float | None = None) -> np.ndarray:
        x = as_float32(x)
        if clip is None:
            found = [search_scales(choice, x) for choice in self.choices]
        else:
            found = []
            for choice in self.choices:
                scale = choice.calibrate(x, clip)
                _, rows = granule_rows(x, choice.granularity, self.name)
                found.append((scale, float(choice.squared_errors(rows, scale.reshape(-1)).sum())))
        chosen = int(np.argmin([error for _, error in found]))
        scale = found[chosen][0]
        return np.stack((scale, np.full(scale.shape, chosen, np.float32)), axis=-1)

    def choose(self, scale: np.ndarray) -> tuple[Ovp, np.ndarray]:
        """Return the format that calibrated scales (..., 2) name, and its own scales.

        Raises:
            MacloomError: they are not what `calibrate` returns.
        """
        scale = np.asarray(scale, np.float32)
        numbers = np.unique(scale[..., 1]) if scale.ndim and scale.shape[-1] == 2 else np.empty(0)
        if len(numbers) != 1 or numbers[0] not in range(len(self.choices)):
            raise MacloomError(
                f"scale: format {self.name!r} takes (scale, number of the normal type) on a last axis of 2, "
                f"as calibrate returns them, not shape {scale.shape}"
            )
        return self.choices[int(numbers[0])], np.ascontiguousarray(scale[..., 0]).reshape(scale.shape[:-1])

    def encode(
        self, x: Any, scale: Any = None, clip: float | None = None, rng: np.random.Generator | None = None
    ) -> Encoded:
        given = self._scale(as_float32(x), scale, clip)
        chosen, own = self.choose(given)
        return chosen.encode(x, own, rng=rng)

    def _encode(self, x: np.ndarray, scale: np.ndarray, clip: float) -> tuple[np.ndarray, np.ndarray, np.float32]:
        chosen, own = self.choose(scale)
        return chosen._encode(x, own, clip)

    def _quantize(self, x: np.ndarray, scale: np.ndarray, clip: float, out: Any, template: Any) -> np.ndarray:
        chosen, own = self.choose(scale)
        return chosen._quantize(x, own, clip, out, template)

    def decode(self, encoded: Encoded) -> np.ndarray:
        return encoded.format.decode(encoded)

    def operand_of(self, encoded: Encoded) -> Operand:
        return encoded.format.operand_of(encoded)
