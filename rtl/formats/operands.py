"""What multipliers see of a tensor format: the widths of its pairs, and what beside a code decides a pair."""

from __future__ import annotations

from dataclasses import replace
from functools import singledispatch

from macloom.errors import MacloomError
from macloom.formats.element import ElementFormat
from macloom.formats.elements.minifloat import FP16, FloatFormat
from macloom.formats.outliers.biscaled import BiScaled
from macloom.formats.outliers.dense_sparse import SideFormat
from macloom.formats.outliers.kvquant import KVQuant
from macloom.formats.outliers.ovp import Ovp
from macloom.formats.outliers.tables import TableFormat
from macloom.formats.tensor import TensorFormat
from macloom.formats.tensors.affine import Affine
from macloom.formats.tensors.bitstack import BitStack
from macloom.formats.tensors.dgq import DualGrained
from macloom.formats.tensors.kmeans import LearnedTable
from macloom.formats.tensors.preshift import PreShifted
from macloom.formats.tensors.twinlog import TwinLog
from macloom.formats.tensors.vector_codebook import VectorCodebook
from macloom.rtl.formats.pairs import PairPorts, pair_ports
from macloom.rtl.unit import signed_width

OUTLIERS = "its outliers are stored apart and multiplied outside"
FITTED = "the values of its codes are a table that is fitted to the data"


@singledispatch
def beside(fmt: TensorFormat) -> str | None:
    """Return what decides an element's value beside its code and a scale; None where nothing does."""
    return None


beside.register(TableFormat, lambda _: FITTED)
beside.register(LearnedTable, lambda _: FITTED)
beside.register(TwinLog, lambda _: "every row has a table of values")
beside.register(KVQuant, lambda _: "a value is a table's entry times a range of its vector, plus an offset")
beside.register(Affine, lambda _: "zero points are stored besides")
beside.register(BiScaled, lambda _: "which of two scales an element has is stored besides")
beside.register(PreShifted, lambda _: "every channel has a shift")
beside.register(BitStack, lambda _: "values are sums of products of vectors under planes of signs")
beside.register(VectorCodebook, lambda _: "codes are indices of whole vectors in codebooks of the tensor")


@beside.register
def _(fmt: SideFormat) -> str | None:
    return OUTLIERS


def require_plain_codes(fmt: TensorFormat, what: str) -> None:
    """Raise where something beside a code and a scale decides values, so that a unit of codes alone would be wrong.

    >>> from macloom.formats import get_format
    >>> require_plain_codes(get_format("int4"), "array")
    """
    reason = beside(fmt)
    if reason is not None:
        raise MacloomError(f"rtl: format {fmt.name!r} has no {what}: {reason}")


@singledispatch
def operand_ports(fmt: TensorFormat) -> PairPorts:
    """Return the pairs that a format's multipliers get.

    Raises:
        MacloomError: the format has no such pairs.
    """
    if fmt.element is None:
        raise MacloomError(f"rtl: format {fmt.name!r} has no element format, so that no pair reaches an element")
    return pair_ports(fmt.element)


@operand_ports.register
def _(fmt: Ovp) -> PairPorts:
    return pair_ports(fmt.normal).union(pair_ports(fmt.outlier))


def table_entry(fmt: TensorFormat, entry: FloatFormat) -> FloatFormat:
    """Return the format of a table's entries, which must have at most 16 bits."""
    if entry.bits > 16:
        raise MacloomError(
            f"rtl: format {fmt.name!r} has no units: its table holds {entry.name}, and units exist up to 16 bits; "
            "choose table=fp16"
        )
    return entry


@operand_ports.register
def _(fmt: TableFormat) -> PairPorts:
    return pair_ports(table_entry(fmt, fmt.entry))


@operand_ports.register
def _(fmt: LearnedTable) -> PairPorts:
    return pair_ports(table_entry(fmt, fmt.entry))


@operand_ports.register(TwinLog)
@operand_ports.register(BitStack)
@operand_ports.register(VectorCodebook)
def _(fmt: TensorFormat) -> PairPorts:
    return pair_ports(FP16)


@operand_ports.register
def _(fmt: Affine) -> PairPorts:
    return PairPorts(offset=0, top=0, significand_bits=signed_width(-fmt.largest, fmt.largest))


@operand_ports.register
def _(fmt: DualGrained) -> PairPorts:
    return PairPorts(offset=0, top=0, significand_bits=signed_width(-fmt.max_unit, fmt.max_unit))


def _shifted_ports(element: ElementFormat, most: int, offset: int) -> PairPorts:
    own = pair_ports(element)
    return replace(own, offset=own.offset + offset, top=own.top + offset + most)


@operand_ports.register
def _(fmt: BiScaled) -> PairPorts:
    return _shifted_ports(fmt.element, fmt.shift, 0)


@operand_ports.register
def _(fmt: PreShifted) -> PairPorts:
    return _shifted_ports(fmt.element, fmt.largest_shift, -fmt.largest_shift)
