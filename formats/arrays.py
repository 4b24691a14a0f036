"""numpy and torch tensors in, the same kind out, without copying where the memory allows it."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np

from macloom.errors import MacloomError


class NonFiniteError(MacloomError):
    """A tensor holds NaN or infinities that its format or policy does not take."""


def is_torch(x: Any) -> bool:
    """Say whether `x` is a torch tensor or parameter, without importing torch."""
    return type(x).__module__.split(".")[0] == "torch"


def _from_torch(x: Any, what: str) -> np.ndarray:
    """Return a torch tensor as numpy: its own memory for strided float32 of the CPU, a copy of anything else."""
    if x.is_meta or str(x.layout) != "torch.strided" or x.is_complex():
        kind = "meta" if x.is_meta else f"{str(x.layout).removeprefix('torch.')} {str(x.dtype).removeprefix('torch.')}"
        raise MacloomError(f"{what}: must be a dense tensor of real numbers with data, not {kind}")
    return x.detach().cpu().float().numpy()


def as_float32(x: Any, what: str = "tensor") -> np.ndarray:
    """Return `x` as a C-contiguous float32 array that shares its memory where possible.

    Contiguous float32 of numpy, or of torch on the CPU, is not copied. Narrower floats, float64, integers,
    strided views and tensors of other devices are.

    Raises:
        MacloomError: `x` is empty or holds no real numbers.
    """
    if is_torch(x):
        x = _from_torch(x, what)
    try:
        array = np.asarray(x)
    except ValueError as error:
        raise MacloomError(f"{what}: must be an array of real numbers with equally long rows ({error})") from error
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise MacloomError(f"{what}: must hold real numbers, not {array.dtype}")
    if array.size == 0:
        raise MacloomError(f"{what}: must hold at least one element, not shape {array.shape}")
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes an infinity, which formats refuse
        return np.ascontiguousarray(array, np.float32).reshape(array.shape)


def clip_share(clip: float | None) -> np.float32:
    """Return the share of the largest magnitude that lands on the largest normal value, 1 unless given.

    Raises:
        MacloomError: it is not a positive number.
    """
    if clip is not None and not (isinstance(clip, Real | np.number) and 0 < clip < float("inf")):  # type: ignore[operator]
        raise MacloomError(f"clip: must be positive and finite, not {clip!r}")
    return np.float32(1 if clip is None else clip)


def largest_factor(value: float) -> np.float32:
    """Return the largest float32 whose product with `value` is finite."""
    limit = float(np.finfo(np.float32).max)
    factor = np.float32(min(limit / value, limit))
    return factor if float(factor) * value <= limit else np.nextafter(factor, np.float32(0))


def rows_of(x: np.ndarray) -> np.ndarray:
    """View a tensor as rows x length, the last axis being the length; a scalar is one row of one."""
    return x.reshape(-1, x.shape[-1]) if x.ndim else x.reshape(1, 1)


def like(template: Any, result: np.ndarray) -> Any:
    """Return `result` as torch, on the device of `template`, if that was torch."""
    if is_torch(template):
        import torch

        return torch.from_numpy(result).to(template.device)
    return result


def output_for(template: Any, out: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return the float32 array to write to: the caller's `out`, or a fresh one.

    Raises:
        MacloomError: `out` has another shape or type, or is not contiguous.
    """
    if out is None:
        return np.empty(shape, np.float32)
    array = _output_array(out)
    if not isinstance(array, np.ndarray) or array.dtype != np.float32 or array.shape != shape:
        got = f"{getattr(array, 'dtype', type(array).__name__)} of shape {getattr(array, 'shape', '?')}"
        raise MacloomError(f"out: must be float32 of shape {shape}, not {got}")
    if not array.flags.c_contiguous or not array.flags.writeable:
        raise MacloomError("out: must be contiguous and writable; pass a fresh array")
    return array


def _output_array(out: Any) -> Any:
    """Return a caller's `out` as numpy sees it, its memory shared."""
    if not is_torch(out):
        return out
    if out.device.type != "cpu":
        raise MacloomError(f"out: must be on the CPU, where kernels run, not on {out.device}")
    return out.detach().numpy()


def shares_memory(x: np.ndarray, out: Any) -> bool:
    """Say whether writing to a caller's `out` may change `x`."""
    array = _output_array(out)
    return isinstance(array, np.ndarray) and np.may_share_memory(x, array)


def same_memory(x: np.ndarray, out: Any) -> bool:
    """Say whether a caller's `out` begins where `x` does."""
    array = _output_array(out)
    return array.__array_interface__["data"][0] == x.__array_interface__["data"][0]


def spoil(out: Any) -> None:
    """Fill a caller's `out` with NaN, so that what was half done is not taken for a result."""
    array = _output_array(out)
    if isinstance(array, np.ndarray) and array.dtype == np.float32 and array.flags.writeable:
        array.fill(np.nan)


def check_finite(worst: np.ndarray, name: str) -> None:
    """Raise if the largest magnitude (bits or float32) of any row is infinite or NaN."""
    bits = worst.view(np.uint32)
    if bits.size and int(bits.max()) >= 0x7F800000:
        what = "NaN" if int(bits.max()) > 0x7F800000 else "infinity"
        raise NonFiniteError(f"format {name!r}: the tensor holds {what}; clean it or choose a format that stores it")


def check_number(worst: np.ndarray, name: str) -> None:
    """Raise if the largest magnitude of any row is NaN; infinities are taken."""
    if np.isnan(worst).any():
        raise NonFiniteError(
            f"format {name!r}: the tensor holds NaN; clean it, or choose a policy and a format that take it"
        )
