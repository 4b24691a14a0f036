"""Labels beside points, placed so that they cover neither points nor each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle in pixels."""

    x0: float
    y0: float
    x1: float
    y1: float

    def overlap(self, other: Box) -> float:
        """Return the common area.

        >>> Box(x0=0, y0=0, x1=2, y1=2).overlap(Box(x0=1, y0=1, x1=3, y1=3))
        1.0
        """
        width = min(self.x1, other.x1) - max(self.x0, other.x0)
        height = min(self.y1, other.y1) - max(self.y0, other.y0)
        return float(width * height) if width > 0 and height > 0 else 0.0

    def outside(self, other: Box) -> float:
        """Return the area that sticks out of `other`."""
        return (self.x1 - self.x0) * (self.y1 - self.y0) - self.overlap(other)


# Where a label may stand: (horizontal, vertical) direction from its point, best first.
DIRECTIONS = ((1, 0), (1, 1), (1, -1), (-1, 0), (-1, 1), (-1, -1), (0, 1), (0, -1))
DISTANCES = (7.0, 14.0, 22.0, 32.0, 44.0)


def place(
    points: Sequence[tuple[float, float]], sizes: Sequence[tuple[float, float]], frame: Box, obstacles: Sequence[Box]
) -> list[Box]:
    """Choose a box of each size near each point; earlier points choose first.

    All in pixels. A label takes the first spot without overlap, or else the spot with the least.
    """
    placed: list[Box] = []
    for (x, y), (width, height) in zip(points, sizes, strict=True):
        best, least = None, float("inf")
        for distance in DISTANCES:
            for dx, dy in DIRECTIONS:
                cx = x + dx * (distance + width / 2)
                cy = y + dy * (distance + height / 2) * (0.8 if dx else 1.0)
                box = Box(x0=cx - width / 2, x1=cx + width / 2, y0=cy - height / 2, y1=cy + height / 2)
                covered = sum(box.overlap(o) for o in (*obstacles, *placed)) + 3 * box.outside(frame)
                if covered < least - 1e-9:
                    best, least = box, covered
            if least <= 1e-9:
                break
        assert best is not None
        placed.append(best)
    return placed


def _around(point: tuple[float, float], half: float) -> Box:
    x, y = point
    return Box(x0=x - half, x1=x + half, y0=y - half, y1=y + half)


def _along(corners: Sequence[tuple[float, float]], spacing: float = 3.0) -> list[tuple[float, float]]:
    """Return points every `spacing` pixels along a line."""
    points = []
    for (x0, y0), (x1, y1) in pairwise(corners):
        steps = max(1, round(math.hypot(x1 - x0, y1 - y0) / spacing))
        points += [(x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps) for i in range(steps + 1)]
    return points


def label_points(
    ax: Any,
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    others: Sequence[tuple[float, float]] = (),
    *,
    lines: Sequence[Sequence[tuple[float, float]]] = (),
    size: float = 8.0,
) -> None:
    """Write each text near its point (data coordinates), clear of `points`, of `others` and of `lines`.

    Call it last: it needs the final limits of the axes. Labels that had to move away get a thin line.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from macloom.explore.style import INK, MUTED, figure_of

    figure = figure_of(ax)
    figure.draw_without_rendering()
    renderer = FigureCanvasAgg(figure).get_renderer()
    window = ax.get_window_extent(renderer)
    frame = Box(x0=window.x0, y0=window.y0, x1=window.x1, y1=window.y1)
    scale = figure.dpi / 72
    artists = [ax.text(0, 0, t, fontsize=size, color=INK, ha="center", va="center", linespacing=1.15) for t in texts]
    extents = [a.get_window_extent(renderer) for a in artists]
    sizes = [(e.width + 3 * scale, e.height + 1 * scale) for e in extents]
    here = [tuple(ax.transData.transform(p)) for p in points]
    obstacles = [_around(p, 4.5 * scale) for p in [*here, *(tuple(ax.transData.transform(p)) for p in others)]]
    for line in lines:
        obstacles += [_around(p, 1.0 * scale) for p in _along([tuple(ax.transData.transform(p)) for p in line])]
    inverse = ax.transData.inverted()
    for artist, (x, y), box in zip(artists, here, place(here, sizes, frame, obstacles), strict=True):
        artist.set_position(inverse.transform(((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2)))
        near = min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1)
        if math.hypot(near[0] - x, near[1] - y) > 12 * scale:
            ends = inverse.transform([(x, y), near])
            ax.plot(ends[:, 0], ends[:, 1], color=MUTED, linewidth=0.5, zorder=1)
