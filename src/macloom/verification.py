"""What `macloom verify` runs: checks of macloom against independent oracles, and the table of their results.

A verifier is a function from `Options` to an iterator of `Check`; one line in `VERIFIERS` gives it a name.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from macloom import __version__
from macloom._registry import Registry
from macloom.errors import MacloomError, require_positive_integer


@dataclass(frozen=True, kw_only=True)
class Check:
    """What one comparison against an oracle found.

    Attributes:
        subject: what was verified.
        against: the oracle, and its version where it is a package.
        cases: how many results were compared.
        mismatches: how many differ by more than the check allows, which is nothing unless the note says so.
        worst: the largest difference, in the unit that the note names; 0 where all are equal.
        seconds: processor time.
        note: what the reader must know; the first mismatch, if there is one.
        skipped: whether nothing was compared, for want of what the note names.
    """

    subject: str
    against: str
    cases: int
    mismatches: int = 0
    worst: float = 0.0
    seconds: float = 0.0
    note: str = ""
    skipped: bool = False

    def __post_init__(self) -> None:
        if not self.subject or not self.against:
            raise MacloomError("check: must name its subject and what it is compared with")
        if self.skipped and (self.cases or not self.note):
            raise MacloomError(f"check {self.subject!r}: must have no cases and a note that says why, to be skipped")
        if self.cases < 1 and not self.skipped:
            raise MacloomError(f"check {self.subject!r}: cases must be at least 1, not {self.cases}")
        if not 0 <= self.mismatches <= self.cases:
            raise MacloomError(
                f"check {self.subject!r}: mismatches must be from 0 to {self.cases}, not {self.mismatches}"
            )

    @property
    def holds(self) -> bool:
        return self.mismatches == 0


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a verifier works.

    Attributes:
        exhaustive: every input where there are finitely many, instead of a sample that takes seconds.
        jobs: processes to share the work between.
        seed: of every random sample.
        expect: what a verifier tells how many checks it is going to yield, for the time that is left.
    """

    exhaustive: bool = False
    jobs: int = 1
    seed: int = 0
    expect: Callable[[int], object] = field(default=lambda total: None, compare=False, repr=False)

    def __post_init__(self) -> None:
        require_positive_integer("verify.jobs", self.jobs)

    def spread(self, calls: Sequence[Callable[[], Check]]) -> Iterator[Check]:
        """Yield what the calls return, in their order, computed by `jobs` processes.

        With more than one process the calls must be picklable: functions of a module, or partials of them.
        """
        if self.jobs == 1:
            yield from (call() for call in calls)
            return
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        with ProcessPoolExecutor(self.jobs, mp_context=get_context("spawn")) as pool:
            futures = [pool.submit(call) for call in calls]
            try:
                yield from (future.result() for future in futures)
            finally:
                pool.shutdown(cancel_futures=True)


Verify = Callable[[Options], Iterable[Check]]


@dataclass(frozen=True, kw_only=True)
class Verifier:
    """A named set of checks; `home` is "module:function", which is imported when it runs."""

    summary: str
    home: str

    def checks(self, options: Options) -> Iterator[Check]:
        module, _, function = self.home.partition(":")
        verify: Verify = getattr(import_module(module), function)
        yield from verify(options)


VERIFIERS: Registry[Verifier] = Registry("verifier", hint="macloom verify --help")
# One line for each set of checks; its module is imported only when it runs.
for _name, _home, _summary in (
    ("formats", "macloom.formats.verify:checks", "codes and values of every element and tensor format"),
    ("vector", "macloom.formats.vector.verify:checks", "softmax, norms, rope and the like against integers"),
    ("tensor-cores", "macloom.formats.tensor_core.verify:checks", "tensor cores against mmasim, mmaemu and fractions"),
    ("arithmetic", "macloom.formats.accumulators.verify:checks", "accumulators against integers and fractions"),
    (
        "rtl",
        "macloom.explore.verify_rtl:checks",
        "generated hardware against the software, in PyRTL, Verilator and by SAT",
    ),
    ("simulator", "macloom.sim.verify:checks", "the rungs of the systolic simulator against one another, and gemm"),
    ("scalesim", "macloom.sim.scalesim.verify:checks", "SCALE-Sim's reports, every column of random layers"),
):
    VERIFIERS.add(_name, Verifier(home=_home, summary=_summary))


def oracle(package: str) -> str:
    """Return a package's name with its version, as tables of checks name it.

    >>> oracle("macloom-no-such-package")
    'macloom-no-such-package'
    """
    from importlib import metadata

    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return package


def provenance() -> dict[str, str]:
    """Return the versions that a table of checks depends on, by name; `kernels` is a hash of their source."""
    found = {name: oracle(name) for name in ("numpy", "numba", "llvmlite")}
    kernels = sorted((Path(__file__).parent / "formats" / "kernels").glob("*.py"))
    return {
        "macloom": __version__,
        "kernels": hashlib.sha256(b"".join(path.read_bytes() for path in kernels)).hexdigest()[:12],
        "python": platform.python_version(),
        "machine": platform.machine(),
        **{name: text.rpartition(" ")[2] for name, text in found.items() if text != name},
    }


def to_json(
    name: str, checks: Sequence[Check], command: str, versions: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the results of a verifier as JSON can hold them; `versions` are those of when it began."""
    return {
        "verifier": name,
        "command": command,
        "versions": dict(versions or provenance()),
        "cases": sum(check.cases for check in checks),
        "mismatches": sum(check.mismatches for check in checks),
        "skipped": sum(check.skipped for check in checks),
        "checks": [asdict(check) for check in checks],
    }


def to_markdown(results: Sequence[dict[str, Any]]) -> str:
    """Return a page with one table for each of the results of `to_json`.

    >>> check = Check(subject="int4", against="fractions", cases=16)
    >>> print(to_markdown([to_json("formats", [check], "macloom verify formats")]).splitlines()[-1])
    | int4 | fractions | 16 | 0 | 0 | 0.0 |  |
    """
    lines = []
    for result in results:
        versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
        lines += [
            f"# What was verified: {result['verifier']}",
            "",
            f"Written by `{result['command']}` ({versions}).",
            f"{result['cases']:,} cases in {len(result['checks'])} checks, {result['mismatches']:,} mismatches,"
            + (f" {result['skipped']} checks skipped," if result["skipped"] else "")
            + f" {sum(check['seconds'] for check in result['checks']):,.0f} s of processor time.",
            "",
            "| subject | against | cases | mismatches | worst difference | seconds | note |",
            "|---|---|---:|---:|---:|---:|---|",
        ]
        for check in result["checks"]:
            cells = (
                check["subject"], check["against"], f"{check['cases']:,}", f"{check['mismatches']:,}",
                f"{check['worst']:.6g}", f"{check['seconds']:.1f}", check["note"],
            )  # fmt: skip
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"
