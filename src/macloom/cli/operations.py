"""A workload's operations, as `show` and `trace` print them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from macloom.cli.console import Console

if TYPE_CHECKING:
    from macloom.workloads import Recipe, Workload


def note_unmatched(console: Console, recipe: Recipe, patterns: Sequence[str], model: str) -> None:
    """Say on stderr which overrides of a recipe match no operation, for one of them may be mistyped."""
    for pattern in patterns:
        console.note(
            f"{recipe.name}: overrides[{pattern!r}] matches no operation of {model}; `--json` lists their names"
        )


def show_workload(workload: Workload, console: Console) -> None:
    """Print the totals of a workload and a line for each operation."""
    from macloom.workloads import Gemm

    rows = []
    for op in workload.ops:
        gemm = isinstance(op, Gemm)
        rows.append(
            {
                "operation": op.name,
                "kind": "gemm" if gemm else op.kind.value,
                "operands": f"{op.a.value} x {op.b.value}" if gemm else "",
                "shape": f"{op.m} x {op.n} x {op.k}" if gemm else f"{op.rows} x {op.width}",
                "batch": op.batch if gemm else 1,
                "repeat": op.repeat,
                "macs": op.macs if gemm else 0,
            }
        )
    data: dict[str, Any] = {
        "workload": workload.name,
        "phase": workload.phase,
        "parameters": workload.parameters,
        "tokens": workload.tokens,
        "macs": workload.macs,
        "useful_macs": workload.useful_macs,
        "kv_elements": workload.kv_elements,
        "details": workload.details,
        "ops": rows,
    }
    what = f"{workload.tokens} images" if "image" in workload.details else f"{workload.tokens} tokens"
    masked = (
        "" if workload.useful_macs == workload.macs else f", {workload.useful_macs:,} of them under the causal mask"
    )
    title = f"{workload.name}, {workload.phase} of {what}: {workload.macs:,} MACs{masked}"
    columns = ("operation", "kind", "operands", "shape (M x N x K)", "batch", "repeat", "MACs")
    console.emit(data, lambda: console.table(title, columns, [tuple(row.values()) for row in rows], left=columns[:4]))
