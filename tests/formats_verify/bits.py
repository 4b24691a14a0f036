"""Prints a digest of what every format makes of some tensors; run with and without compiled kernels."""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

import numpy as np

from macloom.errors import MacloomError
from macloom.formats import gemm, get_format, list_formats
from macloom.testing.inputs import tensor

SHAPES = ((1,), (3, 33), (4, 96), (2, 2, 70))
FURTHER = (
    "fp8_e4m3:token", "fp8_e4m3:group=32", "int4:group=16", "int8:tensor", "int8:token", "uint4:token",
    *(f"fp8_e4m3:rounding={r}" for r in ("toward_zero", "nearest_away", "to_odd")),
    *(f"bf16:rounding={r}" for r in ("toward_zero", "to_odd")), "int4:rounding=toward_zero", "posit8_2:rounding=to_odd",
    "fp8_e5m2:overflow=to_inf", "fp8_e4m3:overflow=to_nan,zero=drop", "nvfp4:levels=1", "nvfp4:mode=upstream",
    *(f"mxfp4:rule={r}" for r in ("ceil", "even", "rceil")), "mxfp8_e5m2:block=16", "bfp4:mantissa=asymmetric",
    "ovp4:normal=flint4", "ovp4:normal=adaptive", "ovp4:assign=joint", "ovp4:mode=upstream", "ovp8:group=64",
    "nf4:mode=upstream", "int4:scale=fp16,group=32",
)  # fmt: skip
SEARCHED = ("ovp", "vptq", "llm_fp4", "twinlog", "bitstack", "gobo", "biscaled")
STOCHASTIC = ("fp8_e4m3:rounding=stochastic", "int4:rounding=stochastic,draw_bits=3", "mxfp4:rounding=stochastic")


def inputs(text: str) -> list[np.ndarray]:
    """Return tensors of every kind of shape and magnitude; the last has no negative elements."""
    made = [tensor(get_format("int8"), shape) for shape in SHAPES]
    small = np.ldexp(made[2], np.arange(-130, -126)[:, None]).astype(np.float32)
    # Longer than a tile; the searches of scales would take numpy seconds.
    long = [] if text.startswith(SEARCHED) else [tensor(get_format("int8"), (1, 70001))]
    return [*made, *long, small, made[1] * np.float32(1e30), np.abs(made[2]) + np.float32(1e-3)]


def digest(*arrays: Any) -> str:
    total = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        total.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return total.hexdigest()[:16]


def of_format(text: str, stochastic: bool = False) -> list[str]:
    """Return the digests of codes, scales and values for each input, or the error that came instead."""
    fmt, found = get_format(text), []
    for x in inputs(text):
        try:
            rng: list[dict[str, Any]] = [{"rng": np.random.default_rng(7)} if stochastic else {} for _ in range(2)]
            encoded, values = fmt.encode(x, **rng[0]), fmt.quantize(x, **rng[1])
            side = [encoded.side[key] for key in sorted(encoded.side)] if encoded.side else []
            found.append(digest(encoded.codes, encoded.scales, encoded.outer, *side, encoded.decode(), values))
        except MacloomError as error:
            found.append(str(error))
    return found


PRODUCTS = (
    ("int8:token", "int8:channel"), ("int4:group=16", "int4:group=16"), ("mxfp4", "mxfp4"), ("fp8_e4m3", "fp8_e4m3"),
    ("nvfp4", "nvfp4"), ("ovp4", "ovp4"), ("bf16", "bf16"), ("fp32", "fp32"), ("posit8_2", "posit8_2"),
    ("gobo4", "int8"), ("fp16", "fp16"), ("nf4", "fp16"),
)  # fmt: skip
ACCUMULATORS = (
    None, "int32", "int24:saturate", "int20:wrap", "int20:saturate,every=mac", "int20:wrap,every=16", "exact", "fp32",
    "block:bf16", "e5m10", "e5m10:toward_zero", "bf16",
)  # fmt: skip


def of_products() -> dict[str, str]:
    """Return the digest of the product of each pair of formats in each accumulator, or the error that came instead."""
    rng, found = np.random.default_rng(0), {}
    a, b = (rng.normal(size=shape).astype(np.float32) * 3 for shape in ((2, 9, 64), (2, 7, 64)))
    b[0, 1, 3] = 400
    for left, right in PRODUCTS:
        x, y = get_format(left).encode(a), get_format(right).encode(b)
        for accumulator in ACCUMULATORS:
            try:
                found[f"{left} {right} {accumulator}"] = digest(gemm(x, y, accumulator=accumulator))
            except MacloomError as error:
                found[f"{left} {right} {accumulator}"] = str(error)
    return found


def every_digest(names: list[str]) -> dict[str, Any]:
    return {"products": of_products(), **{name: of_format(name, name in STOCHASTIC) for name in names}}


def known_names() -> list[str]:
    """Return the catalog's names and more, those whose options the catalog does not know left out."""
    names = []
    for text in (*list_formats(), *FURTHER, *STOCHASTIC):
        try:
            get_format(text)
        except MacloomError:
            continue
        names.append(text)
    return names


if __name__ == "__main__":
    json.dump(every_digest(sys.argv[1:] or known_names()), sys.stdout)
