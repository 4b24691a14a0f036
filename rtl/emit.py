"""Everything of a unit in one directory: Verilog, testbench, vectors, waveform, schematic and `unit.json`."""

from __future__ import annotations

import io
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyrtl

import macloom
from macloom._files import write_atomically
from macloom.errors import MacloomError
from macloom.rtl.export import verilog
from macloom.rtl.schematic import LARGEST, operators, schematic
from macloom.rtl.simulation import some_inputs
from macloom.rtl.testbench import bench_text, vectors_text
from macloom.rtl.toolchain import tool_version
from macloom.rtl.unit import Unit, elaborate

VECTORS = 4096
# Steps of the waveform: enough to look at.
WAVE_STEPS = 256


def describe(unit: Unit) -> dict[str, Any]:
    """Return what `unit.json` says: module, ports and facts, JSON-ready."""
    return {
        "module": unit.module,
        **unit.facts,
        "ports": {port.name: port.width for port in (*unit.inputs, *unit.outputs)},
        "inputs": [port.name for port in unit.inputs],
        "outputs": [port.name for port in unit.outputs],
        "signed": [port.name for port in (*unit.inputs, *unit.outputs) if port.signed],
        "generator": {"macloom": macloom.__version__, "pyrtl": tool_version("pyrtl")},
    }


def emit(unit: Unit, out: str | Path, *, seed: int = 0, force: bool = False, vectors: int = VECTORS) -> dict[str, Path]:
    """Write `<module>.v`, its testbench and vectors, a waveform and `unit.json` into `out`; return their paths.

    Units of at most `macloom.rtl.schematic.LARGEST` operators get `<module>.svg`, too, where pygraphviz is installed.
    The testbench applies every input where they have at most 16 bits, else about `vectors` corners and random ones.

    Raises:
        MacloomError: `out` is a file, or a directory that holds something (unless `force`).
    """
    folder = Path(out)
    check_directory(folder, force=force)
    inputs = some_inputs(unit, vectors, seed)
    name, lines = unit.module, vectors_text(unit, inputs)
    texts = {
        f"{name}.v": verilog(unit),
        f"{name}_tb.v": bench_text(unit, lines, f"{name}_vectors.hex"),
        f"{name}_vectors.hex": lines,
        f"{name}.vcd": waveform(unit, {port: values[:WAVE_STEPS] for port, values in inputs.items()}),
        "unit.json": json.dumps(describe(unit), indent=2) + "\n",
    }
    if find_spec("pygraphviz") and operators(unit) <= LARGEST:
        texts[f"{name}.svg"] = schematic(unit)
    return {file: write_atomically(folder / file, text) for file, text in texts.items()}


def check_directory(folder: Path, *, force: bool = False) -> None:
    """Raise unless files can be written into `folder` without mixing with others."""
    if folder.exists() and not folder.is_dir():
        raise MacloomError(f"out: must be a directory, and {folder} is a file")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise MacloomError(f"out: {folder} exists and is not empty; choose another directory or pass --force")


def waveform(unit: Unit, inputs: dict[str, np.ndarray]) -> str:
    """Return the unit's ports over time as a VCD file, one step per vector."""
    block = elaborate(unit)
    bits = {port.name: port.bits_of(inputs[port.name]).tolist() for port in unit.inputs}
    with pyrtl.set_working_block(block, no_sanity_check=True):
        ports = [block.get_wirevector_by_name(port.name) for port in (*unit.inputs, *unit.outputs)]
        trace = pyrtl.SimulationTrace(wires_to_track=ports, block=block)
        simulation = pyrtl.FastSimulation(tracer=trace, block=block)
        simulation.step_multiple(dict(bits))
        text = io.StringIO()
        trace.print_vcd(text)
    return text.getvalue()
