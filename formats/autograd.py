"""Gradients of quantized torch tensors by straight-through estimators.

Rounding has no useful derivative. IDENTITY passes the gradient of the values to the tensor as it is
(Bengio, Léonard and Courville, arXiv 1308.3432, section 4). CLIPPED does so inside the range that the
scale of an element can represent, ends included, and gives zero outside, where the value saturates and
does not move (as PACT, arXiv 1805.06085, does for activations). Scales are constants: no gradient flows
into them, nor through the magnitudes that they were found from.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from macloom.errors import MacloomError, unknown
from macloom.formats.arrays import as_float32, clip_share, rows_of
from macloom.formats.element import MAX_TABLE_BITS
from macloom.formats.tensor import TensorFormat
from macloom.formats.tensors.block import Block
from macloom.formats.tensors.scaled import Scaled

if TYPE_CHECKING:
    import torch


class Ste(StrEnum):
    """Which gradient a straight-through estimator gives."""

    IDENTITY = "identity"
    CLIPPED = "clipped"


@lru_cache(maxsize=1)
def _function() -> Any:
    """Return the torch function that replaces a tensor by given values and masks its gradient."""
    import torch

    class StraightThrough(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, values: torch.Tensor, inside: torch.Tensor | None) -> torch.Tensor:
            ctx.inside, ctx.dtype = inside, x.dtype
            return values

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
            (gradient,) = gradients
            if ctx.inside is not None:
                gradient = torch.where(ctx.inside, gradient, torch.zeros_like(gradient))
            return gradient.to(ctx.dtype), None, None

    return StraightThrough


def straight_through(
    fmt: TensorFormat,
    x: torch.Tensor,
    scale: Any = None,
    clip: float | None = None,
    out: Any = None,
    rng: np.random.Generator | None = None,
    ste: str = Ste.IDENTITY,
    **extra: Any,
) -> torch.Tensor:
    """Return the float32 values of `x` in a format, with a gradient of the dtype of `x`.

    Args:
        fmt, x, scale, clip, rng: as for `TensorFormat.quantize`.
        out: must be None; torch does not let a result overwrite what its gradient may need.
        ste: `identity` or `clipped`.
        extra: what the format's `encode` takes besides.

    Raises:
        MacloomError: as `TensorFormat.quantize`; there is an `out`; the estimator is unknown or `clipped`
            for a format whose elements do not share one range.

    >>> import torch
    >>> from macloom.formats import get_format
    >>> x = torch.tensor([7.0, -2.4, 30.0], requires_grad=True)
    >>> get_format("int4").quantize(x, scale=1.0, ste="clipped").sum().backward()
    >>> x.grad
    tensor([1., 1., 0.])
    """
    import torch

    if ste not in list(Ste):
        raise unknown("ste", ste, [choice.value for choice in Ste])
    plain = x.detach()
    if not torch.is_grad_enabled():
        return fmt.quantize(plain, scale, clip, out, rng, **extra)
    if out is not None:
        raise MacloomError("out: must be None for a tensor that requires a gradient; detach it, or use the result")
    if ste == Ste.IDENTITY:
        inside = None
        values = fmt.quantize(plain, scale, clip, rng=rng, **extra)
    else:
        given = fmt.calibrate(plain, clip) if scale is None else scale
        values = fmt.quantize(plain, given, clip, rng=rng, **extra)
        inside = torch.from_numpy(_inside(fmt, as_float32(plain), given, clip)).to(x.device)
    return _function().apply(x, values, inside)


def _inside(fmt: TensorFormat, x: np.ndarray, scale: Any, clip: float | None) -> np.ndarray:
    """Say which elements lie in the range of their scale, ends included."""
    if not isinstance(fmt, Scaled | Block) or type(fmt)._encode not in (Scaled._encode, Block._encode):
        raise MacloomError(f"ste: format {fmt.name!r} has no single range for each scale; use ste='identity'")
    if fmt.element.bits > MAX_TABLE_BITS:
        return np.ones(x.shape, bool)
    rows, given = rows_of(x), np.asarray(as_float32(scale, "scale"))
    if isinstance(fmt, Scaled):
        spread = fmt._row_scales(given, x.shape)
        block = rows.shape[1] // spread.shape[1]
    else:
        inner, _, outer = fmt._inner(x, given, float(clip_share(clip)))
        spread, block = inner * outer, fmt.size
    limits = np.repeat(spread, block, axis=1)[:, : rows.shape[1]]
    low, high = np.float32(fmt.element.min_value), np.float32(fmt.element.max_value)
    with np.errstate(over="ignore"):
        return ((rows >= low * limits) & (rows <= high * limits)).reshape(x.shape)
