"""Rows taken out of stored tensors, and matrices that are encoded a few rows at a time: the bits of the whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import IntFormat, Scaled, TensorFormat, get_format, list_formats
from macloom.formats.arrays import clip_share
from macloom.formats.by_rows import encode_by_rows
from macloom.formats.encoded import Encoded

OPTIONS = (
    "int4:token", "int4:group=16", "int4:channel", "int4:axis=1", "int4:group=8,scale=dq", "int8:group=16,scale=int8",
    "affine4:token", "affine4:group=16", "ovp4:token", "ovp4:group=16", "nf4:group=16", "fp8_e4m3:group=16,scale=fp16",
    "mxfp4:rule=even", "mxfp4:block=24", "dgq4:group=16", "llm_fp4:token", "posit8_1:token", "ternary:group=16",
)  # fmt: skip
NAMES = [*list_formats(), *OPTIONS]
PARTS = (slice(0, 5), slice(5, 16), slice(16, 23))
ONE_SCALE = ("int4", "int8", "fp8_e4m3", "nvfp4", "affine4", "ovp4")
BY_ROW = ("mxfp4", "int4:token", "int4:group=16", "affine4:group=16", "ovp4:token", "nf4")


def matrix(fmt: TensorFormat) -> np.ndarray:
    """Return rows of very different sizes, without negative values for a format that has none."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((23, 64)) * np.exp(2 * rng.standard_normal((23, 1)))).astype(np.float32)
    return x if fmt.name.startswith("affine") or fmt.element.min_value < 0 else np.abs(x)


def same_bits(a: Any, b: Any) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def by_rows(fmt: TensorFormat, x: np.ndarray, clip: float) -> Encoded:
    ends = np.array([x.min(), x.max()], np.float32)
    scale = fmt.calibrate(ends, clip) if fmt.static_scale else None
    return encode_by_rows(fmt, (x[part] for part in PARTS), len(x), scale, clip)


@pytest.mark.parametrize("name", NAMES)
def test_rows_decode_like_those_of_the_whole_and_encode_like_them(name: str) -> None:
    fmt = get_format(name)
    if not fmt.stores:
        pytest.skip("has no stored form")
    x = matrix(fmt)
    encoded = fmt.encode(x, clip=0.7)
    if not encoded.has_rows:
        with pytest.raises(MacloomError, match="stores no rows apart for a tensor of .23, 64.; decode the whole"):
            encoded.rows(slice(0, 5))
    else:
        values = encoded.decode()
        for part in PARTS:
            assert same_bits(encoded.rows(part).decode(), values[part])
            if name != "int4:axis=1":  # whose scales no product can use
                some, whole = encoded.rows(part).operand(), encoded.operand()
                assert same_bits(some.units, whole.units[part])
                assert same_bits(some.scales, whole.scales[part])
    if fmt.encodes_by_row:
        made = by_rows(fmt, x, 0.7)
        assert same_bits(made.elements, encoded.elements)
        assert same_bits(made.scales, encoded.scales)
        assert (made.outer, made.shape, made.bits) == (encoded.outer, encoded.shape, encoded.bits)


def test_the_usual_formats_have_rows_and_are_encoded_by_row() -> None:
    for name in ONE_SCALE + BY_ROW:
        fmt = get_format(name)
        assert fmt.encodes_by_row, name
        assert fmt.encode(matrix(fmt)).has_rows, name
        assert fmt.static_scale == (name in ONE_SCALE), name


@dataclass(frozen=True, kw_only=True)
class MeanScaled(Scaled):
    """A mutant: claims that the scale of a tensor follows from its extremes, and takes it from all values."""

    def calibrate(self, x: Any, clip: float | None = None) -> np.ndarray:
        return np.asarray(np.abs(np.asarray(x)).mean() * clip_share(clip), np.float32)


def test_a_format_that_claims_too_much_is_found_out() -> None:
    fmt = MeanScaled(name="mean", element=IntFormat(width=4))
    x = matrix(fmt)
    assert not same_bits(by_rows(fmt, x, 0.7).elements, fmt.encode(x, clip=0.7).elements)


def test_tensors_of_other_axes() -> None:
    x = matrix(get_format("int4")).reshape(23, 4, 16)
    for name in ("int4", "int4:token", "int4:group=8", "int4:axis=0", "int4:axis=1", "mxfp4"):
        encoded = get_format(name).encode(x)
        assert same_bits(encoded.rows(slice(3, 9)).decode(), encoded.decode()[3:9])
    assert not get_format("int4").encode(x[0, 0]).has_rows


def test_what_is_wrong_is_said() -> None:
    fmt, x = get_format("int4"), np.ones((4, 8), np.float32)
    with pytest.raises(MacloomError, match=r"rows: must hold at least one of the 4 rows, not slice\(4, 9, None\)"):
        fmt.encode(x).rows(slice(4, 9))
    with pytest.raises(MacloomError, match="scale: must be given, as format 'int4' has one for all rows"):
        encode_by_rows(fmt, [x], 4)
    with pytest.raises(MacloomError, match="format 'gobo4': encodes no rows apart from each other; encode the whole"):
        encode_by_rows(get_format("gobo4"), [x], 4)
    for rows in (3, 5):
        with pytest.raises(MacloomError, match=f"rows: must be as many as the parts have, 4, not {rows}"):
            encode_by_rows(fmt, [x[:2], x[2:]], rows, np.float32(1))
    with pytest.raises(MacloomError, match="rows: must be as many as the parts have, 0, not 4"):
        encode_by_rows(fmt, [], 4, np.float32(1))
