"""The simulator: a workload on an accelerator under a recipe, operation by operation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import macloom
from macloom.arch import Accelerator, Dataflow, load_accelerator
from macloom.errors import MacloomError, unknown
from macloom.formats import TensorFormat
from macloom.sim.account import SidePath
from macloom.sim.fidelity import Fidelity
from macloom.sim.fit import fits
from macloom.sim.gemm_cost import gemm_result
from macloom.sim.hardware import hardware_of
from macloom.sim.mapping import RecipeLike, map_gemm
from macloom.sim.mapping_table import MappingChoice, MappingTable, load_mapping
from macloom.sim.physics import check_physical
from macloom.sim.prefetch import with_prefetch
from macloom.sim.residency import resident_tensors
from macloom.sim.resident import NOT_RESIDENT, Resident
from macloom.sim.result import OpResult, Result
from macloom.sim.search import best_mapping
from macloom.sim.tile_search import Objective
from macloom.sim.vector_cost import vector_result
from macloom.workloads.ops import Gemm, Op, Role, Workload

BEST = "best"  # as a dataflow: the best of all for each product

# Columns of one occurrence; all other counts of a row are those of its repeats together.
_ONCE = ("pes_per_mac", "first_load_cycles", "first_b_cycles", "idle_tail_cycles", "repeat", "shared_held_bits")


def simulate(
    workload: Workload | str | Path,
    accelerator: Accelerator | str | Path,
    recipe: RecipeLike | str | Path,
    dataflow: Dataflow | str | None = None,
    *,
    objective: Objective | str = Objective.TRAFFIC,
    fidelity: Fidelity | str = Fidelity.EVENT,
    mapping: MappingTable | str | Path | None = None,
    prefetch: bool = False,
    residency: bool = False,
    side: SidePath | None = None,
) -> Result:
    """Return cycles, traffic and energy of a workload.

    Operations run one after another; within one, DRAM, array and vector unit overlap tile by tile
    (`macloom.sim.event`). Attention under a causal mask computes the full product, as an array
    without masking does. Every operation reads its inputs from DRAM and writes its results there, unless
    `residency` keeps them. Equal operations are simulated once, whatever their names and workloads.

    A product whose formats come from an exception of the recipe (such as an fp16 output head) and do
    not fit the array runs on the vector unit. A product in the recipe's own formats must fit.

    Args:
        workload: a workload, or what `load_workload` takes (then prefill at its default length).
        accelerator: an accelerator, or what `load_accelerator` takes.
        recipe: a recipe, or what `load_recipe` takes, such as a format name.
        dataflow: `os`, `ws` or `is`; None takes the array's own, `best` the best for each product.
        objective: what dataflow, tiles and loop order minimise; see `Objective`.
        fidelity: `analytic`, `event` or `cycle`; see `Fidelity`.
        mapping: a table of mappings, or its file; products that it does not name are searched.
        prefetch: whether idle DRAM at the end of an operation loads the next product's first weights.
        residency: whether tensors between operations stay in `arch.buffers.shared` when they fit.
        side: cycles of a path beside the array for each tile, such as `macloom.sim.side.OutlierPath`.

    Raises:
        UnsupportedFormat: the accelerator cannot multiply a format of the recipe.
        MacloomError: an unknown name, buffers too small for one tile, or a mapping that does not fit.
    """
    if not isinstance(workload, Workload):
        from macloom.workloads.models import load_workload

        workload = load_workload(workload)
    if not isinstance(accelerator, Accelerator):
        accelerator = load_accelerator(accelerator)
    if isinstance(recipe, str | Path):
        from macloom.workloads.recipe import load_recipe

        recipe = load_recipe(recipe)
    plan = _Plan(
        accelerator=accelerator,
        recipe=recipe,
        dataflows=_dataflows(dataflow, accelerator),
        objective=_member(Objective, "objective", objective),
        fidelity=_member(Fidelity, "fidelity", fidelity),
        choices=_choices(mapping, workload),
        side=side,
    )
    kept = resident_tensors(workload, accelerator, recipe) if residency else [NOT_RESIDENT] * len(workload.ops)
    ops: Sequence[OpResult] = [
        plan.gemm(op, resident) if isinstance(op, Gemm) else vector_result(op, accelerator, recipe, resident)
        for op, resident in zip(workload.ops, kept, strict=True)
    ]
    if residency:
        ops = [replace(op, shared_held_bits=resident.held_bits) for op, resident in zip(ops, kept, strict=True)]
    if prefetch:
        ops = with_prefetch(workload.ops, ops, accelerator)
    result = Result(
        workload=workload.name,
        phase=workload.phase,
        accelerator=accelerator,
        recipe=recipe.to_dict(),
        ops=tuple(ops),
        version=macloom.__version__,
        fidelity=plan.fidelity.value,
        hardware=hardware_of(workload, accelerator, recipe),
    )
    check_physical(result)
    return result


S = TypeVar("S", Objective, Fidelity)


def _member(kind: type[S], path: str, value: object) -> S:
    if value not in list(kind):
        raise unknown(path, value, [member.value for member in kind])
    return kind(value)


def _dataflows(dataflow: object, accelerator: Accelerator) -> tuple[Dataflow, ...]:
    if dataflow is None:
        return (accelerator.array.dataflow,)
    if dataflow == BEST:
        return tuple(Dataflow)
    if dataflow not in list(Dataflow):
        raise unknown("dataflow", dataflow, [*(d.value for d in Dataflow), BEST])
    return (Dataflow(dataflow),)


def _choices(mapping: MappingTable | str | Path | None, workload: Workload) -> dict[str, MappingChoice]:
    if mapping is None:
        return {}
    table = mapping if isinstance(mapping, MappingTable) else load_mapping(mapping)
    names = [op.name for op in workload.gemms]
    for name in table.ops:
        if name not in names:
            raise unknown("mapping.ops", name, names, f"products of {workload.name!r}")
    return dict(table.ops)


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """How every product of a workload is to be priced."""

    accelerator: Accelerator
    recipe: RecipeLike
    dataflows: tuple[Dataflow, ...]
    objective: Objective
    fidelity: Fidelity
    choices: dict[str, MappingChoice]
    side: SidePath | None

    def gemm(self, op: Gemm, resident: Resident) -> OpResult:
        choice = self.choices.get(op.name)
        a, b = (self.recipe.format_for(role, op.name) for role in (op.a, op.b))
        if not _is_exception(op, self.recipe) or fits(a, b, self.accelerator.array):
            return self._priced(op, resident, choice, on_vector_unit=False)
        if choice is not None:
            raise MacloomError(
                f"mapping.ops.{op.name}: must be left out, because the vector unit computes this product"
            )
        return self._priced(op, resident, None, on_vector_unit=True)

    def _priced(self, op: Gemm, resident: Resident, choice: MappingChoice | None, *, on_vector_unit: bool) -> OpResult:
        formats = tuple((role, self.recipe.format_for(role, op.name)) for role in (op.a, op.b, op.out))
        nameless = replace(op, name="", repeat=1) if choice is None else replace(op, repeat=1)
        price = _price if self.side is None else _price.__wrapped__
        try:
            one = price(
                nameless,
                self.accelerator,
                _Formats(formats),
                self.dataflows if choice is None else (choice.dataflow,),
                self.objective,
                self.fidelity,
                choice,
                on_vector_unit,
                resident,
                self.side,
            )
        except MacloomError:
            if nameless.name == op.name:
                raise
            one = _price.__wrapped__(  # again, for a message that names the operation
                replace(op, repeat=1),
                self.accelerator,
                _Formats(formats),
                self.dataflows,
                self.objective,
                self.fidelity,
                choice,
                on_vector_unit,
                resident,
                self.side,
            )
        return _repeated(one, op)


@dataclass(frozen=True)
class _Formats:
    """The formats of one product, by role; all that a mapping asks of a recipe."""

    by_role: tuple[tuple[Role, TensorFormat], ...]

    def format_for(self, role: Role, op_name: str, /) -> TensorFormat:
        return dict(self.by_role)[role]

    def to_dict(self) -> dict[str, Any]:
        return {role.value: fmt.name for role, fmt in self.by_role}


@lru_cache(maxsize=65536)
def _price(
    op: Gemm,
    accelerator: Accelerator,
    formats: _Formats,
    dataflows: tuple[Dataflow, ...],
    objective: Objective,
    fidelity: Fidelity,
    choice: MappingChoice | None,
    on_vector_unit: bool,
    resident: Resident,
    side: SidePath | None,
) -> OpResult:
    """Return what one occurrence of a product costs. The arguments are all that decides it."""
    if choice is not None:
        mapping = map_gemm(op, accelerator, formats, choice.dataflow, tiling=choice.tiling)
    else:
        mapping = best_mapping(
            op, accelerator, formats, dataflows, objective, on_vector_unit=on_vector_unit, side=side, resident=resident
        )
    return gemm_result(mapping, accelerator, fidelity=fidelity, side=side, resident=resident)


def _repeated(one: OpResult, op: Op) -> OpResult:
    """Return the result of all occurrences from that of one."""
    counts = {
        name: value * op.repeat
        for name, value in vars(one).items()
        if isinstance(value, int) and not isinstance(value, bool) and name not in _ONCE
    }
    return replace(one, **counts, name=op.name, repeat=op.repeat, energy=op.repeat * one.energy)


def _is_exception(op: Gemm, recipe: RecipeLike) -> bool:
    """Return whether the recipe gives this product other operand formats than its roles have."""
    return any(recipe.format_for(role, op.name) != getattr(recipe, role.value, None) for role in (op.a, op.b))
