"""Icarus Verilog: a further simulator for the exported modules, where it is installed; no wheel brings it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from macloom.errors import MacloomError
from macloom.rtl.export import verilog
from macloom.rtl.simulation import some_inputs
from macloom.rtl.testbench import bench_text, vectors_text
from macloom.rtl.unit import Unit


def available() -> bool:
    """Return whether `iverilog` and `vvp` are on the path."""
    return all(shutil.which(tool) for tool in ("iverilog", "vvp"))


def simulate(unit: Unit, *, text: str | None = None, count: int = 2_000) -> str:
    """Return the verdict ('PASS ...' or 'FAIL ...') of a unit's testbench in Icarus Verilog.

    Args:
        unit: what to export and to take the vectors of.
        text: its Verilog, if not what `verilog` writes.
        count: vectors where the inputs have more than 16 bits.

    Raises:
        MacloomError: Icarus Verilog is not installed, or cannot read the module.
    """
    if not available():
        raise MacloomError(
            "rtl: simulation in Icarus Verilog needs iverilog and vvp on the path; install your system's"
        )
    inputs = some_inputs(unit, count)
    vectors = vectors_text(unit, inputs)
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "unit.v").write_text(text or verilog(unit))
        (folder / "tb.v").write_text(bench_text(unit, vectors, "vectors.hex"))
        (folder / "vectors.hex").write_text(vectors)
        built = subprocess.run(
            ["iverilog", "-g2012", "-Wall", "-o", "run", "tb.v", "unit.v"],
            cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if built.returncode:
            raise MacloomError(f"rtl: iverilog failed: {built.stderr.strip()[-2000:]}")
        done = subprocess.run(["vvp", "-N", "run"], cwd=folder, capture_output=True, text=True, check=False)
    return next((line for line in done.stdout.splitlines() if line.split()[:1] in (["PASS"], ["FAIL"])), done.stdout)
