"""`macloom quantize FILE.npy`: what a format does to a tensor."""

from __future__ import annotations

import math
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from macloom import __version__
from macloom._files import write_atomically
from macloom._noise import sqnr_db
from macloom.cli.console import Console
from macloom.errors import MacloomError

if TYPE_CHECKING:
    import numpy as np


def run(options: Namespace, console: Console) -> None:
    """Quantize the array in a file, print the error and write the values if asked to."""
    import numpy as np

    from macloom.formats import get_format

    fmt = get_format(options.format)
    x = load_array(options.file)
    encoded = fmt.encode(x)
    values = np.asarray(encoded.decode(), np.float32)
    result: dict[str, Any] = {
        "file": str(options.file),
        "shape": list(x.shape),
        "format": fmt.name,
        **quantization_error(x, values),
        "bits": encoded.bits,
        "bits_per_element": encoded.bits / x.size,
        "seed": console.seed,
        "version": __version__,
    }
    if options.out:
        write_atomically(options.out, lambda file: np.save(file, values, allow_pickle=False))
        result["out"] = str(options.out)
        console.note(f"wrote {options.out}")
    console.emit(
        result,
        lambda: console.lines(
            [
                ("format", fmt.name),
                ("elements", f"{x.size} ({' x '.join(map(str, x.shape)) or 'scalar'})"),
                ("SQNR", _decibels(result["sqnr_db"])),
                ("MSE", f"{result['mse']:.6g}"),
                ("largest error", f"{result['max_error']:.6g}"),
                ("bits per element", f"{result['bits_per_element']:.6g}"),
            ]
        ),
    )


def load_array(path: Path) -> np.ndarray:
    """Read a `.npy` file of numbers as float32, without ever unpickling.

    Raises:
        MacloomError: not a whole numpy file, not numbers, or beyond the range of float32.
    """
    import numpy as np

    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise MacloomError(f"{path}: must be a whole .npy file of numbers; {error}") from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise MacloomError(f"{path}: must hold one array (.npy), not an archive of several (.npz)")
    if array.dtype.kind not in "fiu":
        raise MacloomError(f"{path}: must hold real numbers, not {array.dtype}")
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float32)
    if np.isinf(narrow).any() and np.isfinite(array).all():
        raise MacloomError(f"{path}: must fit in float32, whose largest value is {np.finfo(np.float32).max:.6g}")
    return narrow


def quantization_error(x: np.ndarray, values: np.ndarray) -> dict[str, float]:
    """Return SQNR (dB; infinite when exact), mean squared error and largest absolute error, in float64."""
    import numpy as np

    signal = x.astype(np.float64)
    noise = values.astype(np.float64) - signal
    power, error = float(np.mean(signal**2)), float(np.mean(noise**2))
    return {"sqnr_db": sqnr_db(power, error), "mse": error, "max_error": float(np.max(np.abs(noise)))}


def _decibels(value: float) -> str:
    return "exact" if value == math.inf else f"{value:.2f} dB"
