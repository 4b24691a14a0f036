"""The records of a result: formats, models, accuracy, runs, pictures of values, constants and checks.

Fields hold no time, host or path. `explore.result` gathers the records of one demo.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

# Energy parts in the order in which they are stacked, and how they are called in text.
ENERGY_PARTS = {
    "mac_j": "MAC",
    "decoder_j": "decoder",
    "encoder_j": "encoder",
    "sram_j": "SRAM",
    "dram_j": "DRAM",
    "vector_j": "vector unit",
    "leakage_j": "leakage",
}


class Record:
    """What all records share: reading one refuses unknown keys."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}


@dataclass(frozen=True, kw_only=True)
class FormatInfo(Record):
    """A format as far as the reader of a result needs it.

    `weight_bits` is the exact storage of one linear layer's weight divided by its elements, scales
    included; `element_bits` the width of one code, None where a format has no single element.
    """

    name: str
    element_bits: int | None
    weight_bits: float


@dataclass(frozen=True, kw_only=True)
class TextInfo(Record):
    """The text that accuracy was measured on."""

    name: str
    sha256: str
    windows: int
    context: int


@dataclass(frozen=True, kw_only=True)
class ModelInfo(Record):
    """A language model with its two anchors: unquantized, and with the output of its blocks zeroed."""

    name: str
    sha256: str
    parameters: int
    perplexity: float
    zeroed_perplexity: float


@dataclass(frozen=True, kw_only=True)
class AccuracyCell(Record):
    """One format on one model. A perplexity of None stands for one that is not finite.

    `kl_nats` is the mean divergence from the unquantized model per byte, `top1` the fraction of
    bytes on which both models agree, `sqnr_db` the signal to quantization noise of each layer.
    """

    format: str
    model: str
    perplexity: float | None
    bits_per_byte: float | None
    kl_nats: float | None
    top1: float | None
    collapsed: bool
    sqnr_db: dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class AcceleratorInfo(Record):
    """An accelerator with its resolved configuration."""

    name: str
    configuration: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class WorkloadInfo(Record):
    """A model in one phase. `tokens` is what the phase produces or consumes: per-token figures divide by it."""

    name: str
    phase: str
    tokens: int
    macs: int
    parameters: int
    details: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class OpRow(Record):
    """One operation of a run; figures are totals of its `repeat` occurrences.

    `unit` computes it, `pes_per_mac` elements of the array join for one product. Cycles are split as
    `macloom.sim.OpResult` says: cycles = compute + stall + vector, compute = fill + steady + drain.
    `formats` are those of operands and result, `mapping` is the tiling.
    """

    name: str
    kind: str
    unit: str
    repeat: int
    macs: int
    pes_per_mac: int
    cycles: int
    compute_cycles: int
    fill_cycles: int
    steady_cycles: int
    drain_cycles: int
    stall_cycles: int
    port_stall_cycles: int
    vector_cycles: int
    vector_busy_cycles: int
    dram_busy_cycles: int
    dram_bits: int
    compulsory_dram_bits: int
    sram_bits: int
    bound: str
    energy: dict[str, float]
    formats: dict[str, str]
    mapping: dict[str, Any]

    @property
    def energy_j(self) -> float:
        return sum(self.energy.values())


@dataclass(frozen=True, kw_only=True)
class Run(Record):
    """One workload in one format on one accelerator.

    `energy_kinds` says for each part of the energy how the weakest constant behind it is known.
    """

    format: str
    accelerator: str
    workload: str
    phase: str
    tokens: int
    cycles: int
    seconds: float
    energy_j: float
    energy: dict[str, float]
    energy_kinds: dict[str, str]
    utilisation: float
    peak_macs_per_s: float
    dram_bits: int
    dram_bits_per_s: float
    ops: tuple[OpRow, ...]

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.format, self.accelerator, self.workload, self.phase

    @property
    def edp(self) -> float:
        """Energy times delay, J s."""
        return self.energy_j * self.seconds


@dataclass(frozen=True, kw_only=True)
class Unsupported(Record):
    """A pair that the accelerator cannot run, with the reason."""

    format: str
    accelerator: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Strip(Record):
    """Where one format puts the values of a tensor.

    `magnitudes` are the distinct non-zero magnitudes after quantization, thinned where they are
    closer than a plot can show; `zeroed` is the fraction of non-zero inputs that became zero.
    """

    format: str
    magnitudes: tuple[float, ...]
    distinct: int
    zeroed: float
    sqnr_db: float | None


@dataclass(frozen=True, kw_only=True)
class ValuePicture(Record):
    """A real tensor's distribution of magnitudes (`counts` between logarithmic `edges`) and each format's strip."""

    model: str
    tensor: str
    role: str
    elements: int
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    strips: tuple[Strip, ...]


@dataclass(frozen=True, kw_only=True)
class Constant(Record):
    """A number of a technology table and where it comes from; `low` and `high` bound it where sources disagree."""

    technology: str
    name: str
    value: float
    unit: str
    kind: str
    source: str
    node_nm: float | None
    voltage_v: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Check(Record):
    """A law that the simulator asserted, on how many operations, and how close the closest came.

    `closest` is the largest fraction of the bound that was reached; 1 touches it.
    """

    name: str
    cases: int
    closest: float
