"""Rounding, overflow, NaN and zero policies: kernels against the scalar reference, and against gfloat."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import (
    FloatFormat,
    IntFormat,
    NanPolicy,
    Overflow,
    Policy,
    Rounding,
    Specials,
    ZeroPolicy,
    encode_reference,
    get_format,
    set_threads,
)
from macloom.formats.element import ElementFormat
from macloom.formats.policy import DRAW_BITS
from macloom.formats.rounders import encode_rows, quantize_rows

F32 = np.float32
DETERMINISTIC = [r for r in Rounding if r is not Rounding.STOCHASTIC]
ELEMENTS: dict[str, ElementFormat] = {
    name: get_format(name).element
    for name in (
        *("fp8_e4m3", "fp8_e5m2", "fp8_e4m3fnuz", "fp6_e3m2", "fp6_e2m3", "fp4_e2m1", "bf16", "fp16"),
        *("int2", "int4", "int8", "uint4", "flint4", "posit8_1", "nf4"),
    )
} | {
    "e3m0": FloatFormat(label="e3m0", exponent_bits=3, mantissa_bits=0),
    "e8m2": FloatFormat(label="e8m2", exponent_bits=8, mantissa_bits=2, specials=Specials.IEEE),
    "int5f2": IntFormat(width=5, fraction_bits=2, symmetric=False),
    "int16": IntFormat(width=16),
}


def f32(values: Any) -> np.ndarray:
    return np.array(values, np.float32)


def inputs(element: ElementFormat, seed: int = 0) -> np.ndarray:
    """Grid values, midpoints, their float32 neighbours, random bit patterns and a normal sample, 4 rows."""
    rng = np.random.default_rng(seed)
    values = element.encodable[0]
    picked = np.sort(rng.choice(len(values), min(len(values), 60), replace=False))
    middles = (values[picked[:-1]] + values[picked[:-1] + 1]) / 2
    points = np.concatenate((values[picked], middles, [0.0, -0.0])).astype(F32)
    patterns = rng.integers(0, 1 << 32, 200, dtype=np.uint32).view(F32)
    nearby = np.concatenate((np.nextafter(points, F32(np.inf)), np.nextafter(points, F32(-np.inf))))
    x = np.concatenate((points, nearby, -points, patterns[np.isfinite(patterns)], rng.standard_normal(100))).astype(F32)
    return x[np.isfinite(x)][: len(x) // 8 * 4].reshape(4, -1).copy()


def policy(rounding: Rounding, zero: ZeroPolicy = ZeroPolicy.KEEP, bits: int = 8) -> Policy:
    rng = np.random.default_rng(7) if rounding is Rounding.STOCHASTIC else None
    return Policy(rounding=rounding, zero=zero, draw_bits=bits, rng=rng)


@pytest.mark.parametrize("name", ELEMENTS)
@pytest.mark.parametrize("rounding", Rounding)
def test_kernels_equal_the_reference(name: str, rounding: Rounding) -> None:
    element = ELEMENTS[name]
    x = inputs(element)
    one = np.ones((4, 1), F32)
    for zero, bits in ((ZeroPolicy.KEEP, 8), (ZeroPolicy.DROP, 3)):
        draws = policy(Rounding.STOCHASTIC).draw(x.size)
        want = np.array(
            [
                encode_reference(
                    element, float(v), rounding, zero=zero, uniform=Fraction(int(d) >> (DRAW_BITS - bits), 1 << bits)
                )
                for v, d in zip(x.flat, draws, strict=True)
            ]
        ).reshape(x.shape)
        assert np.array_equal(encode_rows(element, x, one, x.shape[1], name, policy(rounding, zero, bits)), want)
        rng = policy(rounding, zero, bits).rng
        assert np.array_equal(element.encode(x, rounding, zero=zero, draw_bits=bits, rng=rng), want)
        values = np.empty_like(x)
        quantize_rows(element, x, one, x.shape[1], values, name, policy(rounding, zero, bits))
        assert np.array_equal(values.view(np.uint32), element.decode(want).view(np.uint32))


@pytest.mark.parametrize("rounding", Rounding)
def test_scales_divide_and_multiply_whatever_the_rounding(rounding: Rounding) -> None:
    element = ELEMENTS["fp8_e4m3"]
    x = inputs(element)[:, :96].copy()
    scales = f32([[0.3, 7.0, 1e-3]]).repeat(4, axis=0)
    spread = np.repeat(scales, 32, axis=1)
    with np.errstate(over="ignore"):
        want = element.encode((x / spread), rounding, rng=policy(rounding).rng)
    assert np.array_equal(encode_rows(element, x, scales, 32, "t", policy(rounding)), want)
    out = np.empty_like(x)
    quantize_rows(element, x, scales, 32, out, "t", policy(rounding))
    assert np.array_equal(out, element.decode(want) * spread)


# -- gfloat ----------------------------------------------------------------------------------------

gfloat = pytest.importorskip("gfloat")
GFLOAT = {
    "fp8_e4m3": "ocp_e4m3",
    "fp8_e5m2": "ocp_e5m2",
    "fp6_e3m2": "ocp_e3m2",
    "fp6_e2m3": "ocp_e2m3",
    "fp4_e2m1": "ocp_e2m1",
    "bf16": "bfloat16",
    "fp16": "binary16",
}
MODES = {
    Rounding.NEAREST_EVEN: "TiesToEven",
    Rounding.NEAREST_AWAY: "TiesToAway",
    Rounding.TOWARD_ZERO: "TowardZero",
}


def gfloat_info(name: str) -> Any:
    import gfloat.formats

    return getattr(gfloat.formats, f"format_info_{GFLOAT[name]}")


@pytest.mark.parametrize("name", GFLOAT)
@pytest.mark.parametrize("rounding", MODES)
def test_rounding_equals_gfloat(name: str, rounding: Rounding) -> None:
    info, element = gfloat_info(name), ELEMENTS[name]
    x = inputs(element, 1)
    want = [gfloat.round_float(info, float(v), gfloat.RoundMode[MODES[rounding]], sat=True) for v in x.flat]
    assert np.array_equal(element.quantize(x, rounding).reshape(-1), want)


@pytest.mark.parametrize("name", GFLOAT)
def test_to_odd_equals_the_odd_one_of_gfloat_s_two_neighbours(name: str) -> None:
    info, element = gfloat_info(name), ELEMENTS[name]
    x = inputs(element, 2)
    codes = element.encode(x, Rounding.TO_ODD).reshape(-1)
    for v, code in zip(x.flat, codes, strict=True):
        down, up = (
            gfloat.round_float(info, float(v), gfloat.RoundMode[mode], sat=True)
            for mode in ("TowardNegative", "TowardPositive")
        )
        assert element.value(int(code)) in (down, up)
        assert down == up or code % 2 == 1


@pytest.mark.parametrize("name", GFLOAT)
def test_stochastic_equals_gfloat_where_draws_resolve_the_fraction(name: str) -> None:
    """gfloat goes up if draw + fraction carries: the same for the complement of the draw, on fractions of k bits."""
    info, element = gfloat_info(name), ELEMENTS[name]
    rng = np.random.default_rng(3)
    values = element.encodable[0]
    low = rng.integers(0, len(values) - 1, 400)
    x = (values[low] + (values[low + 1] - values[low]) * (rng.integers(0, 16, 400) / 16)).astype(F32)
    seed = np.random.default_rng(9)
    draws = policy(Rounding.STOCHASTIC).draw(400) >> np.uint16(DRAW_BITS - 4)
    got = element.quantize(x, Rounding.STOCHASTIC, draw_bits=4, rng=np.random.default_rng(7))
    mode = gfloat.RoundMode.StochasticFastest
    want = [
        gfloat.round_float(info, float(v), mode, sat=True, srbits=15 - int(d), srnumbits=4)
        for v, d in zip(x, draws, strict=True)
    ]
    assert np.array_equal(got, want)
    assert not np.array_equal(got, element.quantize(x, Rounding.STOCHASTIC, draw_bits=4, rng=seed))


# -- stochastic rounding ---------------------------------------------------------------------------


def test_draws_are_words_cut_in_four_lowest_first() -> None:
    words = np.random.default_rng(5).integers(0, 1 << 64, 3, dtype=np.uint64)
    want = [(int(w) >> (16 * n)) & 0xFFFF for w in words for n in range(4)]
    for count in (1, 4, 9, 12):
        drawn = Policy(rounding=Rounding.STOCHASTIC, rng=np.random.default_rng(5)).draw(count)
        assert drawn.tolist() == want[:count]


@pytest.mark.parametrize(
    "text", ["fp8_e4m3:rounding=stochastic", "int4:group=32,rounding=stochastic", "posit8_1:rounding=stochastic"]
)
def test_draws_do_not_depend_on_chunks_or_threads(text: str) -> None:
    x = np.random.default_rng(0).standard_normal((600, 352)).astype(F32)
    fmt = get_format(text)
    scale = fmt.calibrate(x)
    rows = [fmt.encode(x, rng=np.random.default_rng(1)).elements]
    try:
        for count in (1, 2):
            set_threads(count)
            rows.append(fmt.encode(x, scale=scale, rng=np.random.default_rng(1)).elements)
    finally:
        set_threads(None)
    assert np.array_equal(rows[0], rows[1])
    assert np.array_equal(rows[0], rows[2])
    generator = np.random.default_rng(1)
    element = fmt.element.encode(
        x / np.repeat(scale, x.shape[1] // scale.shape[1], axis=1) if scale.ndim else x / scale,
        Rounding.STOCHASTIC,
        rng=generator,
    )
    assert np.array_equal(rows[0], element)
    # One draw was used for each element: 4 elements to a word.
    other = np.random.default_rng(1)
    other.integers(0, 1 << 64, x.size // 4, dtype=np.uint64)
    assert generator.integers(1 << 62) == other.integers(1 << 62)


GENERATORS = (np.random.PCG64, np.random.PCG64DXSM, np.random.Philox, np.random.MT19937, np.random.SFC64)


@pytest.mark.parametrize("kind", GENERATORS)
@pytest.mark.parametrize("shape", [(777, 1001), (2, 300_000)])
def test_threads_share_the_draws_of_one_generator(kind: Any, shape: tuple[int, int]) -> None:
    """Values, and what the generator gives next (half of a 32-bit word is left over before), as of one thread."""
    x = np.random.default_rng(0).standard_normal(shape).astype(F32)
    fmt, found = get_format("fp8_e4m3:none,rounding=stochastic"), []
    try:
        for count in (1, 2, 3):
            set_threads(count)
            rng = np.random.Generator(kind(5))
            rng.integers(0, 1 << 32, 3, dtype=np.uint32)
            values = fmt.quantize(x, rng=rng)
            found.append((values.tobytes(), rng.integers(0, 1 << 32, 3, dtype=np.uint32).tolist(), rng.random()))
    finally:
        set_threads(None)
    assert found[0] == found[1] == found[2]


def test_a_subclass_of_the_generator_draws_by_itself() -> None:
    class Zero(np.random.Generator):
        def integers(self, low, high=None, size=None, dtype=np.int64, endpoint=False):  # type: ignore[override]
            return np.zeros(size or (), np.uint64)

    fmt, x = get_format("int4:none,rounding=stochastic"), np.full((4, 200_000), 1.25, F32)
    try:
        set_threads(2)
        assert np.all(fmt.quantize(x, rng=Zero(np.random.PCG64(0))) == 2)  # every fraction exceeds a draw of 0
    finally:
        set_threads(None)


@pytest.mark.parametrize("bits", [1, 4, 8, 16])
def test_stochastic_rounding_is_unbiased_to_its_bits_and_keeps_exact_values(bits: int) -> None:
    element = ELEMENTS["fp8_e4m3"]
    count = 40000
    for value, step in ((1.03, 0.125), (-300.1, 32), (0.0007, 2.0**-9), (-0.33, 2.0**-5)):
        x = np.full(count, value, F32)
        got = element.quantize(x, Rounding.STOCHASTIC, draw_bits=bits, rng=np.random.default_rng(bits))
        assert set(np.unique(got)) <= set(element.encodable[0])
        error = abs(got.mean(dtype=np.float64) - float(F32(value))) / step
        assert error <= 2.0**-bits + 5 * 0.5 / np.sqrt(count)
    exact = element.encodable[0].astype(F32)
    assert np.array_equal(element.quantize(exact, Rounding.STOCHASTIC, rng=np.random.default_rng(0)), exact)


def test_stochastic_rounding_works_on_magnitudes_and_saturates() -> None:
    x = np.random.default_rng(0).standard_normal(1000).astype(F32) * F32(100)
    fmt = get_format("int4:none,rounding=stochastic")
    up, down = fmt.quantize(x, rng=np.random.default_rng(1)), fmt.quantize(-x, rng=np.random.default_rng(1))
    assert np.array_equal(up, -down)
    assert np.abs(up).max() == 7


@pytest.mark.parametrize("text", ["int4:group=32", "mxfp4", "nvfp4", "fp8_e4m3:none", "flint4:row", "posit8_1"])
@pytest.mark.parametrize("rounding", Rounding)
def test_tensor_formats_round_as_told(text: str, rounding: Rounding) -> None:
    fmt = get_format(f"{text}{',' if ':' in text else ':'}rounding={rounding.value}")
    x = np.random.default_rng(2).standard_normal((8, 64)).astype(F32)
    random = rounding is Rounding.STOCHASTIC

    def rng() -> np.random.Generator | None:
        return np.random.default_rng(4) if random else None

    encoded = fmt.encode(x, rng=rng())
    out = np.empty_like(x)
    assert np.array_equal(fmt.quantize(x, rng=rng()), encoded.decode())
    assert fmt.quantize(x, out=out, rng=rng()) is out
    assert np.array_equal(out, encoded.decode())
    assert get_format(fmt.name) == fmt == encoded.format
    plain = get_format(text)
    assert np.array_equal(fmt.calibrate(x), plain.calibrate(x))
    same = np.array_equal(plain.encode(x).elements, encoded.elements)
    assert same == (rounding in (Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY))


# -- overflow, NaN, zero ---------------------------------------------------------------------------


@pytest.mark.parametrize("overflow", [Overflow.TO_INF, Overflow.TO_NAN])
@pytest.mark.parametrize("rounding", DETERMINISTIC)
@pytest.mark.parametrize("text", ["fp8_e5m2", "fp16", "bf16"])
def test_casts_overflow_as_told(text: str, overflow: Overflow, rounding: Rounding) -> None:
    element = get_format(text).element
    with np.errstate(over="ignore"):
        edge = np.array([element.max_value, element.overflow_value, np.inf]).astype(F32)
        x = np.concatenate(
            (edge, -edge, np.nextafter(edge, F32(0)), [np.nan, 1.0, (edge[0] / 2 + edge[1] / 2)])
        ).astype(F32)
    want = element.decode(np.array([encode_reference(element, float(v), rounding, overflow) for v in x]))
    fmt = get_format(f"{text}:none,overflow={overflow.value},rounding={rounding.value}")
    assert np.array_equal(fmt.quantize(x), want, equal_nan=True)
    assert np.array_equal(fmt.encode(x).decode(), want, equal_nan=True)


@pytest.mark.parametrize("rounding", Rounding)
@pytest.mark.parametrize(
    "element", [IntFormat(width=4), IntFormat(width=8, fraction_bits=6), IntFormat(width=4, signed=False)]
)
def test_integers_wrap_as_told(element: IntFormat, rounding: Rounding) -> None:
    x = np.concatenate((np.arange(-40, 40) / 4, [1e9, -1e9, 3.3e37, 0.5, -0.5])).astype(F32)
    draws = policy(Rounding.STOCHASTIC).draw(len(x)) >> np.uint16(DRAW_BITS - 8)
    want = [
        encode_reference(element, float(v), rounding, Overflow.WRAP, uniform=Fraction(int(d), 256))
        for v, d in zip(x, draws, strict=True)
    ]
    assert element.encode(x, rounding, Overflow.WRAP, rng=policy(rounding).rng).tolist() == want


def test_wrapping_is_modular() -> None:
    fmt = get_format("int4:none,overflow=wrap")
    assert fmt.quantize(f32([7, 8, 15, 16, -8, -9, 7.5, -24.5])).tolist() == [7, -8, -1, 0, -8, 7, -8, -8]


def test_nan_and_zero_policies() -> None:
    e4m3 = ELEMENTS["fp8_e4m3"]
    x = f32([np.nan, -0.0, -1e-9, 1])
    assert np.isnan(e4m3.quantize(x)[0])
    assert np.signbit(e4m3.quantize(x[1:])).tolist() == [True, True, False]
    assert np.signbit(e4m3.quantize(x[1:], zero=ZeroPolicy.DROP)).tolist() == [False, False, False]
    dropped = get_format("fp8_e4m3:none,zero=drop")
    assert np.signbit(dropped.quantize(x[1:])).tolist() == [False, False, False]
    assert dropped.encode(x[1:]).elements.tolist() == [0, 0, e4m3.encode(f32([1]))[0]]
    lookup = get_format("nf4:zero=drop")
    assert not np.signbit(lookup.quantize(f32([-1e-9, 1, -1]))[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ELEMENTS["fp8_e4m3"].encode(f32([np.nan]), nan=NanPolicy.ERROR), "the policy nan=error refuses"),
        (lambda: encode_reference(ELEMENTS["fp8_e4m3"], np.nan, nan=NanPolicy.ERROR), "the policy nan=error refuses"),
        (lambda: ELEMENTS["int4"].encode(f32([np.nan])), "holds NaN, which the format cannot store"),
        (lambda: get_format("fp8_e5m2:none,overflow=to_inf,nan=error").quantize(f32([np.nan])), "holds NaN"),
        (lambda: ELEMENTS["fp8_e4m3"].encode(f32([1]), overflow=Overflow.WRAP), "'wrap' belongs to integers"),
        (lambda: get_format("fp8_e4m3:overflow=wrap"), "'wrap' belongs to integers"),
        (lambda: get_format("fp8_e4m3:overflow=to_inf"), "has no infinity"),
        (lambda: get_format("int4:overflow=to_nan"), "has no NaN"),
        (lambda: ELEMENTS["int4"].encode(f32([np.inf]), overflow=Overflow.WRAP), "wrapping needs finite input"),
        (lambda: encode_reference(ELEMENTS["int4"], np.inf, overflow=Overflow.WRAP), "wrapping needs finite input"),
        (lambda: ELEMENTS["int4"].encode(f32([1]), Rounding.STOCHASTIC), "needs a random generator"),
        (lambda: encode_reference(ELEMENTS["int4"], 1.5, Rounding.STOCHASTIC), "needs a random generator"),
        (lambda: get_format("mxfp4:rounding=stochastic").quantize(f32([1])), "needs a random generator"),
        (lambda: get_format("mxfp4").quantize(f32([1]), rng=np.random.default_rng(0)), "takes no rng"),
        (
            lambda: ELEMENTS["fp8_e5m2"].encode(
                f32([1]), Rounding.STOCHASTIC, Overflow.TO_INF, rng=np.random.default_rng(0)
            ),
            "stochastic rounding saturates",
        ),
        (
            lambda: encode_reference(ELEMENTS["fp8_e5m2"], 1.0, Rounding.STOCHASTIC, Overflow.TO_INF),
            "stochastic rounding saturates",
        ),
        (lambda: Policy(draw_bits=0), "draw_bits: must be an integer from 1 to 16, not 0"),
        (lambda: Policy(rng=np.random.default_rng(0)), "rng: belongs to stochastic rounding"),
        (lambda: get_format("int4:rounding=up"), "rounding: unknown name 'up'"),
        (lambda: get_format("int4:draw_bits=x"), "draw_bits: must be an integer, not 'x'"),
        (lambda: get_format("ovp4:rounding=to_odd"), "takes no policies"),
        (lambda: get_format("fp32:rounding=to_odd"), "float32 is not rounded"),
    ],
)
def test_bad_policies_are_refused(call: Any, message: str) -> None:
    with pytest.raises(MacloomError, match=message):
        call()
