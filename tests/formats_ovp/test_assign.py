"""How pairs are assigned: nearest, threshold, joint; the adaptive normal type; the channel permutation."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from macloom.errors import MacloomError
from macloom.formats import (
    AbFloat,
    AdaptiveOvp,
    IntFormat,
    Ovp,
    gemm,
    get_format,
    pair_permutation,
    set_threads,
    shared_pairs,
)

PAIRS = ("ovp4", "ovp4:normal=flint4", "ovp8")


def f32(values: Any) -> np.ndarray:
    return np.array(values, np.float32)


def ovp(name: str) -> Ovp:
    fmt = get_format(name)
    assert isinstance(fmt, Ovp)
    return fmt


def outlier_data(shape: tuple[int, ...], seed: int = 0, share: float = 0.05) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * np.where(rng.random(shape) < share, 20, 1)).astype(np.float32)


def level_data(shape: tuple[int, ...]) -> np.ndarray:
    """Zeros and magnitudes in the upper half of the range, where int4 has more values than flint4."""
    rng = np.random.default_rng(1)
    return (rng.uniform(0.5, 1, shape) * rng.choice([-1, 0, 0, 0, 1], shape)).astype(np.float32)


def squared_error(fmt: Any, x: np.ndarray, scale: Any) -> np.ndarray:
    """Return the squared error of every pair, in float64."""
    wide = np.square(fmt.quantize(x, scale=scale).astype(np.float64) - x)
    return wide.reshape(-1, 2).sum(axis=1)


@pytest.mark.parametrize("name", PAIRS)
@settings(max_examples=40, deadline=None)
@given(
    x=arrays(np.float32, 32, elements=st.floats(-300, 300, width=32)),
    scale=st.floats(0.0625, 8, width=32),
)
def test_joint_is_never_worse_than_nearest_or_threshold(name: str, x: np.ndarray, scale: float) -> None:
    separator = "," if ":" in name else ":"
    units = np.float32(scale)
    joint = squared_error(get_format(f"{name}{separator}assign=joint"), x, units)
    assert np.all(joint <= squared_error(get_format(name), x, units))
    assert np.all(joint <= squared_error(get_format(f"{name}{separator}assign=threshold"), x, units))


@pytest.mark.parametrize("name", PAIRS)
def test_joint_is_the_best_of_all_stored_pairs(name: str) -> None:
    fmt = ovp(f"{name}{',' if ':' in name else ':'}assign=joint")
    x = outlier_data((64, 2), 3) * np.float32(4)
    table = fmt.pair_values.astype(np.float64)
    table = table[~np.isnan(table).any(axis=1)]
    least = np.square(table[None] - x[:, None].astype(np.float64)).sum(axis=2).min(axis=1)
    assert np.allclose(squared_error(fmt, x, np.float32(1)), least, rtol=1e-12)


def test_joint_keeps_what_a_victim_would_lose() -> None:
    x = f32([10, 6])  # nearest: 12 and a lost 6; joint: 7 and 6
    assert get_format("ovp4").quantize(x, scale=np.float32(1)).tolist() == [12, 0]
    assert get_format("ovp4:assign=joint").quantize(x, scale=np.float32(1)).tolist() == [7, 6]


@pytest.mark.parametrize(
    ("text", "x", "want"),
    [
        ("ovp4:assign=threshold", [8, 1, 7, 1], [12, 0, 7, 1]),  # beyond the largest normal value
        ("ovp4:assign=threshold,threshold=9", [9, 1, 9.5, 1], [7, 1, 12, 0]),
        ("ovp4:assign=threshold,threshold=30", [24, 1, 40, 1], [7, 1, 32, 0]),
        ("ovp4:normal=flint4,assign=threshold", [17, 1, 16, 1], [24, 0, 16, 1]),
        ("ovp4:assign=threshold,threshold=2.5", [3, 2, -4, -21], [12, 0, 0, -24]),
    ],
)
def test_threshold_decides_what_is_an_outlier(text: str, x: list[float], want: list[float]) -> None:
    fmt = get_format(text)
    assert fmt.quantize(f32(x), scale=np.float32(1)).tolist() == want
    assert fmt.encode(f32(x), scale=np.float32(1)).decode().tolist() == want


@pytest.mark.parametrize(
    "text",
    ["ovp4:assign=joint", "ovp4:assign=threshold,threshold=8", "ovp8:assign=joint,row", "ovp4:normal=flint4,group=16"],
)
@pytest.mark.parametrize("shape", [(5, 32), (64,), (3, 2, 16)])
def test_quantize_equals_encode_then_decode(text: str, shape: tuple[int, ...]) -> None:
    x, fmt = outlier_data(shape), get_format(text)
    encoded = fmt.encode(x)
    assert np.array_equal(fmt.quantize(x), encoded.decode())
    stored = fmt.from_packed(encoded.codes, encoded.scales, shape)
    assert np.array_equal(stored.decode(), encoded.decode())


@pytest.mark.parametrize("name", ["ovp4", "ovp8"])
@pytest.mark.parametrize("length", [1, 2, 33, 64])
def test_fast_codes_equal_those_by_table(name: str, length: int) -> None:
    """The vector loop and the look-up, which flint4 and assign=joint use, are two ways to the same codes."""
    from macloom.formats.kernels.pair import pair_codes
    from macloom.formats.outliers.ovp_table import pair_table

    fmt = ovp(name)
    values = np.concatenate([e.encodable[0] for e in (fmt.normal, fmt.outlier)])
    points = np.concatenate((values, (values[:, None] + values[None]).reshape(-1)[:2000] / 2)).astype(np.float32)
    points = np.concatenate(
        (points, np.nextafter(points, np.float32(np.inf)), np.nextafter(points, np.float32(-np.inf)))
    )
    rng = np.random.default_rng(length)
    x = rng.choice(np.concatenate((points, [-0.0, 3e38, -3e38, 1e-40])), (300, length)).astype(np.float32)
    scale = f32([1, 0.3])[np.arange(300) % 2][:, None].copy()
    fast = get_format(f"{name}:row").encode(x, scale=scale[:, 0]).elements
    table = pair_table(fmt.normal, fmt.outlier, fmt.boundary)
    slow, worst = np.empty_like(fast), np.empty(300, np.uint32)
    pair_codes(0, 300, x, scale, length + 1, table.shift, table.entries, fmt.identifier, slow, worst)
    assert np.array_equal(fast, slow)


def test_threads_do_not_change_codes() -> None:
    x = outlier_data((512, 1024))
    fmt = get_format("ovp4")
    try:
        set_threads(1)
        one = fmt.encode(x, scale=np.float32(0.4)).elements
        set_threads(2)
        assert np.array_equal(one, fmt.encode(x, scale=np.float32(0.4)).elements)
    finally:
        set_threads(None)


# -- the adaptive normal type ----------------------------------------------------------------------


@pytest.mark.parametrize("text", ["ovp4:normal=adaptive", "ovp4:normal=adaptive,row", "ovp4:normal=adaptive,group=16"])
def test_adaptive_takes_the_normal_type_of_least_squared_error(text: str) -> None:
    fmt = get_format(text)
    chosen = set()
    for seed, x in enumerate((outlier_data((8, 64)), level_data((8, 64)))):
        encoded = fmt.encode(x)
        errors = {
            n: float(np.square(get_format(text.replace("adaptive", n)).quantize(x).astype(np.float64) - x).sum())
            for n in ("int4", "flint4")
        }
        best = min(errors, key=lambda n: errors[n])
        assert encoded.format.name == f"{text},chosen={best}", (seed, errors)
        assert np.array_equal(encoded.decode(), get_format(text.replace("adaptive", best)).quantize(x))
        assert np.array_equal(fmt.quantize(x), encoded.decode())
        chosen.add(best)
    assert chosen == {"int4", "flint4"}


def test_the_choice_is_stored_and_counted() -> None:
    fmt = get_format("ovp4:normal=adaptive")
    encoded = fmt.encode(outlier_data((4, 32)))
    assert encoded.bits == get_format("ovp4").storage_bits((4, 32)) + 1 == fmt.storage_bits((4, 32))
    assert get_format(encoded.format.name) == encoded.format
    restored = encoded.format.from_packed(encoded.codes, encoded.scales, encoded.shape)
    assert np.array_equal(restored.decode(), encoded.decode())


def test_a_calibrated_choice_holds_for_other_data() -> None:
    fmt = get_format("ovp4:normal=adaptive")
    assert isinstance(fmt, AdaptiveOvp)
    scale = fmt.calibrate(outlier_data((8, 64)))
    other = level_data((8, 64))
    encoded = fmt.encode(other, scale=scale)
    assert encoded.format == fmt.choices[int(scale[1])]
    assert np.array_equal(fmt.quantize(other, scale=scale), encoded.decode())
    clipped = fmt.calibrate(other, clip=1.0)
    errors = [np.square(c.quantize(other, clip=1.0).astype(np.float64) - other).sum() for c in fmt.choices]
    assert clipped[1] == int(np.argmin(errors))


def test_adaptive_operands_fit_every_choice() -> None:
    fmt = get_format("ovp4:normal=adaptive")
    assert isinstance(fmt, AdaptiveOvp)
    assert (fmt.max_unit, fmt.decoder_bits, fmt.decoder_elements, fmt.static_scale) == (192, 8, 2, True)
    for choice in fmt.choices:
        assert choice.operand.significand_bits <= fmt.operand.significand_bits
        assert choice.operand.integer_bits <= fmt.operand.integer_bits
    a, b = outlier_data((3, 32), 1), outlier_data((5, 32), 2)
    assert gemm(fmt.encode(a), fmt.encode(b)).shape == (3, 5)


# -- the channel permutation -----------------------------------------------------------------------


def test_shared_pair_of_outlier_channels_is_parted() -> None:
    """Four outlier channels, two of them in one pair: moving one is what made OVP usable in the small model."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((64, 256)).astype(np.float32), rng.standard_normal((16, 256)).astype(np.float32)
    a[:, [12, 77, 188, 189]] *= 10
    fmt = ovp("ovp4")
    scale = np.float32(0.5)
    order = pair_permutation(fmt.outliers(a, scale).mean(axis=0) > 0.5)
    assert sorted(order) == list(range(256))
    assert int((order != np.arange(256)).sum()) == 2
    plain, ordered = fmt.quantize(a, scale=scale), fmt.quantize(a[:, order], scale=scale)
    lost = np.square(plain - a).sum(), np.square(ordered - a[:, order]).sum()
    assert lost[1] < lost[0] / 2
    assert np.allclose(a @ b.T, a[:, order] @ b[:, order].T, rtol=1e-4, atol=1e-3)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=41))
def test_permutation_shares_as_few_pairs_as_any(flags: list[bool]) -> None:
    hot = np.array(flags)
    order = pair_permutation(hot)
    assert sorted(order) == list(range(len(hot)))
    assert shared_pairs(hot[order]) == max(0, int(hot.sum()) - -(-len(hot) // 2))


def test_fewest_shared_pairs_of_small_cases_by_exhaustion() -> None:
    from itertools import permutations

    for flags in product([False, True], repeat=5):
        hot = np.array(flags)
        least = min(shared_pairs(hot[list(p)]) for p in permutations(range(5)))
        assert shared_pairs(hot[pair_permutation(hot)]) == least


def test_permutation_leaves_an_exact_product_unchanged() -> None:
    a, b = outlier_data((4, 64), 1), outlier_data((6, 64), 2)
    order = pair_permutation(ovp("ovp4").outliers(a))
    int8 = get_format("int8")
    plain = gemm(int8.encode(a), int8.encode(b))
    assert np.array_equal(plain, gemm(int8.encode(a[:, order]), int8.encode(b[:, order])))


def test_outliers_are_what_the_encoder_takes_for_one() -> None:
    fmt = ovp("ovp4:row")
    x = outlier_data((16, 64), 5)
    scale = fmt.calibrate(x)
    mask = fmt.outliers(x, scale)
    units = fmt.quantize(x, scale=scale) / scale[:, None]
    kept = np.abs(units) > 9.5
    assert np.all(mask[kept])
    alone = mask & ~np.flip(mask.reshape(16, -1, 2), axis=2).reshape(mask.shape)
    assert np.array_equal(kept & alone, alone)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: get_format("ovp4:threshold=3"), "threshold: belongs to assign=threshold, not to assign=nearest"),
        (lambda: get_format("ovp4:assign=threshold,threshold=x"), "threshold: must be a number, not 'x'"),
        (lambda: get_format("ovp4:assign=threshold,threshold=-1"), "threshold: must be positive and finite, not -1.0"),
        (
            lambda: get_format("ovp4:assign=threshold,threshold=7.123456").quantize(f32([1]), scale=np.float32(1)),
            "more than 11 significant bits",
        ),
        (lambda: get_format("ovp4:assign=best"), "assign: unknown name 'best'"),
        (lambda: get_format("ovp4:chosen=int4"), "chosen: says which type normal=adaptive chose"),
        (lambda: get_format("ovp4:normal=adaptive,chosen=int8"), "chosen: unknown name 'int8'"),
        (lambda: get_format("ovp8:normal=adaptive"), "normal: unknown name 'adaptive'"),
        (lambda: get_format("ovp4:normal=adaptive").encode(f32([1, 2]), scale=np.float32(1)), "last axis of 2"),
        (lambda: AdaptiveOvp(name="t", choices=(ovp("ovp4"),)), "choices: must be at least two formats of one width"),
        (lambda: pair_permutation(np.array(True)), "outliers: must be a mask or counts"),
        (
            lambda: Ovp(name="t", normal=IntFormat(width=4), outlier=AbFloat(exponent_bits=2, mantissa_bits=1, bias=0)),
            "must start above the largest normal value 7",
        ),
    ],
)
def test_bad_uses_are_refused(call: Any, message: str) -> None:
    with pytest.raises(MacloomError, match=message):
        call()
