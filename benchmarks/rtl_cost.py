"""Synthesise the generated hardware and switch it with real tensors: `python benchmarks/rtl_cost.py`.

Writes `arch/rtl_costs.toml`, the table that the architecture room keeps, and `benchmarks/results/rtl_cost.md`.
The stimuli are the weights and the inputs of every linear layer of the embedded model `tiny-outlier`, encoded
by the format under test; an element sees one row against one column after the other. Takes a quarter of an hour of
one core; `--only REGEX` maps the rows that it finds anew and keeps the others, if the same tools made them.
"""

from __future__ import annotations

import argparse
import re
import time
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import macloom
from macloom._files import write_atomically
from macloom.errors import MacloomError
from macloom.formats import TensorFormat, get_format
from macloom.formats.accumulator import BlockAccumulator, get_accumulator
from macloom.formats.elements.minifloat import BF16, FP16
from macloom.formats.outliers.ovp import Ovp
from macloom.formats.tensor_core.record import TensorCoreAccumulator
from macloom.formats.tensors.block import Block
from macloom.rtl.array.design import Lane
from macloom.rtl.catalog import accumulator_for, build
from macloom.rtl.cost import CONFLICTS, STYLES, YOSYS_CONFLICTS, Netlist, gate_outputs, switching, synthesize
from macloom.rtl.formats.encoder import encoder
from macloom.rtl.formats.pair_encoder import pair_encoder
from macloom.rtl.pe.block_dot import BlockDot, block_dot, block_dot_step
from macloom.rtl.pe.mac import Mac, mac_step, operand_ports, pair_product, products
from macloom.rtl.pe.products import inputs_of
from macloom.rtl.pe.register import accumulate
from macloom.rtl.pe.tensor_dot import TensorDot, tensor_dot, tensor_dot_step
from macloom.rtl.simulation import mismatches
from macloom.rtl.toolchain import tool_version
from macloom.rtl.unit import WORD, Port, Unit, Wires
from macloom.rtl.yosys import version

ROOT = Path(__file__).resolve().parent.parent
FORMATS = (
    *("int4", "int8", "ovp4", "ovp4:normal=flint4", "ovp8", "flint4", "pot4", "apot4", "ternary", "fp4_e2m1"),
    *("fp6_e2m3", "fp6_e3m2", "fp8_e4m3", "fp8_e5m2", "posit8_0", "nf4", "tan4", "log4", "adaptivfloat8"),
)
BASE = "int8"
LAYERS = 3  # linear layers taken for stimuli, spread over the model
OUTPUTS = 12  # dot products of each
PRODUCTS = ("int4", "int8", "flint4", "ovp4")  # of which the multiplier and the shifter are mapped alone, too
DOT_ROWS = 3  # rows of A and of B whose products the dot-product units compute
DOTS = (  # bfp8 has the codes and the scales of mxint8
    ("mxfp4", "block:fp32"),
    ("mxfp4", "block:bf16"),
    ("mxfp4:block=8", "block:fp32"),
    *((n, "block:fp32") for n in ("mxfp6_e2m3", "mxfp6_e3m2", "mxfp8_e4m3", "mxfp8_e5m2", "mxint8", "bfp4", "nvfp4")),
    ("fp16", "tc:volta-fp16"),
    ("fp16", "tc:ampere-fp16"),
    ("fp8_e4m3", "tc:ada-fp8"),
    ("fp8_e4m3", "tc:hopper-fp8"),
)
BLOCK_ENCODERS = ("mxfp4:block=16", "nvfp4")
# Units that are mapped with both limits, to know what the smaller one does.
ELEMENTS_COMPARED = ("int4", "int8", "ovp4", "ovp8", "fp8_e4m3", "posit8_0")
DOTS_COMPARED = (("mxfp4:block=8", "block:fp32"), ("fp16", "tc:volta-fp16"))
MAPPING = (
    f"yosys' scripts for synth and abc -g cmos2; in rows with `conflicts` abc gives up on two nodes that may be equal "
    f"after so many, and not after {YOSYS_CONFLICTS} (&fraig -x -C)"
)


def traced_operands() -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (input rows, weight rows) of some linear layers of `tiny-outlier` on held-out text."""
    import torch

    from macloom.workloads.lm.checkpoint import load_model
    from macloom.workloads.lm.data import stdlib_text
    from macloom.workloads.lm.model import FloatArithmetic, forward

    model = load_model("tiny-outlier")
    found: list[tuple[np.ndarray, np.ndarray]] = []

    class Recorder(FloatArithmetic):
        def linear(self, name: str, x: Any, weight: Any) -> Any:
            found.append((x.reshape(-1, x.shape[-1]).numpy(), weight.numpy()))
            return super().linear(name, x, weight)

    with torch.no_grad():
        tokens = torch.from_numpy(stdlib_text("held-out").windows(128, 1).astype(np.int64))
        forward(model.parameters, model.config, tokens, Recorder())
    chosen = np.linspace(0, len(found) - 2, LAYERS).astype(int)  # the last one is the output head
    return [found[i] for i in chosen]


def storable(fmt: TensorFormat, x: np.ndarray) -> np.ndarray:
    """Return float32 values that the format can hold: magnitudes where it has no negative values."""
    x = np.ascontiguousarray(x, np.float32)
    return np.abs(x) if fmt.element is not None and fmt.element.min_value >= 0 else x


def operand_codes(fmt: TensorFormat, x: np.ndarray) -> np.ndarray:
    """Return the codes that a border lane reads, (rows, K)."""
    encoded = fmt.encode(storable(fmt, x))
    return Lane(fmt).codes_of(encoded.elements)[:, : x.shape[1]]


def element_trace(
    fmt: TensorFormat, mac: Mac, layers: Sequence[tuple[np.ndarray, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Return the inputs of one element over time: pairs of both operands and the sum so far."""
    lane = Lane(fmt)
    columns: dict[str, list[np.ndarray]] = {}
    for inputs, weights in layers:
        slots = np.arange(inputs.shape[1]) & 1
        sides = {n: operand_codes(fmt, x[:OUTPUTS]) for n, x in (("a", inputs), ("b", weights))}
        for row in range(OUTPUTS):
            made: dict[str, np.ndarray] = {}
            for n, codes in sides.items():
                made[f"exponent_{n}"], made[f"significand_{n}"] = lane.values(codes[row], slots)
            total, totals = 0, []
            for term in products(made, mac.accumulator.bits):
                totals.append(total)
                total = int(accumulate(mac.accumulator, total, int(term)))
            made["total"] = np.array(totals, object if mac.accumulator.bits > WORD else np.int64)
            for name, values in made.items():
                columns.setdefault(name, []).append(values)
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def measured(unit: Unit, inputs: dict[str, np.ndarray], conflicts: int = YOSYS_CONFLICTS) -> dict[str, Any]:
    """Return the cost of a combinational unit in both mapping styles, and its switching; gates must equal the model."""
    row: dict[str, Any] = {}
    for style in STYLES:
        netlist = synthesize(unit, style, conflicts)
        wrong = mismatches(unit, inputs, gate_outputs(netlist, unit, inputs))
        if len(wrong):
            raise MacloomError(f"rtl cost: the gates of {unit.module} ({style}) differ from the software")
        row |= {f"transistors_{style}": netlist.transistors, f"depth_{style}": netlist.depth}
        row[f"switching_{style}"] = round(switching(netlist, unit, inputs), 1)
    return row if conflicts == YOSYS_CONFLICTS else row | {"conflicts": conflicts}


def costs(name: str, layers: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, dict[str, Any]]:
    """Return the costs of the units of one format."""
    fmt = get_format(name)
    decode = build(fmt, "decoder")
    port = decode.inputs[0].name
    made = {
        "decoder": measured(
            decode, {port: np.concatenate([operand_codes(fmt, x[:OUTPUTS]).ravel() for x, _ in layers])}
        )
    }
    element = fmt.element
    assert element is not None
    scaled = np.concatenate([_scaled(fmt, x[:OUTPUTS]).ravel() for x, _ in layers])
    codes = FP16.encode(np.clip(scaled, -FP16.max_value, FP16.max_value)).astype(np.int64)
    if isinstance(fmt, Ovp):  # of a pair, as the decoder
        made["encoder"] = measured(pair_encoder(fmt), {"x0": codes[0::2], "x1": codes[1::2]})
    else:
        made["encoder"] = measured(encoder(element, FP16), {"x": codes})
    made["mac"] = element_row(name, layers)
    return made


def element_row(
    name: str, layers: Sequence[tuple[np.ndarray, np.ndarray]], conflicts: int = YOSYS_CONFLICTS
) -> dict[str, Any]:
    """Return the cost of a format's processing element."""
    fmt = get_format(name)
    ports = operand_ports(fmt)
    mac = Mac(a=ports, b=ports, accumulator=accumulator_for(fmt))
    row = measured(mac_step(mac), element_trace(fmt, mac, layers), conflicts)
    whole: Netlist = synthesize(build(fmt, "pe"), conflicts=conflicts)
    return {**row, "flip_flops": whole.flip_flops, "accumulator_bits": mac.accumulator.bits}


def product_row(name: str, layers: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Return the cost of what multiplies two pairs: a processing element without its register and its adder."""
    fmt = get_format(name)
    ports = operand_ports(fmt)
    mac = Mac(a=ports, b=ports, accumulator=accumulator_for(fmt))
    step, bits = mac_step(mac), mac.product_bits

    def circuit(inputs: Wires) -> Wires:
        a, b = ((inputs[f"exponent_{n}"], inputs[f"significand_{n}"]) for n in "ab")
        return {"product": pair_product(ports, ports, bits, a, b)}

    unit = Unit(
        module="product",
        inputs=step.inputs[:-1],
        outputs=(Port(name="product", width=bits, signed=True),),
        circuit=circuit,
        model=lambda inputs: {"product": products(inputs, bits)},
    )
    trace = element_trace(fmt, mac, layers)
    return {"elements": 1, **measured(unit, {port.name: trace[port.name] for port in unit.inputs})}


def _scaled(fmt: TensorFormat, x: np.ndarray) -> np.ndarray:
    """Return the values in units of the format's scales, as its encoder sees them."""
    x = storable(fmt, x)
    encoded = fmt.encode(x)
    operand = encoded.operand()
    scales = np.repeat(operand.scales, operand.block, axis=-1)[..., : x.shape[-1]]
    return x / (scales * operand.outer)


def dot_design(name: str, accumulator: str) -> BlockDot | TensorDot:
    """Return the dot-product unit of a format."""
    fmt, chosen = get_format(name), get_accumulator(accumulator)
    if isinstance(chosen, TensorCoreAccumulator):
        return TensorDot(a=fmt, b=fmt, core=chosen)
    assert isinstance(fmt, Block)
    assert isinstance(chosen, BlockAccumulator)
    return BlockDot(a=fmt, b=fmt, accumulator=chosen)


def dot_row(
    name: str, accumulator: str, layers: Sequence[tuple[np.ndarray, np.ndarray]], conflicts: int = CONFLICTS
) -> dict[str, Any]:
    """Return the cost of a dot-product unit, all of its products at once, on the blocks of some outputs."""
    design = dot_design(name, accumulator)
    running, step = (
        (block_dot(design), block_dot_step(design))
        if isinstance(design, BlockDot)
        else (tensor_dot(design), tensor_dot_step(design))
    )
    columns: dict[str, list[np.ndarray]] = {}
    for inputs, weights in layers:
        a, b = (design.a.encode(np.ascontiguousarray(x[:DOT_ROWS], np.float32)) for x in (inputs, weights))
        made = inputs_of(design, a, b)
        made["total"] = np.where(made["clear"] == 1, 0, running.model(made)["sum"])
        for port in step.inputs:
            columns.setdefault(port.name, []).append(made[port.name][:-1])
    row = measured(step, {key: np.concatenate(parts) for key, parts in columns.items()}, conflicts)
    products = design.size if isinstance(design, BlockDot) else design.core.block
    return {"elements": products, **row, "flip_flops": design.register.bits}


def block_encoder_row(name: str, layers: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Return the cost of an encoder of blocks on activations."""
    fmt = get_format(name)
    assert isinstance(fmt, Block)
    lines = []
    for inputs, _ in layers:
        x = np.ascontiguousarray(inputs[:OUTPUTS], np.float32)
        x = x / np.float32(fmt.calibrate(x)) if fmt.two_level else x
        lines.append(x[:, : x.shape[1] // fmt.size * fmt.size].reshape(-1, fmt.size))
    codes = BF16.encode(np.concatenate(lines)).astype(np.int64)
    return {"elements": fmt.size, **measured(build(fmt, "block-encoder"), {f"x{i}": c for i, c in enumerate(codes.T)})}


SECTIONS = ("costs", "units", "compared")
Rows = dict[str, dict[str, Any]]
Maker = Callable[[Sequence[tuple[np.ndarray, np.ndarray]]], dict[str, Any]]


def makers() -> dict[tuple[str, str], Maker]:
    """Return what makes each row, by the section of the table and the name that it has there."""
    made: dict[tuple[str, str], Maker] = {}
    for name in FORMATS:
        made["costs", name] = lambda layers, name=name: costs(name, layers)
    for name in PRODUCTS:
        made["units", f"{name} product"] = lambda layers, name=name: product_row(name, layers)
    for name, text in DOTS:
        made["units", f"{name} {text}"] = lambda layers, name=name, text=text: dot_row(name, text, layers)
    for name in BLOCK_ENCODERS:
        made["units", f"{name} encoder"] = lambda layers, name=name: block_encoder_row(name, layers)
    for name in ELEMENTS_COMPARED:
        made["compared", name] = lambda layers, name=name: element_row(name, layers, CONFLICTS)
    for name, text in DOTS_COMPARED:
        made["compared", f"{name} {text}"] = lambda layers, name=name, text=text: dot_row(
            name, text, layers, YOSYS_CONFLICTS
        )
    return made


def provenance() -> dict[str, str]:
    """Return what says where the table comes from."""
    return {
        "kind": "estimated",
        "source": f"macloom {macloom.__version__}, {version()}, pyrtl {tool_version('pyrtl')}",
        "mapping": MAPPING,
        "base": BASE,
    }


def toml(table: dict[str, Rows]) -> str:
    """Return the committed table: provenance, then one section for each format and unit."""
    lines = [
        "# Gate counts and switching of the generated hardware; written by benchmarks/rtl_cost.py, not by hand.",
        "# transistors: two-input NAND, NOR and NOT (yosys `abc -g cmos2`), flip-flops apart; depth: gates on the",
        "# longest path; switching: driven gate inputs that change per operation on tensors of tiny-outlier. Of use",
        "# as ratios, and no closer than the spread of the two mapping styles and about 20 %.",
        "",
        "[provenance]",
        *(f'{key} = "{value}"' for key, value in provenance().items()),
        "",
    ]

    def section(title: str, row: dict[str, Any]) -> None:
        lines.extend([title, *(f"{key} = {value}" for key, value in row.items()), ""])

    for name, units in table["costs"].items():
        for unit, row in units.items():
            section(f'[costs."{name}".{unit}]', row)
    lines += ["# Units that take `elements` products, or operands, at a time.", ""]
    for name, row in table["units"].items():
        section(f'[units."{name}"]', row)
    lines += ["# Some of them once more, with the other limit of conflicts.", ""]
    for name, row in table["compared"].items():
        section(f'[compared."{name}"]', row)
    return "\n".join(lines)


def markdown(table: dict[str, Any]) -> str:
    """Return the result page of the whole table: a row for each format and unit, and ratios to the int8 element."""
    base = table["costs"][BASE]["mac"]
    rows = [
        f"# Hardware cost\n\nWritten by `python benchmarks/rtl_cost.py` with {table['provenance']['source']}.\n"
        "Two numbers are the two mapping styles (`alumacc`, `noalumacc`). Transistors exclude flip-flops; switching is "
        "that\nof the datapath without clock and wires.\n",
        "| format | decoder transistors | depth | encoder transistors | depth | MAC transistors | to int8 "
        "| flip-flops | depth | switching to int8 |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, units in table["costs"].items():
        mac = units["mac"]
        both = [mac[f"transistors_{s}"] / base[f"transistors_{s}"] for s in STYLES]
        power = [mac[f"switching_{s}"] / base[f"switching_{s}"] for s in STYLES]
        codec = []
        for unit in ("decoder", "encoder"):
            row = units.get(unit)
            codec += [_both(row, "transistors"), _both(row, "depth")] if row else ["", ""]
        rows.append(
            f"| {name} | {' | '.join(codec)} | {_both(mac, 'transistors')} | {_span(both)} | {mac['flip_flops']} "
            f"| {_both(mac, 'depth')} | {_span(power)} |"
        )
    rows += [
        "\nUnits of several elements: what one step of all of them takes, and the share of one element beside an int8"
        "\nmultiplier with its 32-bit register. Decoders, scales, a float register, and the shifters before it, are in"
        "\nthese numbers.\n",
        "| unit | elements | transistors | depth | flip-flops | transistors of one, to int8 | switching of one |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, row in table["units"].items():
        each = [
            [row[f"{figure}_{s}"] / row["elements"] / base[f"{figure}_{s}"] for s in STYLES]
            for figure in ("transistors", "switching")
        ]
        rows.append(
            f"| {name} | {row['elements']} | {_both(row, 'transistors')} | {_both(row, 'depth')} "
            f"| {row.get('flip_flops', '')} | {_span(each[0])} | {_span(each[1])} |"
        )
    rows += [
        f"\nDot-product units are mapped with one change to yosys' script: abc gives up after {CONFLICTS} conflicts of "
        "its SAT\nsolver on two nodes that may be equal, and not after 1,000,000, with which a block of eight 8-bit "
        "products is\nnot done in minutes. Some units with both:\n",
        f"| unit | transistors, {CONFLICTS} | 1,000,000 | ratio | depth, {CONFLICTS} | 1,000,000 | switching, ratio |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, other in table["compared"].items():
        row = table["units"].get(name) or table["costs"][name]["mac"]
        few, many = (row, other) if "conflicts" in row else (other, row)
        ratios = {
            figure: [few[f"{figure}_{s}"] / many[f"{figure}_{s}"] for s in STYLES]
            for figure in ("transistors", "switching")
        }
        rows.append(
            f"| {name} | {_both(few, 'transistors')} | {_both(many, 'transistors')} "
            f"| {_span(ratios['transistors'], 3)} | {_both(few, 'depth')} | {_both(many, 'depth')} "
            f"| {_span(ratios['switching'], 3)} |"
        )
    return "\n".join(rows) + "\n"


def _both(row: dict[str, Any], key: str) -> str:
    values = [row[f"{key}_{style}"] for style in STYLES]
    return str(values[0]) if len(set(values)) == 1 else " / ".join(map(str, values))


def _span(values: list[float], digits: int = 2) -> str:
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return low if low == high else f"{low}-{high}"


def made_before(path: Path) -> dict[str, Rows]:
    """Return the rows of an earlier run.

    Raises:
        MacloomError: other tools made them, or mapped them in another way.
    """
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    if document["provenance"] != provenance():
        raise MacloomError(f"--only: {path.name} is of {document['provenance']}, not {provenance()}; leave out --only")
    return {section: document.get(section, {}) for section in SECTIONS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=ROOT, help="checkout to write into (this one)")
    parser.add_argument("--only", help="regular expression: rows to map anew, such as 'mxfp4' (all)")
    options = parser.parse_args()
    path = options.out / "arch" / "rtl_costs.toml"
    old = made_before(path) if options.only else {}
    layers = traced_operands()
    table: dict[str, Rows] = {section: {} for section in SECTIONS}
    for (section, name), make in makers().items():
        if options.only and not re.search(options.only, name):
            row = old[section].get(name)
        else:
            start = time.perf_counter()
            row = make(layers)
            print(f"{section} {name}: {time.perf_counter() - start:.0f} s", flush=True)
        if row is not None:
            table[section][name] = row
    write_atomically(path, toml(table))
    page = markdown({"provenance": provenance(), **table})
    write_atomically(options.out / "benchmarks" / "results" / "rtl_cost.md", page)
    print(page)


if __name__ == "__main__":
    main()
