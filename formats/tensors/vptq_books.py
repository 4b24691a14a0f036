"""What a VPTQ matrix is decoded by, and encoding column after column with the errors carried on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from macloom.formats.tensors.half import to_half
from macloom.formats.tensors.vector_codebook import VectorCodebook

DAMPING = 0.01  # share of the mean diagonal that is added to a Hessian, as in the released code


@dataclass(frozen=True, eq=False)
class Books:
    """What a matrix is decoded by.

    Attributes:
        order: int64 (columns), the original column at each place.
        gain, shift: float32 (columns), each column's affine map after decoding, float16 values; None without.
        outlier: float32 (entries, width), the codebook of outlier columns; None where there are none.
        groups: the codebooks of each group of columns, residual entries below the others.
        chosen: how many outlier columns there are.
        book, outlier_book: formats of a group's vectors and of outlier columns' vectors.
    """

    order: np.ndarray
    gain: np.ndarray | None
    shift: np.ndarray | None
    outlier: np.ndarray | None
    groups: list[np.ndarray]
    chosen: int
    book: VectorCodebook
    outlier_book: VectorCodebook

    @property
    def each(self) -> int:
        """Columns of a group."""
        return (len(self.order) - self.chosen) // len(self.groups)

    def slices(self) -> list[slice]:
        """Return where each group's columns are, outlier columns being the first."""
        return [slice(self.chosen + g * self.each, self.chosen + (g + 1) * self.each) for g in range(len(self.groups))]

    def encode_column(self, column: np.ndarray, place: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of a column's vectors, the nearest ones, and the values that they stand for."""
        fmt, table = self.outlier_book, self.outlier
        if place >= self.chosen:
            fmt, table = self.book, self.groups[(place - self.chosen) // self.each]
        assert table is not None
        codes, _, _ = fmt._encode(column[:, None].astype(np.float32), table, 1.0)
        return codes[:, 0], fmt._values(codes, table, (len(column), 1))[:, 0]


def normalisation(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each column's range and minimum, as float16 values."""
    low, high = x.min(axis=0), x.max(axis=0)
    return to_half(np.where(high > low, high - low, np.float32(1))), to_half(low)


def prepared(
    x: np.ndarray, order: np.ndarray, gain: np.ndarray | None, shift: np.ndarray | None, hessian: np.ndarray | None
) -> np.ndarray:
    """Return the matrix that codebooks stand for: normalised, dead inputs zero, columns in order."""
    work = x if gain is None or shift is None else (x - shift) / np.maximum(gain, np.float32(2.0**-24))
    if hessian is not None:
        work = np.where(np.diag(hessian) == 0, np.float32(0), work)
    return np.ascontiguousarray(work[:, order], np.float32)


def feedback(work: np.ndarray, books: Books, hessian: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Encode column after column, each error moved into the columns that follow (GPTQ; VPTQ's `vptq`).

    The error of a column, divided by its entry on the diagonal of the upper Cholesky factor of the inverse
    Hessian, is taken from the columns behind it in proportion to that factor's row.

    Args:
        work: float32, as `prepared` returns it.
        hessian: float64 (columns x columns), in the same order of columns.

    Returns:
        The indices of every column, and what was left of each when it was encoded (float64).
    """
    columns = work.shape[1]
    damped = hessian + np.diag(np.where(np.diag(hessian) == 0, 1.0, 0.0))
    damped = damped + np.eye(columns) * (DAMPING * np.diag(damped).mean())
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    rest, left = work.astype(np.float64), np.zeros(work.shape)
    indices = []
    for j in range(columns):
        index, values = books.encode_column(rest[:, j], j)
        indices.append(index)
        left[:, j] = rest[:, j] - values
        rest[:, j + 1 :] -= np.outer(left[:, j] / upper[j, j], upper[j, j + 1 :])
    return indices, left
