"""LLM-FP4: grids, searched biases and pre-shifted biases, against the paper's formulas."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import PreShifted, SearchedFloat, gemm, get_format
from macloom.formats.elements.codebook import Mode
from macloom.formats.tensors.llm_fp4 import ELEMENTS, EvenSignificand, bias_of, candidates, search_layer

SHAPES = {"e2m1": (2, 1), "e3m0": (3, 0), "e1m2": (1, 2)}


def quantize_by_definition(x: float, exponent_bits: int, mantissa_bits: int) -> Fraction:
    """The paper's rule at an integer bias b~ = 0 in exact arithmetic."""
    if not x:
        return Fraction(0)
    top = (2 - Fraction(1, 1 << mantissa_bits)) * 2 ** ((1 << exponent_bits) - 1)
    magnitude = min(abs(Fraction(x)), top)
    level = max(math.frexp(float(magnitude))[1] - 1, 1)
    step = Fraction(2) ** (level - mantissa_bits)
    return round(magnitude / step) * step * (-1 if x < 0 else 1)


@pytest.mark.parametrize("name", SHAPES)
def test_elements_round_as_the_paper_does(name: str) -> None:
    element = ELEMENTS[name]
    e, m = SHAPES[name]
    scale = np.float32(2.0 ** (element.bias or 0))  # b~ = 0
    fmt = SearchedFloat(name="x", element=element)
    grid = sorted({quantize_by_definition(v, e, m) for v in np.arange(-600, 600) / 4.0})
    assert [float(v) for v in grid] == sorted(set((element.encodable[0] * float(scale)).tolist()))
    x = np.array([float(v) for v in grid], np.float32)
    middles = (x[:-1] + x[1:]) / 2
    probes = np.concatenate((x, middles, np.nextafter(middles, -np.inf), np.nextafter(middles, np.inf), [1e6, -1e6]))
    probes = probes.astype(np.float32)
    got = fmt.quantize(probes, scale=scale)
    assert [Fraction(float(v)) for v in got] == [quantize_by_definition(float(v), e, m) for v in probes]
    assert np.array_equal(fmt.encode(probes, scale=scale).decode(), got)


def test_worked_examples() -> None:
    e2m1 = ELEMENTS["e2m1"]
    fmt = get_format("llm_fp4")
    x = np.array([[0.9, -0.33, 0.05, 0.61, -1.0]], np.float32)
    assert fmt.quantize(x, clip=1.0)[0] == pytest.approx([1, -1 / 3, 1 / 12, 2 / 3, -1], abs=1e-6)
    assert bias_of(fmt.calibrate(x, 1.0), e2m1)[0] == pytest.approx(3.584963, abs=1e-6)
    act = PreShifted(name="a", element=e2m1)
    biases = bias_of(act.calibrate(np.array([[1, 8, 0.5]], np.float32), clip=1.0), e2m1)
    assert biases == pytest.approx([3.585, 0.585, 3.585], abs=1e-3)


def test_a_bias_of_one_more_halves_the_values() -> None:
    for name in SHAPES:
        fmt = get_format(f"llm_fp4:format={name},tensor")
        x = np.random.default_rng(0).normal(size=50).astype(np.float32)
        a, b = (fmt.encode(x * f, scale=0.3 * f).decode() for f in (1.0, 0.5))
        assert np.array_equal(a / 2, b)


def brute_force(x: np.ndarray, fmt: SearchedFloat, factors: np.ndarray) -> tuple[float, float]:
    """Least error and its scale, one candidate at a time."""
    best = math.inf, 0.0
    for f in factors:
        scale = np.float32(float(np.abs(x).max() / np.float32(fmt.element.max_value)) * f)
        error = float(np.square(fmt.quantize(x, scale=scale).astype(np.float64) - x).sum())
        best = min(best, (error, float(scale)), key=lambda pair: pair[0])
    return best


@pytest.mark.parametrize("name", SHAPES)
def test_the_search_finds_the_least_error(name: str) -> None:
    fmt = get_format(f"llm_fp4:format={name}")
    single = get_format(f"llm_fp4:format={name},tensor")
    assert isinstance(single, SearchedFloat)
    x = np.random.default_rng(1).standard_t(3, size=(3, 40)).astype(np.float32)
    scales = fmt.calibrate(x)
    for row, scale in zip(x, scales, strict=True):
        error, wanted = brute_force(row, single, np.linspace(0.01, 1.2, 100))
        assert scale == np.float32(wanted)
        # A factor of exactly 1 is not among the candidates.
        assert error <= 1.02 * np.square(single.quantize(row, clip=1.0).astype(np.float64) - row).sum()


def test_candidates_of_both_modes() -> None:
    element = ELEMENTS["e2m1"]
    paper, upstream = (candidates(np.array([0.1], np.float32), element, m) for m in (Mode.PAPER, Mode.UPSTREAM))
    assert len(paper) == len(upstream) == 100
    assert np.allclose(np.ravel(paper), 0.1 * np.linspace(0.01, 1.2, 100), rtol=1e-6)
    bias = 1 - math.log2(0.1)
    want = [2.0 ** (1 - bias * f) for f in np.linspace(0.01, 1.2, 101)[:100]]
    assert np.allclose(np.ravel(upstream), want, rtol=1e-5)
    for ladder in (np.ravel(paper) / 0.1, bias_of(np.ravel(upstream), element) / bias):
        assert np.abs(ladder - 1).min() < 0.012  # a factor of about one is among them
    assert (
        np.ptp(bias_of(np.ravel(candidates(np.array([2.0], np.float32), element, Mode.UPSTREAM)), element)) == 0
    )  # b~ = 0


def test_pre_shifted_channels_by_definition() -> None:
    rng = np.random.default_rng(2)
    x = (rng.normal(size=(20, 12)) * np.exp(rng.normal(size=12) * 2)).astype(np.float32)
    x[:, 3] = 0
    for name, (e, _) in SHAPES.items():
        fmt = get_format(f"llm_fp4_act:format={name}")
        element = ELEMENTS[name]
        scale = fmt.calibrate(x, clip=1.0)
        with np.errstate(divide="ignore"):
            biases = (element.bias or 0) - np.log2(np.abs(x).max(axis=0).astype(np.float64) / element.max_value)
        rho = biases.min()
        shifts = np.clip(np.round(biases) - np.round(rho), 0, 2**e - 1)
        assert np.log2(scale.max() / scale).tolist() == shifts.tolist()
        assert bias_of(scale.max(), element) == pytest.approx(rho, abs=1e-5)
        assert shifts[3] == 2**e - 1
        encoded = fmt.encode(x, scale=scale)
        plain = SearchedFloat(name="p", element=element)
        for j in range(12):
            assert np.array_equal(encoded.decode()[:, j], plain.quantize(x[:, j].copy(), scale=scale[j]))
        assert fmt.storage_bits(x.shape) == 20 * 48 + 32 + 12 * e


def test_folding_the_shift_into_the_weights_gives_the_same_product() -> None:
    rng = np.random.default_rng(3)
    x = (rng.normal(size=(6, 16)) * np.exp2(rng.integers(-3, 4, 16))).astype(np.float32)
    act, weight = get_format("llm_fp4_act"), get_format("llm_fp4:tensor")
    a = act.encode(x)
    w = weight.encode(rng.normal(size=(5, 16)).astype(np.float32))
    base = a.scales.max()
    codes = act.element.values[a.elements]  # type: ignore[union-attr]
    folded = w.decode().astype(np.float64) * (a.scales / base)
    want = [[sum(Fraction(c) * Fraction(v) for c, v in zip(r, s, strict=True)) for s in folded] for r in codes.tolist()]
    exact = a.decode().astype(np.float64) @ w.decode().astype(np.float64).T
    assert np.allclose(np.array(want, np.float64) * float(base), exact, rtol=1e-6, atol=1e-9)
    units = a.operand().units.astype(np.int64) @ w.operand().units.astype(np.int64).T
    unit = a.operand().unit_exponent + w.operand().unit_exponent
    scaled = (np.ldexp(units.astype(np.float64), unit).astype(np.float32) * base) * np.float32(w.scales)
    assert np.array_equal(gemm(a, w), scaled)


def test_the_searched_tensor_bias_is_no_worse_than_the_largest_magnitude() -> None:
    x = np.random.default_rng(4).standard_t(2, size=(40, 16)).astype(np.float32)
    for mode in Mode:
        fmt = get_format(f"llm_fp4_act:mode={mode.value}")
        searched, plain = fmt.quantize(x), fmt.quantize(x, clip=1.0)
        assert np.square(searched - x).sum() <= np.square(plain - x).sum() * 1.001


def test_layer_search_lowers_the_output_error() -> None:
    rng = np.random.default_rng(5)
    w, x = rng.normal(size=(6, 24)).astype(np.float32), rng.standard_t(3, size=(16, 24)).astype(np.float32)
    exact = x.astype(np.float64) @ w.astype(np.float64).T
    choice = search_layer(w, x, rounds=2)
    wq, xq = choice.weight.quantize(w, choice.weight_scale), choice.activation.quantize(x, choice.activation_scale)
    assert choice.error == pytest.approx(np.square(xq.astype(np.float64) @ wq.astype(np.float64).T - exact).sum())
    start = get_format("llm_fp4").quantize(w, clip=1.0), get_format("llm_fp4:tensor").quantize(x, clip=1.0)
    first = np.square(start[1].astype(np.float64) @ start[0].astype(np.float64).T - exact).sum()
    assert choice.error < first
    assert choice.error == search_layer(w, x, rounds=2).error


def test_the_layer_search_picks_the_format_that_fits() -> None:
    rng = np.random.default_rng(6)
    powers = (rng.choice([-1, 1], (4, 32)) * np.exp2(rng.integers(-6, 1, (4, 32)))).astype(np.float32)
    powers[:, :2] = [1, 2.0**-6]
    uniform = rng.integers(-7, 8, (8, 32)).astype(np.float32)
    uniform[0, 0] = 7
    choice = search_layer(powers, uniform)
    assert (choice.weight.element.name, choice.activation.element.name) == ("e3m0", "e1m2")
    assert choice.error < 1e-3 * np.square(uniform @ powers.T).sum()


def test_bad_input_is_refused() -> None:
    act = get_format("llm_fp4_act")
    x = np.ones((2, 3), np.float32)
    for call, message in [
        (lambda: get_format("llm_fp4:format=e0m3"), "unknown name 'e0m3'; did you mean"),
        (lambda: act.encode(x, scale=[1.0, 1.0]), r"must have shape \(3,\) for a tensor of \(2, 3\)"),
        (lambda: act.encode(x, scale=[1.0, 0.3, 1.0]), "largest one over powers of two up to 2\\*\\*3"),
        (lambda: act.encode(x, scale=[1.0, 1 / 16, 1.0]), "largest one over powers of two"),
        (lambda: act.encode(x, scale=[1.0, -1.0, 1.0]), "must be positive and finite, not -1"),
        (lambda: search_layer(x, np.ones((2, 4), np.float32)), "search_layer: needs shapes"),
    ]:
        with pytest.raises(MacloomError, match=message):
            call()


def test_even_significand_equals_a_plain_float_with_mantissa_bits() -> None:
    element = EvenSignificand(label="e2m1", exponent_bits=2, mantissa_bits=1)
    x = np.linspace(-8, 8, 3001)
    assert np.array_equal(element.quantize(x), get_format("fp4_e2m1").element.quantize(x))  # type: ignore[union-attr]
