"""How tensor formats are called: outputs, torch tensors, other types of input, bad input."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from macloom.formats.tensor import TensorFormat
from macloom.testing.comparison import CORE, check_refuses, check_same, matrix, samples
from macloom.testing.inputs import say


def check_out(fmt: TensorFormat) -> None:
    """out= receives the values and is returned, x itself allowed; what cannot hold them is refused."""
    for x in samples(fmt):
        want = np.asarray(fmt.quantize(x))
        out = np.full(x.shape, np.nan, np.float32)
        say(fmt.quantize(x, out=out) is out, f"{fmt.name}: quantize(out=) does not return out")
        check_same(fmt, "values with and without out", out, want, x)
        alias = x.copy()
        fmt.quantize(alias, out=alias)
        check_same(fmt, "values in place and apart", alias, want, x)
    x = matrix(fmt)
    strided = np.empty((*x.shape[:-1], 2 * x.shape[-1]), np.float32)[..., ::2]
    frozen = np.empty_like(x)
    frozen.flags.writeable = False
    wrong = {
        "out of float64": np.empty(x.shape, np.float64),
        "out of another shape": np.empty((*x.shape, 2), np.float32),
        "strided out": strided,
        "read-only out": frozen,
        "a list as out": x.tolist(),
    }
    for what, out in wrong.items():
        check_refuses(fmt, what, lambda o=out: fmt.quantize(x, out=o))


def _without_graph(values: Any) -> Any:
    return values.detach() if hasattr(values, "detach") else values


def check_torch(fmt: TensorFormat) -> None:
    """torch tensors in give torch tensors out, with the bits that numpy gives."""
    import torch

    for x in samples(fmt):
        t = torch.from_numpy(x.copy())
        want = np.asarray(fmt.quantize(x))
        for what, got in {
            "quantize": fmt.quantize(t),
            "decode": fmt.encode(t).decode(),
            "quantize with gradients on": _without_graph(fmt.quantize(t.clone().requires_grad_())),
            "out": fmt.quantize(t, out=torch.empty_like(t)),
            "quantize with calibrated scale": fmt.quantize(t, scale=fmt.calibrate(t)),
        }.items():
            say(isinstance(got, torch.Tensor), f"{fmt.name}: {what} of a torch tensor is {type(got).__name__}")
            check_same(fmt, f"torch's and numpy's values ({what})", got.numpy(), want, x)
    x = matrix(fmt)
    t = torch.from_numpy(x).to(torch.bfloat16)
    want = np.asarray(fmt.quantize(t.float().numpy()))
    check_same(fmt, "values of bfloat16 and float32", fmt.quantize(t).numpy(), want, x)
    check_same(fmt, "scales of bfloat16 and float32", fmt.calibrate(t), fmt.calibrate(t.float().numpy()), x)


def check_inputs(fmt: TensorFormat) -> None:
    """Strided, float64, float16 and integer inputs give what their float32 copies give; others are refused."""
    x = matrix(fmt)
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), np.float32)
    wide[..., ::2] = x
    small = np.clip(np.round(x * 4), -100, 100)
    for given in (wide[..., ::2], x.astype(np.float64), small.astype(np.float16), small.astype(np.int32)):
        plain = np.array(given, np.float32)
        check_same(fmt, f"values of {given.dtype} and float32", fmt.quantize(given), fmt.quantize(plain), plain)
        check_same(fmt, f"scales of {given.dtype} and float32", fmt.calibrate(given), fmt.calibrate(plain), plain)
    check_refuses(fmt, "an empty tensor", lambda: fmt.encode(np.empty((0, x.shape[-1]), np.float32)))
    check_refuses(fmt, "an empty tensor", lambda: fmt.quantize(np.empty((0,), np.float32)))
    check_refuses(fmt, "an empty tensor to calibrate on", lambda: fmt.calibrate(np.empty((0,), np.float32)))
    check_refuses(fmt, "complex numbers", lambda: fmt.quantize(x.astype(np.complex64)))
    scale = np.asarray(fmt.calibrate(x))
    if fmt.scale_bits(x.shape):
        core = isinstance(fmt, CORE)
        for bad in (*((0.0, -1.0) if core else ()), math.nan, math.inf):
            wrong = np.full(scale.shape, bad, np.float32)
            check_refuses(fmt, f"a scale of {bad}", lambda s=wrong: fmt.quantize(x, scale=s))
            check_refuses(fmt, f"a scale of {bad}", lambda s=wrong: fmt.encode(x, scale=s))
        check_refuses(fmt, "too many scales", lambda: fmt.encode(x, scale=np.ones((7, *scale.shape), np.float32)))
    for bad in (0.0, -1.0, math.nan, math.inf):
        check_refuses(fmt, f"clip={bad}", lambda c=bad: fmt.encode(x, clip=c))


def check_nonfinite(fmt: TensorFormat) -> None:
    """NaN and infinities anywhere in a tensor are refused, whether or not the scale is given."""
    x = matrix(fmt)
    scale = fmt.calibrate(x)
    for bad in (math.nan, math.inf, -math.inf):
        for position in (0, x.size // 2, x.size - 1):
            y = x.copy()
            y.flat[position] = bad
            check_refuses(fmt, f"{bad} at {position}", lambda v=y: fmt.encode(v))
            check_refuses(fmt, f"{bad} at {position}", lambda v=y: fmt.quantize(v))
            check_refuses(fmt, f"{bad} at {position} with a scale", lambda v=y: fmt.encode(v, scale=scale))
            check_refuses(fmt, f"{bad} at {position} with a scale", lambda v=y: fmt.quantize(v, scale=scale))
    check_refuses(fmt, "a float64 beyond float32", lambda: fmt.encode(np.full(x.shape, 1e300)))
