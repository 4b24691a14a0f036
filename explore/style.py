"""How plots look: colours that stay apart for colour-blind readers, fonts, and SVG that is the same every time."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from macloom._files import write_atomically
from macloom.errors import MacloomError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito 2008, "Color universal design", without black, the yellow darkened for white paper; then more
# of medium lightness, which stand out on white and on black.
PALETTE = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#B8A800", "#7A6FD6", "#8A8F98", "#A63D57",
    "#2BB3A3", "#9C6B30",
)  # fmt: skip
PARTS = ("#0072B2", "#56B4E9", "#B8A800", "#E69F00", "#D55E00", "#009E73", "#CC79A7")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

# The SVG writer replaces these by CSS variables, so that a page can turn them for a dark background.
INK, MUTED, GRID, PAPER = "#1B1F24", "#5B636D", "#D8DCE1", "#FEFEFE"
CSS_VARIABLES = {INK: "--plot-ink", MUTED: "--plot-muted", GRID: "--plot-grid", PAPER: "--plot-paper"}

RC: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "path",
    "svg.hashsalt": "macloom",
}


@dataclass(frozen=True, kw_only=True)
class Style:
    """The colour and marker of one format in every plot of one result."""

    colour: str
    marker: str


def format_styles(names: Sequence[str]) -> dict[str, Style]:
    """Give each name a style by its place in the list; colours repeat with another marker.

    >>> styles = format_styles(["int4", "int8"])
    >>> styles["int4"].colour != styles["int8"].colour
    True
    """
    n = len(PALETTE)
    return {name: Style(colour=PALETTE[i % n], marker=MARKERS[i // n % len(MARKERS)]) for i, name in enumerate(names)}


@contextmanager
def plot_style() -> Iterator[None]:
    """Apply the look of the plots inside a `with` block."""
    import matplotlib

    with matplotlib.rc_context(cast(Any, RC)):
        yield


def new_axes(width: float = 7.0, height: float = 4.2) -> Any:
    """Return the axes of a new figure of this size in inches; no window or global state is involved."""
    from matplotlib.figure import Figure

    with plot_style():
        return Figure(figsize=(width, height), layout="constrained").subplots()


def figure_of(ax: Any) -> Figure:
    """Return the figure that holds `ax`."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure


def svg_text(figure: Figure, prefix: str = "", label: str = "") -> str:
    """Return the figure as an SVG element that can stand inside an HTML page.

    Ids get `prefix`, so that several figures fit one page; `label` is what a screen reader says. The
    ink colours become CSS variables with their value as fallback. Equal figures give equal text.
    """
    buffer = io.StringIO()
    with plot_style():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    for colour, variable in CSS_VARIABLES.items():
        text = re.sub(colour, f"var({variable}, {colour})", text, flags=re.IGNORECASE)
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    text = re.sub(r'((?:xlink:)?href="#|url\(#)', rf"\g<1>{prefix}", text)
    head = re.match(r"<svg[^>]*>", text)
    assert head is not None
    width, height = (float(v) for v in re.findall(r'(?:width|height)="([\d.]+)pt"', head.group())[:2])
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" role="img" '
        f'viewBox="0 0 {width:g} {height:g}" aria-label="{_escape(label)}" style="width: 100%; max-width: {width:g}pt">'
    )
    return opening + text[head.end() :]


PLOT_SUFFIXES = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}


def check_plot_path(option: str, path: Path) -> None:
    """Raise unless a plot can be written to a file of this name.

    Raises:
        MacloomError: the name ends in no known suffix.
    """
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise MacloomError(f"{option}: must be a .png, .svg or .pdf file, not {str(path)!r}")


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure on white as PNG, SVG or PDF, which the suffix decides, and return the path.

    Equal figures give equal bytes.

    Raises:
        MacloomError: another suffix.
    """
    check_plot_path("plot", path)
    buffer, suffix = io.BytesIO(), path.suffix.lower()
    with plot_style():
        figure.savefig(buffer, format=suffix[1:], dpi=150, facecolor="white", metadata=PLOT_SUFFIXES[suffix])
    return write_atomically(path, buffer.getvalue())


def _escape(text: str) -> str:
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), ('"', "&quot;")):
        text = text.replace(character, entity)
    return text


def eng(value: float, unit: str) -> str:
    """Write a quantity with three significant digits and a prefix.

    >>> eng(0.2457, "s"), eng(2.048e12, "MAC/s"), eng(0.0, "J")
    ('246 ms', '2.05 TMAC/s', '0 J')
    """
    exponent = math.floor(math.log10(abs(value)) / 3) if value else 0
    digits = f"{value / 1000.0**exponent:.3g}"
    if abs(float(digits)) >= 1000:
        exponent, digits = exponent + 1, f"{value / 1000.0 ** (exponent + 1):.3g}"
    prefixes = {-5: "f", -4: "p", -3: "n", -2: "µ", -1: "m", 0: "", 1: "k", 2: "M", 3: "G", 4: "T", 5: "P"}
    if exponent not in prefixes:
        return f"{value:.3g} {unit}"
    return f"{digits} {prefixes[exponent]}{unit}"


def axes_or_new(ax: Any, width: float, height: float) -> Any:
    """Return `ax`, or the axes of a new figure for None."""
    return new_axes(width, height) if ax is None else ax


def require_data(data: Sequence[Any], what: str) -> None:
    """Raise unless there is something to draw."""
    if not data:
        raise MacloomError(f"plot: must have at least one {what} to draw")


def legend_below(ax: Any, columns: int) -> None:
    """Put the legend under the label of the x axis, whatever the height of the axes."""
    from matplotlib.transforms import ScaledTranslation, blended_transform_factory

    figure = figure_of(ax)
    below = blended_transform_factory(figure.transFigure, ax.transAxes)
    below += ScaledTranslation(4 / 72, -34 / 72, figure.dpi_scale_trans)
    ax.legend(
        loc="upper left", bbox_to_anchor=(0, 0), bbox_transform=below, borderaxespad=0, ncols=columns,
        handlelength=1.1, columnspacing=1.3,
    )  # fmt: skip


def powers_of_ten(axis: Any) -> None:
    """Label a logarithmic axis 10⁻², 10⁻¹, ... as plain text, which draws much faster than formulas do."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value)))
    axis.set_minor_formatter(NullFormatter())


def power_of_ten(value: float) -> str:
    """Write a power of ten with a raised exponent.

    >>> power_of_ten(0.001), power_of_ten(1e12)
    ('10⁻³', '10¹²')
    """
    return "10" + str(round(math.log10(value))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
