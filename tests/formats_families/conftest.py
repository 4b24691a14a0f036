"""Elements and inputs that the tests of the format families share."""

# Lists stand for arrays and strings for enumerations; numpy's stubs do not know float32 of a list.
# pyright: reportArgumentType=false, reportIndexIssue=false
from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from macloom.formats import (
    AdaptivFloat,
    AdditivePowerOfTwo,
    Binary,
    Codebook,
    ElementFormat,
    HiFloat8,
    LogFormat,
    Posit,
    PowerOfTwo,
    TanFormat,
    Ternary,
    UnitLog,
)
from macloom.formats.elements.codebook import af4, fp4_bnb, nf4

ELEMENTS: Sequence[ElementFormat] = [
    *(Posit(width=8, exponent_bits=es) for es in (0, 1, 2, 3)),
    Posit(width=3, exponent_bits=0),
    Posit(width=6, exponent_bits=1),
    PowerOfTwo(width=4),
    PowerOfTwo(width=4, domain="log"),
    PowerOfTwo(width=5, signed=False),
    PowerOfTwo(width=3, signed=False, domain="log"),
    *(AdditivePowerOfTwo(width=w) for w in (3, 4, 5, 6, 7)),
    AdditivePowerOfTwo(width=4, signed=False),
    LogFormat(integer_bits=4, fraction_bits=3),
    LogFormat(integer_bits=5, fraction_bits=2, domain="linear"),
    LogFormat(integer_bits=3, fraction_bits=0),
    UnitLog(width=4),
    UnitLog(width=4, fraction_bits=1),
    UnitLog(width=6, fraction_bits=2),
    HiFloat8(),
    AdaptivFloat(width=8, exponent_bits=4),
    AdaptivFloat(width=4, exponent_bits=2),
    AdaptivFloat(width=8, exponent_bits=4, definition="reference"),
    TanFormat(width=4),
    TanFormat(width=4, sides="two"),
    TanFormat(width=6, a=1.3),
    nf4(),
    nf4("upstream"),
    fp4_bnb(),
    fp4_bnb("upstream"),
    af4(),
    Codebook(label="thirds", levels=(0.1, 1 / 3, -2 / 3, 0.7, -9.25)),
    Ternary(),
    Binary(),
]


@pytest.fixture(params=ELEMENTS, ids=lambda e: f"{e.name}-{ELEMENTS.index(e)}")
def element(request: pytest.FixtureRequest) -> ElementFormat:
    return request.param


@pytest.fixture
def elements() -> Sequence[ElementFormat]:
    return ELEMENTS


def _around(points: np.ndarray) -> np.ndarray:
    """Return the float32 numbers nearest to each point and two neighbours on either side, and some others."""
    nearest = np.asarray(points, np.float32)
    steps = [nearest]
    for direction in (-np.inf, np.inf):
        step = nearest
        for _ in range(2):
            step = np.nextafter(step, np.float32(direction))
            steps.append(step)
    patterns = np.random.default_rng(7).integers(0, 1 << 32, 2000, np.uint32).view(np.float32)
    extremes = np.float32([0.0, -0.0, 1e-45, -1e-45, 1.1754944e-38, 3.4028235e38, -3.4028235e38, 1.0, -1.0, 0.5])
    return np.concatenate((*steps, patterns[np.isfinite(patterns)], extremes))


@pytest.fixture
def float32_around() -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that finds the float32 numbers which decide at the given points."""
    return _around
