"""Progress of a run that has phases."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

Progress = Callable[[str, int, int], None]


class Steps:
    """Reports the steps of one run, phase by phase; silent outside of a run."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._phases: dict[str, tuple[int, int]] = {}
        self._text = ""
        self._done = self._limit = self._total = 0

    def begin(self, phases: Mapping[str, int]) -> None:
        """Start a run of phases with so many steps each."""
        self._phases, self._total = {}, 0
        for text, steps in phases.items():
            self._phases[text] = (self._total, self._total + steps)
            self._total += steps

    def enter(self, text: str) -> None:
        """Start a phase; one that is not part of the run is silent."""
        if text in self._phases:
            self._text, (self._done, self._limit) = text, self._phases[text]
            self._report()

    def step(self) -> None:
        """Finish a step of the phase."""
        if self._phases and self._done + 1 < self._limit:
            self._done += 1
            self._report()

    def end(self) -> None:
        self._phases = {}

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(self._text, self._done, self._total)


class TimeLeft:
    """Reports steps of a long run with the time that is left, from how long the steps so far took.

    Args:
        done: steps of an earlier run, which count as done and take no time.
        clock: seconds that only grow.
    """

    def __init__(
        self, progress: Progress | None, total: int, done: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._progress, self._total, self._clock = progress, total, clock
        self._first, self._done, self._begun = done, done, clock()

    def step(self, text: str, steps: int = 1) -> None:
        """Report that a part begins which counts so many steps, then count them."""
        if self._progress is not None:
            taken = self._done - self._first
            if taken:
                seconds = (self._clock() - self._begun) / taken * (self._total - self._done)
                text += f", {duration(seconds)} left"
            self._progress(text, self._done, self._total)
        self._done += steps


def duration(seconds: float) -> str:
    """Return a time span in words, two digits or so.

    >>> duration(42.4), duration(150), duration(7300)
    ('42 s', '2.5 min', '2.0 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
