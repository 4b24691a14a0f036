"""Simulate recipes on accelerators, and keep what they cost as the records of a result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

from macloom.arch import Accelerator
from macloom.explore.records import AcceleratorInfo, Check, Constant, OpRow, Run, Unsupported, WorkloadInfo
from macloom.sim import LawCheck, OpResult, Result, UnsupportedFormat, check_physical, simulate
from macloom.sim.fit import accumulator_reason, fit_operand
from macloom.workloads import Recipe, Workload


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """The cost part of a result. `results` holds the simulator's own result of every run, by its key."""

    runs: tuple[Run, ...]
    unsupported: tuple[Unsupported, ...]
    checks: tuple[Check, ...]
    results: Mapping[tuple[str, str, str, str], Result]


def simulate_all(
    workloads: Sequence[Workload],
    accelerators: Sequence[Accelerator],
    recipes: Sequence[Recipe],
    step: Callable[[str], None],
) -> Simulated:
    """Run every recipe on every accelerator and workload; pairs that do not fit are kept with their reason."""
    runs: list[Run] = []
    unsupported: list[Unsupported] = []
    results: dict[tuple[str, str, str, str], Result] = {}
    for recipe in recipes:
        step(f"cost of {recipe.name}")
        for accelerator in accelerators:
            try:
                for workload in workloads:
                    result = simulate(workload, accelerator, recipe=recipe)
                    run = run_record(result, workload, accelerator, recipe.name)
                    runs.append(run)
                    results[run.key] = result
            except UnsupportedFormat as error:
                reason = refusal(recipe, accelerator) or str(error)
                unsupported.append(Unsupported(format=recipe.name, accelerator=accelerator.name, reason=reason))
    checks = _merged([law for result in results.values() for law in check_physical(result)])
    return Simulated(runs=tuple(runs), unsupported=tuple(unsupported), checks=checks, results=results)


def refusal(recipe: Recipe, accelerator: Accelerator) -> str | None:
    """Return why the array cannot multiply a recipe's formats, without the names; None where it can.

    >>> from macloom.arch import load_accelerator
    >>> from macloom.workloads import load_recipe
    >>> refusal(load_recipe("mxfp4"), load_accelerator("int8-sa"))
    'its 4-bit codes are not operands and the array has no border decoders'
    """
    array = accelerator.array
    for a, b in (
        (recipe.activation, recipe.weight),
        (recipe.activation, recipe.kv),
        (recipe.probability, recipe.kv),
    ):
        misfits = [fit for fit in (fit_operand(a, array), fit_operand(b, array)) if isinstance(fit, str)]
        reason = misfits[0] if misfits else accumulator_reason(a, b, array)
        if reason:
            return reason
    return None


def run_record(result: Result, workload: Workload, accelerator: Accelerator, recipe: str) -> Run:
    """Keep a simulator's result as a record."""
    return Run(
        format=recipe,
        accelerator=accelerator.name,
        workload=workload.name,
        phase=workload.phase,
        tokens=workload.tokens,
        cycles=result.cycles,
        seconds=result.seconds,
        energy_j=result.energy_j,
        energy=dict(result.energy.parts),
        energy_kinds={name: kind.value for name, kind in result.energy.kinds.items()},
        utilisation=result.utilisation,
        peak_macs_per_s=result.peak_macs_per_s,
        dram_bits=result.dram_bits,
        dram_bits_per_s=accelerator.dram.bandwidth_bits_per_s,
        ops=tuple(op_row(op) for op in result.ops),
    )


def op_row(op: OpResult) -> OpRow:
    """Keep the simulator's result of one operation as a record."""
    return OpRow(
        **{name: getattr(op, name) for name in _COPIED},
        energy=dict(op.energy.parts),
        formats=dict(op.formats),
        mapping=dict(op.mapping),
    )


_COPIED = tuple(f.name for f in fields(OpRow) if f.name not in ("energy", "formats", "mapping"))


def accelerator_info(accelerator: Accelerator) -> AcceleratorInfo:
    """Describe an accelerator; its technology's constants are kept apart, because accelerators share them."""
    configuration = accelerator.to_dict()
    technology = {k: v for k, v in configuration["technology"].items() if k != "constants"}
    return AcceleratorInfo(name=accelerator.name, configuration={**configuration, "technology": technology})


def constants_of(accelerators: Sequence[Accelerator]) -> tuple[Constant, ...]:
    """Return the constants of every technology in use, once."""
    technologies = {a.technology.name: a.technology for a in accelerators}
    return tuple(
        Constant(
            technology=t.name,
            name=name,
            value=c.value,
            unit=c.unit,
            kind=c.kind.value,
            source=c.source,
            node_nm=c.node_nm,
            voltage_v=c.voltage_v,
            low=c.low,
            high=c.high,
        )
        for t in technologies.values()
        for name, c in t.constants.items()
    )


def workload_info(workload: Workload) -> WorkloadInfo:
    """Describe a workload."""
    return WorkloadInfo(
        name=workload.name,
        phase=workload.phase,
        tokens=workload.tokens,
        macs=workload.macs,
        parameters=workload.parameters,
        details=dict(workload.details),
    )


def _merged(laws: Sequence[LawCheck]) -> tuple[Check, ...]:
    """Join the checks of many results: cases add up, the closest is the closest of all."""
    names = dict.fromkeys(law.name for law in laws)
    groups = [[law for law in laws if law.name == name] for name in names]
    return tuple(
        Check(name=g[0].name, cases=sum(law.cases for law in g), closest=max(law.closest for law in g)) for g in groups
    )
