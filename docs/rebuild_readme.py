"""Rebuild the README's output and picture from a run of the demo: `python docs/rebuild_readme.py`."""

import os
import re
import subprocess
import sys
from pathlib import Path

from macloom.explore import load_result
from macloom.explore.pareto_plot import accuracy_energy, accuracy_energy_points
from macloom.explore.style import new_axes, plot_style

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- begin demo output -->", "<!-- end demo output -->"


def main() -> None:
    command = [sys.executable, "-m", "macloom", "demo", "--quiet"]
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "120"}
    demo = subprocess.run(command, cwd=ROOT, env=environment, check=True, text=True, stdout=subprocess.PIPE)
    readme = ROOT / "README.md"
    output = "\n".join(line.rstrip() for line in demo.stdout.strip("\n").splitlines())
    block = f"{BEGIN}\n```text\n{output}\n```\n{END}"
    readme.write_text(re.sub(f"{BEGIN}.*?{END}", lambda _: block, readme.read_text(), flags=re.DOTALL))

    result = load_result(ROOT / "runs/demo/result.json")
    with plot_style():
        axes = new_axes(9.0, 4.6)
        accuracy_energy(accuracy_energy_points(result, "tiny-outlier"), axes)
        axes.set_title("tiny-outlier: accuracy (measured) against energy (modelled) of one prefill", loc="left")
        path = ROOT / "docs/figures/accuracy-energy.svg"
        axes.figure.savefig(path, metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    main()
