"""`macloom list KIND`: what has a name."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from macloom.cli.console import Console


def run(options: Namespace, console: Console) -> None:
    """Print one line for each record of a kind."""
    rows = _LISTS[options.kind]()
    columns = list(rows[0])
    words = [column for column, value in rows[0].items() if isinstance(value, str)]
    cells = [[_cell(row[column]) for column in columns] for row in rows]
    console.emit(rows, lambda: console.table(f"{options.kind} ({len(rows)})", columns, cells, left=words))


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _formats() -> list[dict[str, Any]]:
    from macloom.formats import get_format, list_formats
    from macloom.formats.describe import format_summary
    from macloom.formats.families import FAMILIES

    order = list(FAMILIES)
    rows = [format_summary(get_format(name)) for name in list_formats()]
    return sorted(rows, key=lambda row: (order.index(row["family"]), _natural(row["format"])))


def _natural(name: str) -> list[Any]:
    """Return a sort key by which int4 comes before int16."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _accelerators() -> list[dict[str, Any]]:
    from macloom.arch import list_accelerators, load_accelerator

    rows = []
    for name in list_accelerators():
        accelerator = load_accelerator(name)
        array, pe = accelerator.array, accelerator.array.pe
        rows.append(
            {
                "accelerator": name,
                "array": f"{array.rows}x{array.cols}",
                "dataflow": array.dataflow.value,
                "pe_bits": pe.significand_bits,
                "pe_exponent_bits": pe.exponent_bits,
                "clock_mhz": accelerator.clock_hz / 1e6,
                "peak_tmac_per_s": accelerator.peak_macs_per_s / 1e12,
                "dram_gb_per_s": accelerator.dram.bandwidth_bits_per_s / 8e9,
            }
        )
    return rows


def _workloads() -> list[dict[str, Any]]:
    from macloom.workloads import list_workloads, load_workload

    rows = []
    for name in list_workloads():
        prefill = load_workload(name)
        encoder = "decode" not in prefill.details.get("phases", ("prefill", "decode"))
        decode = None if encoder else load_workload(name, phase="decode")
        rows.append(
            {
                "workload": name,
                "parameters": prefill.parameters,
                "tokens": prefill.tokens,
                "prefill_macs": prefill.macs,
                "decode_macs": decode.macs if decode else None,
                "kv_elements": decode.kv_elements if decode else 0,
            }
        )
    return rows


def _technologies() -> list[dict[str, Any]]:
    from macloom.arch import list_technologies, load_technology

    rows = []
    for name in list_technologies():
        technology = load_technology(name)
        rows.append(
            {
                "technology": name,
                "dram": ", ".join(technology.dram_kinds),
                "node_nm": technology.node_nm,
                "voltage_v": technology.voltage_v,
                "constants": len(technology.constants),
            }
        )
    return rows


def _recipes() -> list[dict[str, Any]]:
    from macloom.formats import list_formats
    from macloom.workloads import Role, load_recipe

    rows = []
    for name in list_formats():
        recipe = load_recipe(name)
        formats = {str(role): recipe.format_for(role, "").name for role in Role}
        rows.append({"recipe": name, **formats, "lm_head": recipe.format_for(Role.WEIGHT, "lm_head").name})
    return rows


def _tensor_cores() -> list[dict[str, Any]]:
    from macloom.formats.tensor_core import list_presets, summary

    return [summary(name) for name in list_presets()]


_LISTS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "formats": _formats,
    "accelerators": _accelerators,
    "workloads": _workloads,
    "recipes": _recipes,
    "technologies": _technologies,
    "tensor-cores": _tensor_cores,
}
