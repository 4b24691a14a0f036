"""Models other than plain transformers, as formulas: one module for each kind of architecture.

`ARCHITECTURES` has a function for each `model_type`. It takes the name and the configuration of a model and a
`Request`, and returns the workload.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from macloom.workloads.analytic.convnet import convnext_workload, replknet_workload
from macloom.workloads.analytic.diffusion import dit_workload, pixart_workload
from macloom.workloads.analytic.seq2seq import bart_workload, t5_workload
from macloom.workloads.analytic.ssm import mamba_workload
from macloom.workloads.analytic.vision import deit_workload, swin_workload, vit_workload
from macloom.workloads.ops import Workload
from macloom.workloads.request import Request

Builder = Callable[[str, Mapping[str, Any], Request], Workload]

ARCHITECTURES: dict[str, Builder] = {
    "bart": bart_workload,
    "convnext": convnext_workload,
    "deit": deit_workload,
    "dit": dit_workload,
    "mamba": mamba_workload,
    "pixart": pixart_workload,
    "replknet": replknet_workload,
    "swin": swin_workload,
    "t5": t5_workload,
    "vit": vit_workload,
}

__all__ = ["ARCHITECTURES", "Builder"]
