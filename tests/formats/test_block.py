"""OCP MX, NVFP4 and block floating point against microxcaling's outputs and exact rational models."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from macloom.formats import Block, get_format
from macloom.formats.scales import E4M3
from macloom.formats.tensors.block import ScaleRule

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "mx.json").read_text())
BY_GOLDEN_NAME = {
    "fp8_e4m3": "mxfp8_e4m3",
    "fp8_e5m2": "mxfp8_e5m2",
    "fp6_e3m2": "mxfp6_e3m2",
    "fp6_e2m3": "mxfp6_e2m3",
    "fp4_e2m1": "mxfp4",
    "int8": "mxint8",
}
# name -> (mantissa bits, exponent of the smallest normal, emax, largest value); spec tables of OFP8 and MX v1.0.
PARAMETERS = {
    "mxfp8_e4m3": (3, -6, 8, 448),
    "mxfp8_e5m2": (2, -14, 15, 57344),
    "mxfp6_e3m2": (2, -2, 4, 28),
    "mxfp6_e2m3": (3, 0, 2, Fraction(15, 2)),
    "mxfp4": (1, 0, 2, 6),
    "mxint8": (6, 0, 0, Fraction(127, 64)),
}
RULES = [rule.value for rule in ScaleRule]
MANTISSAS = (0, 1, 0x3FFFFF, 0x400000, 0x5FFFFF, 0x600000, 0x600001, 0x6FFFFF, 0x700000, 0x77FFFF, 0x7F0000, 0x7FFFFF)


def f32(values: object) -> np.ndarray:
    return np.array(values, np.float32)


def floor_log2(value: Fraction) -> int:
    """Return the exact floor(log2 value)."""
    exponent = value.numerator.bit_length() - value.denominator.bit_length()
    return exponent if Fraction(2) ** exponent <= value else exponent - 1


def model_exponent(name: str, largest: float, rule: str) -> int:
    """Return the shared exponent for a block's largest magnitude, in exact arithmetic."""
    mantissa_bits, _, emax, top = PARAMETERS[name]
    if largest == 0:
        return -127
    m = Fraction(largest)
    e = floor_log2(m)
    if rule == "floor":
        shared = e - emax
    elif rule == "ceil":
        shared = e + (m != Fraction(2) ** e) - emax
    elif rule == "even":
        rounded = (m / Fraction(2) ** e * 2**mantissa_bits + Fraction(1, 2)).__floor__()
        shared = e + (rounded == 2 << mantissa_bits) - emax
    else:  # the quotient m / top as the float32 product that hardware forms
        quotient = Fraction(float(np.float32(largest) * (np.float32(1) / np.float32(float(top)))))
        shared = floor_log2(quotient) + (quotient != Fraction(2) ** floor_log2(quotient)) if quotient else -127
    return min(max(shared, -127), 127 - emax)


def model_element(name: str, value: Fraction) -> Fraction:
    """Return the nearest representable value, ties to even, saturating (spec 1.2)."""
    mantissa_bits, min_exponent, _, top = PARAMETERS[name]
    magnitude = abs(value)
    if magnitude == 0:
        return Fraction(0)
    exponent = 0 if name == "mxint8" else max(floor_log2(magnitude), min_exponent)
    step = Fraction(2) ** (exponent - mantissa_bits)
    rounded = min(round(magnitude / step) * step, Fraction(top))  # round() of a Fraction: half to even
    return -rounded if value < 0 else rounded


def model_block(name: str, block: np.ndarray, rule: str = "floor") -> tuple[int, list[float]]:
    shared = model_exponent(name, float(np.abs(block).max()), rule)
    scale = Fraction(2) ** shared
    return shared, [float(model_element(name, Fraction(float(v)) / scale) * scale) for v in block]


def boundary_blocks(count: int, seed: int = 0) -> np.ndarray:
    """Blocks of 32 whose largest magnitude lies at a boundary; the others spread over 12 binades below it."""
    rng = np.random.default_rng(seed)
    exponents = np.concatenate(([0, 0, 1, 2, 253, 254, 254], rng.integers(0, 255, count - 7)))
    bits = (exponents.astype(np.uint32) << np.uint32(23)) | rng.choice(np.array(MANTISSAS, np.uint32), count)
    largest = bits.view(np.float32).astype(np.float64)
    shares = np.exp2(-rng.uniform(0, 12, (count, 32))) * rng.choice([-1, 1], (count, 32))
    shares[:, 5] = rng.choice([-1, 1], count)
    blocks = (largest[:, None] * shares).astype(np.float32)
    blocks[:, 7], blocks[:, 8] = 0.0, -0.0
    return blocks


# -- OCP MX ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("golden_name", BY_GOLDEN_NAME)
def test_mx_blocks_equal_microxcaling(golden_name: str) -> None:
    fmt = get_format(BY_GOLDEN_NAME[golden_name])
    assert isinstance(fmt, Block)
    for block in GOLDEN["blocks"]:
        x = np.array([int(h, 16) for h in block["in_u32"].split()], np.uint32).view(np.float32)
        want = np.array([float(v) for v in block["values"][golden_name].split()], np.float32)
        np.testing.assert_array_equal(fmt.quantize(x), want, err_msg=block["tag"])
        encoded = fmt.encode(x)
        np.testing.assert_array_equal(encoded.decode(), want, err_msg=block["tag"])
        if np.any(x):  # the standard leaves the scale of an all-zero block open
            assert int(encoded.scales[0]) - 127 == block["scale_exp"][golden_name], block["tag"]


def test_golden_sample_discriminates_rounding() -> None:
    differing = 0
    fmt = get_format("mxfp4")
    for block in GOLDEN["blocks"]:
        x = np.array([int(h, 16) for h in block["in_u32"].split()], np.uint32).view(np.float32)
        want = np.array([float(v) for v in block["values"]["fp4_e2m1"].split()], np.float32)
        nudged = fmt.quantize(np.nextafter(x, np.copysign(np.float32(np.inf), x)), scale=fmt.calibrate(x))
        differing += int((nudged != want).sum())
    assert differing > 10


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("rule", RULES)
def test_mx_elements_equal_exact_rational_model(name: str, rule: str) -> None:
    fmt = get_format(f"{name}:rule={rule}")
    blocks = boundary_blocks(40)
    encoded = fmt.encode(blocks)
    values = fmt.quantize(blocks)
    for n, block in enumerate(blocks):
        shared, want = model_block(name, block, rule)
        assert int(encoded.scales[n, 0]) - 127 == shared, (n, float(np.abs(block).max()).hex())
        np.testing.assert_array_equal(values[n], np.array(want, np.float32))


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("rule", RULES)
def test_mx_scale_of_every_exponent_equals_exact_rational_model(name: str, rule: str) -> None:
    exponents = np.arange(255, dtype=np.uint32)
    largest = ((exponents[:, None] << np.uint32(23)) | np.array(MANTISSAS, np.uint32)).view(np.float32)
    x = np.zeros((*largest.shape, 32), np.float32)
    x[..., 3] = largest
    scales = get_format(f"{name}:rule={rule}").calibrate(x)[..., 0]
    got = np.frexp(scales)[1] - 1
    want = [[model_exponent(name, float(m), rule) for m in row] for row in largest]
    np.testing.assert_array_equal(got, want)


def test_scale_rules_differ_where_they_should() -> None:
    x = np.zeros((1, 32), np.float32)
    got = {}
    for largest in (4.0, 5.9, 6.1, 7.1, 7.99):
        x[0, 0] = largest
        got[largest] = [int(get_format(f"mxfp4:rule={r}").encode(x).scales[0, 0]) - 127 for r in RULES]
    #                             floor ceil even rceil
    assert got == {4.0: [0, 0, 0, 0], 5.9: [0, 1, 0, 0], 6.1: [0, 1, 0, 1], 7.1: [0, 1, 1, 1], 7.99: [0, 1, 1, 1]}


@pytest.mark.parametrize("name", PARAMETERS)
def test_rceil_never_saturates_the_largest_magnitude(name: str) -> None:
    x = boundary_blocks(200, seed=1)
    x = x[np.abs(x).max(axis=1) < 2.0**126]
    fmt = get_format(f"{name}:rule=rceil")
    encoded = fmt.encode(x)
    scales = np.ldexp(1.0, encoded.scales[:, 0].astype(int) - 127)
    # One part in 2**23 is what the float32 product may lose.
    assert np.all(np.abs(x).max(axis=1) <= scales * fmt.element.max_value * (1 + 2.0**-23))


def test_mx_worked_examples_of_the_sheet() -> None:
    np.testing.assert_array_equal(get_format("mxfp4").quantize(f32([5.3, -0.7, 0.25, 1.1, 0])), f32([6, -0.5, 0, 1, 0]))
    encoded = get_format("mxfp4").encode(f32([7.9, 0.1]))
    assert encoded.scales.tolist() == [127]
    np.testing.assert_array_equal(encoded.decode(), f32([6, 0]))


def test_a_shorter_last_block_has_its_own_scale() -> None:
    fmt = get_format("mxfp4")
    x = np.concatenate((np.full(32, 100), np.full(3, 0.01))).astype(np.float32)
    apart = np.concatenate((fmt.quantize(x[:32]), fmt.quantize(x[32:])))
    np.testing.assert_array_equal(fmt.quantize(x), apart)
    assert fmt.encode(x).scales.shape == (2,)


def test_scale_code_255_reads_as_nan() -> None:
    fmt = get_format("mxfp4")
    encoded = fmt.encode(np.ones((1, 64), np.float32))
    scales = encoded.scales.copy()
    scales[0, 1] = 255
    values = fmt.from_packed(encoded.codes, scales, (1, 64)).decode()
    assert np.isnan(values[0, 32:]).all()
    assert np.array_equal(values[0, :32], np.ones(32))


def test_mxint8_code_of_minus_two_decodes_but_is_not_written() -> None:
    fmt = get_format("mxint8")
    codes = np.zeros((1, 32), np.uint8)
    codes[0, 0] = 0x80
    assert fmt.from_packed(codes, np.full((1, 1), 127, np.uint8), (1, 32)).decode()[0, 0] == -2
    assert 0x80 not in fmt.encode(np.linspace(-1.999, 1.999, 4096).astype(np.float32)).elements


# -- NVFP4 -----------------------------------------------------------------------------------------

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def nearest_e2m1(value: Fraction) -> float:
    """Return the nearest E2M1 value: ties to the even code, saturating."""
    magnitude = abs(value)
    best = min(range(8), key=lambda c: (abs(Fraction(E2M1[c]) - magnitude), c % 2))
    return -E2M1[best] if value < 0 else E2M1[best]


def nearest_e4m3(value: Fraction) -> float:
    """Return the nearest positive normal E4M3 value, ties to even, 448 at most."""
    step = Fraction(2) ** (max(floor_log2(value), -6) - 3)
    return float(min(round(value / step) * step, Fraction(448)))


def model_nvfp4(
    x: np.ndarray, one_level: bool = False, reciprocal: bool = False
) -> tuple[np.ndarray, list[list[float]], np.float32]:
    """Return values, block scales and the tensor's scale; every float32 operation rounds where it is written."""
    outer = np.float32(1 if one_level else np.float32(np.abs(x).max()) / np.float32(2688))
    out, scales = np.empty_like(x), []
    for r, row in enumerate(x):
        scales.append([])
        for start in range(0, len(row), 16):
            block = row[start : start + 16]
            wanted = np.float32(np.float32(np.abs(block).max()) / np.float32(6)) / outer
            inner = nearest_e4m3(Fraction(float(min(max(wanted, np.float32(2.0**-6)), np.float32(448)))))
            scales[-1].append(inner)
            scale = np.float32(inner) * outer
            factor = (np.float32(1) / outer) / np.float32(inner)
            for i, v in enumerate(block):
                unit = v * factor if reciprocal else v / scale
                out[r, start + i] = np.float32(nearest_e2m1(Fraction(float(unit)))) * scale
    return out, scales, outer


@pytest.mark.parametrize(
    "text, one_level, reciprocal",
    [
        ("nvfp4:levels=1", True, False),
        ("nvfp4:mode=upstream", False, True),
        ("nvfp4:levels=1,mode=upstream", True, True),
    ],
)
def test_nvfp4_variants_equal_scalar_model(text: str, one_level: bool, reciprocal: bool) -> None:
    x = np.random.default_rng(6).normal(size=(24, 64)).astype(np.float32) * np.float32(3)
    x[1, :16], x[2] = 0, x[2] * np.float32(2.0**-14)
    fmt = get_format(text)
    values, scales, _ = model_nvfp4(x, one_level, reciprocal)
    encoded = fmt.encode(x)
    np.testing.assert_array_equal(E4M3.decode(encoded.scales), f32(scales))
    np.testing.assert_array_equal(encoded.decode(), values)
    np.testing.assert_array_equal(fmt.quantize(x), values)
    assert scales[1][0] == 2.0**-6


def test_nvfp4_equals_scalar_model() -> None:
    rng = np.random.default_rng(3)
    x = (rng.normal(size=(12, 80)) * np.exp2(rng.integers(-12, 6, (12, 1)))).astype(np.float32)
    x[3, 16:32] = 0
    x[4, :16] = np.float32(2.0**-40)
    x[5, 70:] = 300  # the last, shorter block holds the largest magnitude
    fmt = get_format("nvfp4")
    values, scales, outer = model_nvfp4(x)
    encoded = fmt.encode(x)
    assert encoded.outer == outer
    np.testing.assert_array_equal(E4M3.decode(encoded.scales), f32(scales))
    np.testing.assert_array_equal(encoded.decode(), values)
    np.testing.assert_array_equal(fmt.quantize(x), values)
    assert scales[3][1] == 2.0**-6  # a block of zeros takes the smallest normal scale
    assert scales[5][4] == 448  # block maximum = tensor maximum


def test_nvfp4_worked_example_of_the_sheet() -> None:
    codes = np.array([6, -1.5, 0, 2, -4, 0.5, 1.5, -0.5, 0, 1, -3, 4, 0.5, 0, 4, -6])
    scale = np.float32(120) * (np.float32(12) / np.float32(2688))
    x = (codes * float(scale) * 0.996).astype(np.float32)
    x[0] = 3.2
    fmt = get_format("nvfp4")
    tensor = np.zeros((1, 32), np.float32)
    tensor[0, :16], tensor[0, 16] = x, 12
    encoded = fmt.encode(tensor)
    assert float(encoded.outer) == pytest.approx(0.0044642859, rel=1e-7)
    assert fmt.element.decode(encoded.elements[0, :16]).tolist() == codes.tolist()
    assert encoded.scales[0, 0] == 0x6F  # 120 = 1.875 * 2**6
    decoded = encoded.decode()[0]
    np.testing.assert_allclose(decoded[:4], [3.214286, -0.803571, 0, 1.071429], rtol=1e-6)
    # The first element has the low half of a byte.
    assert encoded.codes[0, 0] == 0x7 | (0xB << 4)


def test_nvfp4_serves_a_fixed_tensor_scale() -> None:
    fmt = get_format("nvfp4")
    x = np.random.default_rng(5).normal(size=(4, 64)).astype(np.float32)
    doubled = fmt.encode(x, scale=fmt.calibrate(x) * 2)
    assert doubled.outer == fmt.calibrate(x) * 2
    assert np.all(np.abs(doubled.decode() - x) <= np.abs(x).max() / 5)


# -- block floating point --------------------------------------------------------------------------


def model_bfp(block: np.ndarray, p: int) -> list[float]:
    """Return p-bit symmetric significands times their step (d-Matrix: step = 2**(e - (p - 2)))."""
    largest = Fraction(float(np.abs(block).max()))
    if not largest:
        return [0.0] * len(block)
    step = Fraction(2) ** (max(floor_log2(largest), -127) - (p - 2))
    top = (1 << (p - 1)) - 1
    return [float(min(max(round(Fraction(float(v)) / step), -top), top) * step) for v in block]


@pytest.mark.parametrize("p", [4, 6, 8])
@pytest.mark.parametrize("size", [32, 16])
def test_bfp_equals_exact_rational_model(p: int, size: int) -> None:
    fmt = get_format(f"bfp{p}:block={size}")
    blocks = boundary_blocks(48, seed=p)[:, :size]
    want = np.array([model_bfp(block, p) for block in blocks], np.float32)
    np.testing.assert_array_equal(fmt.quantize(blocks), want)
    np.testing.assert_array_equal(fmt.encode(blocks).decode(), want)


def test_bfp_worked_example_of_sorted_keys() -> None:
    k = f32([8, 0.11, -0.2, 7, 0.3, -6.5, 0.05, 0.25])
    fmt = get_format("bfp4:block=4")
    unsorted = fmt.quantize(k)
    assert np.flatnonzero(unsorted == 0).tolist() == [1, 2, 4, 6, 7]
    order = np.argsort(-np.abs(k))
    ordered = fmt.quantize(k[order])
    assert ordered.tolist() == [8, 8, -6, 0, 0.25, -0.1875, 0.125, 0.0625]
    assert float(((unsorted - k) ** 2).sum()) == pytest.approx(1.4571, abs=1e-4)
    assert float(((ordered - k[order]) ** 2).sum()) == pytest.approx(1.3405, abs=1e-4)


@pytest.mark.parametrize("p", [4, 6, 8])
def test_bfp_error_is_half_a_step_unless_clipped(p: int) -> None:
    x = np.random.default_rng(p).normal(size=(64, 32)).astype(np.float32)
    fmt = get_format(f"bfp{p}")
    encoded = fmt.encode(x)
    step = np.ldexp(1.0, encoded.scales.astype(int) - 127 - (p - 2))
    top = ((1 << (p - 1)) - 1) * step
    error = np.abs(encoded.decode().astype(np.float64) - x)
    assert np.all((error <= step / 2) | (np.abs(x) > top))
    assert np.all(error[np.abs(x) > np.broadcast_to(top, x.shape)].max(initial=0) <= step.max())


def test_storage_of_the_sheet() -> None:
    want = {
        "mxfp8_e4m3": 8.25, "mxfp6_e3m2": 6.25, "mxfp4": 4.25, "mxint8": 8.25, "bfp4": 4.25,
        "bfp4:block=64": 4.125, "bfp4:block=128": 4.0625, "bfp8:block=64": 8.125,
    }  # fmt: skip
    for name, bits in want.items():
        assert get_format(name).bits_per_element() == bits, name
    assert get_format("nvfp4").storage_bits((128, 128)) == 128 * 128 * 4.5 + 32
