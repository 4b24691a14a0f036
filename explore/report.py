"""One HTML page that explains a result: offline, without scripts, light or dark, ready to print."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from macloom._files import write_atomically
from macloom.arch import Array, ProcessingElement
from macloom.explore.records import ENERGY_PARTS, AcceleratorInfo, Run
from macloom.explore.result import DemoResult, parse_result
from macloom.explore.style import eng
from macloom.explore.summary import chosen_run, headline, pairs_table, showcase, summary_table
from macloom.explore.text_table import Cell, Column, Mark, Table, significant
from macloom.explore.toml import dump_toml

if TYPE_CHECKING:
    from markupsafe import Markup

SECTIONS = (
    ("table", "Results"),
    ("accuracy-energy", "Accuracy against energy"),
    ("values", "Values"),
    ("cost", "Time and energy"),
    ("accelerators", "Accelerators"),
    ("roofline", "Roofline"),
    ("utilisation", "Utilisation"),
    ("operations", "Operations"),
    ("layers", "Layers"),
    ("trust", "Measured or modelled"),
    ("constants", "Constants"),
    ("configuration", "Configuration"),
    ("reproduce", "Reproduce"),
)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A plot as an SVG element, with its caption."""

    svg: Markup
    caption: str


def write_report(result: DemoResult | Mapping[str, Any], path: str | Path) -> Path:
    """Write the report of a result (records, or the document of a result.json) and return its path.

    Raises:
        MacloomError: the document is not a result.
    """
    return write_atomically(path, render_report(result))


def render_report(result: DemoResult | Mapping[str, Any]) -> str:
    """Return the report as the text of one HTML file. Equal results give equal text."""
    from jinja2 import Environment, StrictUndefined

    result = parse_result(result)
    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    template = environment.from_string(resources.files("macloom.explore").joinpath("report.html.j2").read_text("utf-8"))
    return template.render(
        result=result,
        table=summary_table(result),
        pairs=pairs_table(result),
        headline=headline(result),
        sections=SECTIONS,
        pictures=draw_pictures(result),
        operations=list(_operation_tables(result)),
        layers=list(_layer_tables(result)),
        constants=_constants(result),
        configuration=list(_configuration(result)),
        energy_kinds=_energy_kinds(result),
        eng=eng,
    )


def draw_pictures(result: DemoResult) -> dict[str, list[Picture]]:
    """Draw the plots of the report, by section."""
    from macloom.explore import heat_plot, pareto_plot, plots
    from macloom.explore.style import format_styles

    styles = format_styles([f.name for f in result.formats])
    pictures: dict[str, list[Picture]] = {
        section: [] for section in ("accuracy_energy", "values", "cost", "roofline", "utilisation")
    }

    def add(section: str, ax: Any, title: str, caption: str) -> None:
        pictures[section].append(_picture(ax, f"{section}-{len(pictures[section])}-", title, caption))

    for model in result.models:
        points = pareto_plot.accuracy_energy_points(result, model.name)
        if points:
            ax = pareto_plot.accuracy_energy(points, styles=styles)
            text = (
                f"Prefill of {model.name} itself: left uses less energy, down is closer to the unquantized model. "
                f"Anything closer than {pareto_plot.KL_FLOOR:.6f} is drawn there."
            )
            add("accuracy_energy", ax, f"{model.name}: accuracy against energy", text)
    for values in result.values:
        ax = plots.value_strips(values, styles=styles)
        text = (
            f"Above: how often each magnitude occurs in {values.tensor}. Below: every magnitude that each format used "
            "for it, with the scales that accuracy was measured with."
        )
        add("values", ax, f"{values.model}: {values.role}", text)
    workload = result.cost_workload()
    for phase in ("prefill", "decode"):
        runs = [r for f in result.formats if (r := chosen_run(result, f.name, phase)) is not None]
        if runs:
            text = "Each format on the accelerator with its lowest energy-delay product in prefill."
            add("cost", plots.latency_bars(runs), f"{workload} {phase}: latency", text)
            add("cost", plots.energy_bars(runs), f"{workload} {phase}: energy", text)
    for accelerator in result.accelerators:
        runs = showcase(result, accelerator.name)
        if runs:
            text = (
                f"Each point is a matrix product of {workload}; the roof is the peak of {accelerator.name} on "
                f"{runs[0].format} operands and its DRAM bandwidth."
            )
            add("roofline", plots.roofline(runs), f"{accelerator.name} running {runs[0].format}", text)
        for run in runs:
            text = (
                f"Left: when each operation of {run.workload} runs, coloured by how many of the array's elements "
                "multiply on average. Right: how long each element multiplies, over the whole run and in the products "
                "that take longest."
            )
            figure = heat_plot.heat_figure(run.ops, array_of(accelerator))
            title = f"{run.workload} {run.phase}, {run.format} on {run.accelerator}"
            add("utilisation", figure.axes[0], title, text)
    return pictures


def array_of(accelerator: AcceleratorInfo) -> Array:
    """Return the array that a result's accelerator has."""
    fields = accelerator.configuration["array"]
    return Array(**{**fields, "pe": ProcessingElement(**fields["pe"])})


def _picture(ax: Any, prefix: str, title: str, caption: str) -> Picture:
    from markupsafe import Markup

    from macloom.explore.style import figure_of, plot_style, svg_text

    with plot_style():
        ax.set_title(title, pad=8)
    svg = svg_text(figure_of(ax), prefix, f"{title}. {caption}")
    return Picture(svg=Markup(svg), caption=caption)


def _operation_tables(result: DemoResult) -> Iterator[tuple[str, Table]]:
    for phase in ("prefill", "decode"):
        for f in result.formats:
            run = chosen_run(result, f.name, phase)
            if run is not None:
                cost = f"{significant(run.seconds)} s, {significant(run.energy_j)} J"
                yield f"{run.workload} {phase}, {run.format} on {run.accelerator}: {cost}", operations_table(run)


def operations_table(run: Run) -> Table:
    """Build the table of one run's operations; shares are of the run's total."""
    parts = [k for k in ENERGY_PARTS if any(op.energy.get(k) for op in run.ops)]
    cycles, cycle_unit = (1e6, "10⁶") if run.cycles >= 1e8 else (1e3, "10³")
    joule, joule_unit = (1.0, "J") if run.energy_j >= 0.1 else (1e-3, "mJ") if run.energy_j >= 1e-4 else (1e-6, "µJ")
    columns = [
        Column(title="operation", left=True),
        Column(title="repeat"),
        Column(title="MACs", unit="10⁹"),
        Column(title="all", unit=cycle_unit, group="cycles"),
        Column(title="share", unit="%", group="cycles"),
        *(Column(title=t, unit=cycle_unit, group="cycles") for t in ("compute", "stall", "vector")),
        Column(title="DRAM", unit="GB"),
        Column(title="bound by", left=True),
        *(Column(title=ENERGY_PARTS[k].removesuffix(" unit"), unit=joule_unit, group="energy") for k in parts),
        Column(title="share", unit="%", group="energy"),
    ]
    rows = []
    for op in run.ops:
        texts = [
            op.name,
            str(op.repeat),
            _brief(op.macs / 1e9),
            _brief(op.cycles / cycles),
            f"{100 * op.cycles / max(1, run.cycles):.1f}",
            *(_brief(c / cycles) for c in (op.compute_cycles, op.stall_cycles, op.vector_cycles)),
            _brief(op.dram_bits / 8e9),
            op.bound,
            *(_brief(op.energy.get(k, 0.0) / joule) for k in parts),
            f"{100 * op.energy_j / run.energy_j:.1f}",
        ]
        rows.append(tuple(Cell(text=t) for t in texts))
    return Table(title="Operations", columns=tuple(columns), rows=tuple(rows))


def _brief(value: float) -> str:
    return "<0.001" if 0 < value < 0.001 else significant(value, 3)


def _energy_kinds(result: DemoResult) -> list[tuple[str, list[str]]]:
    """Return for each part of the energy how the weakest constant behind it is known, over all runs."""
    kinds = {
        part: sorted({r.energy_kinds[part] for r in result.runs if part in r.energy_kinds}) for part in ENERGY_PARTS
    }
    return [(ENERGY_PARTS[part], found) for part, found in kinds.items() if found]


def _layer_tables(result: DemoResult) -> Iterator[tuple[str, Table]]:
    for model in result.models:
        cells = [c for f in result.formats if (c := result.cell(f.name, model.name)) is not None]
        names = list(dict.fromkeys(op for c in cells for op in c.sqnr_db))
        columns = (Column(title="product", left=True), *(Column(title=c.format) for c in cells))
        rows = tuple(
            (Cell(text=n.removeprefix("model.")), *(_decibel(c.sqnr_db, n, c.collapsed) for c in cells)) for n in names
        )
        if rows:
            yield model.name, Table(title="Noise", columns=columns, rows=rows)


def _decibel(sqnr_db: Mapping[str, float | None], name: str, collapsed: bool) -> Cell:
    if name not in sqnr_db:
        return Cell(text="-", mark=Mark.MISSING)
    value = sqnr_db[name]
    return Cell(text="exact" if value is None else f"{value:.1f}", mark=Mark.COLLAPSED if collapsed else Mark.PLAIN)


def _constants(result: DemoResult) -> list[tuple[str, list[Any]]]:
    technologies = dict.fromkeys(c.technology for c in result.constants)
    return [(t, [c for c in result.constants if c.technology == t]) for t in technologies]


def _configuration(result: DemoResult) -> Iterator[tuple[str, str]]:
    for a in result.accelerators:
        yield f"accelerator {a.name}", dump_toml(a.configuration)
    for name, recipe in result.recipes.items():
        yield f"recipe {name}", dump_toml(recipe)
    for w in result.workloads:
        yield f"workload {w.name}, {w.phase}", dump_toml(w.to_dict())
