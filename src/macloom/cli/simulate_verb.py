"""`macloom simulate`: what a workload costs on an accelerator."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from macloom import __version__
from macloom.arch import load_accelerator
from macloom.cli import scalesim
from macloom.cli.console import Console, jsonable
from macloom.cli.operations import note_unmatched
from macloom.errors import MacloomError
from macloom.units import format_quantity
from macloom.workloads import load_recipe, load_workload
from macloom.workloads.by_layer import for_recipe, unmatched
from macloom.workloads.routing import load_routing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from macloom.explore.records import Run
    from macloom.sim import Result


def run(options: Namespace, console: Console) -> None:
    """Simulate a workload, print cycles, traffic and energy, and write the files if asked to."""
    if options.scalesim_config or options.topology:
        return scalesim.run(options, console)
    if None in (options.workload, options.accelerator, options.recipe):
        raise MacloomError(
            "the following arguments are required: --workload, --accelerator, --recipe; or --scalesim-config and "
            "--topology (macloom simulate --help)"
        )
    from macloom.explore.cost import run_record
    from macloom.explore.style import check_plot_path
    from macloom.sim import mapping_of, simulate

    for option in PLOTS:
        if path := getattr(options, option):
            check_plot_path(f"--{option}", path)
    workload = load_workload(
        options.workload,
        phase=options.phase,
        sequence=options.sequence,
        batch=options.batch,
        context=options.context,
        head_tokens=options.head_tokens,
        chunk=options.chunk,
        source=options.source,
        routing=load_routing(options.routing),
    )
    accelerator = load_accelerator(options.accelerator)
    recipe = load_recipe(options.recipe)
    idle = unmatched(workload, recipe)
    note_unmatched(console, recipe, idle, workload.name)
    workload = for_recipe(workload, recipe)  # layer by layer where the recipe tells layers apart
    with console.working(f"simulating {workload.name} in {recipe.name} on {accelerator.name}"):
        result = simulate(
            workload,
            accelerator,
            recipe=recipe,
            dataflow=options.dataflow,
            objective=options.objective,
            fidelity=options.fidelity,
            mapping=options.mapping,
            prefetch=options.prefetch,
            residency=options.residency,
        )
    title = f"{workload.name} {workload.phase}, {recipe.name} on {accelerator.name}"
    record = run_record(result, workload, accelerator, recipe.name)
    pictures = {option: PLOTS[option](result, record, title) for option in PLOTS if getattr(options, option)}
    if options.save_mapping:
        console.note(f"wrote {mapping_of(result).save(options.save_mapping)}")
    data = {**result.to_dict(), "seed": console.seed, "version": __version__}
    data |= {"unmatched_overrides": list(idle)} if idle else {}
    if options.out:
        configuration = {
            "version": __version__,
            "seed": console.seed,
            "workload": {"name": workload.name, "phase": workload.phase, **workload.details},
            "recipe": recipe.to_dict(),
            "accelerator": accelerator.to_dict(),
        }
        for path in _write(options.out, configuration, data, result, record):
            console.note(f"wrote {path}")
    for option, figure in pictures.items():
        from macloom.explore.style import save_figure

        console.note(f"wrote {save_figure(figure, getattr(options, option))}")
    console.emit(data, lambda: _show(record, result, workload.details, console))


def _heatmap(result: Result, record: Run, title: str) -> Figure:
    from macloom.explore.heat_plot import heat_figure

    return heat_figure(result.ops, result.accelerator.array, title)


def _roofline(result: Result, record: Run, title: str) -> Figure:
    from macloom.explore.plots import roofline
    from macloom.explore.style import figure_of, plot_style

    ax = roofline([record])
    with plot_style():
        ax.set_title(title)
    return figure_of(ax)


PLOTS = {"heatmap": _heatmap, "roofline": _roofline}


def _write(
    directory: Path, configuration: dict[str, Any], data: dict[str, Any], result: Result, record: Run
) -> tuple[Path, ...]:
    from macloom.explore.files import ops_csv, write_together
    from macloom.explore.perfetto import trace_json, trace_of
    from macloom.explore.toml import dump_toml

    name = f"{record.workload} {record.phase}, {record.format} on {record.accelerator}"
    return write_together(
        directory,
        {
            "config.toml": dump_toml(configuration),
            "ops.csv": ops_csv([result]),
            "trace.json": trace_json(trace_of({name: result}, {"version": __version__})),
            "result.json": json.dumps(jsonable(data), indent=1, allow_nan=False) + "\n",
        },
    )


def _show(record: Run, result: Result, details: Mapping[str, Any], console: Console) -> None:
    from macloom.explore.records import ENERGY_PARTS
    from macloom.explore.report import operations_table
    from macloom.explore.text_table import print_table

    parts = ", ".join(f"{ENERGY_PARTS[part]} {format_quantity(joules, 'J')}" for part, joules in record.energy.items())
    setting = ", ".join(f"{name} {details[name]}" for name in ("sequence", "context", "batch") if name in details)
    bandwidth = record.dram_bits / record.seconds
    totals = result.totals()
    low_j, high_j, leakage_w = (totals[name] for name in ("energy_low_j", "energy_high_j", "leakage_w"))
    console.lines(
        [
            ("workload", f"{record.workload}, {record.phase}, {setting}"),
            ("recipe", record.format),
            ("accelerator", record.accelerator),
            ("cycles", f"{record.cycles:,}"),
            ("time", format_quantity(record.seconds, "s")),
            ("utilisation", f"{100 * record.utilisation:.2f} % of {record.peak_macs_per_s / 1e12:g} TMAC/s"),
            (
                "DRAM traffic",
                f"{format_quantity(record.dram_bits / 8, 'B')} at {format_quantity(bandwidth / 8, 'B/s')}",
            ),
            ("energy", f"{format_quantity(record.energy_j, 'J')}: {parts}"),
            ("energy per token", format_quantity(record.energy_j / record.tokens, "J")),
            ("energy bounds", f"{format_quantity(low_j, 'J')} to {format_quantity(high_j, 'J')}"),
            ("power", f"{format_quantity(result.power_w, 'W')}, of which {format_quantity(leakage_w, 'W')} leak"),
            ("area", _area(result)),
        ]
    )
    print()
    print_table(operations_table(record))


def _area(result: Result) -> str:
    """Return the area by kind of unit, buffers together; the vector unit's is not known."""
    parts: dict[str, float] = {}
    for part in result.hardware.parts:
        kind = part.unit.split()[-1] if not part.unit.startswith("buffer") else "buffers"
        parts[kind] = parts.get(kind, 0.0) + part.total_mm2.value
    if not parts:
        return "not known for this technology"
    shares = ", ".join(f"{kind} {mm2:.3g}" for kind, mm2 in parts.items())
    return f"{result.hardware.total_mm2:.3g} mm2: {shares}; without the vector unit"
