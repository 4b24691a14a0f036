"""`macloom simulate --scalesim-config F --topology F`: SCALE-Sim's run, from its files to its reports."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from macloom import __version__
from macloom.cli.console import Console
from macloom.errors import MacloomError

if TYPE_CHECKING:
    from macloom.explore.text_table import Table
    from macloom.sim.scalesim import Layer, Report

WORKLOAD_OPTIONS = (
    "workload",
    "accelerator",
    "recipe",
    "sequence",
    "context",
    "dataflow",
    "mapping",
    "save_mapping",
    "prefetch",
    "residency",
)


def run(options: Namespace, console: Console) -> None:
    """Simulate a topology as SCALE-Sim would, print the cycles, and write its report files if asked to."""
    from macloom.explore.files import write_together
    from macloom.sim.scalesim import read_config, read_topology, report_files, simulate_layer

    for name in ("scalesim_config", "topology"):
        if getattr(options, name) is None:
            raise MacloomError(
                "simulate: --scalesim-config and --topology must come together (macloom simulate --help)"
            )
    given = [f"--{name.replace('_', '-')}" for name in WORKLOAD_OPTIONS if getattr(options, name, None)]
    if given:
        raise MacloomError(f"simulate: --scalesim-config brings its own array and layers; leave out {', '.join(given)}")
    version = options.scalesim_version
    setup = read_config(options.scalesim_config, version)
    layers = read_topology(options.topology, sparse=setup.sparsity is not None)
    with console.working(f"simulating {len(layers)} layers of {options.topology} as SCALE-Sim {version} does"):
        reports = [simulate_layer(layer, setup.config, version) for layer in layers]
    if options.out:
        for path in write_together(options.out, report_files(layers, reports, setup.sparsity, version)):
            console.note(f"wrote {path}")
    data = {
        "run": setup.name,
        "scalesim_version": version,
        "layers": [{"name": layer.name, **report} for layer, report in zip(layers, reports, strict=True)],
        "seed": console.seed,
        "version": __version__,
    }
    console.emit(data, lambda: _show(setup.name, layers, reports))


def _show(name: str, layers: tuple[Layer, ...], reports: list[Report]) -> None:
    from macloom.explore.text_table import print_table

    print_table(_table(name, layers, reports))


def _table(name: str, layers: tuple[Layer, ...], reports: list[Report]) -> Table:
    from macloom.explore.text_table import Cell, Column, Table

    columns = (
        Column(title="layer", left=True),
        Column(title="MACs"),
        Column(title="all", group="cycles"),
        Column(title="stall", group="cycles"),
        Column(title="utilisation", unit="%"),
        *(Column(title=title, group="DRAM words") for title in ("input", "filter", "output")),
    )
    rows = []
    for layer, report in zip(layers, reports, strict=True):
        words = (report.dram_if_reads, report.dram_fl_reads, report.dram_of_writes)
        texts = [
            layer.name,
            f"{report.macs:,}",
            f"{report.total_cycles:,}",
            f"{report.stall_cycles:,}",
            f"{report.overall_util:.2f}",
            *(f"{count:,}" for count in words),
        ]
        rows.append(tuple(Cell(text=text) for text in texts))
    return Table(title=f"{name}, as SCALE-Sim counts", columns=columns, rows=tuple(rows))
