"""Small machines and recipes for the tests of the simulator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from macloom.arch import (
    Accelerator,
    Array,
    Buffers,
    Dataflow,
    Dram,
    ProcessingElement,
    Sram,
    VectorUnit,
    load_technology,
)
from macloom.workloads.ops import Gemm, Role, Vector, VectorKind, Workload


@pytest.fixture
def machine() -> Callable[..., Accelerator]:
    """A 4 x 4 int8 array at 1 GHz with 64-bit-per-cycle DRAM and roomy buffers; keywords change parts."""

    def make(
        *,
        buffer_bits: int | tuple[int, int, int] = 1 << 20,
        port_bits: int | tuple[int, int, int] = 1 << 20,
        double_buffered: bool | tuple[bool, bool, bool] = True,
        dram_bits_per_cycle: float = 64,
        lanes: int = 8,
        vector_bits: int = 16,
        technology: str = "45nm",
        pe: dict[str, Any] | None = None,
        **array: Any,
    ) -> Accelerator:
        def three(value: Any) -> tuple[Any, Any, Any]:
            return value if isinstance(value, tuple) else (value, value, value)

        srams = [
            Sram(size_bits=size, bandwidth_bits_per_cycle=port, double_buffered=double)
            for size, port, double in zip(three(buffer_bits), three(port_bits), three(double_buffered), strict=True)
        ]
        element: dict[str, Any] = {"significand_bits": 8} | (pe or {})
        grid = {"rows": 4, "cols": 4, "dataflow": Dataflow.OS} | array
        return Accelerator(
            name="test",
            clock_hz=1e9,
            array=Array(pe=ProcessingElement(**element), **grid),
            buffers=Buffers(operand_a=srams[0], operand_b=srams[1], output=srams[2]),
            dram=Dram(kind="hbm2", bandwidth_bits_per_s=dram_bits_per_cycle * 1e9),
            vector=VectorUnit(lanes=lanes, bits=vector_bits),
            technology=load_technology(technology),
        )

    return make


@pytest.fixture
def workload() -> Workload:
    """Two layers of something small: a norm, a product, attention with shared keys, a head."""
    ops = (
        Vector(name="norm", kind=VectorKind.RMS_NORM, rows=6, width=32, repeat=2),
        Gemm(name="up_proj", m=6, n=48, k=32, repeat=2),
        Gemm(name="scores", m=6, n=6, k=8, batch=4, b_sharing=2, b=Role.KV, causal=True, repeat=2),
        Vector(name="softmax", kind=VectorKind.SOFTMAX, rows=24, width=6, repeat=2),
        Gemm(name="lm_head", m=6, n=64, k=32),
    )
    return Workload(name="small", phase="prefill", ops=ops, parameters=5120, kv_elements=192, tokens=6)


@pytest.fixture
def with_dram() -> Callable[[Accelerator, float], Accelerator]:
    """Return a machine with another DRAM bandwidth."""
    return lambda machine, bits_per_cycle: replace(
        machine, dram=Dram(kind=machine.dram.kind, bandwidth_bits_per_s=bits_per_cycle * machine.clock_hz)
    )
