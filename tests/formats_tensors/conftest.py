"""Tensors for the tests of dense-plus-sparse formats."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest


@pytest.fixture(scope="session")
def heavy() -> Callable[..., np.ndarray]:
    """Give float32 tensors with a Gaussian body, a few large elements and one large column."""

    def make(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng([seed, *shape])
        x = rng.normal(size=shape) * np.where(rng.random(shape) < 0.03, 12, 1)
        if len(shape) > 1:
            x[..., shape[-1] // 2] *= 9
        return x.astype(np.float32)

    return make
