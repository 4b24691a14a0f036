"""SCALE-Sim's report files, with its headers, its order, its way to write numbers, and its last comma."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from macloom.sim.scalesim.files import Representation
from macloom.sim.scalesim.geometry import kept_values
from macloom.sim.scalesim.records import Layer, Report, Version

COMPUTE = (
    "LayerID, Total Cycles (incl. prefetch), Total Cycles, Stall Cycles, Overall Util %, Mapping Efficiency %, "
    "Compute Util %,"
)
BANDWIDTH = (
    "LayerID, Avg IFMAP SRAM BW, Avg FILTER SRAM BW, Avg OFMAP SRAM BW, Avg IFMAP DRAM BW, Avg FILTER DRAM BW, "
    "Avg OFMAP DRAM BW,"
)
DETAILED_ACCESS = (
    "LayerID, "
    "SRAM IFMAP Start Cycle, SRAM IFMAP Stop Cycle, SRAM IFMAP Reads, "
    "SRAM Filter Start Cycle, SRAM Filter Stop Cycle, SRAM Filter Reads, "
    "SRAM OFMAP Start Cycle, SRAM OFMAP Stop Cycle, SRAM OFMAP Writes, "
    "DRAM IFMAP Start Cycle, DRAM IFMAP Stop Cycle, DRAM IFMAP Reads, "
    "DRAM Filter Start Cycle, DRAM Filter Stop Cycle, DRAM Filter Reads, "
    "DRAM OFMAP Start Cycle, DRAM OFMAP Stop Cycle, DRAM OFMAP Writes,"
)
SPARSE = (
    "LayerID, Sparsity Representation, Original Filter Storage, New Storage (Filter+Metadata), "
    "Filter Metadata Storage, Avg FILTER Metadata SRAM BW, "
)


def report_files(
    layers: Sequence[Layer],
    reports: Sequence[Report],
    sparsity: Representation | None = None,
    version: Version | str = Version.V3,
) -> dict[str, str]:
    """Return name and text of the three report files, and of SPARSE_REPORT.csv where sparsity is supported.

    Text equals what SCALE-Sim 3.0.0 writes, or v2, whose COMPUTE_REPORT.csv lacks the cycles with prefetch.
    """
    version = Version(version)
    compute, bandwidth = COMPUTE, BANDWIDTH
    if version is Version.V2:
        compute = compute.replace(" Total Cycles (incl. prefetch),", "")
    stored = [storage(layer, sparsity) if sparsity else (0, 0, 0) for layer in layers]
    if sparsity:
        bandwidth = bandwidth.replace("FILTER SRAM BW,", "FILTER SRAM BW, Avg FILTER Metadata SRAM BW,", 1)
    files = {
        "COMPUTE_REPORT.csv": _table(compute, (_compute(report, version) for report in reports)),
        "BANDWIDTH_REPORT.csv": _table(
            bandwidth,
            (
                _bandwidth(report, words if sparsity else None)
                for report, (_, _, words) in zip(reports, stored, strict=True)
            ),
        ),
        "DETAILED_ACCESS_REPORT.csv": _table(DETAILED_ACCESS, (_accesses(report) for report in reports)),
    }
    if sparsity:
        files["SPARSE_REPORT.csv"] = _table(
            SPARSE,
            (
                [sparsity.value, *counts, counts[2] / report.total_cycles]
                for report, counts in zip(reports, stored, strict=True)
            ),
        )
    return files


def storage(layer: Layer, representation: Representation) -> tuple[int, float, float]:
    """Return the words of the dense filter, of the compressed one with its metadata, and of the metadata.

    Words have 32 bits in block ELLPACK, whose metadata is an index of log2(m) bits per kept value.

    >>> from macloom.sim.scalesim import Gemm
    >>> storage(Gemm(m=16, n=16, k=32, sparsity=(2, 4)), Representation.CSR)
    (512, 545, 289)
    """
    present = kept_values(layer) * layer.n
    if representation is Representation.ELLPACK_BLOCK:
        block = layer.sparsity[1] if layer.sparsity else 1
        indices = present * math.ceil(math.log2(block)) / 32
        return layer.k * layer.n, present + indices, indices
    pointers = (layer.k if representation is Representation.CSR else layer.n) + 1
    return layer.k * layer.n, 2 * present + pointers, present + pointers


def _table(header: str, rows: Iterable[Sequence[object]]) -> str:
    lines = [header]
    lines += [", ".join(map(str, [index, *row])) + "," for index, row in enumerate(rows)]
    return "\n".join(lines) + "\n"


def _compute(report: Report, version: Version) -> list[object]:
    row: list[object] = [report.total_cycles, report.stall_cycles]
    row += [report.overall_util, report.mapping_eff, report.compute_util]
    return row if version is Version.V2 else [report.total_cycles_incl_prefetch, *row]


def _bandwidth(report: Report, metadata: float | None) -> list[object]:
    sram = [report.avg_sram_bw_ifmap, report.avg_sram_bw_filter, report.avg_sram_bw_ofmap]
    if metadata is not None:
        sram.insert(2, metadata / report.total_cycles)
    return [*sram, report.avg_dram_bw_ifmap, report.avg_dram_bw_filter, report.avg_dram_bw_ofmap]


def _accesses(report: Report) -> list[object]:
    row: list[object] = []
    for level in ("sram", "dram"):
        for operand, count in (("if", "reads"), ("fl", "reads"), ("of", "writes")):
            row += [float(report[f"{level}_{operand}_start"]), float(report[f"{level}_{operand}_stop"])]
            row.append(report[f"{level}_{operand}_{count}"])
    return row
