"""Counting what has been compared, with the first difference in words."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np

from macloom.formats.element import ElementFormat
from macloom.verification import Check

REFERENCE = "scalar reference in exact fractions"


def value_table(element: ElementFormat) -> np.ndarray:
    """Return the float32 value of every code, from the rule for one code."""
    return np.array([element.value(code) for code in range(1 << element.bits)], np.float32)


@dataclass
class Tally:
    """What has been compared so far, and the first thing that differed."""

    element: ElementFormat
    cases: int = 0
    mismatches: int = 0
    worst: float = 0.0
    first: str = ""
    begun: float = field(default_factory=time.process_time)

    def differ(self, where: np.ndarray, x: np.ndarray, got: np.ndarray, want: np.ndarray, what: str) -> None:
        """Count the inputs x[where] for which `got` is not `want`."""
        self.mismatches += len(where)
        i = int(where[0])
        if not self.first:
            self.first = f"{float(x[i]).hex()} gives {what} {got[i]}, not {want[i]}"
        table = self.element.values
        ends = (table[got[where]], table[want[where]]) if what == "code" else (got[where], want[where])
        distance = np.abs(np.asarray(ends[0], np.float64) - np.asarray(ends[1], np.float64))
        self.worst = max(self.worst, float(np.nan_to_num(distance, nan=np.inf).max()))

    def codes(self, x: np.ndarray, got: np.ndarray, want: np.ndarray) -> None:
        self.cases += x.size
        where = np.flatnonzero(got != want)
        if len(where):
            self.differ(where, x, got, want, "code")

    def values(self, x: np.ndarray, got: np.ndarray, codes: np.ndarray) -> None:
        """Compare values, bit for bit, with those of `codes`."""
        self.cases += x.size
        want = value_table(self.element)[codes]
        where = np.flatnonzero(got.view(np.uint32) != want.view(np.uint32))
        if len(where):
            self.differ(where, x, got, want, "value")

    def check(self, subject: str, note: str) -> Check:
        return Check(
            subject=subject,
            against=REFERENCE,
            cases=self.cases,
            mismatches=self.mismatches,
            worst=self.worst,
            seconds=time.process_time() - self.begun,
            note="; ".join(filter(None, (note, self.first))),
        )
