"""The pictures of `docs/rebuild_formats.py`: where the values of formats lie, and how far apart."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import cache

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from macloom.explore.style import INK, PALETTE, plot_style
from macloom.formats import format_entry, get_format, list_formats
from macloom.formats.describe import fixed_elements
from macloom.formats.describe_error import one_sided, samples
from macloom.formats.families import Family

DRAWN_BITS = 8
DRAWN_FORMATS = 16


def natural(name: str) -> list[str | int]:
    """Return a sort key by which int4 comes before int16."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def members(family: Family) -> list[str]:
    """Return the catalog names of a family."""
    return sorted((n for n in list_formats() if format_entry(n).family == family), key=natural)


@dataclass(frozen=True)
class Grid:
    """What one row of a picture shows: values, and whether codes have them whatever the data are."""

    labels: tuple[str, ...]
    values: tuple[float, ...]
    fixed: bool


@cache
def grids(family: Family) -> list[Grid]:
    """Return the rows of a family's picture, values relative to the largest of the format; equal ones once."""
    drawn: dict[tuple[tuple[float, ...], bool], list[str]] = {}
    for name in members(family):
        fmt = get_format(name)
        found = fixed_elements(fmt)
        if any(e.bits > DRAWN_BITS for e in found.values()):
            continue
        largest = max((float(np.abs(e.encodable[0]).max()) for e in found.values()), default=0.0)
        for use, element in found.items():
            label = name if len(found) == 1 else f"{name} {use}"
            drawn.setdefault((_relative(element.encodable[0], largest), True), []).append(label)
        if not found:
            x = np.abs(samples()["gaussian"]) if one_sided(fmt) else samples()["gaussian"]
            values = np.unique(np.asarray(fmt.quantize(x))[0])
            drawn.setdefault((_relative(values, float(np.abs(values).max())), False), []).append(f"{name}, a row")
    rows = [Grid(tuple(labels), values, fixed) for (values, fixed), labels in drawn.items()]
    return rows[:DRAWN_FORMATS]


def _relative(values: np.ndarray, largest: float) -> tuple[float, ...]:
    return tuple(float(f"{v / largest:.6g}") for v in values)


def data_hash(family: Family) -> str:
    """Return what tells whether a picture is that of today's values."""
    return hashlib.sha256(json.dumps([astuple(g) for g in grids(family)]).encode()).hexdigest()[:16]


def draw(family: Family) -> Figure:
    """Return the figure of a family's grids: where the values lie, and how far apart for their size."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    rows = grids(family)
    spaced = [g for g in rows if g.fixed and sum(v > 0 for v in g.values) > 1]
    figure = Figure(figsize=(8.6, 0.95 + 0.27 * max(len(rows), 4)), layout="constrained")
    axes = figure.subplots(1, 2 if spaced else 1, width_ratios=(3, 2) if spaced else None, squeeze=False)[0]
    left = axes[0]
    for row, grid in enumerate(rows):
        y = np.tile([row - 0.32, row + 0.32, np.nan], len(grid.values))
        colour = PALETTE[row % len(PALETTE)]
        left.plot(np.repeat(grid.values, 3), y, color=colour, linewidth=0.7, solid_capstyle="butt")
        if grid in spaced:
            positive = np.array([v for v in grid.values if v > 0])
            axes[1].plot(np.log2(positive[:-1]), np.diff(positive) / positive[:-1], color=colour, linewidth=1.1)
    left.set_yticks(range(len(rows)), [_label(g.labels) for g in rows], color=INK)
    left.set_ylim(len(rows) - 0.4, -0.6)
    left.set_xlabel("value / largest value")
    left.grid(False)
    if spaced:
        right = axes[1]
        right.set_yscale("log")
        right.set_xlabel("log2(value / largest value)")
        right.set_ylabel("relative step")
        right.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        right.yaxis.set_minor_formatter(NullFormatter())
    return figure


def _label(names: Sequence[str]) -> str:
    return ", ".join(names[:2]) + (f" + {len(names) - 2}" if len(names) > 2 else "")


def picture(family: Family) -> str:
    """Return a family's picture as SVG, with the mark of its data."""
    buffer = io.StringIO()
    with plot_style(), matplotlib.rc_context({"svg.fonttype": "none", "path.simplify": False}):
        draw(family).savefig(buffer, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", buffer.getvalue(), flags=re.DOTALL)
    text = re.sub(r"(\d\.\d{2})\d+", r"\1", text.replace("'DejaVu Sans'", "'DejaVu Sans', sans-serif"))
    text = "\n".join(line.rstrip() for line in text.splitlines())
    return text.replace("<svg ", f"<!-- data {data_hash(family)} -->\n<svg ", 1) + "\n"
