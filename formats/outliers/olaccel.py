"""OLAccel (Park et al., ISCA 2018): 4-bit integers, and a few outliers in 8 or 16 bits."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.arrays import as_float32, check_finite, clip_share, rows_of
from macloom.formats.elements.integer import IntFormat
from macloom.formats.families import SPARSE
from macloom.formats.grammar import (
    CATALOG,
    Entry,
    Options,
    choice_option,
    granularity_option,
    integer_option,
    scale_option,
)
from macloom.formats.outliers.dense_sparse import DenseSparse, Parts
from macloom.formats.outliers.olaccel_chunks import ChunkedOutliers
from macloom.formats.outliers.sparse import Layout, SparseStore, row_indices
from macloom.formats.outliers.sparse_options import Mode, fraction_option
from macloom.formats.packing import pack, packed_row_bytes, unpack
from macloom.formats.scales import SMALLEST_SCALE, Grain, Granularity
from macloom.formats.tensor import Encoded, TensorFormat
from macloom.formats.tensors.scaled import Scaled


@dataclass(frozen=True, kw_only=True)
class OutlierMode(DenseSparse):
    """The `outlier` mode of ANT's released code (AQM:405-465), its stand-in for OLAccel and GOBO.

    The threshold is numpy's linear percentile of the magnitudes at 1 - `share`; it lands on 7. An
    outlier is stored as its sign and round((magnitude - threshold) / step) in 16 bits, the step being
    (largest magnitude - threshold) / 65535. `scales` holds the dense scale and the step.

    Differences from the released code: the threshold is seven times the stored scale, which may be one
    unit in the last place off the percentile; tensors count as signed (the code halves the steps of
    unsigned ones, level 2**15 - 1); nothing is averaged over processes.
    """

    @property
    def reach(self) -> float:
        return self.element.max_value

    def scale_bits(self, shape: tuple[int, ...]) -> int:
        return 2 * 32

    def side_bits(self, shape: tuple[int, ...]) -> int:
        count = int(np.floor(self.share * np.prod(shape, dtype=np.int64) + 1e-9))
        return super().side_bits(shape) + 8 * packed_row_bytes(count, 1)

    def calibrate(self, x: Any, clip: float | None = None) -> np.ndarray:
        magnitudes = np.abs(as_float32(x)).reshape(-1)
        check_finite(magnitudes, self.name)
        threshold = np.percentile(magnitudes, 100 * (1 - self.share)) * float(clip_share(clip))
        scale = max(np.float32(threshold) / np.float32(self.element.max_value), SMALLEST_SCALE)
        beyond = magnitudes.max() - scale * np.float32(self.element.max_value)
        return np.array([scale, beyond / np.float32(65535) if beyond > 0 else 1], np.float32)

    def _scale_and_step(self, scales: np.ndarray) -> tuple[np.ndarray, np.float32, np.float32]:
        if scales.shape != (2,):
            raise MacloomError(f"scale: must be the dense scale and the step of outliers, not shape {scales.shape}")
        if not np.all(scales > 0) or not np.all(np.isfinite(scales)):
            raise MacloomError(f"scale: must be positive and finite, not {scales.min()}")
        return scales[0].reshape(()), scales[1], scales[0] * np.float32(self.element.max_value)

    def encode_parts(self, x: np.ndarray, scale: np.ndarray, clip: float) -> Parts:
        dense, step, threshold = self._scale_and_step(scale)
        rows = rows_of(x)
        mask = np.abs(rows) > threshold
        elements, _, _ = self.dense._encode(np.where(mask, np.float32(0), rows).reshape(x.shape), dense, clip)
        units = np.clip(np.rint((np.abs(rows[mask]) - threshold) / step), 0, 65535)
        side = self.store.pack(mask, units.astype(np.uint16))
        side["signs"] = pack((rows[mask] < 0).astype(np.uint8)[None], 1)[0]
        return elements, scale, side

    def _sparse(self, encoded: Encoded) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        _, step, threshold = self._scale_and_step(encoded.scales)
        side = encoded.side or {}
        pointers, columns = self.store.positions(side, *rows_of(encoded.elements).shape)
        magnitudes = self.store.codes(side, len(columns)).astype(np.float32) * step + threshold
        signs = np.asarray(side.get("signs", np.empty(0, np.uint8)))
        if len(signs) != packed_row_bytes(len(columns), 1):
            raise MacloomError(f"side.signs: must hold {len(columns)} bits, not {8 * len(signs)}")
        negative = unpack(signs[None], 1, len(columns))[0].astype(bool)
        return pointers, columns, np.where(negative, -magnitudes, magnitudes).astype(np.float32)

    def decode(self, encoded: Encoded) -> np.ndarray:
        values = self.dense.decode(self._dense(encoded))
        pointers, columns, outliers = self._sparse(encoded)
        rows_of(values)[row_indices(pointers), columns] = outliers
        return values

    def operand_of(self, encoded: Encoded) -> Any:
        dense = self.dense.operand_of(self._dense(encoded))
        return self.with_sparse(dense, encoded)

    def _dense(self, encoded: Encoded) -> Encoded:
        scale, _, _ = self._scale_and_step(encoded.scales)
        return Encoded(self.dense, encoded.shape, encoded.elements, np.asarray(scale))


class Storage(StrEnum):
    """How outliers are stored: the layouts of a sparse store, or OLAccel's OVERFLOW chunks (`ChunkedOutliers`)."""

    COORDINATE = "coordinate"
    CSR = "csr"
    CHUNK = "chunk"
    OVERFLOW = "overflow"


def _build(name: str, options: Options) -> TensorFormat:
    mode = choice_option(options, "mode", Mode.PAPER, Mode.UPSTREAM)
    storage = choice_option(options, "layout", *Storage)
    chunk, pointer = integer_option(options, "chunk", 16), integer_option(options, "pointer", 8)
    if "pointer" in options and storage is not Storage.OVERFLOW:
        raise MacloomError("format option pointer: belongs to layout=overflow")
    if storage is Storage.OVERFLOW:
        return _overflow(name, options, mode, chunk, pointer)
    layout = Layout(storage.value)
    share = fraction_option(options, "share", 0.03)
    element = IntFormat(width=4)
    if mode is Mode.UPSTREAM:
        clash = [key for key in options if key not in ("mode", "layout", "chunk", "share")]
        if clash:
            raise MacloomError(f"format option {clash[0]}: does not apply to mode=upstream")
        return OutlierMode(
            name=name,
            dense=Scaled(name="int4", element=element, granularity=Granularity(grain=Grain.TENSOR)),
            store=SparseStore(layout=layout, value=IntFormat(width=16), chunk=chunk),
            share=share,
        )
    width = integer_option(options, "outlier", 16)
    if width not in (8, 16):
        raise MacloomError(f"format option outlier: must be 8 or 16 bits, not {width}")
    granularity = granularity_option(options, Grain.TENSOR)
    scale_format = scale_option(options, granularity)
    return DenseSparse(
        name=name,
        dense=Scaled(name="int4", element=element, granularity=granularity, scale_format=scale_format),
        store=SparseStore(layout=layout, value=IntFormat(width=width), chunk=chunk),
        share=share,
    )


def _overflow(name: str, options: Options, mode: Mode, chunk: int, pointer: int) -> TensorFormat:
    width = integer_option(options, "outlier", 8)
    if mode is Mode.UPSTREAM or width != 8:
        clash = "mode=upstream" if mode is Mode.UPSTREAM else f"outlier={width}"
        raise MacloomError(f"format option layout: 'overflow' has outliers of 8 bits in the paper's form, not {clash}")
    granularity = granularity_option(options, Grain.TENSOR)
    scale_format, element = scale_option(options, granularity), IntFormat(width=4)
    return ChunkedOutliers(
        name=name,
        dense=Scaled(name="int4", element=element, granularity=granularity, scale_format=scale_format),
        store=SparseStore(value=IntFormat(width=width), chunk=chunk),
        share=fraction_option(options, "share", 0.03),
        chunk=chunk,
        pointer=pointer,
    )


CATALOG.add(
    "olaccel4",
    Entry(
        family=SPARSE,
        summary="4-bit integers, and 3 % outliers as 16-bit integers with their coordinates (reconstruction)",
        source="Park et al., OLAccel, ISCA 2018; layout and units of outliers are a reconstruction",
        build=_build,
        keys=("mode", "layout", "chunk", "share", "outlier", "pointer"),
        explains=(OutlierMode, Storage, ChunkedOutliers),
        words=True,
    ),
)
