"""The units of `macloom verify rtl` that no single format of the catalog stands for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np

from macloom.formats import get_format, list_formats
from macloom.formats.accumulator import BlockAccumulator, get_accumulator
from macloom.formats.accumulators.floating import FloatAccumulator, SmallFloatAccumulator
from macloom.formats.accumulators.integer import IntegerAccumulator
from macloom.formats.elements.integer import IntFormat
from macloom.formats.elements.minifloat import BF16, FP16, FP32
from macloom.formats.outliers.ovp import Ovp
from macloom.formats.policy import Overflow, Rounding
from macloom.formats.requantize import Requantize, Scheme
from macloom.formats.tensor_core.record import TensorCoreAccumulator
from macloom.formats.tensors.block import Block
from macloom.rtl.catalog import accumulator_for, build
from macloom.rtl.epilogue import output_encoder
from macloom.rtl.float_units import adder, rounder
from macloom.rtl.floats import register_of
from macloom.rtl.formats.block_encoder import block_encoder
from macloom.rtl.formats.decoder import identifier
from macloom.rtl.formats.encoder import encoder
from macloom.rtl.formats.pair_encoder import pair_encoder
from macloom.rtl.formats.scaled_encoder import scaled_encoder
from macloom.rtl.pe.block_dot import BlockDot, block_dot_step
from macloom.rtl.pe.fused_mac import fused_pe
from macloom.rtl.pe.tensor_dot import TensorDot, tensor_dot_step
from macloom.rtl.unit import Unit

PAIRS = ("ovp4", "ovp4:normal=flint4", "ovp8", "ovp4:assign=threshold")
SCALES = ("mxfp4", "nvfp4", "int8:group=32,scale=fp16", "int8:group=32,scale=bf16")
BLOCKS = (
    "mxfp4",
    *(f"{name}:block=8" for name in ("mxfp6_e2m3", "mxfp6_e3m2", "mxfp8_e4m3", "mxfp8_e5m2", "mxint8", "bfp4", "bfp8")),
    *(f"mxfp4:block=8,rule={rule}" for rule in ("ceil", "even")),
)
FLOAT_SCALES = ("nvfp4", "nvfp4:block=1")
REGISTERS = ("fp32", "bf16", "fp16", "e4m3", "e4m3:saturate", "e3m2:to_odd", "e2m1:toward_zero", "e8m7:nearest_away")
# A narrow and a wide format, and both registers where they are not those of the formats.
FUSED = (
    ("ovp4", "ovp8"),
    ("int4", "int8"),
    ("fp4_e2m1", "fp8_e4m3"),
    ("int4", "int8", "int9:saturate,every=mac", "int18"),
    ("int4", "ovp8", "int12", "int42:saturate,every=mac"),
    ("ovp4", "int8", "int24", "int20:saturate,every=mac"),
)
BLOCK_DOTS = (
    *(("mxfp4:block=8", register) for register in ("block:fp32", "block:bf16", "block:fp16")),
    *((f"{name}:block=4", "block:fp32") for name in ("mxfp6_e2m3", "mxfp6_e3m2", "mxfp8_e4m3", "mxfp8_e5m2", "bfp8")),
    ("mxint8:block=4", "block:fp32,inner=int16:saturate"),
    *(("nvfp4", f"block:{register}") for register in ("fp32", "bf16")),
)
CORES = (
    *(("fp16", "fp16", f"tc:{core}") for core in ("volta-fp16", "volta-fp16-fp16", "ampere-fp16")),
    *(("fp16", "fp16", f"tc:{core},block=4,k=4") for core in ("ada-fp16", "hopper-fp16", "hopper-fp16-fp16")),
    ("bf16", "bf16", "tc:ampere-bf16,block=4"),
    *((a, b, "tc:ada-fp8,block=8") for a in ("fp8_e4m3", "fp8_e5m2") for b in ("fp8_e4m3", "fp8_e5m2")),
    ("fp8_e4m3", "fp8_e4m3", "tc:ada-fp8"),
    ("fp8_e4m3", "fp8_e5m2", "tc:hopper-fp8,block=8"),
    ("fp8_e5m2", "fp8_e5m2", "tc:ada-fp8-fp16,block=8"),
    ("fp8_e4m3", "fp8_e4m3", "tc:hopper-fp8,block=8,promote=8"),
    ("fp8_e4m3", "fp8_e4m3", "tc:hopper-fp8,block=8,promote=128"),
    *(("fp8_e5m2", "fp8_e4m3", f"tc:{core},block=4,k=8") for core in ("hopper-fp8-sync-fp16", "blackwell-fp8-sync")),
    ("fp32", "fp32", "tc:ampere-tf32"),
    ("mxfp6_e3m2", "mxfp8_e4m3", "tc:blackwell-mxfp8,block=4,k=4"),
    ("mxfp4", "mxfp4", "tc:blackwell-mxfp4,block=32,k=32"),
    ("nvfp4", "nvfp4", "tc:blackwell-nvfp4,block=32,k=32"),
    ("nvfp4", "mxfp4:block=16", "tc:rtx-blackwell-nvfp4,block=16,k=16"),
)
# Those whose whole products are compared: one of every kind of register, late sum and scale.
PRODUCTS = (
    *("tc:volta-fp16", "tc:volta-fp16-fp16", "tc:hopper-fp8,block=8,promote=8", "tc:hopper-fp8,block=8,promote=128"),
    *("tc:hopper-fp8-sync-fp16,block=4,k=8", "tc:blackwell-nvfp4,block=32,k=32"),
)


def scale_decoders() -> list[Unit]:
    return [build(get_format(name), "scale-decoder") for name in SCALES]


def wrapping_encoders() -> list[Unit]:
    """Return encoders of integers that wrap, in every rounding."""
    outputs = IntFormat(width=8), IntFormat(width=4, signed=False, fraction_bits=2)
    sources = IntFormat(width=16, symmetric=False), IntFormat(width=16, fraction_bits=4), FP16
    modes = [rounding for rounding in Rounding if rounding is not Rounding.STOCHASTIC]
    made = []
    for output, source, mode in product(outputs, sources, modes):
        name = f"{identifier(output.name)}_from_{identifier(source.name)}_wraps_{mode.value}"
        made.append(encoder(output, source, mode, Overflow.WRAP, name))
    return made


def float32_encoders() -> list[Unit]:
    """Return the encoders from float32 of every element of the catalog but those whose search takes megabytes."""
    elements = dict.fromkeys(e for e in (get_format(name).element for name in list_formats()) if e is not None)
    return [encoder(e, FP32) for e in elements if e.bits <= 8 or (e.bits <= 16 and e.steps is not None)]


def pair_encoders() -> list[Unit]:
    formats = [fmt for fmt in map(get_format, PAIRS) if isinstance(fmt, Ovp)]
    return [pair_encoder(fmt, source) for fmt in formats for source in (FP16, BF16, FP32)]


def _blocks(names: tuple[str, ...]) -> list[Block]:
    return [fmt for fmt in map(get_format, names) if isinstance(fmt, Block)]


def block_encoders() -> list[Unit]:
    """Return encoders of blocks; of those with one operand all inputs are tried."""
    made = [block_encoder(fmt, source) for fmt in _blocks(BLOCKS) for source in (BF16, FP16, FP32)]
    for fmt in _blocks(FLOAT_SCALES):
        for unit in (scaled_encoder(fmt, source) for source in (BF16, FP16)):
            made.append(unit if fmt.size > 1 else replace(unit, stimuli=None))
    return made


def float_units() -> list[Unit]:
    registers = [get_accumulator(name) for name in REGISTERS]
    adders = [adder(register_of(r)) for r in registers if isinstance(r, FloatAccumulator | SmallFloatAccumulator)]
    for unit, name in zip(adders, REGISTERS, strict=True):
        adders[adders.index(unit)] = replace(unit, module="add_" + "".join(c if c.isalnum() else "_" for c in name))
    return [*adders, *(rounder(bits, exponent) for bits, exponent in ((24, 0), (78, -32), (94, -48), (536, -266)))]


def output_encoders() -> list[Unit]:
    outputs = IntFormat(width=8), IntFormat(width=8, signed=False), IntFormat(width=4)
    layers = [Requantize.from_scale(0.01, output, scheme=s, zero_point=3) for output in outputs for s in Scheme]
    return [output_encoder(layer) for layer in layers]


def fused_elements() -> list[Unit]:
    made = []
    for narrow, wide, *names in FUSED:
        formats = get_format(narrow), get_format(wide)
        registers = [accumulator_for(fmt) for fmt in formats]
        for index, name in enumerate(names):
            register = get_accumulator(name)
            assert isinstance(register, IntegerAccumulator)
            registers[index] = register
        unit = fused_pe(*formats, *registers)
        made.append(replace(unit, module="_".join([unit.module, *map(identifier, names)])))
    return made


def block_designs() -> list[BlockDot]:
    made = []
    for name, text in BLOCK_DOTS:
        fmt, accumulator = get_format(name), get_accumulator(text)
        assert isinstance(fmt, Block)
        assert isinstance(accumulator, BlockAccumulator)
        made.append(BlockDot(a=fmt, b=fmt, accumulator=accumulator))
    return made


def core_designs() -> list[TensorDot]:
    made = []
    for a, b, text in CORES:
        core = get_accumulator(text)
        assert isinstance(core, TensorCoreAccumulator)
        made.append(TensorDot(a=get_format(a), b=get_format(b), core=core))
    return made


def dot_designs() -> list[BlockDot | TensorDot]:
    """Return a block unit and a tensor core's unit of every kind, for whole products."""
    cores = {design.core.name: design for design in reversed(core_designs())}
    return [*block_designs()[:2], block_designs()[-2], *(cores[get_accumulator(name).name] for name in PRODUCTS)]


def block_dots() -> list[Unit]:
    return [block_dot_step(design) for design in block_designs()]


def tensor_dots() -> list[Unit]:
    return [tensor_dot_step(design) for design in core_designs()]


# By what the table calls them: units, what they equal, and how many vectors are tried where there are too many inputs.
GROUPS: dict[str, tuple[Callable[[], list[Unit]], str, int]] = {
    "scale decoder": (scale_decoders, "the formats", 20_000),
    "wrapping encoder": (wrapping_encoders, "the formats", 20_000),
    "encoder from float32": (float32_encoders, "the formats", 20_000),
    "pair encoder": (pair_encoders, "the formats", 40_000),
    "block encoder": (block_encoders, "the formats", 6_000),
    "float adder and rounder": (float_units, "the arithmetic room", 20_000),
    "output encoder": (output_encoders, "macloom.formats.requantize", 20_000),
    "fused element": (fused_elements, "both formats' exact products", 20_000),
    "block dot": (block_dots, "the accumulators `block:...`", 6_000),
    "tensor-core dot": (tensor_dots, "the accumulators `tc:...`", 6_000),
}


def every_pair_of_scale_and_operand(source: str) -> tuple[Unit, dict[str, np.ndarray]]:
    """Return the encoder of two operands, one of which makes each NVFP4 scale while the other is every finite one."""
    kind, fmt = {"bf16": BF16, "fp16": FP16}[source], get_format("nvfp4:block=2")
    assert isinstance(fmt, Block)
    unit = scaled_encoder(fmt, kind)
    largest = np.flatnonzero(np.isfinite(kind.values[: 1 << 15]))
    scales = unit.model({"x0": largest, "x1": np.zeros(len(largest), np.int64)})["scale"]
    first, every = largest[np.unique(scales, return_index=True)[1]], np.flatnonzero(np.isfinite(kind.values))
    return unit, {"x0": np.repeat(first, len(every)), "x1": np.tile(every, len(first))}
