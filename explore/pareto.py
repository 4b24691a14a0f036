"""The points that no other point beats."""

from __future__ import annotations

from collections.abc import Sequence

from macloom.errors import MacloomError


def pareto_front(points: Sequence[Sequence[float]]) -> list[int]:
    """Return the indices of the points that no other point dominates, every objective minimised.

    A point dominates another if it is nowhere larger and somewhere smaller; equal points dominate
    neither, so that duplicates stay. Indices come in ascending order. In two objectives the cost is
    that of a sort.

    Raises:
        MacloomError: points of different length, or a NaN, which has no order.

    >>> pareto_front([(1, 4), (2, 2), (3, 3), (4, 1), (2, 2)])
    [0, 1, 3, 4]
    """
    rows = [tuple(float(v) for v in p) for p in points]
    for i, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise MacloomError(f"points[{i}]: must have {len(rows[0])} objectives like the first, not {len(row)}")
        if any(v != v for v in row):
            raise MacloomError(f"points[{i}]: must not hold NaN; leave out points without a value")
    if not rows or not rows[0]:
        return list(range(len(rows)))
    if len(rows[0]) == 2:
        return _front_of_two(rows)
    return [i for i, p in enumerate(rows) if not any(_dominates(q, p) for q in rows)]


def _dominates(q: tuple[float, ...], p: tuple[float, ...]) -> bool:
    return q != p and all(a <= b for a, b in zip(q, p, strict=True))


def _front_of_two(rows: list[tuple[float, ...]]) -> list[int]:
    front: list[int] = []
    best: tuple[float, ...] | None = None
    for i in sorted(range(len(rows)), key=lambda i: rows[i]):
        if best is None or rows[i][1] < best[1] or rows[i] == best:
            front.append(i)
            best = rows[i]
    return sorted(front)
