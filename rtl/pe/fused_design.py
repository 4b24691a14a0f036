"""Two widths of one processing element: the record, its operands on the ports, and its products in software."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.accumulator import IntegerAccumulator
from macloom.rtl.formats.pairs import PairPorts
from macloom.rtl.pe.mac import Mac, legal, products
from macloom.rtl.unit import Port, Values

# The narrow elements, by row and column: the number of an element is that of its register.
TILE = ((0, 0), (0, 1), (1, 0), (1, 1))


@dataclass(frozen=True, kw_only=True)
class FusedMac:
    """The datapaths of both widths, each with the register it sums in.

    Attributes:
        narrow: of each of the four elements; its significands are as wide as the multipliers.
        wide: of the four as one.
    """

    narrow: Mac
    wide: Mac

    def __post_init__(self) -> None:
        for mac in (self.narrow, self.wide):
            if not isinstance(mac.accumulator, IntegerAccumulator):
                raise MacloomError(
                    f"rtl.accumulator: a fused element has integer registers, not {mac.accumulator.name!r}"
                )
        for name, narrow, wide in self.sides:
            most = 2 * narrow.significand_bits
            if wide.significand_bits > most:
                raise MacloomError(
                    f"rtl.narrow: significands of {narrow.significand_bits} bits make wide ones of up to {most}, and "
                    f"those of operand {name} have {wide.significand_bits}; take a wider narrow format"
                )

    @property
    def sides(self) -> tuple[tuple[str, PairPorts, PairPorts], ...]:
        """Name, narrow pairs and wide pairs of both operands."""
        return ("a", self.narrow.a, self.wide.a), ("b", self.narrow.b, self.wide.b)

    @property
    def register_bits(self) -> int:
        """Width of the first register, which both widths use."""
        return max(self.narrow.accumulator.bits, self.wide.accumulator.bits)


def operand_ports_of(design: FusedMac) -> tuple[Port, ...]:
    """Return the ports of the operands: an exponent's holds one wide or two narrow ones, a significand's too."""
    made = []
    for name, narrow, wide in design.sides:
        made.append(Port(name=f"exponent_{name}", width=max(wide.exponent_bits, 2 * narrow.exponent_bits)))
        made.append(Port(name=f"significand_{name}", width=2 * narrow.significand_bits, signed=True))
    return tuple(made)


def packed(
    narrow: PairPorts, first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return two narrow pairs (exponent, significand) as the ports hold them: the first in the low half, int64.

    >>> import numpy as np
    >>> ports = PairPorts(offset=0, top=5, significand_bits=4)
    >>> [int(port) for port in packed(ports, (np.int64(5), np.int64(-3)), (np.int64(2), np.int64(7)))]
    [21, 125]
    """
    (e0, s0), (e1, s1) = first, second
    half = narrow.significand_bits
    return e0 | e1 << narrow.exponent_bits, (s0 & ((1 << half) - 1)) | s1 << half


def wide_operands(design: FusedMac, inputs: Values) -> Values:
    """Return the operands of the wide element on the ports."""
    made = {}
    for name, _, wide in design.sides:
        made[f"exponent_{name}"] = np.asarray(inputs[f"exponent_{name}"]) & ((1 << wide.exponent_bits) - 1)
        made[f"significand_{name}"] = np.asarray(inputs[f"significand_{name}"])
    return made


def narrow_operands(design: FusedMac, inputs: Values, element: int) -> Values:
    """Return the operands of one of the four narrow elements on the ports."""
    made = {}
    for (name, narrow, _), lane in zip(design.sides, TILE[element], strict=True):
        bits, sign = narrow.significand_bits, 1 << (narrow.significand_bits - 1)
        exponent = np.asarray(inputs[f"exponent_{name}"]) >> (lane * narrow.exponent_bits)
        significand = np.asarray(inputs[f"significand_{name}"]) >> (lane * bits)
        made[f"exponent_{name}"] = exponent & ((1 << narrow.exponent_bits) - 1)
        made[f"significand_{name}"] = ((significand & (2 * sign - 1)) ^ sign) - sign
    return made


def terms(design: FusedMac, inputs: Values) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the wide product and the four narrow ones, in software; 0 for pairs that no decoder sends."""
    wide = np.where(legal_wide(design, inputs), products(wide_operands(design, inputs)), 0)
    narrow = []
    for element in range(len(TILE)):
        operands = narrow_operands(design, inputs, element)
        narrow.append(np.where(legal(design.narrow, operands), products(operands), 0))
    return wide, narrow


def legal_wide(design: FusedMac, inputs: Values) -> np.ndarray:
    """Return which wide operands a decoder can send; the ports may hold longer significands."""
    fits = legal(design.wide, wide_operands(design, inputs))
    for name, _, wide in design.sides:
        half = 1 << (wide.significand_bits - 1)
        significand = np.asarray(inputs[f"significand_{name}"])
        fits = fits & (significand >= -half) & (significand < half)
    return fits


def stimuli(design: FusedMac, count: int, seed: int) -> Values:
    """Return pairs that decoders may send, a quarter of them extreme, in runs of one width and of sums that grow."""
    rng = np.random.default_rng(seed)

    def pairs(ports: PairPorts) -> tuple[np.ndarray, np.ndarray]:
        half, extreme = 1 << (ports.significand_bits - 1), rng.random(count) < 0.25
        lowest = -1 if ports.unit_significands else -half
        exponent = np.where(extreme, ports.top - ports.offset, rng.integers(0, ports.top - ports.offset + 1, count))
        significand = np.where(extreme, rng.choice([lowest, half - 1], count), rng.integers(lowest, half, count))
        grows = np.repeat(rng.random(-(-count // 64)) < 0.5, 64)[:count]
        return exponent, np.where(grows, abs(significand + 1) - 1, significand)

    mode = np.repeat(rng.integers(0, 2, -(-count // 48)), 48)[:count]
    made = {"wide": mode, "clear": (rng.random(count) < 0.02) * 1, "valid": (rng.random(count) < 0.9) * 1}
    for name, narrow, wide in design.sides:
        columns = zip(pairs(wide), packed(narrow, pairs(narrow), pairs(narrow)), strict=True)
        exponent, significand = (np.where(mode == 1, *both) for both in columns)
        made |= {f"exponent_{name}": exponent, f"significand_{name}": significand}
    return made
