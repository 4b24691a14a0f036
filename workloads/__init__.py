"""What is computed: operations, models, recipes, quantized execution and accuracy.

The public names are loaded on first use; those of accuracy and language models bring torch with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from macloom._lazy import lazy_names

if TYPE_CHECKING:
    from macloom.workloads.accumulator_widths import AccumulatorWidths, accumulator_width
    from macloom.workloads.accuracy import Accuracy
    from macloom.workloads.evaluator import Evaluator, evaluate
    from macloom.workloads.hf.evaluator import ModelEvaluator
    from macloom.workloads.hf.result import ModelAccuracy
    from macloom.workloads.lm.checkpoint import LanguageModel, load_model
    from macloom.workloads.models import list_workloads, load_workload
    from macloom.workloads.ops import Gemm, Op, Role, Vector, VectorKind, Workload
    from macloom.workloads.recipe import Objective, Recipe, Search, load_recipe

_HOMES = {
    "AccumulatorWidths": "accumulator_widths",
    "Accuracy": "accuracy",
    "Evaluator": "evaluator",
    "Gemm": "ops",
    "LanguageModel": "lm.checkpoint",
    "ModelAccuracy": "hf.result",
    "ModelEvaluator": "hf.evaluator",
    "Objective": "recipe",
    "Op": "ops",
    "Recipe": "recipe",
    "Role": "ops",
    "Search": "recipe",
    "Vector": "ops",
    "VectorKind": "ops",
    "Workload": "ops",
    "accumulator_width": "accumulator_widths",
    "evaluate": "evaluator",
    "list_workloads": "models",
    "load_model": "lm.checkpoint",
    "load_recipe": "recipe",
    "load_workload": "models",
}

__all__ = [
    "AccumulatorWidths",
    "Accuracy",
    "Evaluator",
    "Gemm",
    "LanguageModel",
    "ModelAccuracy",
    "ModelEvaluator",
    "Objective",
    "Op",
    "Recipe",
    "Role",
    "Search",
    "Vector",
    "VectorKind",
    "Workload",
    "accumulator_width",
    "evaluate",
    "list_workloads",
    "load_model",
    "load_recipe",
    "load_workload",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES, globals())
