"""The simulator: a workload on an accelerator under a recipe, operation by operation."""

from __future__ import annotations

from pathlib import Path

import macloom
from macloom.arch import Accelerator, Dataflow, load_accelerator
from macloom.errors import unknown
from macloom.sim.fit import UnsupportedFormat
from macloom.sim.gemm_cost import gemm_result
from macloom.sim.mapping import GemmMapping, RecipeLike, map_gemm
from macloom.sim.physics import check_physical
from macloom.sim.result import Result
from macloom.sim.tiling import Objective
from macloom.sim.vector_cost import vector_result
from macloom.workloads.ops import Gemm, Workload


def simulate(
    workload: Workload | str | Path,
    accelerator: Accelerator | str | Path,
    recipe: RecipeLike | str | Path,
    dataflow: Dataflow | str | None = None,
    *,
    objective: Objective | str = Objective.TRAFFIC,
) -> Result:
    """Return cycles, traffic and energy of a workload.

    Operations run one after another; within one, DRAM, array and vector unit overlap tile by tile
    (`macloom.sim.memory`). Attention under a causal mask computes the full product, as an array
    without masking does. Every operation reads its inputs from DRAM and writes its results there.

    A product whose formats come from an exception of the recipe (such as an fp16 output head) and do
    not fit the array runs on the vector unit. A product in the recipe's own formats must fit.

    Args:
        workload: a workload, or what `load_workload` takes (then prefill at its default length).
        accelerator: an accelerator, or what `load_accelerator` takes.
        recipe: a recipe, or what `load_recipe` takes, such as a format name.
        dataflow: `os`, `ws` or `is`; None takes the array's own.
        objective: what tiles minimise first: `traffic` (DRAM bits) or `time`.

    Raises:
        UnsupportedFormat: the accelerator cannot multiply a format of the recipe.
        MacloomError: an unknown name, or buffers too small for one tile.
    """
    if not isinstance(workload, Workload):
        from macloom.workloads.models import load_workload

        workload = load_workload(workload)
    if not isinstance(accelerator, Accelerator):
        accelerator = load_accelerator(accelerator)
    if isinstance(recipe, str | Path):
        from macloom.workloads.recipe import load_recipe

        recipe = load_recipe(recipe)
    if dataflow is not None:
        if dataflow not in list(Dataflow):
            raise unknown("dataflow", dataflow, [d.value for d in Dataflow])
        dataflow = Dataflow(dataflow)
    if objective not in list(Objective):
        raise unknown("objective", objective, [o.value for o in Objective])
    ops = []
    for op in workload.ops:
        if isinstance(op, Gemm):
            mapping = _map(op, accelerator, recipe, dataflow, Objective(objective))
            ops.append(gemm_result(mapping, accelerator))
        else:
            ops.append(vector_result(op, accelerator, recipe))
    result = Result(
        workload=workload.name,
        phase=workload.phase,
        accelerator=accelerator,
        recipe=recipe.to_dict(),
        ops=tuple(ops),
        version=macloom.__version__,
    )
    check_physical(result)
    return result


def _map(
    op: Gemm, accelerator: Accelerator, recipe: RecipeLike, dataflow: Dataflow | None, objective: Objective
) -> GemmMapping:
    try:
        return map_gemm(op, accelerator, recipe, dataflow, objective)
    except UnsupportedFormat:
        if not _is_exception(op, recipe):
            raise
        return map_gemm(op, accelerator, recipe, dataflow, objective, on_vector_unit=True)


def _is_exception(op: Gemm, recipe: RecipeLike) -> bool:
    """Return whether the recipe gives this product other operand formats than its roles have."""
    return any(recipe.format_for(role, op.name) != getattr(recipe, role.value, None) for role in (op.a, op.b))
