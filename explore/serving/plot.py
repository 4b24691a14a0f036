"""Latencies of served requests, and the load of the server over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from macloom.explore.serving.result import ServingResult
from macloom.explore.style import INK, MUTED, PALETTE, plot_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_UNITS = {"GiB": 2**33, "MiB": 2**23, "KiB": 2**13}
"""Bits of the units that stored sizes are drawn in, largest first."""


def serving_figure(result: ServingResult) -> Figure:
    """Draw the share of requests within each latency, and requests and cache over time; dots are limits."""
    from matplotlib.figure import Figure

    with plot_style():
        figure = Figure(figsize=(9.6, 4.2), layout="constrained")
        axes = figure.subplot_mosaic([["latencies", "load"], ["latencies", "cache"]])
        _latencies(axes["latencies"], result)
        _load(axes["load"], axes["cache"], result)
        settings = result.settings
        figure.suptitle(
            f"{settings['model']}, {settings['recipe']['name']} on {settings['accelerator']['name']}", fontsize=11
        )
    return figure


def _latencies(ax: Any, result: ServingResult) -> None:
    limits = {"ttft_s": result.objective.ttft_s, "tpot_s": result.objective.tpot_s}
    names = {"ttft_s": "time to first token", "tpot_s": "time per output token", "latency_s": "whole request"}
    for colour, (name, text) in zip(PALETTE, names.items(), strict=False):
        times = np.sort(result.times(name))
        if times.size:
            ax.step(times, np.arange(1, times.size + 1) / times.size, where="post", color=colour, label=text)
        if limits.get(name):
            ax.axvline(limits[name], color=colour, linewidth=0.9, linestyle=":")
    ax.set_xscale("log")
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("seconds")
    ax.set_ylabel("share of requests")
    _legend_above(ax, 3)


def _load(load: Any, cache: Any, result: ServingResult) -> None:
    times = [i.start_s for i in result.iterations]
    batch = [i.decode_tokens for i in result.iterations]
    waiting = [i.waiting for i in result.iterations]
    load.step(times, batch, where="post", color=PALETTE[0], linewidth=1.0, label="decoding")
    load.step(times, waiting, where="post", color=MUTED, linewidth=1.0, label="waiting")
    load.set_ylabel("requests")
    load.tick_params(labelbottom=False)
    _legend_above(load, 2)
    largest = max(result.cache_bits or 0, *(i.cache_bits for i in result.iterations))
    unit, bits = next(((name, bits) for name, bits in _UNITS.items() if largest >= bits), ("B", 8))
    cache.step(times, [i.cache_bits / bits for i in result.iterations], where="post", color=INK, linewidth=1.0)
    if result.cache_bits:
        cache.axhline(result.cache_bits / bits, color=INK, linewidth=0.9, linestyle=":")
    cache.set_ylabel(f"cache, {unit}")
    cache.set_xlabel("seconds")
    for ax in (load, cache):
        ax.set_ylim(bottom=0)


def _legend_above(ax: Any, columns: int) -> None:
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, ncols=columns, columnspacing=1.2)
