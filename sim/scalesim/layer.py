"""One layer through SCALE-Sim's array and buffers."""

from __future__ import annotations

from macloom._numba import available
from macloom.errors import MacloomError, unknown
from macloom.sim.scalesim.geometry import geometry
from macloom.sim.scalesim.records import Config, Conv, Gemm, Layer, Mode, Report, Version
from macloom.sim.scalesim.reference import simulate_reference


def simulate_layer(layer: Layer, config: Config, version: Version | str = Version.V3) -> Report:
    """Return what SCALE-Sim 3.0.0 (or v2) reports of one layer, every column of it.

    `version` decides how often USER mode adds a wait for DRAM, and which drain of the output buffer is
    the last: the one that started last in v2, the one that ended last in v3. The work grows with the
    cycles of the array, not with the addresses, except for the inputs of convolutions. Without numba
    `simulate_reference` does it address by address.

    Raises:
        MacloomError: the version is unknown, or layer or config are not records of this package.

    >>> from macloom.sim.scalesim import Config, Gemm
    >>> array = Config(rows=128, cols=128, dataflow="ws", ifmap_kb=512, filter_kb=512, ofmap_kb=256)
    >>> report = simulate_layer(Gemm(m=2048, n=2048, k=128), array)
    >>> report.total_cycles, report["stall_cycles"], report.sram_of_writes
    (38879, 0, 4194304)
    """
    try:
        version = Version(version)
    except ValueError:
        raise unknown("version", version, [v.value for v in Version]) from None
    if not isinstance(layer, Gemm | Conv):
        raise MacloomError(f"layer: must be a Gemm or a Conv, not {layer!r}")
    if not isinstance(config, Config):
        raise MacloomError(f"config: must be a Config, not {config!r}")
    if not available():
        return simulate_reference(layer, config, version)
    shape = geometry(layer, config)
    if config.mode is Mode.CALC:
        from macloom.sim.scalesim.calc import estimate

        return estimate(layer, config, shape, version is Version.V2)
    from macloom.sim.scalesim.user import bounded

    return bounded(layer, config, shape, version is Version.V2)
