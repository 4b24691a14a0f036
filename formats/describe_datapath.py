"""What hardware a format asks for: a class, computed from what its processing elements multiply."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from macloom.formats.outliers.dense_sparse import SideFormat
from macloom.formats.tensor import TensorFormat

# The widest significand that counts as small: that of an 8-bit integer or of bfloat16's 8 bits and a sign.
SMALL_SIGNIFICAND = 9


class Datapath(StrEnum):
    """The class of a format's datapath, the first that holds.

    ADD: operands are -1, 0 and 1; a product is an addition. SHIFT: operands are signed powers of two; a
    product is a shift. EXPAND: the operand is wider than the code; a table, or arithmetic with stored
    parameters, stands in front of the multiplier. INTEGER: an integer multiplier and nothing else. PAIR:
    an integer multiplier, an adder of exponents and a shifter. WIDE: the same beyond 9 bits of significand, as
    float16 and float32 have.
    """

    ADD = "add"
    SHIFT = "shift"
    EXPAND = "expand"
    INTEGER = "integer"
    PAIR = "pair"
    WIDE = "wide"


@dataclass(frozen=True, kw_only=True)
class DatapathFacts:
    """The parts of a format's datapath.

    Attributes:
        kind: see `Datapath`.
        multiplier_bits: width of each signed input of the integer multiplier; 0 where there is none.
        exponent_bits: width of the exponent that is added; 0 where every operand is an integer.
        decoder_bits: code bits that a decoder reads at a time; 0 where there is none.
        decoder_elements: elements that one read yields.
        table_entries: entries of a decode table, if a table decodes; 0 where a decoder is not wanted, or reads
            more than 16 bits.
        sparse: whether a second path multiplies a few elements that are stored apart.
    """

    kind: Datapath
    multiplier_bits: int
    exponent_bits: int
    decoder_bits: int
    decoder_elements: int
    table_entries: int
    sparse: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the parts by name."""
        return asdict(self) | {"kind": self.kind.value}

    @property
    def text(self) -> str:
        """The datapath in a few words.

        >>> from macloom.formats import get_format
        >>> datapath(get_format("mxfp4")).text
        'pair: 3 x 3 bit multiplier, 2-bit exponents added, decoder of 4 bits'
        """
        parts = []
        if self.multiplier_bits:
            parts.append(f"{self.multiplier_bits} x {self.multiplier_bits} bit multiplier")
        if self.exponent_bits:
            parts.append(f"{self.exponent_bits}-bit exponents added")
        if self.table_entries:
            parts.append(f"table of {self.table_entries} entries or its arithmetic")
        elif self.decoder_bits:
            parts.append(f"decoder of {self.decoder_bits} bit{'s' if self.decoder_bits > 1 else ''}")
        if self.decoder_elements > 1:
            parts.append(f"{self.decoder_elements} elements a read")
        if self.sparse:
            parts.append("sparse path")
        return f"{self.kind.value}: {', '.join(parts) or 'adder'}"


def _kind(fmt: TensorFormat) -> Datapath:
    significand, exponent = fmt.operand.significand_bits, fmt.operand.exponent_bits
    if significand <= 2:
        return Datapath.SHIFT if exponent else Datapath.ADD
    # A code of b bits names at most 2**b operands: a significand of more than b + 1 bits is made in the decoder.
    if fmt.decoder_bits and significand > fmt.decoder_bits / fmt.decoder_elements + 1:
        return Datapath.EXPAND
    if not exponent:
        return Datapath.INTEGER
    return Datapath.WIDE if significand > SMALL_SIGNIFICAND else Datapath.PAIR


def datapath(fmt: TensorFormat) -> DatapathFacts:
    """Return the datapath that a format asks for.

    >>> from macloom.formats import get_format
    >>> [datapath(get_format(name)).kind.value for name in ("int4", "ternary", "pot4", "fp8_e4m3", "nf4", "fp16")]
    ['integer', 'add', 'shift', 'pair', 'expand', 'wide']
    """
    kind = _kind(fmt)
    table = kind is Datapath.EXPAND and fmt.decoder_bits <= 16
    return DatapathFacts(
        kind=kind,
        multiplier_bits=0 if kind in (Datapath.ADD, Datapath.SHIFT) else fmt.operand.significand_bits,
        exponent_bits=fmt.operand.exponent_bits,
        decoder_bits=fmt.decoder_bits,
        decoder_elements=fmt.decoder_elements,
        table_entries=1 << fmt.decoder_bits if table else 0,
        sparse=isinstance(fmt, SideFormat) and fmt.side_bits((256, 256)) > 0,
    )
