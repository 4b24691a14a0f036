"""Vector units as records: stated accuracy, tables that never change, placing, and every message."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats.vector import (
    Curve,
    Encode,
    Fixed,
    Float,
    Rope,
    Table,
    VectorUnit,
    activate,
    add,
    encode,
    get_vector_unit,
    list_vector_units,
    norm,
    rotate,
    softmax,
)
from macloom.formats.vector.error import vector_errors

# Largest absolute error that each unit promises: softmax, RMSNorm, rope, activations, sums and products.
# bf16 rounds results up to 11 to steps of 1/16, fp16 to 1/128; fixed16 has steps of 2**-12 up to 8.
PROMISED = {
    "fp32": (1e-6, 1e-6, 1e-6, 1e-6, 1e-6),
    "bf16": (2.0**-8, 2.0**-5, 2.0**-5, 2.0**-5, 2.0**-5),
    "fp16": (2.0**-11, 2.0**-8, 2.0**-8, 2.0**-8, 2.0**-8),
    "fixed16": (2.0**-12, 2.0**-12, 2.0**-12, 2.0**-11, 2.0**-12),
    "fixed16-online": (2.0**-12, 2.0**-12, 2.0**-12, 2.0**-11, 2.0**-12),
    "lut8": (2.0**-4, 2.0**-5, 2.0**-12, 2.0**-6, 2.0**-12),
}


def test_errors_stay_within_what_the_unit_promises(unit: VectorUnit) -> None:
    soft, normed, turned, curve, linear = PROMISED[unit.name]
    promised = {
        "softmax, scale 0.125": soft, "softmax, scale 1": soft, "RMSNorm": normed, "LayerNorm": 2 * normed,
        "rope": turned,
        **{c.value: curve for c in Curve}, "residual add": linear, "multiply": linear,
        "encode to int8, in steps": 0.5 + 2.0**-9,
    }  # fmt: skip
    found = {e.operation: e for e in vector_errors(unit)}
    assert set(found) == set(promised)
    for name, error in found.items():
        assert error.largest <= promised[name], error
        assert error.mean <= error.largest
        assert abs(error.bias) <= error.mean
        assert error.cases == 65536


def test_promises_are_not_idle() -> None:
    """One Newton step less or a table half as long breaks them: a mutant of the unit, not of the code."""
    unit = get_vector_unit("fp32")
    lazy = replace(unit, norm=replace(unit.norm, root=replace(unit.norm.root, iterations=0)))
    worst = {e.operation: e.largest for e in vector_errors(lazy)}
    assert worst["RMSNorm"] > 10 * PROMISED["fp32"][1]
    table = unit.activation.table
    short = replace(unit, activation=replace(unit.activation, table=replace(table, index_bits=table.index_bits - 3)))
    assert {e.operation: e.largest for e in vector_errors(short)}["silu"] > PROMISED["fp32"][3]


def tables(unit: VectorUnit) -> list[object]:
    activation = unit.activation
    return [
        unit.softmax.exponential.coefficients,
        unit.softmax.reciprocal.coefficients,
        unit.norm.root.coefficients,
        *(activation.coefficients(curve) for curve in Curve),
        unit.softmax.constant(0.17677669529663687),
    ]


# sha256 of every table of a unit as JSON: computed from integers alone, they are the same on every machine.
TABLES = {
    "fp32": "6643af6db8ec305d",
    "bf16": "a8ee0af62a825b42",
    "fp16": "2532b3b3c92be969",
    "fixed16": "6276e67b1da3fd21",
    "fixed16-online": "6276e67b1da3fd21",
    "lut8": "02e6c092897be934",
}


def test_tables_are_the_same_on_every_machine(unit: VectorUnit) -> None:
    assert hashlib.sha256(json.dumps(tables(unit)).encode()).hexdigest()[:16] == TABLES[unit.name]


def test_every_unit_is_promised_and_pinned() -> None:
    assert set(PROMISED) == set(TABLES) == set(list_vector_units())


def test_tables_go_through_the_function_where_they_say() -> None:
    line = Table(index_bits=3, degree=1, argument=10, fraction=20)
    constants, slopes = line.coefficients("half_power")
    for i, (c, s) in enumerate(zip(constants, slopes, strict=True)):
        assert c == round(2 ** (20 - i / 8))
        assert c + s == round(2 ** (20 - (i + 1) / 8))
    middle = replace(line, degree=0).coefficients("half_power")[0]
    assert middle == tuple(round(2 ** (20 - (i + 0.5) / 8)) for i in range(8))
    c, b, a = replace(line, degree=2).coefficients("half_power")
    for i in range(8):
        assert c[i] + b[i] / 2 + a[i] / 4 == pytest.approx(2 ** (20 - (i + 0.5) / 8), abs=0.51)
    assert line.entries == 8
    assert line.stored_bits == 8 * 2 * 21


def test_fixed_point_lanes_are_placed_by_the_largest_magnitude() -> None:
    unit = get_vector_unit("fixed16")
    for largest, fraction in ((0.0, 15), (0.49, 16), (0.5, 15), (0.99, 15), (1.0, 14), (5.3, 12), (1000.0, 5)):
        number = unit.number(largest)
        assert number == Fixed(bits=16, fraction=fraction)
        assert isinstance(number, Fixed)
        assert largest <= (number.high + 1) * 2.0**-fraction
    assert get_vector_unit("bf16").number(1e9) == Float(exponent_bits=8, mantissa_bits=7)


def test_a_unit_describes_itself_in_json(unit: VectorUnit) -> None:
    document = json.loads(json.dumps(unit.to_dict()))
    assert document["name"] == unit.name
    assert document["norm"]["root"]["iterations"] == unit.norm.root.iterations
    assert document["softmax"]["exponential"]["table"]["rounding"] == "half_up"


FIXED = get_vector_unit("fixed16")
SINGLE = get_vector_unit("fp32")
ROW = np.ones((2, 4), np.float32)

Build = Callable[[], object]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: get_vector_unit("fixd16"), "vector unit: unknown name 'fixd16'; did you mean 'fixed16'"),
        (lambda: FIXED.number(float("inf")), "vector unit 'fixed16': largest magnitude: must be finite, not inf"),
        (
            lambda: Table(index_bits=15, degree=1, argument=16, fraction=8),
            "table.index_bits: must be an integer from 0 to 14",
        ),
        (
            lambda: Table(index_bits=4, degree=3, argument=16, fraction=8),
            "table.degree: must be an integer from 0 to 2, not 3",
        ),
        (
            lambda: FIXED.activation.table.coefficients("sine"),
            "table: function: unknown name 'sine'; known are half_power",
        ),
        (lambda: replace(FIXED.norm.root, iterations=5), "newton.iterations: must be an integer from 0 to 4, not 5"),
        (lambda: replace(FIXED.norm.root, fraction=20), "root.table.argument: must be root.fraction + 1, 21, not 17"),
        (
            lambda: replace(FIXED.softmax.reciprocal, fraction=18),
            "reciprocal.table.argument: must be reciprocal.fraction, 18, not 16",
        ),
        (
            lambda: replace(SINGLE.softmax, input=Fixed(bits=36, fraction=0), constant_bits=24).constant(0.0),
            "softmax: scale: must be from 2**-30 to 2**30, not 0.0",
        ),
        (
            lambda: replace(SINGLE.softmax, constant_bits=25),
            "softmax.constant_bits: must be an integer from 2 to 24, not 25",
        ),
        (lambda: replace(SINGLE.softmax, block=0), "softmax.block: must be an integer from 1 to 1048576, not 0"),
        (
            lambda: replace(SINGLE.softmax, block=4).check_row(1 << 20),
            "softmax: rows of 1048576 scores need a 69-bit product",
        ),
        (lambda: replace(SINGLE.norm, lanes=12), "norm.lanes: must be a power of two, not 12"),
        (
            lambda: replace(SINGLE.norm, accumulate=None),
            "norm.accumulate: must be given for floating-point lanes, and only",
        ),
        (
            lambda: FIXED.norm.constant(1 << 20),
            "norm: rows of 1048576 numbers of 16 bits need a 69-bit sum, more than 62",
        ),
        (
            lambda: Rope(input=SINGLE.lane, table=SINGLE.lane, output=SINGLE.lane),
            "rope.product: must be given unless input and table are fixed-point numbers",
        ),
        (
            lambda: replace(FIXED.activation, reach_bits=7),
            "activation.reach_bits: must be an integer from 0 to 6, not 7",
        ),
        (lambda: FIXED.activation.coefficients("swish"), "activation: unknown name 'swish'; "),
        (lambda: Encode(input=FIXED.lane, output=Fixed(bits=8, fraction=1)), "encode.output: must have fraction 0"),
        (
            lambda: encode(ROW, Encode(input=FIXED.lane, output=Fixed(bits=8, fraction=0)), 0.0),
            "encode: scale: must be from 2**-120 to 2**120, not 0.0",
        ),
        (lambda: softmax(ROW * np.nan, FIXED.softmax), "softmax scores: must hold finite numbers"),
        (lambda: softmax(ROW, FIXED.softmax, valid=np.array([5])), "softmax: valid: must hold counts from 1 to 4"),
        (
            lambda: softmax(ROW, FIXED.softmax, valid=np.array([1, 2, 3])),
            "softmax: valid: must hold counts from 1 to 4",
        ),
        (lambda: norm(ROW, FIXED.norm, ROW[0, :3], 1e-5), "norm gain: must have shape (4,), not (3,)"),
        (lambda: norm(ROW, FIXED.norm, ROW[0], -1.0), "norm: eps: must be a number of at least 0, not -1.0"),
        (lambda: rotate(ROW[:, :3], FIXED.rope, 10000.0), "rope: needs shape (..., positions, even width), not (2, 3)"),
        (
            lambda: add(ROW, ROW[0], FIXED.sum_for(1.0, 1.0, 1.0)),
            "vector operands: must have one shape, not (2, 4) and (4,)",
        ),
        (
            lambda: activate(np.array(["a"]), FIXED.activation, "silu"),
            "activation input: must hold real numbers, not <U1",
        ),
    ],
)
def test_messages(build: Build, message: str) -> None:
    with pytest.raises(MacloomError, match="^" + re.escape(message)):
        build()
