"""`macloom rtl FORMAT --unit decoder`: hardware of a format as Verilog, with what checks it."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from macloom.cli.console import Console
from macloom.errors import MacloomError
from macloom.rtl.toolchain import need
from macloom.units import format_quantity

# Options that have no default, and are an error for units that do not take them.
OWN = ("accumulator", "source", "rounding", "overflow", "size", "narrow", "rows", "cols", "dataflow")


def run(options: Namespace, console: Console) -> None:
    """Generate the unit, write its files, and print where they are and how to run the testbench."""
    need("pyrtl", "generating hardware")
    from macloom.arch import Dataflow
    from macloom.formats import get_accumulator, get_format
    from macloom.formats.policy import Overflow, Rounding
    from macloom.rtl.catalog import UNITS, Shape, build
    from macloom.rtl.emit import check_directory, describe, emit
    from macloom.rtl.formats.source import get_source
    from macloom.rtl.verilator import build_command

    kind = UNITS.get(options.unit)
    for name in OWN:
        if getattr(options, name) is not None and name not in kind.takes:
            takers = [other for other in UNITS if name in UNITS.get(other).takes]
            raise MacloomError(f"rtl.{name}: belongs to {', '.join(takers)}, not to {options.unit}; leave it out")
    fmt = get_format(options.format)
    out = options.out or Path("runs") / "rtl" / f"{fmt.name.replace(':', '-').replace('=', '-')}-{options.unit}"
    check_directory(out, force=options.force)
    shape = Shape(
        rows=options.rows or 8,
        cols=options.cols or 8,
        dataflow=Dataflow(options.dataflow or "os"),
        accumulator=None if options.accumulator is None else get_accumulator(options.accumulator),
        source=None if options.source is None else get_source(options.source),
        rounding=None if options.rounding is None else Rounding(options.rounding),
        overflow=Overflow(options.overflow or "saturate"),
        size=options.size or 8,
        narrow=None if options.narrow is None else get_format(options.narrow),
    )
    unit = build(fmt, options.unit, shape)
    facts = describe(unit)
    if options.liberty:
        from macloom.rtl.liberty import map_to_library

        with console.working(f"mapping {unit.module} to {options.liberty.name}"):
            facts["mapped"] = map_to_library(unit, options.liberty).to_dict()
    with console.working(f"generating {unit.module}"):
        files = emit(unit, out, seed=console.seed, force=options.force)

    def show() -> None:
        chosen = facts.get("tensor_core", facts.get("accumulator"))
        heads = [("module", unit.module), *([("accumulator", chosen)] if chosen else [])]
        console.lines([*heads, *port_lines(facts["ports"])])
        console.lines([("files", out), *(("", path.name) for path in files.values())])
        if mapped := facts.get("mapped"):
            delay = "not known" if mapped["delay_s"] is None else format_quantity(mapped["delay_s"], "s")
            console.lines([("area", f"{mapped['area']:.6g} in the unit of {mapped['library']}"), ("delay", delay)])
        print(f"check it: cd {out} && {build_command(unit.module)} && obj_dir/V{unit.module}_tb")

    console.emit({**facts, "files": [str(path) for path in files.values()]}, show)


def port_lines(ports: dict[str, int]) -> list[tuple[str, str]]:
    """Return name and width of every port, in one line those whose names differ in their last number alone.

    >>> port_lines({"a0": 4, "a1": 4, "scale_a": 8})
    [('a0..a1', '4 bits each'), ('scale_a', '8 bits')]
    """
    alike: dict[tuple[str, int], list[str]] = {}
    for name, width in ports.items():
        alike.setdefault((name.rstrip("0123456789"), width), []).append(name)
    lines = []
    for (_, width), names in alike.items():
        bits = f"{width} bits" if width > 1 else "1 bit"
        lines.append((names[0], bits) if len(names) == 1 else (f"{names[0]}..{names[-1]}", f"{bits} each"))
    return lines
