"""What served requests saw: latencies, throughput, energy, memory, and goodput under an objective."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from macloom.errors import MacloomError
from macloom.explore.files import write_together
from macloom.explore.serving.request import Request
from macloom.explore.serving.scheduler import Iteration

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A service-level objective: a request meets it if both times are at most these; None asks for nothing.

    >>> Objective().given, Objective(tpot_s=0.1).given
    (False, True)
    """

    ttft_s: float | None = None
    tpot_s: float | None = None

    @property
    def given(self) -> bool:
        """Whether it asks for anything; without that there is no goodput."""
        return self.ttft_s is not None or self.tpot_s is not None

    def __post_init__(self) -> None:
        for name in ("ttft_s", "tpot_s"):
            value = getattr(self, name)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf
            ):
                raise MacloomError(f"serve.{name}: must be a positive number of seconds, not {value!r}")


@dataclass(frozen=True, kw_only=True)
class Served:
    """One request: when its first and its last token came out, and how often it lost its place."""

    request: Request
    first_s: float
    finished_s: float
    preemptions: int

    @property
    def ttft_s(self) -> float:
        """Time to first token, from the arrival."""
        return self.first_s - self.request.arrived_s

    @property
    def tpot_s(self) -> float:
        """Time per output token after the first; not a number for a single one."""
        steps = self.request.output - 1
        return (self.finished_s - self.first_s) / steps if steps else math.nan

    @property
    def latency_s(self) -> float:
        """From the arrival to the last token."""
        return self.finished_s - self.request.arrived_s

    def meets(self, objective: Objective) -> bool:
        limits = ((self.ttft_s, objective.ttft_s), (self.tpot_s, objective.tpot_s))
        return not any(limit is not None and time > limit for time, limit in limits)


@dataclass(frozen=True, kw_only=True)
class ServingResult:
    """Requests that were served, every iteration, and what was served how.

    Energy is that of the iterations; a machine that waits for requests costs nothing here. An iteration's
    energy belongs to prefill and decode as their tokens, attention and logits do.
    """

    requests: tuple[Served, ...]
    iterations: tuple[Iteration, ...]
    weight_bits: int
    cache_bits: int | None
    objective: Objective = field(default_factory=Objective)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def seconds(self) -> float:
        """From the first arrival to the last token."""
        return max(r.finished_s for r in self.requests) - min(r.request.arrived_s for r in self.requests)

    @property
    def output_tokens(self) -> int:
        return sum(r.request.output for r in self.requests)

    @property
    def prefill_j(self) -> float:
        return math.fsum(i.prefill_j for i in self.iterations)

    @property
    def decode_j(self) -> float:
        return math.fsum(i.decode_j for i in self.iterations)

    @property
    def energy_j(self) -> float:
        return self.prefill_j + self.decode_j

    def times(self, name: str) -> NDArray[np.float64]:
        """Return `ttft_s`, `tpot_s` or `latency_s` of all requests that have it."""
        values = np.array([getattr(r, name) for r in self.requests])
        return values[~np.isnan(values)]

    def percentiles(self, name: str) -> dict[str, float]:
        """Return mean and percentiles (linear between requests) of a time; empty where no request has it."""
        values = self.times(name)
        if not values.size:
            return {}
        found = dict(zip((f"p{p}" for p in PERCENTILES), np.percentile(values, PERCENTILES).tolist(), strict=True))
        return {"mean": float(values.mean()), **found}

    def totals(self) -> dict[str, Any]:
        """Return every figure by name, in the units of its name; None for goodput without an objective."""
        busy = math.fsum(i.seconds for i in self.iterations)
        good = sum(r.meets(self.objective) for r in self.requests) if self.objective.given else None
        return {
            "requests": len(self.requests),
            "seconds": self.seconds,
            "busy_share": busy / self.seconds,
            "ttft_s": self.percentiles("ttft_s"),
            "tpot_s": self.percentiles("tpot_s"),
            "latency_s": self.percentiles("latency_s"),
            "requests_per_s": len(self.requests) / self.seconds,
            "output_tokens_per_s": self.output_tokens / self.seconds,
            "prompt_tokens_per_s": sum(r.request.prompt for r in self.requests) / self.seconds,
            "energy_j": self.energy_j,
            "prefill_j": self.prefill_j,
            "decode_j": self.decode_j,
            "energy_per_output_token_j": self.energy_j / self.output_tokens,
            "goodput_requests_per_s": None if good is None else good / self.seconds,
            "met_share": None if good is None else good / len(self.requests),
            "preemptions": sum(r.preemptions for r in self.requests),
            "iterations": len(self.iterations),
            "mean_batch": sum(i.decode_tokens * i.seconds for i in self.iterations) / busy,
            "weight_bytes": self.weight_bits / 8,
            "cache_bytes": None if self.cache_bits is None else self.cache_bits / 8,
            "peak_cache_bytes": max(i.cache_bits for i in self.iterations) / 8,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return settings, objective and totals, ready for JSON."""
        return {"settings": dict(self.settings), "objective": asdict(self.objective), "totals": self.totals()}

    def save(self, directory: str | Path) -> tuple[Path, ...]:
        """Write `serving.json`, `requests.csv` and `iterations.csv` into a directory, all or none."""
        rows = [
            {**asdict(r.request), "ttft_s": r.ttft_s, "tpot_s": r.tpot_s, "latency_s": r.latency_s,
             "preemptions": r.preemptions}
            for r in self.requests
        ]  # fmt: skip
        return write_together(
            Path(directory),
            {
                "serving.json": json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n",
                "requests.csv": _csv(rows),
                "iterations.csv": _csv([asdict(i) for i in self.iterations], [f.name for f in fields(Iteration)]),
            },
        )


def _csv(rows: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, names or list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in rows)
    return text.getvalue()
