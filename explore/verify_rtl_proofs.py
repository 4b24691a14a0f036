"""The proofs of `macloom verify rtl` against hand-written Verilog: by group, what is proved, and when."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from macloom.errors import MacloomError
from macloom.formats import get_format, list_formats
from macloom.formats.accumulator import BlockAccumulator, get_accumulator
from macloom.formats.accumulators.floating import SmallFloatAccumulator
from macloom.formats.accumulators.integer import IntegerAccumulator
from macloom.formats.elements.integer import IntFormat
from macloom.formats.elements.minifloat import FloatFormat
from macloom.formats.outliers.ovp import Ovp
from macloom.formats.requantize import Requantize, Scheme
from macloom.formats.tensor import TensorFormat
from macloom.formats.tensors.block import Block
from macloom.rtl import proofs
from macloom.rtl.catalog import accumulator_for
from macloom.rtl.equivalence import PROVED, Proof, prove, prove_tables
from macloom.rtl.floats import register_of
from macloom.rtl.formats.encoder import encoder
from macloom.rtl.mutants import mutant, mutated
from macloom.rtl.pe.block_dot import BlockDot
from macloom.rtl.pe.fused_design import FusedMac
from macloom.rtl.pe.mac import Mac, operand_ports
from macloom.rtl.requantizer import ROUNDINGS
from macloom.rtl.unit import Unit
from macloom.rtl.yosys import version
from macloom.verification import Check

PROVED_BITS = 8
ALIGNED = "reference_aligned_adder"
# One of every kind of circuit: a multiplier or none, a shifter or none, a register that wraps, saturates or is wide.
ELEMENTS = (
    ("int4", "int4", "int9:saturate,every=mac"),
    ("int8", "int8", "int20"),
    ("ovp4", "ovp4", "int20"),
    ("ovp4", "int4", "int16:saturate,every=mac"),
    ("flint4", "flint4", "int16"),
    ("fp4_e2m1", "fp4_e2m1", "int12"),
    ("pot4", "int4", "int16"),
    ("ternary", "int4", "int12:saturate,every=mac"),
    ("fp8_e4m3", "fp8_e4m3", ""),
    ("fp8_e5m2", "fp8_e5m2", ""),
)
# Narrow and wide: exponents in one or the other or none, registers that wrap or saturate, of one length or another.
FUSED = (
    (("int2", "int8"), ("fp6_e3m2", "")),
    (("pot4", "int20"), ("int4", "int9")),
    (("int2", "int5:saturate,every=mac"), ("int4", "int9")),
    (("int2", "int9"), ("int4", "int8:saturate,every=mac")),
)
MORE_FUSED = (
    (("int3", "int7:saturate,every=mac"), ("int6", "int13")),
    (("int3", "int14"), ("int6", "int12:saturate,every=mac")),
    (("fp4_e2m1", "int16"), ("int6", "int14")),
)


@dataclass(frozen=True, kw_only=True)
class Group:
    """A row of the table of proofs.

    Attributes:
        default, more: what is always proved, and what is added by `--exhaustive`.
        how: what the other side is, and how they are compared.
        seconds: which one proof may take.
    """

    default: Callable[[], list[Proof]]
    more: Callable[[], list[Proof]] = list
    how: str
    seconds: float = 300.0


def element(a: str, b: str, accumulator: str = "") -> Mac:
    """Return the datapath for two formats and a register, by its name or the format's own."""
    left, right = get_format(a), get_format(b)
    register = get_accumulator(accumulator) if accumulator else accumulator_for(left)
    assert not accumulator or isinstance(register, IntegerAccumulator)
    return Mac(a=operand_ports(left), b=operand_ports(right), accumulator=register)  # type: ignore[arg-type]


def elements() -> list[Proof]:
    return [proofs.element_proof(element(*case)) for case in ELEMENTS]


def narrow(fmt: TensorFormat) -> bool:
    """Say whether a format has elements, or pairs of them, whose codes have at most 8 bits each."""
    return isinstance(fmt, Ovp) or (fmt.element is not None and fmt.element.bits <= PROVED_BITS)


def every_element() -> list[Proof]:
    """Return the proof of every different element of the catalog's formats of up to 8 bits, with its own register."""
    found: dict[Mac, Proof] = {}
    for fmt in filter(narrow, map(get_format, list_formats())):
        try:
            mac = Mac(a=operand_ports(fmt), b=operand_ports(fmt), accumulator=accumulator_for(fmt))
        except MacloomError:
            continue
        found.setdefault(mac, proofs.element_proof(mac))
    return list(found.values())


def fused_elements(cases: tuple[tuple[tuple[str, str], tuple[str, str]], ...]) -> list[Proof]:
    """Return the proofs of elements of two widths, each given by its format and its register."""
    designs = [
        FusedMac(narrow=element(narrow, narrow, first), wide=element(wide, wide, second))
        for (narrow, first), (wide, second) in cases
    ]
    return [proofs.fused_element_proof(design, f"fused_mac_pe_{index}") for index, design in enumerate(designs)]


def output_encoders(schemes: tuple[Scheme, ...]) -> list[Proof]:
    layers = [Requantize.from_scale(0.01, IntFormat(width=8), scheme=s, zero_point=3) for s in schemes]
    return [proofs.output_encoder_proof(layer) for layer in layers]


def adders(names: tuple[str, ...], reference: str = "reference_adder") -> list[Proof]:
    found = []
    for name in names:
        accumulator = get_accumulator(name)
        assert isinstance(accumulator, SmallFloatAccumulator)
        found.append(proofs.adder_proof(register_of(accumulator), reference))
    return found


def block_dots(*sizes: int, scales: tuple[int, int] = (0, 254)) -> list[Proof]:
    accumulator, found = get_accumulator("block:bf16"), []
    assert isinstance(accumulator, BlockAccumulator)
    for size in sizes:
        fmt = get_format(f"mxfp4:block={size}")
        assert isinstance(fmt, Block)
        found.append(proofs.block_dot_proof(BlockDot(a=fmt, b=fmt, accumulator=accumulator), scales))
    return found


GROUPS: dict[str, Group] = {
    "element": Group(default=elements, more=every_element, how="by induction over a cycle"),
    "fused multiplier": Group(
        default=lambda: [proofs.fused_proof(3)], more=lambda: [proofs.fused_proof(4)], how="by SAT"
    ),
    "fused element": Group(
        default=lambda: fused_elements(FUSED),
        more=lambda: fused_elements(MORE_FUSED),
        how="by induction over a cycle",
    ),
    "Hadamard butterfly": Group(
        default=lambda: [proofs.hadamard_proof(4, 8)], more=lambda: [proofs.hadamard_proof(8, 4)], how="by SAT"
    ),
    "requantizer": Group(
        default=lambda: [proofs.requantizer_proof(sum_bits=16)],
        more=lambda: [proofs.requantizer_proof(rounding) for rounding in ROUNDINGS],
        how="by SAT",
    ),
    "output encoder": Group(
        default=lambda: output_encoders((Scheme.FLOOR,)),
        more=lambda: output_encoders((Scheme.EVEN, Scheme.SINGLE, Scheme.DOUBLING_HIGH)),
        how="for the multiplier 2**30, by SAT",
    ),
    "float adder": Group(
        default=lambda: adders(("e3m2",)),
        more=lambda: adders(("e2m1:toward_zero", "e3m2:nearest_away", "e3m2:saturate", "e4m3")),
        how="the exact sum rounded once, by SAT",
    ),
    "wide float adder": Group(
        default=lambda: adders(("e4m3",), ALIGNED),
        more=lambda: adders(("e3m2", "e3m2:to_odd", "e3m2:saturate", "fp16", "bf16"), ALIGNED),
        how="an adder with guard, round and sticky bits, by SAT",
    ),
    "MXFP4 block dot step": Group(
        default=lambda: block_dots(2, scales=(120, 135)),
        more=lambda: block_dots(2),
        how="its products, scales and bf16 register, by SAT",
    ),
    "rounder": Group(
        default=lambda: [proofs.rounder_proof(24, 0)],
        more=lambda: [proofs.rounder_proof(bits, unit) for bits, unit in ((78, -32), (94, -48))],
        how="by SAT",
    ),
}


def small_encoders() -> list[Unit]:
    """Return the encoders of every element of up to 8 bits in the catalog, from operands of 8 bits."""
    found: dict[str, Unit] = {}
    e5m2 = get_format("fp8_e5m2").element
    assert isinstance(e5m2, FloatFormat)
    for fmt in map(get_format, list_formats()):
        if fmt.element is None or fmt.element.bits > PROVED_BITS:
            continue
        for source in (e5m2, IntFormat(width=8)):
            unit = encoder(fmt.element, source)
            found.setdefault(unit.module, unit)
    return list(found.values())


def table_check(subject: str, units: Callable[[], list[Unit]], share: int) -> Check:
    """Return the row of proofs by truth tables, of every `share`-th unit; a mutant of the first must be rejected."""
    started, chosen = busy(), units()[::share]
    verdicts = dict(prove_tables(chosen))
    place, _ = mutant(chosen[0])
    (faulty,) = prove_tables(chosen[:1], blocks=[mutated(chosen[0], place)]).values()
    verdicts["mutant"] = PROVED if faulty.startswith("differs at") else f"accepted or undecided: {faulty}"
    wrong = [f"{module}: {verdict}" for module, verdict in verdicts.items() if verdict != PROVED]
    return Check(
        subject=subject,
        against=f"truth tables of the software, by SAT in {version()}",
        cases=len(verdicts),
        mismatches=len(wrong),
        seconds=busy() - started,
        note="; ".join(wrong) or "a case is a proof for every input; the last one rejects a mutant",
    )


def check(name: str, exhaustive: bool) -> Check:
    """Return the row of a group: all its proofs, and a mutant of the first unit, which must be rejected."""
    started, group = busy(), GROUPS[name]
    todo = [*group.default(), *(group.more() if exhaustive else [])]
    verdicts = [(proof.unit.module, prove(proof, seconds=group.seconds)) for proof in todo]
    verdicts += [(f"mutant of {todo[0].unit.module}", rejected(todo[0], group.seconds))]
    wrong = [f"{module}: {verdict}" for module, verdict in verdicts if verdict != PROVED]
    return Check(
        subject=f"{name}: {len(todo)} proofs",
        against=f"Verilog written by hand, {how(group)}",
        cases=len(verdicts),
        mismatches=len(wrong),
        seconds=busy() - started,
        note="; ".join(wrong) or "a case is a proof for every input; the last one rejects a mutant",
    )


def busy() -> float:
    """Return the processor time so far of this process and of the tools that it ran."""
    return sum(os.times()[:4])


def how(group: Group) -> str:
    return f"{group.how} in {version()} with abc"


def rejected(proof: Proof, seconds: float) -> str:
    """Return 'proved' if the prover shows an input on which a faulty unit differs, else what it says."""
    place, _ = mutant(proof.unit)
    verdict = prove(proof, mutated(proof.unit, place), seconds)
    return PROVED if verdict.startswith("differs at") else f"accepted or undecided: {verdict}"
