"""`macloom verify scalesim`: the fast model against its reference, and against SCALE-Sim where it is installed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any

from macloom.sim.scalesim.layer import simulate_layer
from macloom.sim.scalesim.oracle import scalesim_report
from macloom.sim.scalesim.records import REPORT_COLUMNS, Config, Layer, Mode, Version
from macloom.sim.scalesim.reference import simulate_reference
from macloom.sim.scalesim.samples import samples
from macloom.verification import Check, Options, oracle

Simulate = Callable[[Layer, Config], Mapping[str, Any] | Any]


def checks(options: Options) -> Iterator[Check]:
    """Yield one check per mode and oracle; a case is one column of one random layer's report."""
    count = 2000 if options.exhaustive else 60
    calls = [
        partial(_against, mode, version, count, options.seed, "stepwise reference", simulate_reference)
        for mode in Mode
        for version in Version
    ]
    if find_spec("scalesim"):
        calls += [
            partial(_against, mode, Version.V3, count // 4, options.seed, oracle("scalesim"), _real) for mode in Mode
        ]
    options.expect(len(calls))
    yield from options.spread(calls)


def _real(layer: Layer, config: Config, version: Version) -> Mapping[str, float]:
    del version
    return scalesim_report(layer, config)


def _against(mode: Mode, version: Version, count: int, seed: int, name: str, simulate: Any) -> Check:
    started = time.process_time()
    cases = mismatches = 0
    worst, note = 0.0, ""
    for layer, config in samples(seed, count, mode):
        got, wanted = simulate_layer(layer, config, version), simulate(layer, config, version)
        for column in REPORT_COLUMNS:
            cases += 1
            if got[column] != wanted[column]:
                mismatches += 1
                worst = max(worst, abs(got[column] - wanted[column]))
                note = note or f"{column} of {layer} on {config}: {got[column]}, not {wanted[column]}"
    return Check(
        subject=f"reports in {mode} mode, {version}",
        against=name,
        cases=cases,
        mismatches=mismatches,
        worst=worst,
        seconds=time.process_time() - started,
        note=note or f"{count} random layers, {len(REPORT_COLUMNS)} columns each, equal to the last digit",
    )
