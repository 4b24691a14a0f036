"""Every operation of every unit against the scalar reference: all 16-bit inputs, rows that are hard, mutants."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from macloom.formats import set_threads
from macloom.formats.vector import (
    Activation,
    Curve,
    Encode,
    Fixed,
    Float,
    Norm,
    Softmax,
    Sum,
    VectorUnit,
    activate,
    add,
    encode,
    get_vector_unit,
    multiply,
    norm,
    reference,
    rotate,
    softmax,
)
from macloom.formats.vector.arrays import newton_tuple, table_tuple
from macloom.testing.vector import lane_values, mismatches, pairs

SIXTEEN = ["bf16", "fp16", "fixed16", "lut8"]
LARGEST = 12.0
Inverse = tuple[int, int]


def rows(unit: VectorUnit, length: int = 50) -> np.ndarray:
    """Return rows that are hard: random, constant, one large value, all extremes, zeros, tiny, alternating."""
    rng = np.random.default_rng(length)
    number = unit.number(LARGEST)
    top = float(number.high) * 2.0**-number.fraction if isinstance(number, Fixed) else LARGEST
    x = rng.normal(size=(12, length)) * 3
    x[4] = 1.25
    x[5] = -7.0
    x[5, length // 2] = top
    x[6] = top
    x[7] = -top
    x[8] = 0
    x[9] *= 1e-4
    x[10] = np.where(np.arange(length) % 2, top, -top)
    x[11] = np.linspace(-top, top, length)
    return x.astype(np.float32)


# -- activations, encoding: all inputs of 16 bits -----------------------------------------------------------


@pytest.mark.parametrize("name", SIXTEEN)
@pytest.mark.parametrize("curve", [Curve.SILU, Curve.GELU])
def test_activation_equals_reference_on_all_16_bit_inputs(name: str, curve: Curve) -> None:
    unit = get_vector_unit(name)
    op, x = unit.activation_for(LARGEST, LARGEST), lane_values(unit, LARGEST)
    assert len(x) > 63_000
    assert mismatches(activate(x, op, curve), [reference.activate(op, curve, p) for p in pairs(x)]) == 0


@pytest.mark.parametrize("curve", list(Curve))
def test_activation_equals_reference(unit: VectorUnit, curve: Curve) -> None:
    op = unit.activation_for(LARGEST, LARGEST)
    x = np.concatenate([rows(unit).reshape(-1), [1e30, -1e30, 1e-40, -1e-40, 31.999999, -32, 16, 8]]).astype(np.float32)
    assert mismatches(activate(x, op, curve), [reference.activate(op, curve, p) for p in pairs(x)]) == 0


@pytest.mark.parametrize("name", ["fixed16", "bf16"])
def test_encode_equals_reference_on_all_16_bit_inputs(name: str) -> None:
    unit = get_vector_unit(name)
    x = lane_values(unit, LARGEST)
    for bits, scale in ((8, 0.0937), (4, 1.7)):
        op = Encode(input=unit.number(LARGEST), output=Fixed(bits=bits, fraction=0))
        assert encode(x, op, scale).tolist() == [reference.encode(op, scale, p) for p in pairs(x)]


def test_encode_is_the_nearest_code_of_the_quotient() -> None:
    op = Encode(input=Fixed(bits=16, fraction=8), output=Fixed(bits=8, fraction=0), multiplier_bits=24)
    x = (np.arange(-32768, 32768) / 256).astype(np.float32)
    want = np.clip(np.rint(x.astype(np.float64) / 0.7371), -128, 127)
    assert (np.abs(encode(x, op, 0.7371) - want) <= (np.abs(x / 0.7371 % 1 - 0.5) < 1e-3)).all()


# -- the devices inside: tables, exponential, reciprocal, root ----------------------------------------------


def test_half_power_equals_reference_on_all_16_bit_arguments(unit: VectorUnit) -> None:
    from macloom.formats.vector import kernels

    device = unit.softmax.exponential
    table = device.table
    top = (table.fraction + 3) << table.argument
    u = np.unique(np.concatenate([np.arange(1 << 16), np.linspace(0, top, 1 << 15).astype(np.int64)]))
    out = np.empty_like(u)
    kernels.half_powers(u, table_tuple(table, device.coefficients), table.argument, table.fraction, out)
    assert out.tolist() == [reference.half_power(device, int(v)) for v in u]


def values_to_invert() -> np.ndarray:
    large = np.random.default_rng(0).integers(1, 1 << 62, 3000)
    powers = np.array([(1 << k) + d for k in range(17, 62) for d in (-1, 0, 1)])
    return np.concatenate([np.arange(1, 1 << 16), large, powers])


def inverted(unit: VectorUnit, iterations: int | None = None) -> tuple[list[Inverse], list[Inverse]]:
    """Return what the kernels give for every value: y and exponent of the reciprocal, then of the root."""
    from macloom.formats.vector import kernels

    values = values_to_invert()
    y, k = np.empty_like(values), np.empty_like(values)
    device = unit.softmax.reciprocal
    root = unit.norm.root
    if iterations is not None:
        device, root = replace(device, iterations=iterations), replace(root, iterations=iterations)
    kernels.reciprocals(values, newton_tuple(device, device.coefficients), y, k)
    first = list(zip((-device.fraction - k).tolist(), y.tolist(), strict=True))
    exponents = np.arange(len(values)) % 5 - 40
    kernels.roots(values, exponents, newton_tuple(root, root.coefficients), y, k)
    return first, list(zip(k.tolist(), y.tolist(), strict=True))


def expected(unit: VectorUnit) -> tuple[list[Inverse], list[Inverse]]:
    values = values_to_invert().tolist()
    first: list[Inverse] = [reference.reciprocal(unit.softmax.reciprocal, v) for v in values]
    root = unit.norm.root
    return first, [reference.reciprocal_root(root, reference.Pair(i % 5 - 40, v)) for i, v in enumerate(values)]


@pytest.mark.parametrize("name", ["fp32", "fixed16", "lut8"])
def test_reciprocal_and_root_equal_reference_on_all_16_bit_operands(name: str) -> None:
    unit = get_vector_unit(name)
    assert inverted(unit) == expected(unit)


def test_one_iteration_less_is_rejected() -> None:
    unit = get_vector_unit("fixed16")
    assert inverted(unit, iterations=0)[0] != expected(unit)[0]
    assert inverted(unit, iterations=0)[1] != expected(unit)[1]


def test_a_wrong_table_entry_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    unit = get_vector_unit("fixed16")
    op, x = unit.activation_for(LARGEST, LARGEST), lane_values(unit, LARGEST)
    want = [reference.activate(op, Curve.SILU, p) for p in pairs(x)]
    right = op.coefficients(Curve.SILU)
    assert right is not None
    wrong = (tuple(c + (i == 17) for i, c in enumerate(right[0])), *right[1:])
    assert mismatches(activate(x, op, Curve.SILU), want) == 0
    monkeypatch.setattr(Activation, "coefficients", lambda op, curve: wrong)
    assert mismatches(activate(x, op, Curve.SILU), want) > 0


# -- rows ---------------------------------------------------------------------------------------------------


def softmax_reference(op: Softmax, scale: float, x: np.ndarray, counts: np.ndarray) -> Iterator[reference.Pair]:
    for i, row in enumerate(x):
        count = counts[i % len(counts)]
        yield from reference.softmax(op, scale, pairs(row[:count]))
        yield from [reference.Pair(0, 0)] * (len(row) - count)


@pytest.mark.parametrize("block", [None, 1, 7])
@pytest.mark.parametrize("scale", [0.17677669529663687, 40.0, 2.0**-20])
def test_softmax_equals_reference(unit: VectorUnit, block: int | None, scale: float) -> None:
    op, x = replace(unit.softmax_for(LARGEST), block=block), rows(unit)
    for counts in (np.array([50]), np.array([1, 2, 50, 17])):
        want = softmax_reference(op, scale, x, counts)
        assert mismatches(softmax(x, op, scale, counts), want) == 0


@pytest.mark.parametrize("name", ["fixed16", "lut8"])
def test_softmax_equals_reference_on_all_16_bit_scores(name: str) -> None:
    unit = get_vector_unit(name)
    op = unit.softmax_for(LARGEST)
    x = np.random.default_rng(1).permutation(lane_values(unit, LARGEST)).reshape(256, 256)
    want = softmax_reference(op, 0.7, x, np.array([256]))
    assert mismatches(softmax(x, op, 0.7), want) == 0


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("length", [1, 16, 50])
def test_norms_equal_reference(unit: VectorUnit, centred: bool, length: int) -> None:
    rng = np.random.default_rng(5)
    gain, bias = rng.normal(size=(2, length)).astype(np.float32)
    x = rows(unit, length)
    op = replace(unit.norm_for(LARGEST, 4.0, 8.0), centred=centred)
    for shift, eps in ((None, 1e-5), (bias, 0.0)):
        want = [
            y
            for row in x
            for y in reference.norm(op, eps, pairs(row), pairs(gain), None if shift is None else pairs(shift))
        ]
        assert mismatches(norm(x, op, gain, eps, shift), want) == 0


def test_norms_equal_reference_where_sums_are_narrower_than_lanes() -> None:
    unit = get_vector_unit("fp32")
    op = replace(unit.norm, accumulate=Float(exponent_bits=8, mantissa_bits=7), centred=True)
    rng = np.random.default_rng(6)
    x = (rng.normal(size=(20, 50)) * 2.0 ** rng.integers(-30, 3, (20, 50))).astype(np.float32)
    x[:, ::3] = 1 + 2.0**-8
    gain = np.ones(50, np.float32)
    want = [y for row in x for y in reference.norm(op, 1e-5, pairs(row), pairs(gain))]
    assert mismatches(norm(x, op, gain, 1e-5), want) == 0


def test_rope_equals_reference(unit: VectorUnit) -> None:
    op, x = unit.rope_for(LARGEST), rows(unit, 32)[None]
    table = reference.rope_table(op, x.shape[1], 32, 10000.0)
    want = []
    for t in range(x.shape[1]):
        a, b = pairs(x[0, t, :16]), pairs(x[0, t, 16:])
        turned = [reference.rotate(op, a[j], b[j], *table[j][t]) for j in range(16)]
        want += [first for first, _ in turned] + [second for _, second in turned]
    assert mismatches(rotate(x, op, 10000.0), want) == 0


def test_residual_and_product_equal_reference(unit: VectorUnit) -> None:
    rng = np.random.default_rng(9)
    x, y = (rng.normal(size=(2, 3000)) * rng.choice([1e-3, 1.0, 5.0], (2, 3000))).astype(np.float32)
    x[:4], y[:4] = [LARGEST, -LARGEST, 0, -LARGEST], [LARGEST, LARGEST, -0.0, -LARGEST]
    both = list(zip(pairs(x), pairs(y), strict=True))
    total, product = unit.sum_for(LARGEST, LARGEST, 15.0), unit.product_for(LARGEST, LARGEST, 100.0)
    assert mismatches(add(x, y, total), [reference.add(total, a, b) for a, b in both]) == 0
    assert mismatches(multiply(x, y, product), [reference.multiply(product, a, b) for a, b in both]) == 0


def test_sums_leave_a_tie_however_small_the_other_operand() -> None:
    """1 + 2**-8 lies halfway between two bfloat16 numbers; 2**-60 decides, though float64 cannot hold both."""
    lane = get_vector_unit("bf16").lane
    wide = Float(exponent_bits=8, mantissa_bits=23)
    op = Sum(left=wide, right=wide, output=lane)
    x = np.array([1 + 2.0**-8] * 3 + [-1 - 2.0**-8] * 3 + [1 + 3 * 2.0**-8] * 3, np.float32)
    y = np.array([2.0**-60, 0, -(2.0**-60)] * 3, np.float32)
    want = [reference.add(op, a, b) for a, b in zip(pairs(x), pairs(y), strict=True)]
    assert mismatches(add(x, y, op), want) == 0
    assert add(x, y, op)[:3].tolist() == [1 + 2.0**-7, 1, 1]


@pytest.mark.parametrize("name", ["fixed16", "bf16"])
def test_residual_equals_reference_on_all_16_bit_inputs(name: str) -> None:
    unit = get_vector_unit(name)
    x = lane_values(unit, LARGEST)
    y = np.random.default_rng(2).permutation(x)
    op = unit.sum_for(LARGEST, LARGEST, 15.0)
    assert mismatches(add(x, y, op), [reference.add(op, a, b) for a, b in zip(pairs(x), pairs(y), strict=True)]) == 0


# -- online softmax -----------------------------------------------------------------------------------------


def test_online_softmax_equals_two_passes_where_the_maximum_comes_first(unit: VectorUnit) -> None:
    op = replace(unit.softmax_for(LARGEST), block=None)
    x = rows(unit)
    x[:, 0] = x.max(-1)
    for block in (1, 7, 50, 64):
        np.testing.assert_array_equal(softmax(x, op, 0.3), softmax(x, replace(op, block=block), 0.3))


def test_online_softmax_equals_two_passes_where_every_rise_is_a_power_of_two_and_no_bit_is_lost() -> None:
    """Scores of whole powers of two apart: exponentials and rescaling are shifts, and the sum's low bits are 0."""
    op = replace(get_vector_unit("fixed16").softmax, input=Fixed(bits=16, fraction=8))
    # scale * log2(e) is held with 16 bits: choose the score step so that a step is exactly one octave.
    scale = float(reference.Pair(-16, 1 << 16).fraction) * 0.6931471805599453
    assert op.constant(scale).fraction == 1
    x = np.array([[0, 1, 2, 3, 4, 3, 2, 5], [1, 1, 1, 4, 4, 4, 8, 0]], np.float32)
    for block in (1, 2, 3):
        np.testing.assert_array_equal(softmax(x, op, scale), softmax(x, replace(op, block=block), scale))


def test_online_softmax_differs_from_two_passes_where_the_sum_is_rounded_on_the_way() -> None:
    """A witness: rising scores rescale the sum again and again, and each product rounds."""
    unit = get_vector_unit("fixed16")
    op = unit.softmax_for(LARGEST)
    x = np.linspace(-3, 3, 64, dtype=np.float32)[None]
    two, online = softmax(x, op, 1.0), softmax(x, replace(op, block=1), 1.0)
    assert not np.array_equal(two, online)
    assert np.abs(two - online).max() < 64 * 2.0**-15


def test_order_of_keys_does_not_matter_to_two_passes(unit: VectorUnit) -> None:
    op, x = replace(unit.softmax_for(LARGEST), block=None), rows(unit)
    turn = np.random.default_rng(0).permutation(x.shape[1])
    np.testing.assert_array_equal(softmax(x, op, 0.3)[:, turn], softmax(x[:, turn], op, 0.3))


# -- tensors ------------------------------------------------------------------------------------------------


def test_torch_in_torch_out_same_bits_on_any_number_of_threads(unit: VectorUnit) -> None:
    x = np.random.default_rng(0).normal(size=(21, 100, 256)).astype(np.float32)
    gain = np.ones(256, np.float32)
    calls = [
        lambda t: softmax(t, unit.softmax_for(6.0), 0.5, np.arange(1, 101)),
        lambda t: norm(t, unit.norm_for(6.0, 1.0, 6.0), gain, 1e-5),
        lambda t: rotate(t, unit.rope_for(6.0), 10000.0),
        lambda t: activate(t, unit.activation_for(6.0, 6.0), "silu"),
        lambda t: add(t, t, unit.sum_for(6.0, 6.0, 12.0)),
    ]
    try:
        for call in calls:
            set_threads(1)
            one = call(x)
            set_threads(3)
            three = call(torch.from_numpy(x))
            assert isinstance(three, torch.Tensor)
            assert three.dtype is torch.float32
            np.testing.assert_array_equal(one.view(np.uint32), three.numpy().view(np.uint32))
    finally:
        set_threads(None)


def test_float_lanes_sum_in_the_order_the_record_says() -> None:
    """A witness: the same row summed in 1 and in 16 accumulators."""
    unit = get_vector_unit("fp32")
    x = np.random.default_rng(4).normal(size=(50, 256)).astype(np.float32)
    gain = np.ones(256, np.float32)
    one = norm(x, replace(unit.norm, lanes=1), gain, 1e-5)
    sixteen = norm(x, unit.norm, gain, 1e-5)
    assert not np.array_equal(one, sixteen)
    np.testing.assert_allclose(one, sixteen, rtol=1e-5)
    assert isinstance(unit.norm, Norm)
    assert isinstance(unit.norm.input, Float)
