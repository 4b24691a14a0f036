"""The points of a precision search as a table."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from macloom.explore.text_table import COLLAPSED_SIGN, Cell, Column, Mark, Table, significant
from macloom.units import format_quantity

if TYPE_CHECKING:
    from macloom.explore.mixed_precision.result import PrecisionPoint, PrecisionSearch


def precision_table(found: PrecisionSearch) -> Table:
    """Return a row for every format alone and every point: formats, cost and loss, predicted and measured."""
    columns = (
        Column(title="method", left=True),
        Column(title="budget"),
        Column(title=f"{found.map.by}s in each format", left=True, gap=3),
        Column(title="predicted", group=found.cost, gap=3),
        Column(title="measured", group=found.cost),
        Column(title="predicted", group="loss, nats", gap=3),
        Column(title="measured", group="loss, nats"),
        Column(title="perplexity", gap=3),
    )
    unquantized = (
        "" if found.reference_perplexity is None else f", perplexity {found.reference_perplexity:.4f} unquantized"
    )
    caption = [
        f"Loss: {'KL from the unquantized model' if found.loss == 'kl' else 'increase of the mean loss'} per "
        f"{found.map.unit}; predicted: the sum of what each {found.map.by} does alone, on {found.map.text}; measured: "
        f"the whole recipe on {found.text}{unquantized}."
    ]
    if any(p.collapsed for p in found.points + found.uniform):
        caption.append(f"{COLLAPSED_SIGN} no better than with blocks zeroed, or than guessing: not to be ranked.")
    return Table(
        title=f"Mixed precision of {found.map.model}",
        columns=columns,
        rows=tuple(_row(found, p) for p in (*found.uniform, *found.points)),
        caption=tuple(caption),
    )


def _row(found: PrecisionSearch, point: PrecisionPoint) -> tuple[Cell, ...]:
    counts = Counter(point.formats.values())
    chosen = ", ".join(f"{counts[f]} {f}" for f in found.problem.formats if counts[f])
    mark = Mark.COLLAPSED if point.collapsed else Mark.PLAIN

    def cost(value: float | None) -> Cell:
        return Cell(text="-" if value is None else format_quantity(value, found.unit, 4))

    def nats(value: float | None) -> Cell:
        return Cell(text="-" if value is None else significant(value, 3), mark=mark)

    perplexity = "-" if point.measured_perplexity is None else significant(point.measured_perplexity)
    return (
        Cell(text=point.method), cost(point.budget), Cell(text=chosen), cost(point.predicted_cost),
        cost(point.measured_cost), nats(point.predicted_loss_nats), nats(point.measured_loss_nats),
        Cell(text=perplexity, mark=mark),
    )  # fmt: skip
