"""Decoders of whole tensor formats in gates, against what the software's multipliers see, for the whole catalog."""

from __future__ import annotations

from dataclasses import replace
from functools import singledispatch

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import get_format, list_formats
from macloom.formats.elements.minifloat import FP16
from macloom.formats.outliers.biscaled import BiScaled
from macloom.formats.outliers.ovp import Ovp
from macloom.formats.outliers.tables import TableSparse
from macloom.formats.tensor import Encoded, TensorFormat
from macloom.formats.tensors.affine import Affine
from macloom.formats.tensors.dgq import DualGrained
from macloom.formats.tensors.kmeans import LearnedTable
from macloom.formats.tensors.preshift import PreShifted
from macloom.formats.tensors.twinlog import TwinLog
from macloom.rtl.array.design import ArrayDesign
from macloom.rtl.catalog import build
from macloom.rtl.formats.operand_decoder import decoder_of
from macloom.rtl.formats.operands import beside
from macloom.rtl.simulation import check_exhaustively, mismatches, run_unit, some_inputs

OPTIONS = ["kmeans:bits=1", "kmeans:per=row,bits=3", "gobo3:table=fp16", "squeezellm3:table=fp16", "dgq4:zeros=none"]
OPTIONS += ["twinlog4:mode=upstream", "affine4:group=16", "affine12:row"]
BESIDE = [*OPTIONS, "affine8", "affine16", "biscaled6", "dgq4", "kmeans", "llm_fp4_act", "olaccel4", "squeezellm4"]
SHAPE = (2, 256)


def tensor(fmt: TensorFormat) -> np.ndarray:
    rng = np.random.default_rng(11)
    x = (0.05 * rng.standard_normal(SHAPE) * np.exp2(rng.integers(-2, 4, SHAPE))).astype(np.float32)
    try:
        fmt.encode(x)
    except MacloomError:  # of formats without negative values
        return np.abs(x)
    return x


def spread(values: np.ndarray) -> np.ndarray:
    """Return what segments along a row share, for every element."""
    values = np.broadcast_to(values, (*SHAPE[:-1], values.shape[-1]))
    return np.repeat(values, SHAPE[-1] // values.shape[-1], axis=-1)


@singledispatch
def stored_besides(fmt: TensorFormat, encoded: Encoded) -> dict[str, np.ndarray]:
    """Return the other ports of a decoder, one number for every element: none of formats whose codes are all."""
    return {}


def entries(tables: np.ndarray, entry=FP16) -> dict[str, np.ndarray]:
    tables = np.broadcast_to(tables, (SHAPE[0], tables.shape[-1]))
    codes = entry.encode(tables).astype(np.int64)
    return {f"entry{i}": spread(codes[:, i : i + 1]) for i in range(codes.shape[1])}


@stored_besides.register
def _(fmt: TableSparse, encoded: Encoded) -> dict[str, np.ndarray]:
    pointers, columns = fmt.store.positions(encoded.side or {}, *SHAPE)
    outlier = np.zeros(SHAPE, np.int64)
    outlier[np.repeat(np.arange(len(pointers) - 1), np.diff(pointers)), columns] = 1
    return entries(encoded.scales, fmt.entry) | {"outlier": outlier}


@stored_besides.register
def _(fmt: LearnedTable, encoded: Encoded) -> dict[str, np.ndarray]:
    return entries(encoded.scales, fmt.entry)


@stored_besides.register
def _(fmt: TwinLog, encoded: Encoded) -> dict[str, np.ndarray]:
    # A row's table is what the multipliers see of every code.
    codes = np.tile(np.arange(1 << fmt.code_bits, dtype=np.uint8), (SHAPE[0], 1)) % (1 << fmt.code_bits)
    codes = np.minimum(codes, encoded.elements.max())
    operand = fmt.operand_of(replace(encoded, shape=codes.shape, elements=codes))
    return entries(np.ldexp(operand.units, operand.unit_exponent))


@stored_besides.register
def _(fmt: Affine, encoded: Encoded) -> dict[str, np.ndarray]:
    _, zeros, _ = fmt.spread(np.asarray(encoded.scales, np.float32), SHAPE)
    return {"zero": spread(zeros)}


@stored_besides.register
def _(fmt: DualGrained, encoded: Encoded) -> dict[str, np.ndarray]:
    return {"scale": spread(encoded.scales[..., 1] - 1), "zero": spread(encoded.scales[..., 2])}


@stored_besides.register
def _(fmt: BiScaled, encoded: Encoded) -> dict[str, np.ndarray]:
    pointers, columns = fmt.store.positions(encoded.side or {}, *SHAPE)
    shift = np.zeros(SHAPE, np.int64)
    rows = np.repeat(np.arange(len(pointers) - 1), np.diff(pointers))
    shift[rows, columns] = int(np.log2(encoded.scales[1] / encoded.scales[0]))
    return {"shift": shift}


@stored_besides.register
def _(fmt: PreShifted, encoded: Encoded) -> dict[str, np.ndarray]:
    scales = np.asarray(encoded.scales)
    return {"shift": np.tile(fmt.largest_shift - np.log2(scales.max() / scales), (SHAPE[0], 1))}


def decoded(fmt: TensorFormat, encoded: Encoded) -> np.ndarray:
    """Return what the decoder's circuit makes of a tensor's stored form, without scales."""
    unit = build(fmt, "decoder")
    if isinstance(fmt, Ovp):
        pairs = encoded.elements.astype(np.int64).reshape(-1, 2)
        out = run_unit(unit, {"pair": pairs[:, 0] << fmt.normal.bits | pairs[:, 1]})
        slots = [np.ldexp(out[f"significand{k}"].astype(float), out[f"exponent{k}"]) for k in (0, 1)]
        return np.ldexp(np.stack(slots, axis=-1), unit.facts["exponent_offset"]).reshape(SHAPE)
    found = {"code": encoded.elements} | stored_besides(fmt, encoded)
    inputs = {port.name: np.asarray(found[port.name]).astype(np.int64).ravel() for port in unit.inputs}
    out = run_unit(unit, inputs)
    assert not len(mismatches(unit, inputs, out))
    values = np.ldexp(out["significand"].astype(float), out["exponent"] + unit.facts["exponent_offset"])
    return values.reshape(SHAPE)


@pytest.mark.parametrize("name", [*list_formats(), *OPTIONS])
def test_decoders_of_stored_tensors_give_what_the_multipliers_see_and_the_values_up_to_scales(name):
    fmt = get_format(name)
    try:
        build(fmt, "decoder")
    except MacloomError:
        assert beside(fmt) is not None or fmt.element.bits > 16, "a refusal has a reason"
        return
    encoded = fmt.encode(tensor(fmt))
    operand, made = encoded.operand(), decoded(fmt, encoded)
    zeros = 0 if operand.zeros is None else spread(operand.zeros)
    np.testing.assert_array_equal(made, np.ldexp(operand.units.astype(float) - zeros, operand.unit_exponent))
    rows = np.broadcast_to(operand.scales, (SHAPE[0], operand.scales.shape[-1]))
    dense = made * spread(rows) * float(operand.outer)
    if operand.sparse is None:
        values = encoded.decode()
        # Values of tables are rounded to fp16 for the multipliers.
        np.testing.assert_allclose(dense, values, rtol=2**-10, atol=2**-20 * np.abs(values).max())
    assert (operand.sparse is None) or beside(fmt) is not None


@pytest.mark.parametrize("name", BESIDE)
def test_decoders_with_other_inputs_equal_their_models(name):
    _, wrong = check_exhaustively(decoder_of(get_format(name)), count=1500)
    assert not len(wrong)


def test_a_table_whose_entries_are_swapped_is_noticed():
    unit = decoder_of(get_format("kmeans"))
    inputs = some_inputs(unit, 500)

    def circuit(wires):
        return unit.circuit({**wires, "entry4": wires["entry5"], "entry5": wires["entry4"]})

    assert len(mismatches(unit, inputs, run_unit(replace(unit, circuit=circuit), inputs)))


def test_formats_whose_codes_are_not_all_say_so():
    for name in ("affine4", "bitstack"):
        with pytest.raises(MacloomError, match=rf"format '{name}' has no encoder: .* \('{name}' has: .*pe\)"):
            build(get_format(name), "encoder")
    for name in ("kmeans", "affine4", "bitstack", "llm_int8"):
        with pytest.raises(MacloomError, match=f"format '{name}' has no array: "):
            ArrayDesign(a=get_format(name), b=get_format("int8"), rows=2, cols=2)
    with pytest.raises(MacloomError, match="its table holds fp32, and units exist up to 16 bits; choose table=fp16"):
        build(get_format("gobo3"), "decoder")
    with pytest.raises(MacloomError, match="table of 256 entries would come through ports, of which there are up"):
        build(get_format("kmeans:bits=8"), "decoder")
    with pytest.raises(MacloomError, match="has no decoder: codes are indices of whole vectors in codebooks"):
        build(get_format("vptq"), "decoder")
    assert "table that is fitted to the data" in decoder_of(get_format("kmeans")).facts["beside"]
