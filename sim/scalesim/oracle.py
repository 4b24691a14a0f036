"""The real SCALE-Sim 3.0.0, one layer at a time, if the package `scalesim` is installed.

Its own entry point wants files; this fills its objects instead. It fails with numpy 2.4, which no
longer turns an array of one element into an integer (SCALE-Sim issue 160), so that its modules are
given an `int` that does.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from macloom.sim.scalesim.records import REPORT_COLUMNS, Config, Conv, Layer, Mode


class _Integer(int):
    """`int` that also takes an array of one element."""

    def __new__(cls, value: Any = 0) -> int:
        return int(value.item() if isinstance(value, np.ndarray) else value)


def repaired() -> None:
    """Let SCALE-Sim run with today's numpy.

    Raises:
        ImportError: the package is not installed.
    """
    for module in ("double_buffered_scratchpad_mem", "read_buffer"):
        vars(import_module(f"scalesim.memory.{module}"))["int"] = _Integer


def scalesim_report(layer: Layer, config: Config) -> dict[str, float]:
    """Return what SCALE-Sim itself reports of a layer, under the names of `Report`.

    Raises:
        ImportError: the package is not installed.
    """
    repaired()
    topology = import_module("scalesim.topology_utils").topologies()
    topology.load_layer_params_from_list("layer", ["layer", *_sizes(layer), *(layer.sparsity or (1, 1))])
    run = import_module("scalesim.single_layer_sim").single_layer_sim()
    run.set_params(
        layer_id=0,
        config_obj=_configured(layer, config),
        topology_obj=topology,
        layout_obj=import_module("scalesim.layout_utils").layouts(),
        verbose=False,
    )
    run.run()
    bandwidth = run.get_bandwidth_report_items()
    if layer.sparsity is not None:
        del bandwidth[2]  # of the metadata
    cycles, total, stalls, *utilisation = run.get_compute_report_items()
    values = [run.num_compute, cycles, total, total - stalls, stalls, *utilisation, *bandwidth]
    values += run.get_detail_report_items()
    return dict(zip(REPORT_COLUMNS, map(float, values), strict=True))


def _sizes(layer: Layer) -> list[int]:
    """Return height, width, filter height and width, channels, filters and strides."""
    if isinstance(layer, Conv):
        return [layer.h, layer.w, layer.fh, layer.fw, layer.channels, layer.filters, *layer.strides]
    return [layer.m, layer.k, 1, layer.k, 1, layer.n, 1, 1]


def _configured(layer: Layer, config: Config) -> Any:
    scale = import_module("scalesim.scale_config").scale_config()
    sizes = [config.rows, config.cols, config.ifmap_kb, config.filter_kb, config.ofmap_kb]
    offsets = [0, 10_000_000, 20_000_000]
    scale.update_from_list(["run", *sizes, *offsets, str(config.dataflow), str(config.mode), [config.bw_ofmap]])
    scale.use_user_bandwidth = config.mode is Mode.USER
    scale.ifmap_sram_bank_bandwidth, scale.filter_sram_bank_bandwidth = config.bw_ifmap, config.bw_filter
    scale.ifmap_sram_bank_num = scale.filter_sram_bank_num = 1
    scale.sparsity_support = layer.sparsity is not None
    scale.sparsity_representation = "csr"
    return scale
