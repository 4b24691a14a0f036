"""What SCALE-Sim is told about a layer and an array, and what it reports: frozen records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from enum import StrEnum
from typing import Any, TypeAlias

from macloom.arch.array import Dataflow
from macloom.errors import MacloomError, require_positive_integer, unknown


class Mode(StrEnum):
    """How SCALE-Sim treats DRAM: `CALC` finds the bandwidth that never stalls, `USER` is given one and stalls."""

    CALC = "CALC"
    USER = "USER"


class Version(StrEnum):
    """Whose stalls: v2 adds a wait for DRAM once, v3 (3.0.0) a second time when it is positive."""

    V2 = "v2"
    V3 = "v3"


@dataclass(frozen=True, kw_only=True)
class Gemm:
    """An M x K by K x N product; with `sparsity` (n, m) the filter keeps n of every m values along K.

    >>> Gemm(m=2048, n=2048, k=128).macs
    536870912
    """

    m: int
    n: int
    k: int
    sparsity: tuple[int, int] | None = None
    name: str = ""

    def __post_init__(self) -> None:
        for size in ("m", "n", "k"):
            require_positive_integer(f"layer.{size}", getattr(self, size))
        _require_ratio(self.sparsity)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the dense product, which is what SCALE-Sim counts for sparse layers too."""
        return self.m * self.n * self.k


@dataclass(frozen=True, kw_only=True)
class Conv:
    """A convolution without padding, which SCALE-Sim turns into a product by unrolling the windows.

    `h` x `w` is the input with its padding, `fh` x `fw` the filter. SCALE-Sim rounds the number of
    windows up: where the stride does not divide, the last windows hang over the edge, and what lies
    outside is computed with but not fetched.

    >>> conv = Conv(h=8, w=8, fh=3, fw=3, channels=4, filters=16, stride=2)
    >>> conv.m, conv.n, conv.k
    (16, 16, 36)
    """

    h: int
    w: int
    fh: int
    fw: int
    channels: int
    filters: int
    stride: int
    stride_w: int | None = None
    sparsity: tuple[int, int] | None = None
    name: str = ""

    def __post_init__(self) -> None:
        for size in ("h", "w", "fh", "fw", "channels", "filters", "stride"):
            require_positive_integer(f"layer.{size}", getattr(self, size))
        if self.stride_w is not None:
            require_positive_integer("layer.stride_w", self.stride_w)
        for side, whole in (("fh", "h"), ("fw", "w")):
            if getattr(self, side) > getattr(self, whole):
                raise MacloomError(
                    f"layer.{side}: must not exceed the input's {whole} of {getattr(self, whole)}, "
                    f"not {getattr(self, side)}; add the padding to the input"
                )
        _require_ratio(self.sparsity)

    @property
    def strides(self) -> tuple[int, int]:
        """Strides down and across."""
        return self.stride, self.stride_w or self.stride

    @property
    def output(self) -> tuple[int, int]:
        """Rows and columns of the output, rounded up."""
        down, across = self.strides
        return -(-(self.h - self.fh + down) // down), -(-(self.w - self.fw + across) // across)

    @property
    def m(self) -> int:
        """Windows: rows of the product."""
        return self.output[0] * self.output[1]

    @property
    def n(self) -> int:
        """Filters: columns of the product."""
        return self.filters

    @property
    def k(self) -> int:
        """Values in a window: the reduced dimension."""
        return self.fh * self.fw * self.channels

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the dense product."""
        return self.m * self.n * self.k


Layer: TypeAlias = Gemm | Conv


@dataclass(frozen=True, kw_only=True)
class Config:
    """SCALE-Sim's array and memories. SRAM sizes are in KiB of one-byte words, bandwidths in words per cycle.

    In `CALC` mode the operands have no bandwidth, and the output's is the width of the array whatever
    `bw_ofmap` says. In `USER` mode each of the three streams has a DRAM port of its own.

    >>> Config(rows=128, cols=128, dataflow="ws", ifmap_kb=512, filter_kb=512, ofmap_kb=256).mode
    <Mode.CALC: 'CALC'>
    """

    rows: int
    cols: int
    dataflow: Dataflow | str
    ifmap_kb: int
    filter_kb: int
    ofmap_kb: int
    mode: Mode | str = Mode.CALC
    bw_ifmap: int = 10
    bw_filter: int = 10
    bw_ofmap: int = 10

    def __post_init__(self) -> None:
        for name in ("rows", "cols", "ifmap_kb", "filter_kb", "ofmap_kb", "bw_ifmap", "bw_filter", "bw_ofmap"):
            require_positive_integer(f"config.{name}", getattr(self, name))
        object.__setattr__(self, "dataflow", _choose(Dataflow, "config.dataflow", self.dataflow))
        object.__setattr__(self, "mode", _choose(Mode, "config.mode", self.mode))


@dataclass(frozen=True, kw_only=True)
class Report:
    """What SCALE-Sim reports of one layer, under the names of its report files in snake case.

    Cycles are what SCALE-Sim counts: `total_cycles` is the index of the last one, `compute_cycles` is
    that without the stalls. Utilisations are percentages, bandwidths words per cycle. A report is read
    by attribute or by name, and `dict(report)` is one row of a table.
    """

    macs: int
    total_cycles_incl_prefetch: int
    total_cycles: int
    compute_cycles: int
    stall_cycles: int
    overall_util: float
    mapping_eff: float
    compute_util: float
    avg_sram_bw_ifmap: float
    avg_sram_bw_filter: float
    avg_sram_bw_ofmap: float
    avg_dram_bw_ifmap: float
    avg_dram_bw_filter: float
    avg_dram_bw_ofmap: float
    sram_if_start: int
    sram_if_stop: int
    sram_if_reads: int | float
    sram_fl_start: int
    sram_fl_stop: int
    sram_fl_reads: int
    sram_of_start: int
    sram_of_stop: int
    sram_of_writes: int
    dram_if_start: int
    dram_if_stop: int
    dram_if_reads: int
    dram_fl_start: int
    dram_fl_stop: int
    dram_fl_reads: int
    dram_of_start: int
    dram_of_stop: int
    dram_of_writes: int

    def __getitem__(self, column: str) -> int | float:
        if column not in REPORT_COLUMNS:
            raise unknown("report", column, REPORT_COLUMNS)
        return getattr(self, column)

    def keys(self) -> tuple[str, ...]:
        """Return the names of the columns."""
        return REPORT_COLUMNS

    def __iter__(self) -> Iterator[str]:
        return iter(REPORT_COLUMNS)

    def values(self) -> tuple[int | float, ...]:
        """Return the values in the order of the columns."""
        return astuple(self)


REPORT_COLUMNS = tuple(field.name for field in fields(Report))


def _choose(kind: type[StrEnum], path: str, value: Any) -> StrEnum:
    try:
        return kind(value)
    except ValueError:
        raise unknown(path, value, [member.value for member in kind]) from None


def _require_ratio(ratio: Any) -> None:
    if ratio is None:
        return
    if not isinstance(ratio, tuple) or len(ratio) != 2:
        raise MacloomError(f"layer.sparsity: must be a pair (n, m), or None for a dense filter, not {ratio!r}")
    for value in ratio:
        require_positive_integer("layer.sparsity", value)
    if ratio[0] > ratio[1]:
        raise MacloomError(f"layer.sparsity: must keep at most m of every m values, not {ratio[0]} of {ratio[1]}")
