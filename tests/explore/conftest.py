"""A small, made-up demo result: the numbers follow simple rules, so that tests can predict them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from macloom.explore.records import (
    AcceleratorInfo,
    AccuracyCell,
    Check,
    Constant,
    FormatInfo,
    ModelInfo,
    OpRow,
    Run,
    Strip,
    TextInfo,
    Unsupported,
    ValuePicture,
    WorkloadInfo,
)
from macloom.explore.result import SCHEMA, DemoResult

BITS = {
    "fp16": 16.0, "int8": 8.0, "int4": 4.0, "int4:group=128": 4.125, "mxfp8_e4m3": 8.25, "mxfp4": 4.25,
    "nvfp4": 4.5, "bfp4": 4.5, "ovp8": 8.0, "ovp4": 4.0, "ovp4:normal=flint4": 4.0,
}  # fmt: skip
ACCELERATORS = {"int8-sa": 1.0, "olive-sa": 0.8, "fp16-sa": 2.5}
MODELS = {"tiny": (3.0, 250.0), "tiny-outlier": (3.2, 240.0)}
FRACTIONAL = {"fp16", "mxfp8_e4m3", "mxfp4", "nvfp4"}
COLLAPSED = {("int4", "tiny-outlier")}
ARRAY = {"rows": 32, "cols": 32, "pe": {"significand_bits": 8}}
OPS = (("qkv_proj", "gemm", 4096), ("scores", "gemm", 512), ("softmax", "vector", 0), ("down_proj", "gemm", 8192))


def _cell(format: str, model: str) -> AccuracyCell:
    reference, zeroed = MODELS[model]
    collapsed = (format, model) in COLLAPSED
    kl = 0.5 * 4.0 ** -(BITS[format] - 2) * (3 if model == "tiny-outlier" else 1)
    perplexity = zeroed * 1.2 if collapsed else reference * math.exp(kl)
    return AccuracyCell(
        format=format, model=model, perplexity=perplexity, bits_per_byte=math.log2(perplexity),
        kl_nats=4.0 if collapsed else kl, top1=0.02 if collapsed else 1 - kl / 2, collapsed=collapsed,
        sqnr_db={"model.layers.0.mlp.down_proj": 6.0 * BITS[format]},
    )  # fmt: skip


def _mapping(m: int, k: int) -> dict[str, object]:
    """Return the mapping of a product of m x 16 x k, walked in one tile."""
    return {
        "m": m, "n": 16, "k": k, "dataflow": "os", "tile_m": m, "tile_n": 16, "tile_k": k, "segment": k, "batch": 1,
        "a_slices": 1, "b_slices": 1,
    }  # fmt: skip


def _op(name: str, kind: str, macs: int, bits: float, tokens: int, factor: float) -> OpRow:
    compute = int(macs * tokens / 1024 * factor) if kind == "gemm" else 0
    vector = tokens * 16 if kind == "vector" else 0
    dram = int(macs * bits) + tokens * 4096
    stall = max(0, dram // 256 - compute) if kind == "gemm" else 0
    energy = {
        "mac_j": macs * tokens * bits**1.5 * 2e-14 * factor, "decoder_j": macs * tokens * 1e-15, "sram_j": dram * 3e-13,
        "dram_j": dram * 4e-12, "vector_j": vector * 1e-11,
    }  # fmt: skip
    return OpRow(
        name=name, kind=kind, unit="array" if kind == "gemm" else "vector", repeat=32, macs=macs * tokens,
        pes_per_mac=1, cycles=compute + stall + vector, compute_cycles=compute, fill_cycles=compute // 8,
        steady_cycles=compute - compute // 8, drain_cycles=0, stall_cycles=stall, port_stall_cycles=0,
        vector_cycles=vector, vector_busy_cycles=vector, dram_busy_cycles=dram // 256, dram_bits=dram,
        compulsory_dram_bits=dram, sram_bits=3 * dram, bound="vector" if vector else "memory" if stall else "compute",
        energy=energy, formats={"a": "int4", "b": "int4", "out": "fp16"}, mapping=_mapping(tokens, macs // 512),
    )  # fmt: skip


def _run(format: str, accelerator: str, workload: str, phase: str) -> Run:
    scale = 1000 if workload == "opt-6.7b" else 1
    tokens = 1 if phase == "decode" else 256
    factor = ACCELERATORS[accelerator]
    ops = tuple(_op(name, kind, macs * scale, BITS[format], tokens, factor) for name, kind, macs in OPS)
    energy = {part: sum(op.energy[part] for op in ops) for part in ops[0].energy}
    cycles = sum(op.cycles for op in ops)
    return Run(
        format=format, accelerator=accelerator, workload=workload, phase=phase, tokens=tokens, cycles=cycles,
        seconds=cycles / 1e9, energy_j=sum(energy.values()), energy=energy,
        energy_kinds=dict.fromkeys(energy, "published"), utilisation=0.5,
        peak_macs_per_s=1.024e12 / factor, dram_bits=sum(op.dram_bits for op in ops), dram_bits_per_s=2.56e11, ops=ops,
    )  # fmt: skip


def _picture() -> ValuePicture:
    edges = tuple(10 ** (-4 + i / 10) for i in range(61))
    counts = tuple(int(4000 * math.exp(-((i - 38) ** 2) / 60)) + (30 if 52 < i < 57 else 0) for i in range(60))
    strips = []
    for format, bits in BITS.items():
        levels = 2 ** (min(8, round(bits)) - 1)
        magnitudes = tuple(60.0 * 2.0 ** -(levels - i) if format in FRACTIONAL and bits < 8 else 60.0 * (i + 1) / levels
                           for i in range(levels))  # fmt: skip
        strips.append(Strip(format=format, magnitudes=magnitudes, distinct=levels, zeroed=1 / bits, sqnr_db=6.0 * bits))
    return ValuePicture(
        model="tiny-outlier", tensor="input of model.layers.1.self_attn.q_proj", role="activation",
        elements=sum(counts), edges=edges, counts=counts, strips=tuple(strips),
    )  # fmt: skip


def make_result() -> DemoResult:
    pairs = [(f, a) for f in BITS for a in ACCELERATORS]
    bad = [(f, a) for f, a in pairs if a == "int8-sa" and f in FRACTIONAL]
    cases = [(m, p) for m in (*MODELS, "opt-6.7b") for p in ("prefill", "decode")]
    return DemoResult(
        schema=SCHEMA, version="0.1.0", versions={"python": "3.11", "numpy": "2.0"}, seed=0,
        text=TextInfo(name="held-out text", sha256="ab" * 32, windows=4, context=256),
        formats=tuple(FormatInfo(name=n, element_bits=round(b), weight_bits=b) for n, b in BITS.items()),
        models=tuple(
            ModelInfo(name=n, sha256="cd" * 32, parameters=2_500_000, perplexity=p, zeroed_perplexity=z)
            for n, (p, z) in MODELS.items()
        ),
        accelerators=tuple(
            AcceleratorInfo(name=n, configuration={"clock_hz": 1e9, "array": ARRAY})
            for n in ACCELERATORS
        ),
        workloads=tuple(
            WorkloadInfo(
                name=w, phase=p, tokens=1 if p == "decode" else 256, macs=10**9,
                parameters=6_700_000_000 if w == "opt-6.7b" else 2_500_000,
                details={"context": 2048} if p == "decode" else {"sequence": 2048},
            )
            for w, p in cases
        ),
        accuracy=tuple(_cell(f, m) for m in MODELS for f in BITS),
        runs=tuple(_run(f, a, w, p) for w, p in cases for f, a in pairs if (f, a) not in bad),
        unsupported=tuple(
            Unsupported(format=f, accelerator=a, reason="its int8 PEs have no exponent path") for f, a in bad
        ),
        values=(_picture(),),
        constants=(
            Constant(technology="28nm", name="dram_hbm2", value=4e-12, unit="J/bit", node_nm=28.0, voltage_v=0.9,
                     kind="published", source="a table"),
        ),
        checks=(Check(name="MAC/s at most the peak", cases=180, closest=0.97),),
        recipes={"int4": {"weight": "int4", "activation": "int4"}},
    )  # fmt: skip


@pytest.fixture(scope="session")
def result() -> DemoResult:
    return make_result()


@pytest.fixture(scope="session")
def small_result(result: DemoResult) -> DemoResult:
    """Two formats on one model and one accelerator: quick to draw."""
    names, model, accelerator = ("fp16", "int4"), "tiny-outlier", "olive-sa"
    strips = tuple(s for s in result.values[0].strips if s.format in names)
    return replace(
        result,
        formats=tuple(f for f in result.formats if f.name in names),
        models=tuple(m for m in result.models if m.name == model),
        accelerators=tuple(a for a in result.accelerators if a.name == accelerator),
        workloads=tuple(w for w in result.workloads if w.name != "tiny"),
        accuracy=tuple(c for c in result.accuracy if c.format in names and c.model == model),
        runs=tuple(
            r for r in result.runs if r.format in names and r.accelerator == accelerator and r.workload != "tiny"
        ),
        unsupported=(),
        values=(replace(result.values[0], strips=strips),),
    )
