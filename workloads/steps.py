"""Progress of a run that has phases."""

from __future__ import annotations

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
