"""The scale search: brute force as oracle, ties, equal budgets, shared operands."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import get_format, list_formats
from macloom.workloads.ops import Role
from macloom.workloads.recipe import Objective, Recipe, Search, load_recipe
from macloom.workloads.search import Choice, GemmSample, Sample, plan_operands, search_clip

FORMATS = ["int4", "int8", "int4:token", "int4:group=16", "fp8_e4m3", "mxfp4", "nvfp4", "bfp4", "ovp4", "ovp8"]


def heavy_tailed(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Normal values with one in a hundred forty times larger, as activations have."""
    x = rng.normal(size=shape)
    return np.where(rng.random(shape) < 0.01, 40 * x, x).astype(np.float32)


def extremes(x: np.ndarray) -> np.ndarray:
    return np.array([x.min(), x.max()], np.float32)


@pytest.mark.parametrize("name", FORMATS)
def test_tensor_mse_is_the_brute_force_minimum(name: str) -> None:
    fmt, search = get_format(name), Search(steps=12, ratio=0.7)
    x = heavy_tailed(np.random.default_rng(1), 24, 64)
    errors = []
    for clip in search.candidates:
        scale = fmt.calibrate(x, clip) if fmt.static_scale else None
        d = fmt.quantize(x, scale=scale, clip=clip).astype(np.float64) - x
        errors.append(float((d * d).sum()) / float((x.astype(np.float64) ** 2).sum()))
    choice = search_clip(fmt, x, search, extremes=extremes(x) if fmt.static_scale else None)
    assert choice.clip == search.candidates[int(np.argmin(errors))]
    assert choice.error == pytest.approx(min(errors), rel=1e-4)
    assert choice.absmax_error == pytest.approx(errors[0], rel=1e-4)


def test_int4_search_equals_the_textbook_formula() -> None:
    x = np.random.default_rng(2).laplace(size=(16, 64)).astype(np.float32)
    search = Search(steps=16)
    errors = []
    for clip in search.candidates:
        scale = np.abs(x).max() * clip / 7
        errors.append(np.square(np.clip(np.rint(x / scale), -7, 7) * scale - x).sum())
    best = int(np.argmin(errors))
    assert 0 < best < 15
    assert search_clip(get_format("int4"), x, search, extremes=extremes(x)).clip == search.candidates[best]


@pytest.mark.parametrize("name", ["int4", "mxfp4", "ovp4"])
def test_output_mse_is_the_brute_force_minimum_of_the_product(name: str) -> None:
    rng = np.random.default_rng(3)
    fmt, search = get_format(name), Search(objective=Objective.OUTPUT_MSE, steps=12, ratio=0.7)
    a, b = heavy_tailed(rng, 3, 20, 32), rng.normal(size=(3, 9, 32)).astype(np.float32)
    b[..., :4] *= 30  # columns that matter more, so that the objectives disagree
    product = a.astype(np.float64) @ b.swapaxes(-1, -2)
    errors = []
    for clip in search.candidates:
        scale = fmt.calibrate(a, clip) if fmt.static_scale else None
        quantized = fmt.quantize(a, scale=scale, clip=clip).astype(np.float64) @ b.swapaxes(-1, -2)
        errors.append(float(((quantized - product) ** 2).sum() / (product**2).sum()))
    choice = search_clip(
        fmt, a, search, extremes=extremes(a) if fmt.static_scale else None, gram=b.swapaxes(-1, -2) @ b
    )
    assert choice.clip == search.candidates[int(np.argmin(errors))]
    assert choice.error == pytest.approx(min(errors), rel=1e-3)


class Stepped:
    """A format with a chosen error for each candidate, which counts how often it is asked."""

    name, static_scale = "stepped", False

    def __init__(self, errors: list[float]) -> None:
        self.errors, self.calls = errors, 0

    def calibrate(self, x: np.ndarray, clip: float) -> np.ndarray:
        return np.array([clip])

    def quantize(self, x: np.ndarray, scale: Any = None, clip: float = 1.0, out: Any = None) -> np.ndarray:
        out[...] = x
        out.flat[0] += self.errors[self.calls]
        self.calls += 1
        return out


def test_of_equal_errors_the_largest_clip_wins() -> None:
    search = Search(steps=5, ratio=0.5)
    x = np.ones((2, 4), np.float32)
    fmt: Any = Stepped([3, 1, 2, 1, 1])
    assert search_clip(fmt, x, search) == Choice(clip=0.5, error=1 / 8, absmax_error=9 / 8)
    fmt = Stepped([1, 1, 1, 1, 1])
    assert search_clip(fmt, x, search).clip == 1.0
    assert fmt.calls == 5


def test_non_finite_errors_are_refused() -> None:
    fmt: Any = Stepped([1, np.inf])
    message = "search: stepped gives a non-finite error on the calibration data; check the model"
    with pytest.raises(MacloomError, match="^" + re.escape(message)):
        search_clip(fmt, np.ones((2, 4), np.float32), Search(steps=2))


@pytest.mark.parametrize("name", ["int4", "int4:group=16", "mxfp4", "ovp4", "fp16"])
def test_an_all_zero_tensor_is_left_unclipped(name: str) -> None:
    zeros = np.zeros((4, 32), np.float32)
    assert search_clip(get_format(name), zeros, Search()) == Choice(clip=1.0, error=0.0, absmax_error=0.0)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_tried_as_often(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fmt, tried = get_format(name), []
    original = type(fmt).quantize

    def counted(self: Any, x: Any, scale: Any = None, clip: float = 1.0, out: Any = None) -> Any:
        tried.append(clip)
        return original(self, x, scale=scale, clip=clip, out=out)

    monkeypatch.setattr(type(fmt), "quantize", counted)
    x = heavy_tailed(np.random.default_rng(4), 8, 64)
    search_clip(fmt, x, Search(steps=7), extremes=extremes(x) if fmt.static_scale else None)
    assert tried == list(Search(steps=7).candidates)


@pytest.mark.parametrize("name", [n for n in list_formats() if get_format(n).static_scale])
def test_a_calibrated_scale_depends_on_the_extremes_alone(name: str) -> None:
    x = np.abs(heavy_tailed(np.random.default_rng(5), 6, 64))
    for clip in (1.0, 0.3):
        assert np.array_equal(get_format(name).calibrate(x, clip), get_format(name).calibrate(extremes(x), clip))


def sample(name: str, role: Role, x: np.ndarray, source: int) -> Sample:
    return Sample(name=name, role=role, rows=x, extremes=extremes(x), source=source)


def two_products_of_one_input() -> list[GemmSample]:
    rng = np.random.default_rng(6)
    a = sample("activation", Role.ACTIVATION, heavy_tailed(rng, 32, 32), 0)
    weights = [rng.normal(size=(8, 32)).astype(np.float32) * scale for scale in (1.0, 10.0)]
    return [
        GemmSample(
            op=f"op{i}", a=a, b=sample("weight", Role.WEIGHT, w, i), output_extremes=np.array([-9, 9], np.float32)
        )
        for i, w in enumerate(weights)
    ]


def with_search(recipe: Recipe, **changes: Any) -> Recipe:
    return dataclasses.replace(recipe, search=dataclasses.replace(recipe.search, **changes))


def test_one_scale_per_tensor_is_calibrated_except_for_weights() -> None:
    plan = plan_operands(load_recipe("int4"), two_products_of_one_input())
    assert plan["op0", "weight"].scale is None
    activation = plan["op0", "activation"]
    assert activation.scale is not None
    peak = float(np.abs(two_products_of_one_input()[0].a.extremes).max())
    assert float(np.max(activation.scale)) == pytest.approx(peak * activation.choice.clip / 7, rel=1e-6)
    assert activation.to_dict()["scale"] == "calibrated"
    assert plan["op0", "weight"].to_dict()["scale"] == "own"
    fine = plan_operands(load_recipe("int4:group=16"), two_products_of_one_input())
    assert fine["op0", "activation"].scale is None


def test_operations_that_share_an_input_share_its_clip_ratio() -> None:
    samples = two_products_of_one_input()
    recipe = with_search(load_recipe("int4"), objective=Objective.OUTPUT_MSE)
    plan = plan_operands(recipe, samples)
    assert plan["op0", "activation"].choice is plan["op1", "activation"].choice
    stacked = np.concatenate([s.b.rows for s in samples])
    expected = search_clip(
        recipe.activation, samples[0].a.rows, recipe.search, extremes=samples[0].a.extremes, gram=stacked.T @ stacked
    )
    assert plan["op0", "activation"].choice.clip == expected.clip


def test_an_override_takes_an_operation_out_of_the_group() -> None:
    recipe = dataclasses.replace(load_recipe("int4"), overrides=(("op1", get_format("fp16")),))
    plan = plan_operands(recipe, two_products_of_one_input())
    assert plan["op0", "activation"].format.name == "int4"
    assert plan["op1", "activation"].format.name == "fp16"
    assert plan["op1", "activation"].choice.clip == 1.0


def test_absmax_never_clips() -> None:
    plan = plan_operands(with_search(load_recipe("int4"), objective=Objective.ABSMAX), two_products_of_one_input())
    assert {p.choice.clip for p in plan.values()} == {1.0}
    assert plan["op0", "activation"].choice.error > 0


def test_memo_answers_for_equal_searches_only() -> None:
    memo: dict[Any, Choice] = {}
    samples = two_products_of_one_input()
    first = plan_operands(load_recipe("int4"), samples, memo)
    size = len(memo)
    again = plan_operands(load_recipe("int4"), samples, memo)
    assert len(memo) == size
    assert again["op1", "weight"].choice is first["op1", "weight"].choice
    plan_operands(with_search(load_recipe("int4"), steps=3), samples, memo)
    assert len(memo) == 2 * size
