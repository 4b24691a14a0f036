"""Checks of the generated hardware for `macloom verify rtl`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

import macloom
from macloom.arch import Dataflow
from macloom.errors import MacloomError
from macloom.explore.verify_rtl_units import GROUPS, block_designs, core_designs, every_pair_of_scale_and_operand
from macloom.formats import get_format, list_formats
from macloom.formats.accumulator import get_accumulator
from macloom.formats.accumulators.integer import IntegerAccumulator
from macloom.formats.elements.integer import IntFormat
from macloom.formats.requantize import Requantize, Scheme, requantized_gemm
from macloom.rtl import verilator, yosys
from macloom.rtl.array.design import ArrayDesign
from macloom.rtl.array.run import ArraySimulation
from macloom.rtl.catalog import build
from macloom.rtl.equivalence import prove_tables
from macloom.rtl.export import verilog
from macloom.rtl.pe.block_dot import BlockDot
from macloom.rtl.pe.products import dot_products
from macloom.rtl.pe.tensor_dot import TensorDot
from macloom.rtl.simulation import check_exhaustively, mismatches, run_unit, some_inputs
from macloom.rtl.toolchain import tool_version
from macloom.rtl.unit import Unit
from macloom.sim.systolic import array_cycles
from macloom.verification import Check, Options

PE_VECTORS = 20_000
CROSS_VECTORS = 2_000
PROVED_BITS = 8
ARRAYS = (
    ("int4", "os", "int32"),
    ("int4", "ws", "int10:saturate,every=mac"),
    ("ovp4", "os", "int32"),
    ("ovp4", "ws", "int32"),
    ("flint4", "os", "int24"),
    ("fp4_e2m1", "ws", "int16"),
)


def catalog_units(kind: str) -> list[Unit]:
    """Return every different unit of a kind that the formats of the catalog have."""
    found: dict[str, Unit] = {}
    for name in list_formats():
        try:
            unit = build(get_format(name), kind)
        except MacloomError:
            continue
        found.setdefault(unit.module, unit)
    return list(found.values())


def checks(options: Options) -> Iterator[Check]:
    """Yield the checks: circuits against software, exported Verilog in other tools, arrays against the simulator.

    With `exhaustive`, Verilator runs every unit and not only a sample, and arrays have up to 16 x 16 elements.
    """
    kinds = ("decoder", "encoder", "pe")
    simulated = [partial(_simulated, kind) for kind in kinds]
    sides = (3, 8, 16) if options.exhaustive else (3,)
    arrays = [partial(_array, *case, side, options.seed) for case in ARRAYS for side in sides]
    groups = [partial(_group, name) for name in GROUPS]
    products = [partial(_products, index, options.seed) for index in range(len(dot_designs()))]
    encoded = [partial(_encoded_array, dataflow, options.seed) for dataflow in ("os", "ws")]
    scales = [partial(_scales, source) for source in (("bf16", "fp16") if options.exhaustive else ("bf16",))]
    calls: list[Callable[[], Check]] = [*simulated, *groups, *products, *scales, *arrays, *encoded]
    if yosys.available():
        calls.append(_proofs)
    if verilator.available():
        share = 1 if options.exhaustive else 6
        calls += [partial(_verilated, f"{kind} unit", partial(catalog_units, kind), share) for kind in kinds]
        calls += [partial(_verilated, name, group[0], share) for name, group in GROUPS.items()]
    options.expect(len(calls))
    yield from options.spread(calls)


def _simulated(kind: str) -> Check:
    started, cases, wrong = time.process_time(), 0, []
    units = catalog_units(kind)
    for unit in units:
        tried, differing = check_exhaustively(unit, count=PE_VECTORS)
        cases += tried
        wrong += [unit.module] * len(differing)
    return Check(
        subject=f"{len(units)} {kind} units in PyRTL {tool_version('pyrtl')}",
        against="the format records",
        cases=cases,
        mismatches=len(wrong),
        seconds=time.process_time() - started,
        note=", ".join(sorted(set(wrong))) or f"all inputs up to 16 bits, else {PE_VECTORS} corners and random ones",
    )


def _proofs() -> Check:
    started = time.process_time()
    units = [u for u in catalog_units("decoder") if u.input_bits <= PROVED_BITS]
    verdicts = prove_tables(units)
    wrong = [f"{module}: {verdict}" for module, verdict in verdicts.items() if verdict != "proved"]
    return Check(
        subject=f"decoders of up to {PROVED_BITS} bits",
        against=f"truth tables of the software, by SAT in {yosys.version()}",
        cases=len(units),
        mismatches=len(wrong),
        seconds=time.process_time() - started,
        note="; ".join(wrong) or "a case is a proof for every input",
    )


def _group(name: str) -> Check:
    started, cases, wrong = time.process_time(), 0, []
    make, against, count = GROUPS[name]
    units = make()
    for unit in units:
        tried, differing = check_exhaustively(unit, count=count)
        cases += tried
        wrong += [unit.module] * len(differing)
    return Check(
        subject=f"{len(units)} {name} units in PyRTL {tool_version('pyrtl')}",
        against=against,
        cases=cases,
        mismatches=len(wrong),
        seconds=time.process_time() - started,
        note=", ".join(sorted(set(wrong))) or f"all inputs up to 16 bits, else {count} corners and random ones",
    )


def _scales(source: str) -> Check:
    started = time.process_time()
    unit, inputs = every_pair_of_scale_and_operand(source)
    wrong = mismatches(unit, inputs, run_unit(unit, inputs))
    return Check(
        subject=f"NVFP4 encoder from {source} in PyRTL {tool_version('pyrtl')}",
        against="the format",
        cases=len(inputs["x0"]),
        mismatches=len(wrong),
        seconds=time.process_time() - started,
        note="every finite operand under every scale that occurs",
    )


def dot_designs() -> list[BlockDot | TensorDot]:
    """Return a block unit and a tensor core's unit of every kind of register."""
    return [*block_designs()[:2], block_designs()[-2], *(core_designs()[i] for i in (0, 1, -3, -1))]


def _products(index: int, seed: int) -> Check:
    started, rng, design = time.process_time(), np.random.default_rng(seed), dot_designs()[index]
    accumulator = design.accumulator if isinstance(design, BlockDot) else design.core
    cases = wrong = 0
    for depth in (1, 40, 96):
        a, b = (
            fmt.encode((np.exp2(rng.integers(-4, 5, (9, depth))) * rng.standard_normal((9, depth))).astype(np.float32))
            for fmt in (design.a, design.b)
        )
        run = dot_products(design, a, b)
        made = run.sums * np.float32(a.operand().outer * b.operand().outer)
        if not isinstance(design, BlockDot):  # scales of tensors and rows, after the last sum
            made = made * a.operand().scales[:, :1] * b.operand().scales[:, :1].T
        cases += made.size
        wrong += int((made != macloom.gemm(a, b, accumulator)).sum())
    return Check(
        subject=f"products of {design.a.name} and {design.b.name} on the dot unit of {accumulator.name}",
        against="macloom.gemm",
        cases=cases,
        mismatches=wrong,
        seconds=time.process_time() - started,
        note="3 random products",
    )


def _encoded_array(dataflow: str, seed: int) -> Check:
    started, rng = time.process_time(), np.random.default_rng(seed)
    fmt, cases, wrong = get_format("int8"), 0, 0
    for scheme in Scheme:
        scales, bias = np.exp(rng.uniform(-8, -3, 11)), rng.integers(-900, 900, 11)
        layer = Requantize.from_scale(scales, IntFormat(width=8), scheme=scheme, bias=tuple(bias.tolist()))
        design = ArrayDesign(a=fmt, b=fmt, rows=4, cols=4, dataflow=Dataflow(dataflow), epilogue=layer)
        a, b = (fmt.encode(rng.standard_normal((lines, 19)).astype(np.float32)) for lines in (9, 11))
        run = ArraySimulation(design).run(a, b)
        assert run.codes is not None
        cases += run.codes.size + 1
        wrong += int((run.codes != requantized_gemm(a, b, layer)).sum())
        wrong += run.cycles != array_cycles(design.dataflow, 9, 11, 19, 4, 4).total
    return Check(
        subject=f"int8 {dataflow} array of 4 x 4 with output encoders",
        against="requantized_gemm (codes) and the simulator (cycles)",
        cases=cases,
        mismatches=wrong,
        seconds=time.process_time() - started,
        note="a random tiled product for every rounding, a scale and a bias per channel",
    )


def _verilated(name: str, make: Callable[[], list[Unit]], share: int) -> Check:
    started = time.process_time()
    units = make()[::share]
    warnings = [line for unit in units for line in verilator.lint(verilog(unit))]
    verdicts = verilator.cross_simulate(units, count=CROSS_VECTORS)
    failed = [unit.module for unit in units if not verdicts.get(unit.module, "").startswith("PASS")]
    cases = sum(len(next(iter(some_inputs(unit, CROSS_VECTORS).values()))) for unit in units)
    return Check(
        subject=f"Verilog of {len(units)} units: {name}",
        against=f"the software, in Verilator {tool_version('verilator')}",
        cases=cases,
        mismatches=len(failed) + len(warnings),
        seconds=time.process_time() - started,
        note=", ".join([*failed, *warnings[:3]]) or "-Wall without width warnings",
    )


def _array(name: str, dataflow: str, accumulator: str, side: int, seed: int) -> Check:
    started = time.process_time()
    fmt, register = get_format(name), get_accumulator(accumulator)
    assert isinstance(register, IntegerAccumulator)
    rows = side + side % 2
    design = ArrayDesign(a=fmt, b=fmt, rows=rows, cols=side, dataflow=Dataflow(dataflow), accumulator=register)
    simulation, rng = ArraySimulation(design), np.random.default_rng(seed)
    cases = wrong = 0
    for _ in range(5):
        m, n, k = (int(s) for s in rng.integers(1, 3 * side, 3))
        a, b = (fmt.encode((3 * rng.standard_normal((lines, k))).astype(np.float32)) for lines in (m, n))
        run = simulation.run(a, b)
        left, right = a.operand(), b.operand()
        real = np.ldexp(run.sums.astype(np.float64), design.mac.unit_exponent).astype(np.float32)
        real = (real * left.scales.reshape(-1, 1)) * right.scales.reshape(1, -1)
        cases += m * n + 1
        wrong += int((real != macloom.gemm(a, b, register)).sum())
        wrong += run.cycles != array_cycles(design.dataflow, m, n, k, rows, side).total
    return Check(
        subject=f"{name} {dataflow} array of {rows} x {side}, {register.name}",
        against="macloom.gemm (values) and the simulator (cycles)",
        cases=cases,
        mismatches=wrong,
        seconds=time.process_time() - started,
        note="5 random tiled products",
    )
