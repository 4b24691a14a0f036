"""Positions and values of outliers: bytes on paper, and what no encoder writes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from macloom.errors import MacloomError
from macloom.formats import FloatFormat, IntFormat
from macloom.formats.elements.minifloat import FP16, FP32
from macloom.formats.outliers.sparse import Layout, SparseStore, row_indices, stored_codes, stored_values


def f32(values: object) -> np.ndarray:
    return np.asarray(values, np.float32)


MASK = np.array([[0, 1, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 1, 0]], bool)


def test_layouts_by_hand():
    codes = np.array([10, 20, 30, 40], np.uint16)
    csr = SparseStore(layout=Layout.CSR, value=FP16).pack(MASK, codes)
    assert {k: (v.dtype.name, v.tolist()) for k, v in csr.items()} == {
        "rows": ("uint32", [0, 2, 2, 4]),
        "columns": ("uint16", [1, 5, 0, 4]),
        "values": ("uint16", [10, 20, 30, 40]),
    }
    flat = SparseStore(layout=Layout.COORDINATE, value=None).pack(MASK)
    assert {k: (v.dtype.name, v.tolist()) for k, v in flat.items()} == {"positions": ("uint32", [1, 5, 12, 16])}
    # chunks of 4: counts 1 1 | 0 0 | 1 1 in 3 bits each, places 1 1 0 0 in 2 bits each, the first lowest
    chunk = SparseStore(layout=Layout.CHUNK, value=IntFormat(width=8), chunk=4).pack(MASK, codes)
    assert chunk["counts"].tolist() == [0b00001001, 0b10010000, 0b00]
    assert chunk["places"].tolist() == [0b00000101]
    assert chunk["values"].dtype == np.uint8
    assert chunk["values"].tolist() == [10, 20, 30, 40]
    wide = SparseStore(wide=True).pack(MASK, codes)
    assert wide["columns"].dtype == np.uint32


@given(st.data())
def test_positions_and_values_come_back(data):
    rows, length = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 40))
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=rows * length, max_size=rows * length)), bool)
    mask = mask.reshape(rows, length)
    value = data.draw(st.sampled_from([None, FP16, FP32, IntFormat(width=8), IntFormat(width=5)]))
    store = SparseStore(
        layout=data.draw(st.sampled_from(list(Layout))), value=value, chunk=data.draw(st.integers(1, 20))
    )
    codes = np.arange(mask.sum(), dtype=np.uint32) % 32
    side = store.pack(mask, codes)
    pointers, columns = store.positions(side, rows, length)
    row, column = np.nonzero(mask)
    np.testing.assert_array_equal(row_indices(pointers), row)
    np.testing.assert_array_equal(columns, column)
    if value is not None:
        np.testing.assert_array_equal(store.codes(side, len(columns)), codes)
    assert store.bits(rows, length, len(columns)) == sum(8 * array.nbytes for array in side.values())


def test_values_are_stored_as_their_format_rounds():
    x = f32([0.1, -7, 1e9, -1e-30])
    assert stored_values(FP16, stored_codes(FP16, x)).tolist() == [
        float(np.float16(0.1)), -7.0, 65504.0, -0.0,
    ]  # fmt: skip
    np.testing.assert_array_equal(stored_values(FP32, stored_codes(FP32, x)).view(np.uint32), x.view(np.uint32))
    e4m3 = FloatFormat(label="e4m3", exponent_bits=4, mantissa_bits=3)
    assert stored_codes(e4m3, f32([1.0])).tolist() == [0x38]


@pytest.mark.parametrize(
    ("store", "side", "message"),
    [
        (SparseStore(), {"rows": [0, 1, 1, 1]}, "side: must have 'columns', not only 'rows'"),
        (SparseStore(), {}, "side: must have 'rows', not only nothing"),
        (SparseStore(), {"rows": [0, 1, 1], "columns": [0]}, "do not fit 3 rows of 6"),
        (SparseStore(), {"rows": [0, 2, 2, 2], "columns": [3, 3]}, "do not fit 3 rows of 6"),
        (SparseStore(), {"rows": [0, 2, 1, 2], "columns": [3, 4]}, "do not fit 3 rows of 6"),
        (SparseStore(), {"rows": [0, 0, 0, 1], "columns": [6]}, "do not fit 3 rows of 6"),
        (SparseStore(layout=Layout.COORDINATE), {"positions": [18]}, "side.positions: must be below 18, not 18"),
        (SparseStore(layout=Layout.COORDINATE), {"positions": [4, 3]}, "do not fit 3 rows of 6"),
        (SparseStore(layout=Layout.CHUNK), {"counts": [0], "places": [0]}, "side.counts: must have 2 entries"),
    ],
)
def test_positions_that_no_encoder_writes_are_refused(store, side, message):
    with pytest.raises(MacloomError, match=message):
        store.positions({k: np.array(v, np.uint8) for k, v in side.items()}, 3, 6)


def test_columns_may_fall_from_row_to_row():
    side = SparseStore(value=None).pack(MASK)
    assert SparseStore(value=None).positions(side, 3, 6)[1].tolist() == [1, 5, 0, 4]


def test_wrong_records_are_refused():
    with pytest.raises(MacloomError, match=r"sparse\.chunk: must be a positive integer, not 0"):
        SparseStore(chunk=0)
    with pytest.raises(MacloomError, match=r"side\.values: must have 2 entries for 2 outliers, not 1"):
        SparseStore().codes({"values": np.zeros(1, np.uint16)}, 2)
