"""Names of tensor cores, what they list, and every message about bad input."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import gemm, get_format
from macloom.formats.accumulator import get_accumulator
from macloom.formats.operand import Operand
from macloom.formats.tensor_core import TensorCoreAccumulator, get_preset, list_presets, summary
from macloom.formats.tensor_core.presets import OPTIONS
from macloom.formats.tensor_core.record import FP16, with_options

CHANGES = {
    "block": 4, "k": 32, "fraction": 20, "align": "nearest_even", "lowest": -100, "register": "fp32",
    "rounding": "nearest_even", "promote": 64, "split": 3, "tile": 64, "order": "interleaved", "sum": "pairwise",
}  # fmt: skip


@pytest.mark.parametrize("preset", list_presets())
def test_names_are_read_back(preset: str) -> None:
    tc = get_accumulator(f"tc:{preset}")
    assert isinstance(tc, TensorCoreAccumulator)
    assert tc.name == f"tc:{preset}" == str(tc)
    assert get_accumulator(tc.name) is tc
    assert tc.evidence
    assert all(reason.kind in ("measured", "published") for reason in tc.evidence)
    assert summary(preset)["accumulator"] == tc.name


def test_names_say_every_change() -> None:
    assert set(CHANGES) == set(OPTIONS)
    name = "tc:hopper-fp8," + ",".join(f"{key}={value}" for key, value in CHANGES.items() if key != "k")
    tc: Any = get_accumulator(name)
    assert tc.name == name
    assert get_accumulator(tc.name) == tc
    assert get_accumulator("tc:ampere-fp16,k=32").name == "tc:ampere-fp16,k=32"  # type: ignore[attr-defined]
    assert get_accumulator("tc:hopper-fp8,fraction=13") == get_preset("hopper-fp8")


def test_docs_have_every_preset() -> None:
    page = (Path(__file__).parents[2] / "docs" / "tensor-cores.md").read_text()
    for preset in list_presets():
        row = ["-" if value is None else str(value) for value in list(summary(preset).values())[1:]]
        assert f"| `tc:{preset}` | {' | '.join(row)} |" in page


def test_an_element_format_names_the_preset_that_takes_it() -> None:
    assert get_accumulator("tc:hopper-fp8_e4m3") is get_preset("hopper-fp8")
    assert get_accumulator("tc:rtx-blackwell-fp4_e2m1") is get_preset("rtx-blackwell-fp8")


@pytest.mark.parametrize(
    "name, message",
    [
        ("tc:hoper-fp8", "tensor core: unknown name 'hoper-fp8'; did you mean 'hopper-fp8'"),
        ("tc:hopper-fp8_e9m9", "tensor core: unknown name 'hopper-fp8_e9m9'; did you mean"),
        ("tc", "accumulator: must be 'tc:PRESET[,key=value...]', not 'tc'"),
        ("tc8:hopper-fp8", "accumulator: must be 'tc:PRESET[,key=value...]', not 'tc8:hopper-fp8'"),
        (
            "tc:hopper-fp8,promote",
            "tc: must be 'tc:PRESET,key=value,...', not 'tc:hopper-fp8,promote'; 'promote' has no",
        ),
        ("tc:hopper-fp8,split=2,split=3", "tc.split: must be given once, not twice in"),
        ("tc:hopper-fp8,takes=fp16", "tc: 'takes' belongs to the preset; change one of block, k, fraction"),
        ("tc:hopper-fp8,width=3", "tc: 'width' is not a parameter; change one of block, k, fraction"),
        ("tc:hopper-fp8,fraction=x", "tc.fraction: must be an integer, not 'x'"),
        ("tc:hopper-fp8,fraction=37", "tc.fraction: must be from 1 to 36, not 37"),
        ("tc:hopper-fp8,lowest=3", "tc.lowest: must be from -200 to 0, not 3"),
        ("tc:hopper-fp8,block=0", "tc.block: must be a positive integer, not 0"),
        ("tc:hopper-fp8,block=12", "tc.block: must divide the 32 elements of an instruction, not 12"),
        ("tc:blackwell-nvfp4,block=8", "tc.block: must be a multiple of the group of 16, not 8"),
        ("tc:blackwell-nvfp4,align=nearest_even", "tc: groups are summed to fp32 toward zero only, not to fp32 toward"),
        ("tc:blackwell-nvfp4,register=fp16", "tc: groups are summed to fp32 toward zero only, not to fp16 toward_zero"),
        ("tc:hopper-fp8,promote=33", "tc.promote: must be 0 or a multiple of the block of 32, not 33"),
        ("tc:hopper-fp8,split=2,tile=48", "tc.tile: must be a multiple of the block of 32, not 48"),
        ("tc:hopper-fp8,register=fp33", "tc.register: unknown name 'fp33'; did you mean 'fp32'"),
        ("tc:hopper-fp8,align=up", "tc.align: unknown name 'up'; known are nearest_away, nearest_even, stochastic"),
        ("tc:hopper-fp8,rounding=to_odd", "tc.rounding: must be toward_zero or nearest_even, not to_odd"),
        ("tc:hopper-fp8,order=random", "tc.order: unknown name 'random'"),
        ("tc:hopper-fp8,sum=tree", "tc.sum: unknown name 'tree'"),
    ],
)
def test_bad_names(name: str, message: str) -> None:
    with pytest.raises(MacloomError, match=re.escape(message)):
        get_accumulator(name)


def test_records_of_presets_are_not_changed_by_halves() -> None:
    with pytest.raises(MacloomError, match="'device' belongs to the preset"):
        with_options(get_preset("hopper-fp8"), device="mine")
    assert with_options(get_preset("hopper-fp8"), register=FP16).name == "tc:hopper-fp8,register=fp16"


def _ones(name: str, length: int = 64) -> Any:
    return get_format(name).encode(np.ones((2, length), np.float32))


@pytest.mark.parametrize(
    "accumulator, a, b, message",
    [
        (
            "tc:hopper-fp8",
            "fp16",
            "fp8_e4m3",
            "takes fp8_e4m3, fp8_e5m2, not A's 'fp16'; 'fp16' fits tc:volta-fp16, tc",
        ),
        (
            "tc:hopper-fp8",
            "fp8_e4m3",
            "bf16",
            "takes fp8_e4m3, fp8_e5m2, not B's 'bf16'; 'bf16' fits tc:ampere-bf16, tc",
        ),
        ("tc:ampere-fp16", "flint4", "fp16", "takes fp16, not A's 'flint4'; encode it as one of fp16"),
        ("tc:hopper-fp8", "fp4_e2m1", "fp4_e2m1", "'fp4_e2m1' fits tc:blackwell-fp8"),
        (
            "tc:blackwell-mxfp8",
            "fp8_e4m3",
            "mxfp8_e4m3",
            "one scale (e8m0) for every 32 elements along K, not A's 'fp8_e4m3'",
        ),
        ("tc:blackwell-mxfp8", "mxfp8_e4m3:block=16", "mxfp8_e4m3", "with a scale (e8m0) for every 16 elements"),
        (
            "tc:turing-int4",
            "ovp4",
            "int4",
            "takes int4, not A's 'ovp4', which has values beyond those of its int4; decode",
        ),
        ("tc:blackwell-nvfp4", "nvfp4", "mxfp4", "one scale (fp8_e4m3 or e8m0) for every 16 elements along K, not B's"),
    ],
)
def test_operands_that_the_instruction_does_not_take(accumulator: str, a: str, b: str, message: str) -> None:
    with pytest.raises(MacloomError, match=re.escape(message)):
        gemm(_ones(a), _ones(b), accumulator)


def test_operands_without_a_format_do_not_align() -> None:
    operand = _ones("fp16").operand()
    bare = replace(operand, format=None)
    assert isinstance(bare, Operand)
    with pytest.raises(MacloomError, match="needs encoded tensors, whose format says how they align"):
        get_preset("hopper-fp16").check(bare, operand)


def test_zero_points_are_not_taken() -> None:
    operand = _ones("fp16").operand()
    affine = replace(operand, zeros=np.ones((2, 1), np.float32))
    with pytest.raises(MacloomError, match="'tc:hopper-fp16' has no zero points, which B's 'fp16' has"):
        get_preset("hopper-fp16").check(operand, affine)


def test_scaled_presets_take_the_formats_of_the_catalog() -> None:
    for accumulator, names in {
        "tc:blackwell-mxfp8": ("mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e3m2", "mxfp6_e2m3", "mxfp4"),
        "tc:blackwell-mxfp4": ("mxfp4",),
        "tc:blackwell-nvfp4": ("nvfp4",),
    }.items():
        for name in names:
            assert np.array_equal(gemm(_ones(name), _ones(name), accumulator), np.full((2, 2), 64, np.float32)), name
