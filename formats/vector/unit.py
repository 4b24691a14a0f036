"""Vector units: everything that is not a matrix product, with every bit defined, under one name."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from macloom._registry import Registry
from macloom.errors import MacloomError
from macloom.formats.vector.number import Fixed, Float, Number, Shift
from macloom.formats.vector.operations import Activation, Norm, Product, Rope, Softmax, Sum
from macloom.formats.vector.table import Exponential, Reciprocal, ReciprocalRoot, Table


@dataclass(frozen=True, kw_only=True)
class VectorUnit:
    """The pipelines of one vector unit.

    Fixed-point lanes have a binary point per tensor, which the `..._for` methods place by the largest
    magnitude that calibration saw; the fractions in the records here are overwritten. Floating-point
    lanes need no placing.

    >>> unit = get_vector_unit("fixed16")
    >>> unit.number(5.3).name, unit.activation_for(5.3, 5.3).output.name
    ('fixed16.12', 'fixed16.12')
    """

    name: str
    summary: str
    lane: Number
    softmax: Softmax
    norm: Norm
    rope: Rope
    activation: Activation

    def number(self, largest: float) -> Number:
        """Return the lane number for a tensor with this largest magnitude.

        Raises:
            MacloomError: it is negative or not finite.
        """
        if not 0 <= largest < math.inf:
            raise MacloomError(f"vector unit {self.name!r}: largest magnitude: must be finite, not {largest!r}")
        if isinstance(self.lane, Float):
            return self.lane
        whole = math.frexp(largest)[1] if largest else 0
        return replace(self.lane, fraction=self.lane.bits - 1 - whole)

    def softmax_for(self, scores: float) -> Softmax:
        """Return the softmax for scores up to this magnitude."""
        if isinstance(self.lane, Float):
            return self.softmax
        whole = math.frexp(scores)[1] if scores else 0
        return replace(self.softmax, input=replace(self.softmax.input, fraction=self.softmax.input.bits - 1 - whole))

    def norm_for(self, x: float, gain: float, output: float) -> Norm:
        """Return the norm for inputs, gains and outputs up to these magnitudes."""
        return replace(self.norm, input=self.number(x), gain=self.number(gain), output=self.number(output))

    def rope_for(self, x: float) -> Rope:
        """Return the rotation for inputs up to this magnitude; outputs may be larger by the square root of two."""
        return replace(self.rope, input=self.number(x), output=self.number(x * math.sqrt(2)))

    def activation_for(self, x: float, output: float) -> Activation:
        """Return the activation function for inputs and outputs up to these magnitudes."""
        return replace(self.activation, input=self.number(x), output=self.number(output))

    def sum_for(self, left: float, right: float, output: float) -> Sum:
        """Return the addition for operands and results up to these magnitudes."""
        return Sum(left=self.number(left), right=self.number(right), output=self.number(output))

    def product_for(self, left: float, right: float, output: float) -> Product:
        """Return the product for operands and results up to these magnitudes."""
        return Product(left=self.number(left), right=self.number(right), output=self.number(output))

    def to_dict(self) -> dict[str, Any]:
        """Return every parameter, ready for JSON."""
        return _plain(self)


def _plain(record: Any) -> Any:
    if is_dataclass(record):
        return {f.name: _plain(getattr(record, f.name)) for f in fields(record)}
    return str(record) if isinstance(record, Shift) else record


VECTOR_UNITS = Registry[VectorUnit]("vector unit")


def get_vector_unit(name: str) -> VectorUnit:
    """Return the unit of this name.

    Raises:
        MacloomError: there is none; the nearest names are given.
    """
    return VECTOR_UNITS.get(name)


def list_vector_units() -> list[str]:
    """Return the names of all vector units."""
    return list(VECTOR_UNITS)


SINGLE = Float(exponent_bits=8, mantissa_bits=23)


def _units(index_bits: int, degree: int, fraction: int, iterations: int, stored: int | None = None) -> tuple[Any, Any]:
    """Return a reciprocal and a root of these sizes; `stored` bits of the tables' entries, if fewer."""
    stored = stored or fraction
    inverse = Table(index_bits=index_bits, degree=degree, argument=fraction, fraction=stored)
    root = Table(index_bits=index_bits + 1, degree=degree, argument=fraction + 1, fraction=stored)
    return (
        Reciprocal(table=inverse, iterations=iterations, fraction=fraction),
        ReciprocalRoot(table=root, iterations=iterations, fraction=fraction),
    )


def _float_unit(
    name: str, summary: str, lane: Float, *, score: Fixed, index_bits: int, degree: int, fraction: int, argument: int,
    iterations: int, gate: Table, reach_bits: int,
) -> VectorUnit:  # fmt: skip
    reciprocal, root = _units(index_bits, 1, fraction, iterations)
    exponential = Exponential(
        table=Table(index_bits=index_bits, degree=degree, argument=argument, fraction=min(fraction, 24))
    )
    return VectorUnit(
        name=name,
        summary=summary,
        lane=lane,
        softmax=Softmax(input=score, output=lane, constant_bits=24, exponential=exponential, reciprocal=reciprocal),
        norm=Norm(input=lane, gain=lane, normalised=SINGLE, output=lane, root=root, accumulate=SINGLE, lanes=16),
        rope=Rope(input=lane, table=lane, product=SINGLE, output=lane),
        activation=Activation(input=lane, output=lane, table=gate, reach_bits=reach_bits),
    )


def _fixed_unit(
    name: str, summary: str, *, lane: Fixed, probability: Fixed, exponential: Table, reciprocal: Reciprocal,
    root: ReciprocalRoot, gate: Table, reach_bits: int, block: int | None = None,
) -> VectorUnit:  # fmt: skip
    return VectorUnit(
        name=name,
        summary=summary,
        lane=lane,
        softmax=Softmax(
            input=lane, output=probability, constant_bits=16, exponential=Exponential(table=exponential),
            reciprocal=reciprocal, block=block,
        ),
        norm=Norm(input=lane, gain=lane, normalised=Fixed(bits=24, fraction=15), output=lane, root=root),
        rope=Rope(input=lane, table=Fixed(bits=16, fraction=14), output=lane),
        activation=Activation(input=lane, output=lane, table=gate, reach_bits=reach_bits),
    )  # fmt: skip


def _add_units() -> None:
    units = [
        _float_unit(
            "fp32", "single precision: quadratic tables and one Newton step", SINGLE,
            score=Fixed(bits=36, fraction=22), index_bits=7, degree=2, fraction=26, argument=26, iterations=1,
            gate=Table(index_bits=11, degree=2, argument=31, fraction=27), reach_bits=5,
        ),
        _float_unit(
            "bf16", "bfloat16 values, single-precision sums, linear tables", Float(exponent_bits=8, mantissa_bits=7),
            score=Fixed(bits=28, fraction=14), index_bits=6, degree=1, fraction=18, argument=18, iterations=0,
            gate=Table(index_bits=8, degree=1, argument=20, fraction=18), reach_bits=4,
        ),
        _float_unit(
            "fp16", "half-precision values, single-precision sums, linear tables",
            Float(exponent_bits=5, mantissa_bits=10), score=Fixed(bits=30, fraction=16), index_bits=7, degree=1,
            fraction=20, argument=20, iterations=0,
            gate=Table(index_bits=9, degree=1, argument=22, fraction=20), reach_bits=4,
        ),
    ]  # fmt: skip
    sixteen = Fixed(bits=16, fraction=0)
    reciprocal, root = _units(5, 1, 16, 1)
    curve = Table(index_bits=8, degree=1, argument=16, fraction=16)
    common: dict[str, Any] = {
        "lane": sixteen, "probability": Fixed(bits=16, fraction=15), "reciprocal": reciprocal, "root": root,
        "exponential": Table(index_bits=5, degree=1, argument=15, fraction=16), "gate": curve, "reach_bits": 4,
    }  # fmt: skip
    units.append(_fixed_unit("fixed16", "16-bit integers with a binary point per tensor, linear tables", **common))
    units.append(_fixed_unit("fixed16-online", "fixed16 with online softmax, 32 keys at a time", **common, block=32))
    reciprocal, root = _units(8, 0, 8, 0)
    units.append(
        _fixed_unit(
            "lut8", "16-bit integers; functions from tables of 256 bytes, nothing interpolated", lane=sixteen,
            probability=Fixed(bits=9, fraction=8), exponential=Table(index_bits=8, degree=0, argument=8, fraction=8),
            reciprocal=reciprocal, root=replace(root, table=replace(root.table, index_bits=8)),
            gate=Table(index_bits=8, degree=0, argument=8, fraction=8), reach_bits=3,
        )
    )  # fmt: skip
    for unit in units:
        VECTOR_UNITS.add(unit.name, unit)


_add_units()
