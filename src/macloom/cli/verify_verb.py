"""`macloom verify NAME...`: compare macloom with independent oracles."""

from __future__ import annotations

import json
import shlex
import time
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from macloom._files import write_atomically
from macloom.cli.console import Console, jsonable
from macloom.verification import VERIFIERS, Check, Options, provenance, to_json, to_markdown


def run(options: Namespace, console: Console) -> int:
    """Run verifiers, print and write their tables, and return 1 if anything differs from its oracle."""
    verifiers = {name: VERIFIERS.get(name) for name in options.names}
    results = []
    for name, verifier in verifiers.items():
        clock = _Clock(console, name)
        settings = Options(exhaustive=options.exhaustive, jobs=options.jobs, seed=console.seed, expect=clock.expect)
        versions = provenance()  # of what is loaded, should sources change meanwhile
        checks = list(clock.watch(verifier.checks(settings)))
        results.append(to_json(name, checks, _command(name, options, console), versions))
    if options.out:
        as_json = options.out.suffix == ".json"
        text = json.dumps(jsonable(results), indent=1, allow_nan=False) + "\n" if as_json else to_markdown(results)
        console.note(f"wrote {write_atomically(options.out, text)}")
    console.emit(results, lambda: _show(results, console))
    differing = [check for result in results for check in result["checks"] if check["mismatches"]]
    for check in differing:
        console.note(f"differs: {check['subject']} from {check['against']}: {check['mismatches']:,} {check['note']}")
    return 1 if differing else 0


def _command(name: str, options: Namespace, console: Console) -> str:
    """Return the command that gives these results again, wherever they are written."""
    words = ["macloom", "verify", name]
    words += ["--exhaustive"] if options.exhaustive else []
    words += ["--seed", str(console.seed)] if console.seed else []
    return shlex.join(words)


class _Clock:
    """Says on stderr what each check found and how long the rest will take."""

    def __init__(self, console: Console, name: str) -> None:
        self.console, self.name, self.total = console, name, 0
        self.begun = time.monotonic()

    def expect(self, total: int) -> None:
        self.total = total

    def watch(self, checks: Iterator[Check]) -> Iterator[Check]:
        for done, check in enumerate(checks, 1):
            found = f"{check.cases:,} cases " + ("equal" if check.holds else f"{check.mismatches:,} DIFFER")
            found = f"SKIPPED, {check.note}" if check.skipped else found
            passed = time.monotonic() - self.begun
            left = f"; {duration(passed / done * (self.total - done))} left" if self.total >= done else ""
            of = f" of {self.total}" if self.total >= done else ""
            self.console.note(f"{self.name} {done}{of}: {check.subject}: {found}{left}")
            yield check


def duration(seconds: float) -> str:
    """Return a span of time as people say it.

    >>> duration(7), duration(200), duration(7300)
    ('7 s', '3 min', '2 h 2 min')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _show(results: list[dict[str, Any]], console: Console) -> None:
    columns = ("subject", "against", "cases", "mismatches", "worst difference", "seconds", "note")
    for result in results:
        rows = [
            (
                check["subject"], check["against"], f"{check['cases']:,}", f"{check['mismatches']:,}",
                f"{check['worst']:.6g}", f"{check['seconds']:.1f}", check["note"],
            )
            for check in result["checks"]
        ]  # fmt: skip
        title = f"{result['verifier']}: {result['cases']:,} cases, {result['mismatches']:,} mismatches"
        title += f", {result['skipped']} checks skipped" if result["skipped"] else ""
        console.table(title, columns, rows, left=("subject", "against", "note"))
