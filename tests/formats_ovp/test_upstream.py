"""`mode=upstream` against outputs of the quantizer released with OliVe (tests/golden/ovp_upstream.json)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import Grain, Granularity, OvpUpstream, get_format
from macloom.formats.outliers.ovp_upstream import Kind, Signed, normal_element, upstream_grid

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "ovp_upstream.json").read_text())
TENSOR, ROW = Granularity(grain=Grain.TENSOR), Granularity(grain=Grain.ROW)


def f32(values: Any) -> np.ndarray:
    return np.array(values, np.float32)


def numbers(values: Any) -> np.ndarray:
    """Read numbers of which infinities and NaN are written as strings."""
    return np.array([float(v) for v in np.asarray(values, object).reshape(-1)], np.float32)


def split(name: str) -> tuple[Kind, int]:
    return Kind(name[:-1]), int(name[-1])


def fixed(name: str, granularity: Granularity = TENSOR) -> OvpUpstream:
    kind, width = split(name)
    return OvpUpstream(name=name, width=width, kinds=(kind,), granularity=granularity)


def scales(name: str, alpha: Any, signed: bool, shape: tuple[int, ...]) -> np.ndarray:
    """Return the scales, as `calibrate` gives them, that put alpha on the largest normal value."""
    kind, width = split(name)
    units = (numbers(alpha) / np.float32(upstream_grid(kind, width, signed).largest_normal)).reshape(shape)
    return np.stack((units, np.zeros_like(units), np.full_like(units, signed)), axis=-1)


@pytest.mark.parametrize("name", [k for k in GOLDEN["A_grids_normalised_to_threshold_32"] if k.count("_") == 1])
def test_grids_are_those_of_the_released_code(name: str) -> None:
    text, sign = name.split("_")
    if text.startswith("outlier"):
        grid = upstream_grid(Kind.INT, int(text[-1]), sign == "s")
        values = [v for v in grid.union * grid.step if abs(v) > 32]
    else:
        kind, width = split(text)
        values = normal_element(kind, width, sign == "s").encodable[0] * upstream_grid(kind, width, sign == "s").step
    assert np.array_equal(values, GOLDEN["A_grids_normalised_to_threshold_32"][name])


def test_all_pairs_equal_the_released_code() -> None:
    for case in GOLDEN["B_pairs_scale1"]:
        got = fixed(case["type"]).quantize(numbers(case["in"]), scale=scales(case["type"], case["alpha"], True, ()))
        assert np.array_equal(got, numbers(case["out"])), case


@pytest.mark.parametrize("case", GOLDEN["C_tensors"], ids=lambda c: f"{c['type']}-{c['granularity']}-{c['signed']}")
def test_tensors_equal_the_released_code(case: dict[str, Any]) -> None:
    x = numbers(case["in"]).reshape(case["shape"])
    per_tensor = case["granularity"] == "per_tensor"
    fmt = fixed(case["type"], TENSOR if per_tensor else ROW)
    scale = scales(case["type"], case["alpha"], case["signed"], () if per_tensor else x.shape[:1])
    if "q_norm32" in case:
        assert np.array_equal(fmt.units(x, scale).reshape(-1), numbers(case["q_norm32"]))
    assert np.array_equal(fmt.quantize(x, scale=scale).reshape(-1), numbers(case["out"]))


@pytest.mark.parametrize("case", GOLDEN["D_edge_cases_scale1"], ids=lambda c: c["name"])
def test_edge_cases_equal_the_released_code(case: dict[str, Any]) -> None:
    got = fixed(case["type"]).quantize(numbers(case["in"]), scale=scales(case["type"], case["alpha"], True, ()))
    assert np.array_equal(got, numbers(case["out"]), equal_nan=True)


@pytest.mark.parametrize("case", GOLDEN["E_full_search"], ids=lambda c: f"{c['kind']}-{c['mode_requested']}")
def test_searches_equal_the_released_code(case: dict[str, Any]) -> None:
    x = numbers(case["in"]).reshape(case["shape"])
    kinds = (Kind.INT, Kind.FLINT) if case["mode_requested"] == "ant-int-flint" else (Kind(case["mode_requested"]),)
    fmt = OvpUpstream(
        name="t",
        width=4,
        kinds=kinds,
        signed=Signed.AUTO if case["is_input"] else Signed.YES,
        granularity=TENSOR if case["is_input"] else ROW,
    )
    scale = fmt.calibrate(x)
    kind = kinds[int(scale.reshape(-1, 3)[0, 1])]
    signed = bool(scale.reshape(-1, 3)[0, 2])
    assert (kind.value, signed) == (case["mode_chosen"], case["signed"])
    # Means in float64 here and in float32 there: the last place of alpha may differ.
    alpha = scale[..., 0].reshape(-1) * upstream_grid(kind, 4, signed).largest_normal
    assert np.allclose(alpha, case["alpha"], rtol=1e-6)
    assert np.array_equal(fmt.units(x, scale).reshape(-1), numbers(case["q_norm32"]))
    assert np.allclose(fmt.quantize(x, scale=scale).reshape(-1), numbers(case["out"]), atol=1e-5 * np.abs(x).max())


@pytest.mark.parametrize(
    ("x", "want"),
    [
        ([np.nan, 1, np.inf, 1], [np.nan, 1, np.nan, 1]),  # nothing else is touched
        ([50, 90, 90, 50], [48, 0, 96, 0]),  # the left outlier stays, however small
        ([1, 1, 1], [1, 1, 1]),
        ([50, 1, 7], [48, 0, 0]),  # an odd length wraps around: the first outlier takes the last element
        ([50], [0]),
        ([1, 50, 7], [0, 48, 7]),
        ([30000, 0, -1.5, 2.5], [0, 0, -1, 3]),  # out of reach of every value; ties go up
    ],
)
def test_rules_of_the_released_code(x: list[float], want: list[float]) -> None:
    got = get_format("ovp4:mode=upstream").quantize(f32(x), scale=f32([1, 0, 1]))
    assert np.array_equal(got, f32(want), equal_nan=True)


def test_pairs_straddle_rows() -> None:
    fmt = get_format("ovp4:mode=upstream")
    x = f32([[1, 2, 3], [50, 5, 6]])
    assert fmt.quantize(x, scale=f32([1, 0, 1])).tolist() == [[1, 2, 0], [48, 5, 6]]


def test_data_without_negatives_take_unsigned_grids_unless_told() -> None:
    x = np.abs(np.random.default_rng(0).standard_normal(256)).astype(np.float32)
    auto, signed = get_format("ovp4:mode=upstream"), get_format("ovp4:mode=upstream,signed=yes")
    scale = auto.calibrate(x)
    assert [s[2] for s in (scale, signed.calibrate(x), auto.calibrate(-x))] == [0, 1, 1]
    assert np.array_equal(auto.quantize(f32([-5, 1]), scale=f32([1, 0, 0])), [0, 1])
    assert np.square(auto.quantize(x) - x).mean() < np.square(signed.quantize(x) - x).mean()


def test_channel_scales_are_searched_by_row_and_a_zero_row_survives() -> None:
    fmt = get_format("ovp4:mode=upstream,channel,normal=adaptive")
    x = np.random.default_rng(1).standard_normal((4, 32)).astype(np.float32)
    x[2] = 0
    scale = fmt.calibrate(x)
    assert scale.shape == (4, 3)
    assert scale[2, 0] == 1
    assert len(set(scale[:, 1])) == 1
    assert np.array_equal(fmt.quantize(x)[2], np.zeros(32))
    assert np.array_equal(fmt.quantize(x), fmt.quantize(x, scale=scale))


def test_clip_puts_that_share_of_the_largest_magnitude_on_the_largest_normal_value() -> None:
    x = f32([7, -3, 1, 0])
    scale = get_format("ovp4:mode=upstream").calibrate(x, clip=0.5)
    assert scale.tolist() == [0.5, 0.0, 1.0]


def test_codes_do_not_exist() -> None:
    fmt = get_format("ovp8:mode=upstream")
    for what, call in {
        "encode": lambda: fmt.encode(f32([1, 2])),
        "storage": lambda: fmt.storage_bits((2, 2)),
        "operand": lambda: fmt.operand,
    }.items():
        with pytest.raises(MacloomError, match=f"has no {what}, the released code quantizes without bit patterns"):
            call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: get_format("ovp4:mode=upstream,group=32"), "takes a scale per tensor, row or axis, not per group"),
        (lambda: get_format("ovp4:mode=upstream,assign=joint"), "assign: is not known to the released code"),
        (lambda: get_format("ovp4:signed=yes"), "signed: belongs to mode=upstream"),
        (lambda: get_format("ovp4:mode=upstream,signed=no"), "signed: unknown name 'no'"),
        (lambda: OvpUpstream(name="t", width=8, kinds=(Kind.FLINT,)), "has 'int' alone at 8 bits"),
        (
            lambda: get_format("ovp4:mode=upstream").quantize(f32([1, 2]), scale=np.float32(1)),
            "on a last axis of 3, as calibrate returns them, not shape",
        ),
        (
            lambda: get_format("ovp4:mode=upstream").quantize(f32([1, 2]), scale=f32([1, 1, 1])),
            "on a last axis of 3",
        ),
    ],
)
def test_bad_uses_are_refused(call: Any, message: str) -> None:
    with pytest.raises(MacloomError, match=message):
        call()
