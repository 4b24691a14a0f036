"""Block formats: scale rules, mantissa flavours and NVFP4's levels, against exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import gemm, get_format
from macloom.formats.scales import E4M3
from macloom.formats.tensors.block import Block, ScaleRule, power_of_two_exponents

ELEMENTS = {"mxfp8_e4m3": 3, "mxfp8_e5m2": 2, "mxfp6_e3m2": 2, "mxfp6_e2m3": 3, "mxfp4": 1, "mxint8": 6}


def floor_log2(x: Fraction) -> int:
    e = x.numerator.bit_length() - x.denominator.bit_length()
    return e if Fraction(2) ** e <= x else e - 1


def ceil_log2(x: Fraction) -> int:
    e = floor_log2(x)
    return e if Fraction(2) ** e == x else e + 1


def exponent_by_definition(largest: np.float32, fmt: Block, mantissa_bits: int, rule: ScaleRule) -> int:
    if largest == 0:
        return -127
    m, top = Fraction(float(largest)), Fraction(fmt.element.max_value)
    emax = floor_log2(top)
    match rule:
        case ScaleRule.FLOOR:
            e = floor_log2(m) - emax
        case ScaleRule.CEIL:
            e = ceil_log2(m) - emax
        case ScaleRule.EVEN:
            step = Fraction(2) ** (floor_log2(m) - mantissa_bits)
            e = floor_log2(math.floor(m / step + Fraction(1, 2)) * step) - emax
        case ScaleRule.RCEIL:
            product = np.float32(largest) * np.float32(1 / np.float32(fmt.element.max_value))
            e = ceil_log2(Fraction(float(product))) if product else -127
    return min(max(e, -127), 127 - emax)


def probes() -> np.ndarray:
    mantissas = [
        0,
        1,
        0x3FFFFF,
        0x400000,
        0x400001,
        0x600000,
        0x600001,
        0x6FFFFF,
        0x700000,
        0x780000,
        0x7C0000,
        0x7FFFFF,
    ]
    mantissas += [0x3FFFFE, 0x5FFFFF, 0x77FFFF, 0x7E0000, 0x7EFFFF, 0x7F0000, 0x7F0001]
    exponents = [*range(12), *range(100, 140), *range(240, 255)]
    return np.array([e << 23 | m for e in exponents for m in mantissas], np.uint32).view(np.float32)


@pytest.mark.parametrize("rule", list(ScaleRule))
@pytest.mark.parametrize("name", ELEMENTS)
def test_scale_rules_are_exact_on_every_kind_of_magnitude(name: str, rule: ScaleRule) -> None:
    fmt = get_format(name)
    assert isinstance(fmt, Block)
    largest = probes()
    got = power_of_two_exponents(largest, fmt.element, rule)
    want = [exponent_by_definition(m, fmt, ELEMENTS[name], rule) for m in largest]
    assert got.tolist() == want


@pytest.mark.parametrize("name", ELEMENTS)
def test_rceil_never_saturates_beyond_its_float32_product(name: str) -> None:
    fmt = get_format(f"{name}:rule=rceil")
    x = np.exp(np.random.default_rng(0).normal(size=(200, 32)) * 3).astype(np.float32)
    top = np.float32(fmt.element.max_value)  # type: ignore[union-attr]
    assert np.all(x.max(axis=1) / fmt.calibrate(x)[:, 0] <= top * np.float32(1 + 2e-7))


def test_even_rounds_the_magnitude_up_where_floor_would_saturate() -> None:
    x = np.zeros((1, 32), np.float32)
    x[0, 0] = 7.9  # rounds to 8 with one mantissa bit
    assert get_format("mxfp4").quantize(x)[0, 0] == 6
    assert get_format("mxfp4:rule=even").quantize(x)[0, 0] == 8


def bfp_by_definition(block: np.ndarray, p: int, symmetric: bool) -> list[Fraction]:
    """Spec 4.2, step by step: round, clip, then for asymmetric mantissas lower the most negative code."""
    values = [Fraction(float(v)) for v in block]
    largest = max(map(abs, values))
    if not largest:
        return [Fraction(0)] * len(values)
    step = Fraction(2) ** (floor_log2(largest) - (p - 2))
    top = (1 << (p - 1)) - 1
    out = []
    for v in values:
        code = min(max(round(v / step), -top), top)
        if not symmetric and code == -top and abs(v / step + top + 1) <= abs(v / step - code):
            code = -top - 1
        out.append(code * step)
    return out


@pytest.mark.parametrize("mantissa", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("p", [4, 6, 8])
def test_bfp_follows_its_definition(p: int, mantissa: str) -> None:
    fmt = get_format(f"bfp{p}:block=8,mantissa={mantissa}")
    rng = np.random.default_rng(p)
    x = (rng.normal(size=(60, 8)) * np.exp2(rng.integers(-20, 20, (60, 1)))).astype(np.float32)
    x[:20, 0] = -np.exp2(rng.integers(-3, 3, 20)) * (2 - 2.0 ** -rng.integers(2, 9, 20))  # next to -2**(p - 1)
    q = fmt.quantize(x)
    for row, got in zip(x, q, strict=True):
        assert [Fraction(float(v)) for v in got] == bfp_by_definition(row, p, mantissa == "symmetric")
    assert np.array_equal(q, fmt.encode(x).decode())


def test_asymmetric_mantissas_use_the_lowest_code_at_a_tie() -> None:
    x = np.array([-15 / 8, 1.0], np.float32)  # -7.5 steps of 1/4
    assert get_format("bfp4:mantissa=asymmetric").quantize(x).tolist() == [-2.0, 1.0]
    assert get_format("bfp4").quantize(x).tolist() == [-1.75, 1.0]
    assert get_format("bfp4:mantissa=asymmetric").encode(x).elements.tolist() == [0b1000, 0b0100]


def test_sorting_by_size_helps_as_in_the_worked_example() -> None:
    fmt = get_format("bfp4:block=4")
    k = np.array([8, 0.11, -0.2, 7, 0.3, -6.5, 0.05, 0.25], np.float32)
    order = np.argsort(-np.abs(k), kind="stable")
    assert fmt.quantize(k[order]).tolist() == [8, 8, -6, 0, 0.25, -0.1875, 0.125, 0.0625]
    small = np.abs(k) < 1
    before, after = np.square(fmt.quantize(k) - k), np.square(fmt.quantize(k[order]) - k[order])
    assert np.all(fmt.quantize(k)[small] == 0)
    assert round(float(before[small].sum()), 4) == 0.2071
    assert round(float(after[small[order]].sum()), 4) == 0.0905
    assert [round(float(e.sum()), 4) for e in (before, after)] == [1.4571, 1.3405]


def test_names_count_the_bits_they_store() -> None:
    assert [get_format(n).bits_per_element() for n in ("msfp12", "msfp16", "bfp12", "bfp16")] == [
        4.5,
        8.5,
        4.125,
        8.125,
    ]
    assert get_format("bfp12:block=128").bits_per_element() == 4.0625
    assert get_format("bfp24").bits_per_element() == 16.125
    x = np.random.default_rng(0).normal(size=(4, 128)).astype(np.float32)
    assert np.array_equal(get_format("bfp12").quantize(x), get_format("bfp4:block=64").quantize(x))


@pytest.mark.parametrize("name, bits", [("msfp12", 3), ("msfp16", 7)])
def test_msfp_is_a_signed_magnitude_of_the_largest_exponent(name: str, bits: int) -> None:
    fmt = get_format(name)
    x = np.random.default_rng(1).standard_t(2, size=(30, 16)).astype(np.float32)
    encoded = fmt.encode(x)
    for row, codes, got in zip(x, encoded.elements, encoded.decode(), strict=True):
        step = Fraction(2) ** (floor_log2(Fraction(float(np.abs(row).max()))) - (bits - 1))
        for v, code, value in zip(row, codes.tolist(), got, strict=True):
            magnitude = min(round(abs(Fraction(float(v))) / step), (1 << bits) - 1)
            assert (code & ((1 << bits) - 1), code >> bits) == (magnitude, int(v < 0))
            assert Fraction(float(value)) == (-magnitude if v < 0 else magnitude) * step
    assert fmt.operand.exponent_bits == 0
    assert fmt.operand.significand_bits == bits + 1


@pytest.mark.parametrize(
    "names",
    [("bfp4:block=16", "bfp8:block=16"), ("msfp12", "msfp16"), ("bfp4:mantissa=asymmetric,block=16", "bfp16:block=16")],
)
def test_block_products_are_exact(names: tuple[str, str]) -> None:
    rng = np.random.default_rng(5)
    a, b = (get_format(n).encode(rng.normal(size=(3, 16)).astype(np.float32)) for n in names)
    want = np.array(
        [
            [sum(Fraction(float(p)) * Fraction(float(q)) for p, q in zip(r, s, strict=True)) for s in b.decode()]
            for r in a.decode()
        ]
    )
    assert [[Fraction(float(v)) for v in row] for row in gemm(a, b)] == want.tolist()


@pytest.mark.parametrize("name", ["bfp4", "bfp8:mantissa=asymmetric", "msfp12", "mxfp4:rule=ceil"])
def test_error_is_half_a_step_and_powers_of_two_shift_the_exponent(name: str) -> None:
    fmt = get_format(name)
    x = np.random.default_rng(2).normal(size=(20, 64)).astype(np.float32)
    q = fmt.quantize(x)
    for k in (-7, 3):
        assert np.array_equal(fmt.quantize(np.ldexp(x, k)), np.ldexp(q, k))
        assert np.array_equal(fmt.encode(np.ldexp(x, k)).scales.astype(int), fmt.encode(x).scales.astype(int) + k)
    if not name.startswith("mx"):
        step = np.repeat(fmt.calibrate(x), fmt.block or 1, axis=1) * float(fmt.element.values[1])  # type: ignore[union-attr]
        reach = step * (2 ** (fmt.element.bits - 1) - 0.5)  # type: ignore[union-attr]
        assert np.all((np.abs(q - x) <= step / 2) | (np.abs(x) > reach))


def nvfp4_inner(x: np.ndarray, outer: np.float32) -> np.ndarray:
    wanted = np.abs(x.reshape(-1, 16)).max(axis=1) / np.float32(6) / outer
    return E4M3.quantize(np.clip(wanted, np.float32(2**-6), np.float32(448)))


def nearest_e2m1(x: np.float32) -> float:
    grid = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    magnitude = min(abs(Fraction(float(x))), Fraction(6))
    code = min(range(8), key=lambda c: (abs(magnitude - Fraction(grid[c])), c % 2))
    return math.copysign(grid[code], x)


@pytest.mark.parametrize("mode", ["paper", "upstream"])
@pytest.mark.parametrize("levels", [1, 2])
def test_nvfp4_follows_its_definition(levels: int, mode: str) -> None:
    fmt = get_format(f"nvfp4:levels={levels},mode={mode}")
    x = np.random.default_rng(levels).standard_t(3, size=(8, 64)).astype(np.float32)
    outer = np.float32(np.abs(x).max() / np.float32(448 * 6)) if levels == 2 else np.float32(1)
    inner = np.repeat(nvfp4_inner(x, outer), 16).reshape(x.shape)
    encoded = fmt.encode(x)
    assert encoded.outer == outer
    assert np.array_equal(np.repeat(E4M3.decode(encoded.scales), 16, axis=1), inner)
    scaled = x * ((np.float32(1) / outer) / inner) if mode == "upstream" else x / (inner * outer)
    want = np.array([nearest_e2m1(v) for v in scaled.reshape(-1)], np.float32).reshape(x.shape) * (inner * outer)
    assert np.array_equal(encoded.decode(), want)
    assert np.array_equal(fmt.quantize(x), want)


def test_nvfp4_worked_example() -> None:
    x = np.zeros((2, 16), np.float32)
    x[0, :4] = [3.2, -0.8, 0.0, 1.07]
    x[1, 0] = 12
    encoded = get_format("nvfp4").encode(x)
    assert float(encoded.outer) == pytest.approx(0.0044642859, abs=1e-10)
    assert E4M3.decode(encoded.scales).tolist() == [[120.0], [448.0]]
    assert encoded.decode()[0, :4] == pytest.approx([3.214286, -0.803571, 0, 1.071429], abs=1e-6)


def test_nvfp4_reciprocal_differs_only_in_the_last_place() -> None:
    rng = np.random.default_rng(7)
    x = (rng.integers(-60, 60, (400, 64)) / 7).astype(np.float32)
    a, b = (get_format(f"nvfp4:mode={m}").encode(x).elements for m in ("paper", "upstream"))
    different = a != b
    assert 0 < different.sum() < 0.05 * different.size  # the data is full of ties
    assert np.abs((a.astype(int) & 7) - (b.astype(int) & 7)).max() == 1


def test_one_level_scales_take_eight_bits_per_block_and_nothing_else() -> None:
    assert get_format("nvfp4:levels=1").storage_bits((2, 32)) == 2 * (32 * 4 + 2 * 8)
    assert get_format("nvfp4").storage_bits((2, 32)) == 2 * (32 * 4 + 2 * 8) + 32


def test_bad_block_options_are_refused() -> None:
    for call, message in [
        (lambda: get_format("nvfp4:levels=3"), "format option levels: must be 1 or 2, not 3"),
        (lambda: get_format("nvfp4:mode=fast"), "unknown name 'fast'"),
        (lambda: get_format("bfp4:mantissa=both"), "unknown name 'both'; known are asymmetric, symmetric"),
        (lambda: get_format("mxfp4:rule=flor"), "did you mean 'floor'"),
        (lambda: get_format("nvfp4:levels=1").encode(np.ones(16), scale=[0.3]), "stores normal E4M3 values only"),
        (lambda: Block(name="x", element=E4M3, reciprocal=True), "block.reciprocal: must be off"),
        (lambda: Block(name="x", element=E4M3, two_level=True, float_scale=True), "block.float_scale: must be off"),
    ]:
        with pytest.raises(MacloomError, match=message):
            call()


def test_nvfp4_saturates_where_the_block_scale_rounds_down() -> None:
    x = np.random.default_rng(8).normal(size=(64, 16)).astype(np.float32)
    encoded = get_format("nvfp4").encode(x)
    ratio = np.abs(x).max(axis=1) / (E4M3.decode(encoded.scales)[:, 0] * encoded.outer)
    assert ratio.max() > 6  # by up to a sixteenth
    assert ratio.max() < 6 * 17 / 16
    top = np.argmax(np.abs(x), axis=1)
    values = e2m1_values(encoded.elements[np.arange(64), top])
    assert np.all(np.abs(values[ratio > 5]) == 6)


def e2m1_values(codes: np.ndarray) -> np.ndarray:
    grid = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    return np.where(codes & 8, -1, 1) * grid[codes & 7]
