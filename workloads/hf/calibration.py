"""Calibration data of one part of a model, gathered over several batches, and the plan that follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum

import numpy as np

from macloom.workloads.hf.lean import LeanRecording
from macloom.workloads.ops import Role
from macloom.workloads.recipe import Recipe
from macloom.workloads.search import GemmSample, Plan, Sample, plan_operands

ROWS = 256  # of an activation, over all batches
WEIGHT_ROWS = 512  # of a weight that the clip ratio is searched on


class Scales(StrEnum):
    """Where the one scale of a whole activation tensor comes from, in formats that have one."""

    STATIC = "static"  # fixed beforehand from the calibration text
    DYNAMIC = "dynamic"  # from the tensor itself, at run time


class Calibration:
    """Recordings of the same products on batch after batch.

    Args:
        batches: how many there will be; each gives its share of the rows.
    """

    def __init__(self, batches: int, rng: np.random.Generator) -> None:
        self._rows, self._rng = max(1, -(-ROWS // batches)), rng
        self._parts: list[list[GemmSample]] = []

    def recorder(self) -> LeanRecording:
        """Return the arithmetic of the next batch; weights are the same in all, and sampled in the first."""
        recorder = LeanRecording(rows=self._rows, weight_rows=0 if self._parts else WEIGHT_ROWS, rng=self._rng)
        self._parts.append(recorder.samples)
        return recorder

    @property
    def samples(self) -> list[GemmSample]:
        """One sample per product: rows of activations from all batches, other operands' from the first."""
        merged: dict[int, Sample] = {}
        others = [{s.op: s for s in part} for part in self._parts[1:]]

        def joined(first: Sample, rest: Sequence[Sample]) -> Sample:
            if id(first) not in merged:
                joins = first.role is Role.ACTIVATION and first.rows.ndim == 2
                rows = np.concatenate([first.rows, *(s.rows for s in rest)]) if joins else first.rows
                merged[id(first)] = replace(first, rows=rows, extremes=_joined([first.extremes, *_extremes(rest)]))
            return merged[id(first)]

        return [
            GemmSample(
                op=s.op,
                a=joined(s.a, [o[s.op].a for o in others]),
                b=s.b if s.b.role is Role.WEIGHT else joined(s.b, [o[s.op].b for o in others]),
                output_extremes=_joined([s.output_extremes, *(o[s.op].output_extremes for o in others)]),
            )
            for s in self._parts[0]
        ]


def _extremes(samples: Sequence[Sample]) -> list[np.ndarray]:
    return [s.extremes for s in samples]


def _joined(extremes: Sequence[np.ndarray]) -> np.ndarray:
    table = np.stack(extremes)
    return np.array([table[:, 0].min(), table[:, 1].max()], np.float32)


def plan_part(recipe: Recipe, samples: Sequence[GemmSample], scales: Scales) -> Plan:
    """Search the operands of some products; dynamic scales keep the clip ratio that was found and no scale."""
    plan = plan_operands(recipe, samples)
    if scales is Scales.STATIC:
        return plan
    return {key: replace(p, scale=None) if p.operand != "output" else p for key, p in plan.items()}
