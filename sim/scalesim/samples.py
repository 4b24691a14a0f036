"""Random layers and arrays, small enough to follow address by address: for tests and for `macloom verify scalesim`."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from macloom.arch.array import Dataflow
from macloom.sim.scalesim.records import Config, Conv, Gemm, Layer, Mode


def samples(seed: int, count: int, mode: Mode, *, cycles: int = 4000) -> Iterator[tuple[Layer, Config]]:
    """Yield `count` layers with arrays whose sides they straddle and buffers that they overflow.

    `cycles` bounds the multiply-accumulates per element, so that SCALE-Sim takes a fraction of a second.
    """
    rng = Random(f"{seed} {mode}")
    while count:
        layer, config = _layer(rng), _config(rng, mode)
        if layer.macs <= cycles * config.rows * config.cols:
            count -= 1
            yield layer, config


def _layer(rng: Random) -> Layer:
    block = rng.choice((2, 4, 8))
    sparsity = (rng.randint(1, block), block) if rng.random() < 0.25 else None
    if rng.random() < 0.5:
        return Gemm(m=rng.randint(1, 60), n=rng.randint(1, 60), k=rng.randint(1, 90), sparsity=sparsity)
    h, w = rng.randint(1, 12), rng.randint(1, 12)
    return Conv(
        h=h,
        w=w,
        fh=rng.randint(1, min(h, 4)),
        fw=rng.randint(1, min(w, 4)),
        channels=rng.randint(1, 20),
        filters=rng.randint(1, 24),
        stride=rng.randint(1, 4),
        sparsity=sparsity,
    )


def _config(rng: Random, mode: Mode) -> Config:
    sizes = (1, 1, 1, 2, 4)
    widths = (1, 2, 3, 7, 10, 64, 600)
    return Config(
        rows=rng.choice((1, 2, 3, 4, 5, 8, 16)),
        cols=rng.choice((1, 2, 3, 4, 7, 8, 16)),
        dataflow=rng.choice(list(Dataflow)),
        ifmap_kb=rng.choice(sizes),
        filter_kb=rng.choice(sizes),
        ofmap_kb=rng.choice(sizes),
        mode=mode,
        bw_ifmap=rng.choice(widths),
        bw_filter=rng.choice(widths),
        bw_ofmap=rng.choice(widths),
    )
