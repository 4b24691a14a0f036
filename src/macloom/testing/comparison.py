"""What the checks of tensor formats share: samples of every shape, comparison bit for bit, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.outliers.ovp import Ovp
from macloom.formats.tensor import TensorFormat
from macloom.formats.tensors.block import Block
from macloom.formats.tensors.scaled import Scaled
from macloom.testing.inputs import first_difference, same_bits, say, shapes, stores_negatives, tensor

# Formats of these families take any finite tensor and follow its scale; others may say otherwise.
CORE = (Scaled, Block, Ovp)


def samples(fmt: TensorFormat) -> Iterator[np.ndarray]:
    """Yield a tensor of every shape in `shapes`."""
    signed = stores_negatives(fmt)
    for shape in shapes(fmt):
        yield tensor(fmt, shape, signed=signed)


def matrix(fmt: TensorFormat, seed: int = 0) -> np.ndarray:
    """Return one tensor of the richest shape that the format accepts."""
    return tensor(fmt, max(shapes(fmt), key=lambda s: (len(s) >= 2, len(s) <= 3, math.prod(s))), seed)


def check_same(fmt: TensorFormat, what: str, got: np.ndarray, want: np.ndarray, x: np.ndarray) -> None:
    """Raise AssertionError unless two results for the input `x` have the same type, shape and bits."""
    got, want = np.asarray(got), np.asarray(want)
    equal = got.dtype == want.dtype and got.shape == want.shape and bool(np.all(same_bits(got, want)))
    say(equal, f"{fmt.name}, shape {x.shape}: {what} differ in {first_difference(got, want, x)} ({got.dtype})")


def check_refuses(fmt: TensorFormat, what: str, call: Callable[[], object]) -> None:
    """Raise AssertionError unless `call` raises MacloomError."""
    try:
        call()
    except MacloomError:
        return
    raise AssertionError(f"{fmt.name}: accepts {what}; it must raise MacloomError")


def takes(fmt: TensorFormat, x: np.ndarray) -> bool:
    """Say whether the format stores tensors of the shape of `x`."""
    try:
        fmt.encode(np.ones_like(x))
    except MacloomError:
        return False
    return True
