"""The catalog's KVQuant formats, and the rotary embedding that decoded keys still need."""

from __future__ import annotations

from enum import StrEnum

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.elements.minifloat import FP16, FP32
from macloom.formats.families import SPARSE
from macloom.formats.grammar import CATALOG, Builder, Entry, Options, choice_option, integer_option, note_option
from macloom.formats.outliers.kvquant import KVQuant, Tensor
from macloom.formats.outliers.kvquant_deployed import KVQuantDeployed
from macloom.formats.outliers.sparse import Layout, SparseStore
from macloom.formats.outliers.sparse_options import Mode, float_option, fraction_option
from macloom.formats.tensor import TensorFormat


class Switch(StrEnum):
    """A choice between two."""

    OFF = "off"
    ON = "on"


def rotate(x: np.ndarray, positions: np.ndarray, base: float = 10000.0) -> np.ndarray:
    """Return keys (..., tokens, channels) after rotary embedding, channel i paired with i + channels / 2.

    Args:
        positions: the position of every token.
        base: theta of the lowest frequency (Su et al., RoFormer, 2021).

    Raises:
        MacloomError: the number of channels is odd, or that of positions is not that of tokens.
    """
    tokens, channels = x.shape[-2:]
    if channels % 2:
        raise MacloomError(f"rotate: needs an even number of channels, not {channels}")
    if np.shape(positions) != (tokens,):
        raise MacloomError(f"rotate: needs one position for each of {tokens} tokens, not shape {np.shape(positions)}")
    half = channels // 2
    angle = np.asarray(positions, np.float64)[:, None] * base ** (-np.arange(half) / half)
    left, right = x[..., :half].astype(np.float64), x[..., half:].astype(np.float64)
    turned = (left * np.cos(angle) - right * np.sin(angle), left * np.sin(angle) + right * np.cos(angle))
    return np.concatenate(turned, axis=-1).astype(np.float32)


class Storage(StrEnum):
    """LISTS: codes, a range for each vector and a list of all outliers. DEPLOYED: as the released inference code
    stores them (`KVQuantDeployed`)."""

    LISTS = "lists"
    DEPLOYED = "deployed"


DEPLOYED_KEYS = ("storage", "role", "outliers", "cap", "qnorm", "transposed")


def deployed(width: int, name: str, options: Options) -> TensorFormat:
    """Return the format of the released inference code."""
    clash = [key for key in options if key not in DEPLOYED_KEYS]
    if clash:
        raise MacloomError(f"format option {clash[0]}: does not apply to storage=deployed")
    return KVQuantDeployed(
        name=name,
        width=width,
        tensor=choice_option(options, "role", Tensor.KEY, Tensor.VALUE),
        outliers=fraction_option(options, "outliers", 0.01),
        cap=integer_option(options, "cap", 0) if "cap" in options else None,
        qnorm=choice_option(options, "qnorm", Switch.OFF, Switch.ON) is Switch.ON,
        transposed=choice_option(options, "transposed", Switch.OFF, Switch.ON) is Switch.ON,
    )


def kvquant(width: int) -> Builder:
    """Return the builder of KVQuant formats with indices of `width` bits."""

    def build(name: str, options: Options) -> TensorFormat:
        note_option(options, "cap", "an integer (none; with storage=deployed a share of the channels)")
        if choice_option(options, "storage", *Storage) is Storage.DEPLOYED:
            return deployed(width, name, options)
        mode = choice_option(options, "mode", Mode.PAPER, Mode.UPSTREAM)
        stored = FP32 if mode is Mode.UPSTREAM else FP16
        entry = float_option(options, "table", stored)
        return KVQuant(
            name=name,
            width=width,
            tensor=choice_option(options, "role", Tensor.KEY, Tensor.VALUE),
            entry=entry,
            store=SparseStore(
                layout=choice_option(options, "layout", Layout.CSR, Layout.COORDINATE, Layout.CHUNK),
                value=float_option(options, "value", stored),
                chunk=integer_option(options, "chunk", 16),
                wide=mode is Mode.UPSTREAM,
            ),
            outliers=fraction_option(options, "outliers", 0.01),
            cap=integer_option(options, "cap", 0) if "cap" in options else None,
            first=integer_option(options, "first", 0),
            qnorm=choice_option(options, "qnorm", Switch.OFF, Switch.ON) is Switch.ON,
            transposed=choice_option(options, "transposed", Switch.OFF, Switch.ON) is Switch.ON,
            mode=mode,
        )

    return build


for _width in (4, 3, 2):
    CATALOG.add(
        f"kvquant{_width}",
        Entry(
            family=SPARSE,
            summary=f"{_width}-bit non-uniform keys per channel (or values per token), 1 % outliers",
            source="Hooper et al., KVQuant, NeurIPS 2024",
            build=kvquant(_width),
            keys=(
                "storage",
                "role",
                "mode",
                "outliers",
                "cap",
                "first",
                "qnorm",
                "transposed",
                "table",
                "value",
                "layout",
                "chunk",
            ),
            explains=(Storage, KVQuantDeployed),
        ),
    )
