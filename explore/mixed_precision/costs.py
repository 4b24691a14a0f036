"""What each group of operations costs in each format, from the simulator or from the stored bits of its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from macloom._registry import Registry
from macloom.arch import Accelerator
from macloom.errors import MacloomError
from macloom.formats import TensorFormat
from macloom.sim import OpResult, simulate
from macloom.workloads import Gemm, Recipe, Role, Workload
from macloom.workloads.by_layer import STACK, by_expert, by_layer, named_like
from macloom.workloads.groups import pattern_of, stack_of
from macloom.workloads.recipe import is_matched


@dataclass(frozen=True, kw_only=True)
class Cost:
    """A cost that adds up over operations: its unit, and its value for one simulated operation.

    `of` is None for what needs no simulation: the stored bits of weights.
    """

    unit: str
    label: str
    of: Callable[[OpResult, Accelerator], float] | None = None


COSTS: Registry[Cost] = Registry("cost")
COSTS.add("latency", Cost(unit="s", label="latency (modelled)", of=lambda op, acc: op.cycles / acc.clock_hz))
COSTS.add("energy", Cost(unit="J", label="energy (modelled)", of=lambda op, acc: op.energy.total_j))
COSTS.add("traffic", Cost(unit="bit", label="DRAM traffic (modelled)", of=lambda op, acc: float(op.dram_bits)))
COSTS.add("weight-bits", Cost(unit="bit", label="stored bits of the weights"))


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What costs are measured on; `accelerator` may be None for costs that need no simulation."""

    workload: Workload
    accelerator: Accelerator | None
    cost: str

    def __post_init__(self) -> None:
        if COSTS.get(self.cost).of is not None and self.accelerator is None:
            raise MacloomError(f"accelerator: must be given for the cost {self.cost!r} (macloom list accelerators)")

    def by_operation(self, recipe: Recipe) -> dict[str, float]:
        """Return the cost of every operation of the workload under a recipe, by name."""
        cost = COSTS.get(self.cost)
        if cost.of is None or self.accelerator is None:
            return {op.name: _weight_bits(op, recipe) for op in self.workload.gemms}
        result = simulate(self.workload, self.accelerator, recipe)
        return {op.name: cost.of(op, self.accelerator) for op in result.ops}


def _weight_bits(op: Gemm, recipe: Recipe) -> float:
    if op.b is not Role.WEIGHT:
        return 0.0
    copies = op.repeat * (op.batch // op.b_sharing)
    return float(copies * recipe.format_for(Role.WEIGHT, op.name).storage_bits((op.n, op.k)))


def split_for(workload: Workload, operations: Sequence[str]) -> Workload:
    """Return a workload layer by layer, its products named like a model's `operations`, experts apart if they are.

    Raises:
        MacloomError: some operation of the model is not a product of the workload.
    """
    stack = next((s for s in map(stack_of, operations) if s), STACK)
    split = by_layer(workload, stack)
    if any(".experts." in op for op in operations):
        split = by_expert(split)
    split = named_like(split, operations)
    missing = sorted({*operations} - {op.name for op in split.gemms})
    if missing:
        raise MacloomError(
            f"workload {workload.name!r}: must be of the same model, but has no product {missing[0]!r}; "
            "give the workload of that model"
        )
    return split


def cost_table(
    machine: Machine, base: Recipe, formats: Mapping[str, TensorFormat], groups: Mapping[str, Sequence[str]]
) -> tuple[np.ndarray, float]:
    """Return the cost of every group in every format, groups x formats, and that of everything else under `base`.

    Operations run one after another, so that costs add up. A group has the vector operations, too, that the pattern of
    its exception matches. Each format is simulated once, in every group at a time.
    """
    homes = _homes(machine.workload, base, groups)
    table = np.zeros((len(groups), len(formats)))
    rows = {group: row for row, group in enumerate(groups)}
    for column, fmt in enumerate(formats.values()):
        found = machine.by_operation(mixed_recipe(base, base.name, dict.fromkeys(groups, fmt), groups))
        for op, value in found.items():
            if op in homes:
                table[rows[homes[op]], column] += value
    return table, sum(value for op, value in machine.by_operation(base).items() if op not in homes)


def _homes(workload: Workload, base: Recipe, groups: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the group of every operation that an exception for it would concern."""
    patterns = {pattern_of(group, ops): group for group, ops in groups.items()}
    found = {}
    for op in workload.ops:
        for pattern, group in patterns.items():
            if is_matched(pattern, op.name) and not any(is_matched(p, op.name) for p, _ in base.overrides):
                found.setdefault(op.name, group)
    return found


def mixed_recipe(
    base: Recipe, name: str, chosen: Mapping[str, TensorFormat], operations: Mapping[str, Sequence[str]]
) -> Recipe:
    """Return `base` with an exception for every group whose format is not the one that `base` has anyway.

    The exceptions of `base` come first and so still hold.
    """
    exceptions = tuple(
        (pattern_of(group, operations[group]), fmt) for group, fmt in chosen.items() if not _has_everywhere(base, fmt)
    )
    return replace(base, name=name, overrides=(*base.overrides, *exceptions))


def _has_everywhere(recipe: Recipe, fmt: TensorFormat) -> bool:
    """Return whether a recipe gives every operand this format, but for its exceptions."""
    return all(getattr(recipe, role) == fmt for role in (Role.WEIGHT, Role.ACTIVATION, Role.KV, Role.PROBABILITY))
