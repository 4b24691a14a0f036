"""Element formats against packages that share no code with macloom: ml_dtypes, gfloat and torch's casts."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from macloom.formats.catalog import FLOATS
from macloom.formats.element import ElementFormat
from macloom.formats.policy import Policy, Rounding
from macloom.formats.verify.elements import kernels_of, near_patterns
from macloom.formats.verify.steps import reference_steps
from macloom.verification import Check, Options, oracle

# macloom's name -> that of ml_dtypes, of torch (None: no cast on the CPU) and of gfloat (None: not defined).
NAMES: dict[str, tuple[str, str | None, str | None]] = {
    "fp16": ("float16", "float16", "binary16"),
    "bf16": ("bfloat16", "bfloat16", "bfloat16"),
    "fp8_e4m3": ("float8_e4m3fn", "float8_e4m3fn", "ocp_e4m3"),
    "fp8_e5m2": ("float8_e5m2", "float8_e5m2", "ocp_e5m2"),
    "fp8_e4m3fnuz": ("float8_e4m3fnuz", "float8_e4m3fnuz", None),
    "fp8_e5m2fnuz": ("float8_e5m2fnuz", "float8_e5m2fnuz", None),
    "fp6_e3m2": ("float6_e3m2fn", None, "ocp_e3m2"),
    "fp6_e2m3": ("float6_e2m3fn", None, "ocp_e2m3"),
    "fp4_e2m1": ("float4_e2m1fn", None, "ocp_e2m1"),
}
GFLOAT_ROUNDINGS = {
    Rounding.NEAREST_EVEN: "TiesToEven",
    Rounding.NEAREST_AWAY: "TiesToAway",
    Rounding.TOWARD_ZERO: "TowardZero",
}
SLOW_SAMPLE = 1 << 14


def peer_checks(options: Options) -> list[Callable[[], Check]]:
    """Return the checks for which the package is installed."""
    calls: list[Callable[[], Check]] = []
    for name, (ml_dtype, torch_dtype, gfloat_name) in NAMES.items():
        if find_spec("ml_dtypes"):
            calls.append(partial(check_cast, name, "ml_dtypes", ml_dtype, options.seed))
        if find_spec("torch") and torch_dtype:
            calls.append(partial(check_cast, name, "torch", torch_dtype, options.seed))
        if find_spec("gfloat") and gfloat_name:
            calls += [partial(check_gfloat, name, gfloat_name, mode, options.seed) for mode in GFLOAT_ROUNDINGS]
    return calls


def _inputs(element: ElementFormat, rounding: Rounding, seed: int) -> np.ndarray:
    """Return finite float32 where codes change, and random ones."""
    if element.bits <= 8:
        return near_patterns(reference_steps(element, rounding), seed)
    patterns = np.random.default_rng(seed).integers(0, 1 << 32, 1 << 18, dtype=np.uint64).astype(np.uint32)
    ties = (patterns & np.uint32(0xFFFFF000)) | np.uint32(0x8000 if element.bits == 16 else 0)
    every = np.concatenate((patterns, ties, ties + np.uint32(1), ties - np.uint32(1))).view(np.float32)
    return every[np.isfinite(every)]


def _values(element: ElementFormat, x: np.ndarray, rounding: Rounding) -> np.ndarray:
    out = np.empty_like(x)
    kernels_of(element, Policy(rounding=rounding)).quantize(x, out)
    return out


def _compared(subject: str, against: str, x: np.ndarray, got: np.ndarray, want: np.ndarray, begun: float) -> Check:
    where = np.flatnonzero(got.view(np.uint32) != want.view(np.uint32))
    first = f"{float(x[where[0]]).hex()} gives {got[where[0]]}, not {want[where[0]]}" if len(where) else ""
    worst = float(np.nanmax(np.abs(got[where] - want[where]), initial=0)) if len(where) else 0.0
    note = "; ".join(filter(None, ("after a clamp to the largest value", first)))
    return Check(
        subject=subject, against=against, cases=len(x), mismatches=len(where), worst=worst,
        seconds=time.process_time() - begun, note=note,
    )  # fmt: skip


def check_cast(name: str, package: str, dtype: str, seed: int) -> Check:
    """Compare values with a package's cast to a narrow type and back, after a clamp, since not all casts saturate."""
    begun, element = time.process_time(), FLOATS[name]
    x = _inputs(element, Rounding.NEAREST_EVEN, seed)
    held = np.clip(x, np.float32(element.min_value), np.float32(element.max_value))
    if package == "torch":
        import torch

        want = torch.from_numpy(held).to(getattr(torch, dtype)).float().numpy()
    else:
        import ml_dtypes

        narrow: Any = np.float16 if dtype == "float16" else getattr(ml_dtypes, dtype)
        want = held.astype(narrow).astype(np.float32)
    got = _values(element, x, Rounding.NEAREST_EVEN)
    return _compared(f"{name}, nearest_even: values", f"cast of {oracle(package)}", x, got, want, begun)


def check_gfloat(name: str, gfloat_name: str, rounding: Rounding, seed: int) -> Check:
    """Compare values with gfloat's rounding, which saturates when told to."""
    import gfloat
    import gfloat.formats

    begun, element = time.process_time(), FLOATS[name]
    x = _inputs(element, rounding, seed)
    x = np.concatenate((x[: SLOW_SAMPLE // 2], x[-SLOW_SAMPLE // 2 :]))
    mode = getattr(gfloat.RoundMode, GFLOAT_ROUNDINGS[rounding])
    info = getattr(gfloat.formats, f"format_info_{gfloat_name}")
    held = np.clip(x.astype(np.float64), element.min_value, element.max_value)
    want = gfloat.round_ndarray(info, held, mode, sat=True).astype(np.float32)
    return _compared(f"{name}, {rounding}: values", oracle("gfloat"), x, _values(element, x, rounding), want, begun)
