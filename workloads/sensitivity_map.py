"""What a sensitivity map holds: a cell for every group, role and format, as a record, JSON and a table."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from macloom import __version__
from macloom._noise import sqnr_db
from macloom.workloads.accuracy import has_collapsed
from macloom.workloads.recipe import OPERAND_ROLES, Search
from macloom.workloads.scoring import perplexity_of

ALL = "all"
ROLES = (ALL, *(str(role) for role in OPERAND_ROLES))

Key = tuple[str, str, str]
"""Group, role and format of a cell."""


@dataclass(frozen=True, kw_only=True)
class CellSums:
    """What a cell sums up over windows; the sums of more windows are added.

    `scores` are the five columns of `WindowScores.table`; `signal` and `noise` the squared results of the group's own
    products unquantized, and the squared differences from them.
    """

    scores: tuple[float, ...]
    signal: float
    noise: float

    def __add__(self, other: CellSums) -> CellSums:
        scores = tuple(a + b for a, b in zip(self.scores, other.scores, strict=True))
        return CellSums(scores=scores, signal=self.signal + other.signal, noise=self.noise + other.noise)

    def cell(self, key: Key, level: float) -> SensitivityCell:
        """Return the cell that the sums of all windows give; `level` is the perplexity of a collapsed model."""
        tokens, reference, nats, kl, agreed = self.scores
        finite, predicts = math.isfinite(kl) and not math.isinf(nats), not math.isnan(reference)
        found = math.nan if not predicts else perplexity_of(nats / tokens) if finite else math.inf
        return SensitivityCell(
            group=key[0],
            role=key[1],
            format=key[2],
            perplexity=found,
            loss_nats=math.nan if not predicts else (nats - reference) / tokens if finite else math.inf,
            kl_nats=kl / tokens if finite else math.inf,
            top1_agreement=agreed / tokens if finite else math.nan,
            sqnr_db=sqnr_db(self.signal, self.noise) if self.signal or self.noise else math.nan,
            collapsed=has_collapsed(found, level) if predicts else not finite,
        )


@dataclass(frozen=True, kw_only=True)
class MapSums:
    """The sums of every cell, and the perplexities of the unquantized model and of one that knows nothing."""

    reference_perplexity: float
    collapse_perplexity: float
    cells: Mapping[Key, CellSums]


@dataclass(frozen=True, kw_only=True)
class SensitivityCell:
    """One group in one format; `role` says which operands, `all` being the recipe's whole arithmetic.

    `loss_nats` is the increase of the mean negative log-probability of the text, `kl_nats` the mean divergence from
    the unquantized model, both per predicted token; of images `loss_nats` and perplexities are NaN and `kl_nats` is per
    image. `sqnr_db` is that of the results of the group's own products, NaN where no token reached them.
    `collapsed` is that of `Accuracy`.
    """

    group: str
    role: str
    format: str
    perplexity: float
    loss_nats: float
    kl_nats: float
    top1_agreement: float
    sqnr_db: float
    collapsed: bool


@dataclass(frozen=True, kw_only=True)
class SensitivityMap:
    """The cells of every group, role and format, with what they were measured on.

    `unit` is what a window holds: `byte`, `token` or `image`; `operations` holds the names of each group's operations
    in the order of execution.
    """

    model: str
    model_sha256: str
    text: str
    text_sha256: str
    windows: int
    context: int
    seed: int
    calibration_text: str
    calibration_sha256: str
    by: str
    formats: tuple[str, ...]
    roles: tuple[str, ...]
    operations: Mapping[str, tuple[str, ...]]
    search: Search
    reference_perplexity: float
    collapse_perplexity: float
    cells: tuple[SensitivityCell, ...]
    unit: str = "token"
    version: str = __version__

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(self.operations)

    def cell(self, group: str, role: str, fmt: str) -> SensitivityCell | None:
        """Return one cell, or None where the group has no operand of that role."""
        return self._by_key().get((group, role, fmt))

    def _by_key(self) -> dict[tuple[str, str, str], SensitivityCell]:
        return {(c.group, c.role, c.format): c for c in self.cells}

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON; a number that is not finite becomes None."""
        return {
            "model": {"name": self.model, "sha256": self.model_sha256},
            "text": {"name": self.text, "sha256": self.text_sha256},
            "calibration_text": {"name": self.calibration_text, "sha256": self.calibration_sha256},
            "windows": self.windows,
            "context": self.context,
            "unit": self.unit,
            "seed": self.seed,
            "by": self.by,
            "formats": list(self.formats),
            "roles": list(self.roles),
            "operations": {group: list(ops) for group, ops in self.operations.items()},
            "search": self.search.to_dict(),
            "reference_perplexity": self.reference_perplexity if math.isfinite(self.reference_perplexity) else None,
            "collapse_perplexity": self.collapse_perplexity,
            "cells": [_json(cell) for cell in self.cells],
            "version": self.version,
        }

    def to_csv(self) -> str:
        """Return a table with a line per cell."""
        out = io.StringIO()
        names = list(SensitivityCell.__dataclass_fields__)
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([getattr(cell, name) for name in names] for cell in self.cells)
        return out.getvalue()


def _json(cell: SensitivityCell) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in vars(cell).items()}
