"""The conformance kit on options that the catalog's own conformance test does not reach."""

from __future__ import annotations

import numpy as np
import pytest

from macloom.formats import get_format, list_formats
from macloom.testing import TENSOR_CHECKS

# What a format cannot have: E4M3 scales have an absolute range; two greedy stages, or signs and magnitudes
# apart, do not find their own values again; a code of a vector is wider than an element.
LACKING: dict[str, set[str]] = {
    "affine8:group=16": set(),
    "affine4:group=16,scale=dq": set(),
    "dgq4:group=16": set(),
    "int4:group=16,scale=int4": set(),
    "int8:group=16,scale=dq": set(),
    "int4:scale=pow2": set(),
    "int4:token,scale=e4m3": {"power_of_two"},
    "bfp4:mantissa=asymmetric": set(),
    "bfp24": set(),
    "msfp12": set(),
    "mxfp8:rule=rceil": set(),
    "nvfp4:mode=upstream": set(),
    "nvfp4:levels=1": {"power_of_two"},
    "dfp8:top=bump,spill=0": set(),
    "dr8:read=2,group=16": set(),
    "vptq:centroids=16,residual=4": {"facts", "idempotent"},
    "bitstack:planes=2,rank=4": {"idempotent"},
    # The library's overflow next to the end of float32, and the NaN scale that says so.
    "mxfp4:mode=upstream": {"inputs", "exponents"},
    "mxint8:mode=upstream,block=16": {"inputs", "exponents"},
    "olaccel4:layout=overflow,token": set(),
    "dgq4:group=16,zeros=none": set(),
    "dgq4:group=16,search=grid": set(),
    "dgq4:group=16,scale_bits=8,top=20": set(),
    "bfp:bits=5": set(),
    "kmeans:bits=2,per=row": set(),
    "tf32:round=toward_zero": set(),
    "float:exponent=3,mantissa=4,specials=ieee": set(),
    "int:bits=16": set(),
    "int:bits=5,range=full": set(),
    "posit:bits=6,es=1": set(),
    "flint:bits=6": set(),
    "vptq:permute=on,vector=2,centroids=4": set(),
}
SLOW = ("llm_fp4:format=e3m0", "llm_fp4_act")
FEW = ("quantize", "packing", "zeros", "operand", "nonfinite", "facts")


@pytest.mark.parametrize("name", LACKING)
def test_formats_pass_the_kit(name: str) -> None:
    for what, check in TENSOR_CHECKS.items():
        if what not in LACKING[name]:
            check(get_format(name))


@pytest.mark.parametrize("name", SLOW)
def test_searched_formats_pass_the_kit(name: str) -> None:
    for what in FEW:
        TENSOR_CHECKS[what](get_format(name))


@pytest.mark.parametrize("name", [*LACKING, *SLOW])
def test_operands_are_the_decoded_values(name: str) -> None:
    fmt = get_format(name)
    x = np.random.default_rng(0).normal(size=(3, 33 if fmt.block is None else 2 * fmt.block)).astype(np.float32)
    encoded = fmt.encode(x)
    operand = encoded.operand().centred()
    scales = np.repeat(operand.scales, operand.block, axis=-1)[:, : x.shape[1]].astype(np.float64)
    values = np.ldexp(operand.units.astype(np.float64), operand.unit_exponent) * scales * float(operand.outer)
    assert values == pytest.approx(encoded.decode().astype(np.float64), rel=2e-7)
    assert float(np.abs(operand.units).max()) <= fmt.max_unit


def test_every_name_is_in_the_catalog_and_reads_back() -> None:
    names = {"affine4", "affine8", "dgq4", "msfp12", "msfp16", "bfp12", "bfp16", "bfp24", "dfp16", "dr8"}
    names |= {"llm_fp4", "llm_fp4_act", "vptq", "bitstack"}
    assert names <= set(list_formats())
    for name in [*names, *LACKING, *SLOW]:
        assert get_format(get_format(name).name) == get_format(name)
