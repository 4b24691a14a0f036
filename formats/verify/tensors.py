"""Block formats against torchao, and against the definition in float64 at every exponent."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from macloom.formats.grammar import get_format
from macloom.formats.policy import Rounding
from macloom.formats.tensors.block import Block, ScaleRule
from macloom.formats.verify.steps import reference_steps
from macloom.verification import Check, Options, oracle

MX = ("mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e3m2", "mxfp6_e2m3", "mxfp4", "mxint8")
TORCHAO = {
    "mxfp8_e4m3": "float8_e4m3fn",
    "mxfp8_e5m2": "float8_e5m2",
    "mxfp6_e3m2": "fp6_e3m2",
    "mxfp6_e2m3": "fp6_e2m3",
    "mxfp4": "float4_e2m1fn_x2",
}
# Mantissa fields of a block's largest magnitude at which rules for its exponent change.
MANTISSAS = (0, 1, 0x3FFFFF, 0x400000, 0x5FFFFF, 0x600000, 0x600001, 0x6FFFFF, 0x700000, 0x77FFFF, 0x7E0000, 0x7F0000,
             0x7FFFFE, 0x7FFFFF)  # fmt: skip
SIZE = 32
LOST = 64


def tensor_checks(options: Options) -> list[Callable[[], Check]]:
    """Return the checks of block formats for which the oracle is there."""
    calls: list[Callable[[], Check]] = [
        partial(check_definition, name, options.exhaustive, options.seed) for name in MX
    ]
    if find_spec("torchao") and find_spec("torch"):
        calls += [partial(check_torchao, name, rule, options.seed) for name in TORCHAO for rule in ScaleRule]
        calls.append(partial(check_torchao_nvfp4, options.seed))
    return calls


def blocks(first: int, last: int, each: int, seed: int) -> np.ndarray:
    """Return blocks of 32 whose largest magnitude has a biased exponent from `first` to `last`, at rules' boundaries.

    The others spread over 24 binades below it, and both zeros are among them.
    """
    rng = np.random.default_rng(seed)
    tops = np.array([e << 23 | m for e in range(first, last + 1) for m in MANTISSAS], np.uint32)
    largest = np.repeat(tops, each).view(np.float32)
    shares = np.exp2(-rng.uniform(0, 24, (len(largest), SIZE))) * rng.choice([-1, 1], (len(largest), SIZE))
    shares[:, 5] = rng.choice([-1, 1], len(largest))
    made = (largest[:, None].astype(np.float64) * shares).astype(np.float32)
    made[:, 7], made[:, 8] = 0.0, -0.0
    return made


def check_definition(name: str, every: bool, seed: int) -> Check:
    """Compare scales and values with the floor rule of OCP MX v1.0, 6.3: all exact in float64."""
    begun, fmt = time.process_time(), get_format(name)
    assert isinstance(fmt, Block)
    x = blocks(0, 254, 64 if every else 2, seed)
    largest = np.abs(x).max(axis=1).astype(np.float64)
    emax = np.frexp(fmt.element.max_value)[1] - 1
    with np.errstate(divide="ignore"):
        exponents = np.where(largest > 0, np.frexp(largest)[1] - 1 - emax, -127)
    exponents = np.clip(exponents, -127, 127 - emax)
    # Rounding of x / scale: its magnitude may be below float32's range, where every grid here rounds to zero.
    scaled = np.ldexp(x.astype(np.float64), -exponents[:, None])
    steps = reference_steps(fmt.element, Rounding.NEAREST_EVEN)
    codes = steps.at(_toward_odd(scaled).view(np.uint32))
    want = np.ldexp(fmt.element.values[codes], exponents[:, None]).astype(np.float32)
    encoded, got = fmt.encode(x), fmt.quantize(x)
    wrong = _different(got, want) + int(np.count_nonzero(encoded.scales[:, 0] != exponents + 127))
    wrong += int(np.count_nonzero(encoded.elements != codes)) + _different(np.asarray(encoded.decode()), want)
    return Check(
        subject=f"{name}: scales, codes and values", against="OCP MX v1.0, 6.3, in float64",
        cases=3 * x.size + len(x), mismatches=wrong, worst=float(np.abs(got - want).max()),
        seconds=time.process_time() - begun, note=f"all 255 exponents of the largest magnitude, {len(x)} blocks",
    )  # fmt: skip


def _toward_odd(x: np.ndarray) -> np.ndarray:
    """Return float32 that lie on the same side of every float32 of fewer digits as the float64 do."""
    near = x.astype(np.float32)
    inexact = near.astype(np.float64) != x
    inner = np.where(np.abs(near) > np.abs(x), np.nextafter(near, np.float32(0)), near).view(np.uint32)
    odd = np.where(inexact, inner | np.uint32(1), near.view(np.uint32)).view(np.float32)
    return np.copysign(odd, x).astype(np.float32)


def _different(got: np.ndarray, want: np.ndarray) -> int:
    return int(np.count_nonzero(np.ascontiguousarray(got).view(np.uint32) != want.view(np.uint32)))


def check_torchao(name: str, rule: ScaleRule, seed: int) -> Check:
    """Compare scales and values with torchao's MX tensors under one of its four scale rules."""
    import torch
    from torchao.prototype.mx_formats.config import ScaleCalculationMode  # pyright: ignore[reportMissingImports]
    from torchao.prototype.mx_formats.mx_tensor import to_dtype, to_mx  # pyright: ignore[reportMissingImports]

    begun, fmt = time.process_time(), get_format(f"{name}:rule={rule.value}")
    # torchao rounds otherwise where scales or quotients are subnormal, and does not lower the largest scales.
    x = blocks(32, 222, 4, seed)
    note = "exponents from -95 to 95"
    if rule is ScaleRule.RCEIL:
        # Its ceil(log2) in float32 loses the bits of a quotient just above a power of two, which cvt.rp does not.
        quotient = np.abs(x).max(axis=1) * (np.float32(1) / np.float32(fmt.element.max_value))
        x = x[(quotient.view(np.uint32) & np.uint32(0x7FFFFF)) - np.uint32(1) >= LOST]
        note += f"; without quotients less than {LOST} ulp above a power of two, which its log2 takes for that"
    dtype: Any = getattr(torch, TORCHAO[name], TORCHAO[name])
    scales, data = to_mx(torch.from_numpy(x), dtype, SIZE, ScaleCalculationMode(rule.value))
    want = to_dtype(data, scales, dtype, SIZE, torch.float32).numpy()
    encoded, got = fmt.encode(x), fmt.quantize(x)
    wrong = _different(got, want) + int(
        np.count_nonzero(encoded.scales.reshape(-1) != scales.view(torch.uint8).numpy().reshape(-1))
    )
    return Check(
        subject=f"{name}:rule={rule.value}: scales and values", against=oracle("torchao"),
        cases=x.size + len(x), mismatches=wrong, worst=float(np.abs(got - want).max()),
        seconds=time.process_time() - begun, note=f"{len(x)} blocks, {note}",
    )  # fmt: skip


def check_torchao_nvfp4(seed: int) -> Check:
    """Compare NVFP4 with two levels of scales, by reciprocals, with torchao's."""
    import torch
    from torchao.prototype.mx_formats.nvfp4_tensor import (  # pyright: ignore[reportMissingImports]
        NVFP4Tensor,
        per_tensor_amax_to_scale,
    )

    begun = time.process_time()
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((256, 256)) * np.exp2(rng.integers(-6, 7, (256, 1)))).astype(np.float32)
    tensor = torch.from_numpy(x)
    scale = per_tensor_amax_to_scale(tensor.abs().max())
    want = NVFP4Tensor.to_nvfp4(tensor, per_tensor_scale=scale).dequantize(torch.float32).numpy()
    fmt = get_format("nvfp4:mode=upstream")
    got = fmt.quantize(x, scale=scale.numpy())
    return Check(
        subject="nvfp4:mode=upstream: values", against=oracle("torchao"), cases=x.size,
        mismatches=_different(got, want), worst=float(np.abs(got - want).max()),
        seconds=time.process_time() - begun, note="256 rows of magnitudes 2**-6 to 2**6",
    )  # fmt: skip
