"""abc (Brayton and Mishchenko, CAV 2010): the prover that comes with yosys, as a program of its own."""

from __future__ import annotations

import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from macloom.errors import MacloomError


def _program() -> str | None:
    spec = find_spec("pyosys")
    if spec is not None and spec.origin is not None:
        own = Path(spec.origin).parent / "yosys-abc"
        if own.exists():
            return str(own)
    return shutil.which("yosys-abc") or shutil.which("abc")


def available() -> bool:
    """Return whether abc is here; the WebAssembly wheel of yosys has none that runs alone."""
    return _program() is not None


def run(script: str, folder: Path, seconds: float) -> str | None:
    """Return what abc prints for a script that runs in `folder`, or None where it takes longer than `seconds`.

    Raises:
        MacloomError: there is no abc, or it fails.
    """
    program = _program()
    if program is None:
        raise MacloomError("rtl: proofs against Verilog need abc, which comes with pyosys: pip install 'macloom[rtl]'")
    try:
        done = subprocess.run(
            [program, "-c", script], cwd=folder, capture_output=True, text=True, check=False, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        raise MacloomError(f"rtl: abc failed: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout
