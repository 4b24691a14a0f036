"""Measure how long macloom takes to start: `python benchmarks/startup.py`.

Prints the median and the extremes of several fresh processes, the start of Python itself beside
them. Goals: `import macloom` below 0.3 s, `macloom --help` below 0.5 s, both Python's start included.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 9
CASES = {
    "python -c pass": (["-c", "pass"], None),
    "import macloom": (["-c", "import macloom"], 0.3),
    "macloom --help": (["-m", "macloom", "--help"], 0.5),
    "macloom list formats": (["-m", "macloom", "list", "formats"], None),
    "import macloom.formats": (["-c", "import macloom.formats"], None),
    "import macloom.sim": (["-c", "import macloom.sim"], None),
}


def seconds(arguments: list[str]) -> list[float]:
    """Return the wall time of `RUNS` fresh interpreters, after one that fills the caches."""
    times: list[float] = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return times[1:]


def main() -> int:
    missed = 0
    print(f"{'':24} {'median':>8} {'least':>8} {'most':>8} {'goal':>8}   (s, {RUNS} runs)")
    for name, (arguments, goal) in CASES.items():
        times = seconds(arguments)
        missed += goal is not None and statistics.median(times) > goal
        shown = "" if goal is None else f"{goal:.3f}"
        print(f"{name:24} {statistics.median(times):8.3f} {min(times):8.3f} {max(times):8.3f} {shown:>8}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
