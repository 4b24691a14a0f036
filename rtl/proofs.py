"""What is proved against hand-written Verilog: how the record of each kind of unit sets the reference's parameters."""

from __future__ import annotations

from macloom.formats.policy import Rounding
from macloom.formats.requantize import Requantize, Scheme
from macloom.rtl.epilogue import output_encoder
from macloom.rtl.equivalence import Proof
from macloom.rtl.float_units import adder, rounder
from macloom.rtl.floats import FloatRegister
from macloom.rtl.formats.decoder import PairPorts
from macloom.rtl.formats.hadamard import hadamard
from macloom.rtl.pe.block_dot import BlockDot, block_dot_step
from macloom.rtl.pe.fused import fused_multiplier
from macloom.rtl.pe.fused_design import FusedMac
from macloom.rtl.pe.fused_mac import fused_mac_pe
from macloom.rtl.pe.mac import Mac, mac_pe
from macloom.rtl.pe.register import saturates
from macloom.rtl.reference import source
from macloom.rtl.requantizer import requantizer

# By the parameter ROUND of the references.
ROUNDS = (Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY, Rounding.TOWARD_ZERO, Rounding.TO_ODD)


def element_proof(mac: Mac, module: str = "mac_pe") -> Proof:
    """Return the proof of a processing element, for all pairs that decoders send, over any time.

    >>> from macloom.formats import get_format
    >>> from macloom.formats.accumulator import IntegerAccumulator
    >>> from macloom.rtl.pe.mac import operand_ports
    >>> int4 = operand_ports(get_format("int4"))
    >>> element_proof(Mac(a=int4, b=int4, accumulator=IntegerAccumulator())).parameters["BITS"]
    32
    """
    sizes, limits = {}, {}
    for name, ports in (("a", mac.a), ("b", mac.b)):
        sizes |= {f"E{name.upper()}": ports.exponent_bits, f"S{name.upper()}": ports.significand_bits}
        limits |= _limits(name, ports)
    return Proof(
        unit=mac_pe(mac, module),
        reference="reference_element",
        source=source("element"),
        parameters={**sizes, "BITS": mac.accumulator.bits, "SATURATE": int(saturates(mac.accumulator))},
        limits=limits,
    )


def _limits(name: str, ports: PairPorts) -> dict[str, tuple[int, int]]:
    """Return what decoders send: exponents up to the top, and significands of 2 bits from -1 on."""
    found = {f"exponent_{name}": (0, ports.top - ports.offset)}
    if ports.unit_significands:
        found[f"significand_{name}"] = (-1, 1)
    return found


def fused_proof(half: int) -> Proof:
    """Return the proof that four narrow multipliers are a wide one, or two sums of products."""
    return Proof(
        unit=fused_multiplier(half),
        reference="reference_fused_multiplier",
        source=source("fused_multiplier"),
        parameters={"HALF": half},
    )


def fused_element_proof(design: FusedMac, module: str = "fused_mac_pe") -> Proof:
    """Return the proof of an element of two widths, for everything on its ports, over any time.

    It holds of registers that wrap, whose sums are modular, and of those that saturate where neither format has
    exponents: a product of exponents that no decoder sends need not fit.
    """
    unit = fused_mac_pe(design, module)
    widths = {port.name: port.width for port in unit.inputs}
    sizes = {}
    for name, narrow, wide in design.sides:
        side = name.upper()
        sizes |= {f"E{side}": widths[f"exponent_{name}"], f"S{side}": narrow.significand_bits}
        for prefix, ports in (("N", narrow), ("W", wide)):
            sizes[f"{prefix}E{side}"] = ports.exponent_bits if ports.top > ports.offset else 0
    for prefix, mac in (("N", design.narrow), ("W", design.wide)):
        sizes |= {f"{prefix}BITS": mac.accumulator.bits, f"{prefix}SATURATE": int(saturates(mac.accumulator))}
    return Proof(unit=unit, reference="reference_fused_element", source=source("fused_element"), parameters=sizes)


def block_dot_proof(design: BlockDot, scales: tuple[int, int] = (0, 254)) -> Proof:
    """Return the proof of a step of the MXFP4 dot unit, for every code and total, and scales from one to another."""
    unit, lanes = block_dot_step(design), range(design.size - 1, -1, -1)
    return Proof(
        unit=unit,
        reference="reference_block_dot",
        source=source("float") + source("block_dot"),
        parameters={"N": design.size, "T": design.register.mantissa_bits},
        ports={
            **{name: tuple(f"{name}{i}" for i in lanes) for name in "ab"},
            **{name: (name,) for name in ("scale_a", "scale_b", "total", "next")},
        },
        limits=dict.fromkeys(("scale_a", "scale_b"), scales),
    )


def hadamard_proof(size: int, width: int) -> Proof:
    """Return the proof that the butterflies are the product with Sylvester's matrix."""
    unit = hadamard(size, width)
    return Proof(
        unit=unit,
        reference="reference_hadamard",
        source=source("hadamard"),
        parameters={"LOG": size.bit_length() - 1, "WIDTH": width},
        ports={
            "x": tuple(port.name for port in reversed(unit.inputs)),
            "y": tuple(port.name for port in reversed(unit.outputs)),
        },
    )


def requantizer_proof(rounding: Rounding = Rounding.NEAREST_EVEN, sum_bits: int = 32, out_bits: int = 8) -> Proof:
    """Return the proof of a requantizer of 16-bit multipliers and shifts up to 31."""
    return Proof(
        unit=requantizer(sum_bits, 16, 5, out_bits, rounding, f"requantize_{sum_bits}_{rounding.value}"),
        reference="reference_requantizer",
        source=source("requantizer"),
        parameters={"SUM": sum_bits, "OUT": out_bits, "ROUND": ROUNDS.index(rounding)},
    )


def output_encoder_proof(record: Requantize, multiplier: int = 1 << 30) -> Proof:
    """Return the proof of an output encoder for one multiplier, and for every sum, shift and bias that records hold.

    With 2**30 no product is in the way of the solver: what is proved is everything but the multiplication.
    """
    low, high = record.range
    return Proof(
        unit=output_encoder(record),
        reference="reference_output_encoder",
        source=source("output_encoder"),
        parameters={
            "OUT": record.output.bits,
            "SCHEME": list(Scheme).index(record.scheme),
            "ZERO": record.zero_point,
            "LEAST": low,
            "MOST": high,
        },
        limits={"multiplier": (multiplier, multiplier)},
        assume="$signed(shift) > -32 && $signed(shift) < 31",
    )


def adder_proof(register: FloatRegister, reference: str = "reference_adder") -> Proof:
    """Return the proof of a float adder against the exact sum, rounded once.

    Registers that saturate hold no infinity, and are not asked for one.
    """
    e, t = register.exponent_bits, register.mantissa_bits
    finite = " && ".join(f"{name}[{e + t - 1}:{t}] != {(1 << e) - 1}" for name in "ab")
    return Proof(
        unit=adder(register, f"add_{register.name}_{register.rounding.value}" + "_saturate" * register.saturate),
        reference=reference,
        source=source("float"),
        parameters={"E": e, "T": t, "ROUND": ROUNDS.index(register.rounding), "SATURATE": int(register.saturate)},
        assume=finite if register.saturate else "1'b1",
    )


def rounder_proof(bits: int, unit_exponent: int) -> Proof:
    """Return the proof of what an exact register leaves through."""
    return Proof(
        unit=rounder(bits, unit_exponent),
        reference="reference_rounder",
        source=source("float"),
        parameters={"BITS": bits, "UNIT": unit_exponent},
    )
