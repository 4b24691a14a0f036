"""Encoding a matrix that comes a few rows at a time, so that it is never in memory as a whole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.tensor import Encoded, TensorFormat


def encode_by_rows(
    fmt: TensorFormat, parts: Iterable[Any], rows: int, scale: Any = None, clip: float | None = None
) -> Encoded:
    """Return what `fmt.encode` gives for a matrix of `rows` rows whose parts follow each other, bit for bit.

    Args:
        fmt: a format that `encodes_by_row`.
        parts: float tensors (some rows, K), numpy or torch, in order.
        scale: as for `encode`; needed by formats with one scale for the tensor (`static_scale`): what `calibrate`
            returns for the tensor's extremes.
        clip: as for `encode`.

    Raises:
        MacloomError: the format does not encode by row, its scale is missing, or there are not as many rows.

    >>> from macloom.formats import get_format
    >>> halves = np.float32([[1, -8]]), np.float32([[6, 2]])
    >>> encode_by_rows(get_format("mxfp4"), halves, 2).decode()
    array([[ 1., -8.],
           [ 6.,  2.]], dtype=float32)
    """
    if not fmt.encodes_by_row:
        raise MacloomError(f"format {fmt.name!r}: encodes no rows apart from each other; encode the whole matrix")
    if fmt.static_scale and scale is None:
        raise MacloomError(f"scale: must be given, as format {fmt.name!r} has one for all rows")
    made: Encoded | None = None
    done = 0
    for part in parts:
        encoded = fmt.encode(part, scale=scale, clip=clip)
        own = bool(fmt.scales_by_row(len(encoded.shape)))
        if made is None:
            made = replace(
                encoded,
                shape=(rows, *encoded.shape[1:]),
                elements=_room(encoded.elements, rows),
                scales=_room(encoded.scales, rows) if own else encoded.scales,
            )
        stop = done + encoded.shape[0]
        if stop <= rows:
            made.elements[done:stop] = encoded.elements
            if own:
                made.scales[done:stop] = encoded.scales
        done = stop
    if made is None or done != rows:
        raise MacloomError(f"rows: must be as many as the parts have, {done}, not {rows}")
    return made


def _room(part: np.ndarray, rows: int) -> np.ndarray:
    return np.empty((rows, *part.shape[1:]), part.dtype)
