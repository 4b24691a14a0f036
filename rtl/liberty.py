"""Area and delay of a unit in the cells of a Liberty file, which a user brings: no wheel has one of 45 nm or below."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from macloom.errors import MacloomError
from macloom.rtl.cost import logic_commands
from macloom.rtl.export import verilog
from macloom.rtl.unit import Unit
from macloom.rtl.yosys import run, version

# abc: optimise, map for delay with recovered area, size gates and buffers to their loads, and time the result.
ABC = "strash;ifraig;scorr;dc2;&get,-n;&dch,-f;&nf;&put;topo;buffer,-c;upsize;dnsize;stime,-p"


@dataclass(frozen=True, kw_only=True)
class Mapped:
    """A unit in library cells.

    Attributes:
        library: name of the file.
        area: of all cells, in the library's unit, which is nearly always a square micrometre.
        delay_s: of the longest path between registers or ports, without wires; None where there is no gate, or where
            yosys does not pass on what abc prints (its WebAssembly wheel).
        cells: how many of each.
        module: the module as yosys writes it in JSON.
    """

    library: str
    style: str
    tool: str
    area: float
    delay_s: float | None
    cells: Mapping[str, int]
    module: Mapping[str, Any] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the module, ready for JSON."""
        return {name: value for name, value in vars(self).items() if name != "module"}


def map_to_library(unit: Unit, library: str | Path, style: str = "alumacc") -> Mapped:
    """Return a unit mapped to the cells of a Liberty file.

    Flip-flops are mapped first, the logic between them by abc, which also times it with the file's tables at
    their operating point. The longest path leaves out setup times and the delay of the flip-flops themselves.

    Args:
        unit: combinational or clocked.
        library: a Liberty file with at least three kinds of gates and, for a clocked unit, a D flip-flop.
        style: how yosys maps adders, `alumacc` or `noalumacc`; areas differ by up to a fifth.

    Raises:
        MacloomError: no such file, an unknown style, yosys is missing, or it cannot use the library.
    """
    path = Path(library)
    logic = logic_commands(unit, style)
    try:
        cells = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise MacloomError(f"rtl.liberty: cannot read {str(path)!r}: {error.strerror}") from None
    if not re.search(r"\blibrary\s*\(", cells):
        raise MacloomError(f"rtl.liberty: {str(path)!r} must be a Liberty file, with a library (...) group")
    script = "\n".join(
        [
            *logic,
            "dfflibmap -liberty cells.lib",
            f"tee -o abc.txt abc -liberty cells.lib -script +{ABC}",
            "opt_clean -purge",
            "tee -o stat.txt stat -liberty cells.lib",
            "write_json unit.json",
        ]
    )
    try:
        made = run(script, {"unit.v": verilog(unit), "cells.lib": cells}, ("abc.txt", "stat.txt", "unit.json"))
    except MacloomError as error:
        if "yosys failed" not in str(error):
            raise
        raise MacloomError(
            f"rtl.liberty: yosys cannot map {unit.module} to {str(path)!r}; a library needs at least three kinds of "
            f"gates with timing, and a D flip-flop for units with registers: {str(error).splitlines()[-1]}"
        ) from None
    module = json.loads(made["unit.json"])["modules"][unit.module]
    counts = Counter(cell["type"] for cell in module["cells"].values())
    if left := sorted(kind for kind in counts if kind.startswith("$")):
        raise MacloomError(f"rtl.liberty: {str(path)!r} has no cell for {', '.join(left)}; add a D flip-flop")
    area = re.search(r"Chip area for module '[^']*':\s+([\d.eE+-]+)", made["stat.txt"])
    delay = re.search(r"Delay =\s+([\d.]+) ps", made["abc.txt"])
    return Mapped(
        library=path.name,
        style=style,
        tool=version(),
        area=float(area[1]) if area else 0.0,
        delay_s=float(delay[1]) * 1e-12 if delay and counts else None,
        cells=dict(sorted(counts.items())),
        module=module,
    )
