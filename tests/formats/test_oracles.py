"""Small floats against ml_dtypes, gfloat, numpy and torch; flint against the released ANT grids; integers by hand."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import gfloat
import gfloat.formats as gf
import ml_dtypes
import numpy as np
import pytest
import torch

from macloom.formats import ElementFormat, Flint, FloatFormat, IntFormat, Overflow, Rounding, get_format
from macloom.formats.catalog import FLOATS
from macloom.formats.elements.minifloat import Specials
from macloom.formats.scales import E8M0

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "ovp.json").read_text())

ML_DTYPES: dict[str, Any] = {
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "fp8_e4m3": ml_dtypes.float8_e4m3fn,
    "fp8_e5m2": ml_dtypes.float8_e5m2,
    "fp8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "fp8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "fp6_e3m2": ml_dtypes.float6_e3m2fn,
    "fp6_e2m3": ml_dtypes.float6_e2m3fn,
    "fp4_e2m1": ml_dtypes.float4_e2m1fn,
}
E4M3B11 = FloatFormat(label="e4m3b11fnuz", exponent_bits=4, mantissa_bits=3, bias=11, specials=Specials.FNUZ)
E3M4 = FloatFormat(label="e3m4", exponent_bits=3, mantissa_bits=4, specials=Specials.IEEE)
E4M3IEEE = FloatFormat(label="e4m3", exponent_bits=4, mantissa_bits=3, specials=Specials.IEEE)
AGAINST_ML_DTYPES: list[tuple[ElementFormat, Any]] = [
    *((FLOATS[name], dtype) for name, dtype in ML_DTYPES.items()),
    (E4M3B11, ml_dtypes.float8_e4m3b11fnuz),
    (E3M4, ml_dtypes.float8_e3m4),
    (E4M3IEEE, ml_dtypes.float8_e4m3),
]

GFLOAT = {
    "fp16": gf.format_info_binary16,
    "bf16": gf.format_info_bfloat16,
    "fp8_e4m3": gf.format_info_ocp_e4m3,
    "fp8_e5m2": gf.format_info_ocp_e5m2,
    "fp6_e3m2": gf.format_info_ocp_e3m2,
    "fp6_e2m3": gf.format_info_ocp_e2m3,
    "fp4_e2m1": gf.format_info_ocp_e2m1,
}


def name_of(case: Any) -> str:
    return case.name if isinstance(case, ElementFormat) else ""


def all_codes(element: ElementFormat, dtype: Any) -> np.ndarray:
    return np.arange(1 << element.bits, dtype=np.uint16 if element.bits > 8 else np.uint8).view(dtype)


def codes_of(array: np.ndarray, element: ElementFormat) -> np.ndarray:
    return array.view(np.uint16 if element.bits > 8 else np.uint8)


@cache
def bfloat16_inputs() -> np.ndarray:
    """All 65536 bfloat16 values without NaN, as float32."""
    values = (np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)).view(np.float32)
    return values[~np.isnan(values)]


@cache
def midpoints(element: ElementFormat) -> np.ndarray:
    """Midpoints between neighbouring values with both float32 neighbours (float32; those it can hold)."""
    values = element.encodable[0]
    middle = (values[1:] + values[:-1]) / 2
    if element.overflow_value is not None:
        top = (element.max_value + element.overflow_value) / 2
        middle = np.concatenate((middle, [top, -top]))
    with np.errstate(over="ignore"):
        exact = middle.astype(np.float32)
    exact = exact[(exact == middle) & np.isfinite(exact)]
    near = np.concatenate((exact, np.nextafter(exact, np.float32(np.inf)), np.nextafter(exact, -np.float32(np.inf))))
    return near[np.isfinite(near)]


def inputs(element: ElementFormat) -> np.ndarray:
    return np.concatenate((bfloat16_inputs(), midpoints(element)))


# -- ml_dtypes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("element, dtype", AGAINST_ML_DTYPES, ids=name_of)
def test_every_code_decodes_like_ml_dtypes(element: ElementFormat, dtype: Any) -> None:
    with np.errstate(invalid="ignore"):  # numpy's warning for NaN codes
        want = all_codes(element, dtype).astype(np.float64)
    np.testing.assert_array_equal(element.values, want)
    signs = ~np.isnan(want)
    np.testing.assert_array_equal(np.signbit(element.values[signs]), np.signbit(want[signs]))


def test_e8m0_decodes_like_ml_dtypes() -> None:
    np.testing.assert_array_equal(E8M0.values, all_codes(E8M0, ml_dtypes.float8_e8m0fnu).astype(np.float64))


@pytest.mark.parametrize("element, dtype", AGAINST_ML_DTYPES, ids=name_of)
def test_saturating_encode_equals_ml_dtypes_after_a_clamp(element: ElementFormat, dtype: Any) -> None:
    x = inputs(element)
    clamped = np.clip(x, np.float32(element.min_value), np.float32(element.max_value))
    want = codes_of(clamped.astype(dtype), element)
    np.testing.assert_array_equal(element.encode(x), want)


@pytest.mark.parametrize(
    "element, dtype, overflow",
    [
        (FLOATS["fp8_e4m3"], ml_dtypes.float8_e4m3fn, Overflow.TO_NAN),
        (FLOATS["fp8_e5m2"], ml_dtypes.float8_e5m2, Overflow.TO_INF),
        (FLOATS["fp8_e4m3fnuz"], ml_dtypes.float8_e4m3fnuz, Overflow.TO_NAN),
        (FLOATS["fp8_e5m2fnuz"], ml_dtypes.float8_e5m2fnuz, Overflow.TO_NAN),
        (E4M3B11, ml_dtypes.float8_e4m3b11fnuz, Overflow.TO_NAN),
        (E3M4, ml_dtypes.float8_e3m4, Overflow.TO_INF),
        (FLOATS["fp16"], np.float16, Overflow.TO_INF),
        (FLOATS["bf16"], ml_dtypes.bfloat16, Overflow.TO_INF),
    ],
    ids=name_of,
)
def test_overflow_policy_equals_the_plain_cast_of_ml_dtypes(
    element: ElementFormat, dtype: Any, overflow: Overflow
) -> None:
    x = inputs(element)
    with np.errstate(over="ignore"):
        want = x.astype(dtype).astype(np.float32)
    got = element.quantize(x, overflow=overflow)
    np.testing.assert_array_equal(got, want)
    assert np.isinf(want).any() or np.isnan(want).any()


def test_wrong_rounding_would_be_seen() -> None:
    element = FLOATS["fp8_e4m3"]
    x = inputs(element)
    want = codes_of(np.clip(x, -448, 448).astype(ml_dtypes.float8_e4m3fn), element)
    for rounding in (Rounding.NEAREST_AWAY, Rounding.TOWARD_ZERO, Rounding.TO_ODD):
        assert (element.encode(x, rounding) != want).sum() > 100


# -- gfloat ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GFLOAT)
def test_every_code_decodes_like_gfloat(name: str) -> None:
    element = FLOATS[name]
    codes = np.arange(1 << element.bits)
    np.testing.assert_array_equal(element.values, gfloat.decode_ndarray(GFLOAT[name], codes))


@pytest.mark.parametrize("name", GFLOAT)
@pytest.mark.parametrize(
    "rounding, mode",
    [
        (Rounding.NEAREST_EVEN, gfloat.RoundMode.TiesToEven),
        (Rounding.NEAREST_AWAY, gfloat.RoundMode.TiesToAway),
        (Rounding.TOWARD_ZERO, gfloat.RoundMode.TowardZero),
    ],
)
def test_rounding_equals_gfloat(name: str, rounding: Rounding, mode: Any) -> None:
    element, info = FLOATS[name], GFLOAT[name]
    x = np.concatenate((bfloat16_inputs()[::7], midpoints(element)[:: 1 + (element.bits > 8) * 16]))
    want = gfloat.round_ndarray(info, x.astype(np.float64), mode, sat=True)
    np.testing.assert_array_equal(element.quantize(x, rounding).astype(np.float64), want)


@pytest.mark.parametrize("name", GFLOAT)
def test_round_to_odd_sets_the_last_bit_of_what_gfloat_truncates(name: str) -> None:
    element, info = FLOATS[name], GFLOAT[name]
    x = np.concatenate((bfloat16_inputs()[::7], midpoints(element)[:: 1 + (element.bits > 8) * 16]))
    x = x[np.abs(x) <= element.max_value]
    truncated = gfloat.round_ndarray(info, x.astype(np.float64), gfloat.RoundMode.TowardZero, sat=True)
    codes = element.encode(truncated) | (truncated != x).astype(np.uint16)
    sign = np.signbit(x).astype(np.uint16) << np.uint16(element.bits - 1)
    np.testing.assert_array_equal(element.encode(x, Rounding.TO_ODD), codes | sign)


# -- numpy and torch -------------------------------------------------------------------------------


def test_fp16_equals_the_cast_of_numpy() -> None:
    x = inputs(FLOATS["fp16"])
    with np.errstate(over="ignore"):
        want = x.astype(np.float16)
    got = FLOATS["fp16"].encode(x, overflow=Overflow.TO_INF)
    np.testing.assert_array_equal(got, want.view(np.uint16))
    fits = np.abs(x) <= 65504
    np.testing.assert_array_equal(get_format("fp16").quantize(x[fits]), want[fits].astype(np.float32))


@pytest.mark.parametrize(
    "name, dtype",
    [
        ("fp16", torch.float16),
        ("bf16", torch.bfloat16),
        ("fp8_e4m3", torch.float8_e4m3fn),
        ("fp8_e5m2", torch.float8_e5m2),
        ("fp8_e4m3fnuz", torch.float8_e4m3fnuz),
        ("fp8_e5m2fnuz", torch.float8_e5m2fnuz),
    ],
)
def test_encode_equals_torch_after_a_clamp(name: str, dtype: torch.dtype) -> None:
    element = FLOATS[name]
    x = inputs(element)
    t = torch.from_numpy(x).clamp(-element.max_value, element.max_value)
    want = t.to(dtype).float().numpy()
    np.testing.assert_array_equal(element.quantize(x), want)
    fmt = get_format(f"{name}:none")
    finite = x[np.isfinite(x)]
    np.testing.assert_array_equal(fmt.quantize(finite), want[np.isfinite(x)])


def test_int8_equals_torch_quantize_per_tensor() -> None:
    x = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    fmt = get_format("int8")
    scale = fmt.calibrate(x)
    want = torch.round(torch.from_numpy(x) / float(scale)).clamp(-127, 127) * float(scale)
    np.testing.assert_array_equal(fmt.quantize(x), want.numpy())


# -- flint, integers, fixed points -------------------------------------------------------------------


@pytest.mark.parametrize("width", range(3, 9))
@pytest.mark.parametrize("signed", [True, False])
def test_flint_values_are_those_of_the_released_ant_code(width: int, signed: bool) -> None:
    element = Flint(width=width, signed=signed)
    golden = np.array(GOLDEN["flint_normalised_to_10"][f"flint{width}_{'s' if signed else 'u'}"])
    values = element.encodable[0]
    np.testing.assert_array_equal(values * (10 / values[-1]), np.unique(golden))


def test_flint4_codes_are_those_of_the_olive_sheet() -> None:
    table = [0, 1, 2, 3, 16, 8, 4, 6, math.nan, -1, -2, -3, -16, -8, -4, -6]
    np.testing.assert_array_equal(Flint(width=4).values, table)
    unsigned = [0, 1, 2, 3, 4, 5, 6, 7, 64, 32, 16, 24, 8, 10, 12, 14]
    np.testing.assert_array_equal(Flint(width=4, signed=False).values, unsigned)


@pytest.mark.parametrize("width", range(2, 9))
def test_integers_are_twos_complement(width: int) -> None:
    signed, unsigned = IntFormat(width=width), IntFormat(width=width, signed=False)
    codes = np.arange(1 << width, dtype=np.uint8)
    shift = 8 - width
    want = (codes << np.uint8(shift)).view(np.int8) >> np.int8(shift)
    np.testing.assert_array_equal(signed.values, want)
    np.testing.assert_array_equal(unsigned.values, codes)
    x = np.linspace(-300, 300, 4801)
    top = (1 << (width - 1)) - 1
    np.testing.assert_array_equal(signed.quantize(x), np.clip(np.rint(x), -top, top))
    np.testing.assert_array_equal(unsigned.quantize(x), np.clip(np.rint(x), 0, (1 << width) - 1))


def test_e2m1_grid_and_max_values_of_the_standard() -> None:
    np.testing.assert_array_equal(FLOATS["fp4_e2m1"].values[:8], [0, 0.5, 1, 1.5, 2, 3, 4, 6])
    table = {
        "fp8_e4m3": (448, 2.0**-9),
        "fp8_e5m2": (57344, 2.0**-16),
        "fp8_e4m3fnuz": (240, 2.0**-10),
        "fp8_e5m2fnuz": (57344, 2.0**-17),
        "fp6_e3m2": (28, 0.0625),
        "fp6_e2m3": (7.5, 0.125),
        "fp4_e2m1": (6, 0.5),
        "bf16": (2.0**127 * (2 - 2.0**-7), 2.0**-133),
        "fp16": (65504, 2.0**-24),
    }
    for name, (largest, smallest) in table.items():
        element = FLOATS[name]
        assert element.max_value == largest, name
        assert element.encodable[0][element.encodable[0] > 0].min() == smallest, name


def test_overflow_thresholds_of_the_sheet() -> None:
    e4m3, e5m2 = FLOATS["fp8_e4m3"], FLOATS["fp8_e5m2"]
    above = float(np.nextafter(np.float32(464), np.float32(1000)))
    assert e4m3.quantize(np.array([464.0]), overflow=Overflow.TO_NAN)[0] == 448
    assert np.isnan(e4m3.quantize(np.array([above]), overflow=Overflow.TO_NAN)[0])
    below = float(np.nextafter(np.float32(61440), np.float32(0)))
    assert e5m2.quantize(np.array([below]), overflow=Overflow.TO_INF)[0] == 57344
    assert e5m2.quantize(np.array([61440.0]), overflow=Overflow.TO_INF)[0] == np.inf
