"""FP8 products of matrices against mmaemu, which gives what cuBLASLt returns on an H100 PCIe and an RTX 4060."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from macloom.formats import gemm
from macloom.formats.tensor_core.oracles import PRODUCTS, SPLITS, mmaemu_product

pytest.importorskip("mmaemu")

PAIRS = [("fp8_e4m3", "fp8_e4m3"), ("fp8_e4m3", "fp8_e5m2"), ("fp8_e5m2", "fp8_e4m3")]


@pytest.mark.parametrize("accumulator, profile, fast, split", PRODUCTS)
def test_fp8_products_equal_mmaemu(cases: Any, accumulator: str, profile: str, fast: bool, split: int) -> None:
    rng = np.random.default_rng(11)
    for (x, y), mode in [(pair, mode) for pair in PAIRS for mode in cases.MODES]:
        length = int(rng.integers(1, 420))
        a, b = cases.codes(rng, x, (16, length), mode), cases.codes(rng, y, (24, length), mode)
        theirs = mmaemu_product((x, a), (y, b), profile, fast, split)
        ours = gemm(cases.encoded(x, a), cases.encoded(y, b), accumulator)
        assert cases.equal(ours, theirs).all(), (x, y, mode, length)


@pytest.mark.parametrize("accumulator, profile, fast, split", SPLITS)
@pytest.mark.parametrize("length", [512, 1280])
def test_split_fp8_products_equal_mmaemu(
    cases: Any, accumulator: str, profile: str, fast: bool, split: tuple[int, str], length: int
) -> None:
    rng = np.random.default_rng(13)
    for x, y in PAIRS:
        for mode in ("normal", "spread", "bands", "finite", "bits"):
            a, b = cases.codes(rng, x, (16, length), mode), cases.codes(rng, y, (16, length), mode)
            theirs = mmaemu_product((x, a), (y, b), profile, fast, split)
            ours = gemm(cases.encoded(x, a), cases.encoded(y, b), accumulator)
            assert cases.equal(ours, theirs).all(), (x, y, mode)


MUTANTS = {
    "promote=128": ["fraction=12", "fraction=14", "block=16", "promote=64", "rounding=nearest_even"],
    "split=3": ["split=2", "order=interleaved", "tile=256", "align=nearest_even", "promote=128"],
}


@pytest.mark.parametrize("right_name", MUTANTS)
def test_mutants_differ_from_mmaemu(cases: Any, right_name: str) -> None:
    rng = np.random.default_rng(17)
    a, b = (cases.codes(rng, "fp8_e4m3", (16, 1024), "normal") for _ in range(2))
    split = (3, "contiguous") if right_name == "split=3" else 1
    theirs = mmaemu_product(("fp8_e4m3", a), ("fp8_e4m3", b), "hopper", right_name == "split=3", split)
    left, right = cases.encoded("fp8_e4m3", a), cases.encoded("fp8_e4m3", b)
    assert cases.equal(gemm(left, right, f"tc:hopper-fp8,{right_name}"), theirs).all()
    for wrong in MUTANTS[right_name]:
        same_key = wrong.split("=")[0] == right_name.split("=")[0]
        name = f"tc:hopper-fp8,{wrong}" if same_key else f"tc:hopper-fp8,{right_name},{wrong}"
        assert not cases.equal(gemm(left, right, name), theirs).all(), name
