"""How much noise a format adds to three kinds of data, always the same ones."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from macloom.formats.tensor import TensorFormat

SHAPE = (256, 256)
SEED = 20260
OUTLIERS, LARGER = 1 / 256, 16.0
DATA = {
    "gaussian": "standard normal",
    "laplace": "Laplace, variance 1",
    "outlier": "standard normal, one element in 256 (at random) times 16",
}


@lru_cache(maxsize=1)
def samples() -> dict[str, np.ndarray]:
    """Return the data: float32 of 256 rows of 256 elements, by name.

    >>> [x.shape for x in samples().values()]
    [(256, 256), (256, 256), (256, 256)]
    """
    rng = np.random.default_rng(SEED)
    normal = rng.standard_normal(SHAPE)
    made = {
        "gaussian": normal,
        "laplace": rng.laplace(0, 1 / math.sqrt(2), SHAPE),
        "outlier": np.where(rng.random(SHAPE) < OUTLIERS, LARGER * normal, normal),
    }
    for array in made.values():
        array.flags.writeable = False
    return {name: array.astype(np.float32) for name, array in made.items()}


def one_sided(fmt: TensorFormat) -> bool:
    """Whether a format stores no negative values, so that it is measured on magnitudes."""
    tiny = np.array([[-1.0, 1.0]], np.float32)
    try:
        return bool(fmt.quantize(tiny)[0, 0] >= 0)
    except ValueError:
        return True


def noise(fmt: TensorFormat) -> dict[str, float]:
    """Return the signal to quantization noise ratio in dB on each kind of data, calibrated on that data.

    A format without negative values gets magnitudes. Exact reproduction is infinite.

    >>> from macloom.formats import get_format
    >>> {name: round(db, 1) for name, db in noise(get_format("mxint8")).items()}
    {'gaussian': 41.6, 'laplace': 40.1, 'outlier': 36.8}
    """
    positive = one_sided(fmt)
    found = {}
    for name, data in samples().items():
        x = np.abs(data) if positive else data
        error = np.square(np.asarray(fmt.quantize(x), np.float64) - x).sum()
        found[name] = 10 * math.log10(float(np.square(x, dtype=np.float64).sum() / error)) if error else math.inf
    return found
