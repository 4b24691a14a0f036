"""`macloom verify simulator`: the rungs of the ladder against one another, on random products and machines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np

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
from macloom.errors import MacloomError
from macloom.formats import gemm, get_accumulator, get_format
from macloom.sim.cycle import run
from macloom.sim.cycle.memory import piece_cycles
from macloom.sim.memory import Channel
from macloom.sim.simulate import simulate
from macloom.sim.systolic import product_cycles
from macloom.verification import Check, Options
from macloom.workloads.ops import Gemm, Workload

FORMATS = ("int8", "fp16", "mxfp4", "mxfp8", "nvfp4", "ovp4", "int4:group=8")
ACCUMULATORS = ("int32", "int18:saturate,every=mac", "int17:saturate", "exact", "fp32")


def _element(*, block_scaling: bool) -> ProcessingElement:
    """Return an element wide enough for every format of the sample."""
    return ProcessingElement(
        significand_bits=12,
        exponent_bits=6,
        accumulator="float",  # type: ignore[arg-type]
        block_scaling=block_scaling,
    )


def checks(options: Options) -> Iterator[Check]:
    """Yield the checks of the systolic simulator: values, cycles, stalls, transfers."""
    many = 20 if options.exhaustive else 1
    calls: list[Callable[[], Check]] = [
        *(partial(values_equal_gemm, name, 40 * many, options.seed) for name in ACCUMULATORS),
        *(partial(cycles_equal_the_closed_form, flow, 5 if options.exhaustive else 3) for flow in Dataflow),
        partial(compiled_equals_plain, 12 * many, options.seed),
        partial(event_equals_cycle, 60 * many, options.seed),
        partial(channel_equals_bursts, 200 * many, options.seed),
    ]
    options.expect(len(calls))
    yield from options.spread(calls)


def _counted(subject: str, against: str, note: str, cases: Iterator[tuple[bool, Any]]) -> Check:
    start, count, wrong, first = time.process_time(), 0, 0, ""
    for right, case in cases:
        count += 1
        if not right:
            wrong += 1
            first = first or f"; first mismatch: {case}"
    return Check(
        subject=subject,
        against=against,
        cases=count,
        mismatches=wrong,
        seconds=time.process_time() - start,
        note=note + first,
    )


def _products(rng: np.random.Generator, count: int) -> Iterator[tuple[Any, Any, Array, str]]:
    """Yield encoded operands and arrays, sizes straddling the array."""
    for _ in range(count):
        fmt = get_format(FORMATS[rng.integers(len(FORMATS))])
        m, n, k = (int(x) for x in rng.integers(1, 40, 3))
        k = 8 * (1 + k // 8) if "group" in fmt.name else k
        a, b = (fmt.encode(rng.standard_normal((rows, k)).astype(np.float32)) for rows in (m, n))
        array = Array(
            rows=int(rng.integers(1, 9)),
            cols=int(rng.integers(1, 9)),
            dataflow=list(Dataflow)[rng.integers(3)],
            shadow_registers=bool(rng.integers(2)),
            border_decoders=True,
            count=int(rng.integers(1, 4)),
            pe=_element(block_scaling=bool(rng.integers(2))),
        )
        yield a, b, array, f"{fmt.name} {m}x{n}x{k} on {array.rows}x{array.cols} {array.dataflow.value}"


def values_equal_gemm(accumulator: str, count: int, seed: int) -> Check:
    """Compare every output bit of the stepped array with gemm's."""

    def cases() -> Iterator[tuple[bool, Any]]:
        for a, b, array, label in _products(np.random.default_rng((seed, len(accumulator))), count):
            register = get_accumulator(accumulator)
            try:
                register.check(a.operand(), b.operand())
            except MacloomError:  # one product of this format needs more bits
                register = get_accumulator("exact")
            yield np.array_equal(run(a, b, array, register).values, gemm(a, b, register)), f"{label}, {register.name}"

    return _counted(
        f"values of the cycle rung, {accumulator}",
        "macloom.gemm",
        "random formats, sizes, arrays and dataflows; formats too wide for the register run with 'exact'",
        cases(),
    )


def cycles_equal_the_closed_form(dataflow: Dataflow, most: int) -> Check:
    """Compare the observed cycles with the closed form for every small product on every small array."""
    fmt = get_format("int4")
    rng = np.random.default_rng(0)

    def cases() -> Iterator[tuple[bool, Any]]:
        sizes = range(1, most + 2)
        for m, n, k, rows, cols, shadow in product(
            sizes, sizes, (*sizes, 11), range(1, most + 1), range(1, most + 1), (False, True)
        ):
            a, b = (fmt.encode(rng.standard_normal((size, k)).astype(np.float32)) for size in (m, n))
            array = Array(rows=rows, cols=cols, shadow_registers=shadow, pe=ProcessingElement(significand_bits=4))
            observed = run(a, b, array, dataflow=dataflow).cycles
            closed = product_cycles(dataflow, m, n, k, rows, cols, shadow_registers=shadow).total
            yield observed == closed, f"{m}x{n}x{k} on {rows}x{cols}, shadow {shadow}: {observed}, not {closed}"

    return _counted(
        f"cycles of the cycle rung, {dataflow.value}",
        "macloom.sim.product_cycles",
        f"every M, N up to {most + 1}, K up to there and 11, arrays up to {most} x {most}, with shadow registers and "
        "without",
        cases(),
    )


def compiled_equals_plain(count: int, seed: int) -> Check:
    """Compare the compiled machines with those in plain Python."""

    def cases() -> Iterator[tuple[bool, Any]]:
        rng = np.random.default_rng((seed, 7))
        fmt = get_format("int4:group=8")
        for flow, shadow, scaling in product(Dataflow, (False, True), (False, True)):
            for _ in range(max(1, count // 12)):
                m, n = (int(x) for x in rng.integers(1, 7, 2))
                a, b = (fmt.encode(rng.standard_normal((rows, 24)).astype(np.float32)) for rows in (m, n))
                array = Array(
                    rows=3,
                    cols=2,
                    dataflow=flow,
                    shadow_registers=shadow,
                    count=int(rng.integers(1, 4)),
                    pe=_element(block_scaling=scaling),
                )
                fast, slow = (run(a, b, array, "int12:saturate,every=mac", plain=plain) for plain in (False, True))
                same = np.array_equal(fast.values, slow.values) and fast.cycles == slow.cycles
                yield same, f"{m}x{n} {flow.value} shadow {shadow} scaling {scaling}"

    return _counted("compiled array", "the array in plain Python", "values and cycles", cases())


def random_machine(rng: np.random.Generator) -> Accelerator:
    """Return a small machine with everything that costs time: ports, banks, rows, refresh, decoders, arrays."""

    def sram() -> Sram:
        return Sram(
            size_bits=int(rng.integers(3, 12)) << 11,
            bandwidth_bits_per_cycle=int(rng.integers(16, 200)),
            double_buffered=bool(rng.integers(2)),
            banks=int(rng.integers(1, 4)),
            ports=int(rng.integers(1, 3)),
        )

    return Accelerator(
        name="random",
        clock_hz=1e9,
        array=Array(
            rows=int(rng.integers(1, 7)),
            cols=int(rng.integers(1, 7)),
            dataflow=list(Dataflow)[rng.integers(3)],
            shadow_registers=bool(rng.integers(2)),
            count=int(rng.integers(1, 4)),
            border_decoders=True,
            decoder_latency=int(rng.integers(0, 4)),
            pe=ProcessingElement(significand_bits=8, exponent_bits=5, block_scaling=bool(rng.integers(2))),
        ),
        buffers=Buffers(operand_a=sram(), operand_b=sram(), output=sram()),
        dram=random_dram(rng),
        vector=VectorUnit(lanes=int(rng.integers(1, 30))),
        technology=load_technology("45nm"),
    )


def random_dram(rng: np.random.Generator) -> Dram:
    """Return a channel of pure bandwidth or one with bursts, rows, banks, latency and refresh."""
    plain = Dram(kind="hbm2", bandwidth_bits_per_s=float(rng.integers(16, 200)) * 1e9)
    if rng.integers(2):
        return plain
    return replace(
        plain,
        channels=int(rng.integers(1, 4)),
        burst_bits=64,
        page_bits=64 * int(rng.integers(1, 9)),
        banks=int(rng.integers(1, 5)),
        activate_s=float(rng.integers(0, 30)) * 1e-9,
        latency_s=float(rng.integers(0, 20)) * 1e-9,
        refresh_interval_s=4e-6,
        refresh_s=float(rng.integers(0, 5)) * 1e-7,
    )


def event_equals_cycle(count: int, seed: int) -> Check:
    """Compare every column of a product's result, stalls by cause included."""

    def cases() -> Iterator[tuple[bool, Any]]:
        rng = np.random.default_rng((seed, 1))
        for _ in range(count):
            machine = random_machine(rng)
            fmt = ("int8", "mxfp4", "ovp4", "int8:group=8")[rng.integers(4)]
            m, n, k = (int(x) for x in rng.integers(1, 40, 3))
            k = 8 * (1 + k % 5) if "group" in fmt else k
            op = Gemm(name="product", m=m, n=n, k=k, batch=int(rng.integers(1, 4)), repeat=2)
            workload = Workload(name="random", phase="prefill", ops=(op,), parameters=1, kv_elements=0, tokens=1)
            event, cycle = (simulate(workload, machine, fmt, fidelity=f) for f in ("event", "cycle"))
            yield event.ops == cycle.ops, f"{fmt} {m}x{n}x{k} on {machine.array} {machine.dram}"

    return _counted(
        "event rung",
        "the cycle rung",
        "cycles, phases, stalls by cause, traffic and energy on random machines",
        cases(),
    )


def channel_equals_bursts(count: int, seed: int) -> Check:
    """Compare the closed form of DRAM transfers with the machine of banks and bursts."""

    def cases() -> Iterator[tuple[bool, Any]]:
        rng = np.random.default_rng((seed, 2))
        for _ in range(count):
            channel = Channel(dram=random_dram(rng), clock_hz=1e9)
            bits = [int(x) for x in rng.integers(0, 9000, int(rng.integers(1, 5)))]
            yield [int(c) for c in channel.pieces(bits)] == piece_cycles(channel, bits), f"{bits} on {channel.dram}"

    return _counted("DRAM transfers", "banks and bursts stepped one by one", "whole cycles of every piece", cases())
