"""The sensitivity map as a table: a row for each group, a column for each format and role."""

from __future__ import annotations

from typing import TYPE_CHECKING

from macloom.explore.sensitivity_plot import short_name
from macloom.explore.text_table import COLLAPSED_SIGN, Cell, Column, Mark, Table, significant

if TYPE_CHECKING:
    from macloom.workloads.sensitivity_map import SensitivityMap

SHORT = {"activation": "act.", "probability": "prob."}


def sensitivity_table(found: SensitivityMap) -> Table:
    """Return KL divergences in nats; collapsed cells carry a dagger."""
    columns = [Column(title=found.by, left=True)]
    keys = [(fmt, role) for fmt in found.formats for role in found.roles]
    columns += [
        Column(title=SHORT.get(role, role), group=fmt, gap=4 if role == found.roles[0] else 2) for fmt, role in keys
    ]
    rows = [(Cell(text=short_name(g)), *(_cell(found, g, role, fmt) for fmt, role in keys)) for g in found.groups]
    caption = [
        f"KL divergence from the unquantized model, nats per {found.unit}, with one group alone in the format: all "
        "its operands and results, or its operands of one role."
    ]
    if any(cell.collapsed for cell in found.cells):
        caption.append(f"{COLLAPSED_SIGN} no better than with blocks zeroed, or than guessing: not to be ranked.")
    return Table(
        title=f"Sensitivity of {found.model}", columns=tuple(columns), rows=tuple(rows), caption=tuple(caption)
    )


def _cell(found: SensitivityMap, group: str, role: str, fmt: str) -> Cell:
    cell = found.cell(group, role, fmt)
    if cell is None:
        return Cell(text="", mark=Mark.MISSING)
    text = significant(cell.kl_nats, 2)
    return Cell(text=text, mark=Mark.COLLAPSED if cell.collapsed else Mark.PLAIN)
