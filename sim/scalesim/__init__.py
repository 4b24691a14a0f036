"""SCALE-Sim's numbers, to the last cycle and with its bugs, thousands of times faster."""

from macloom.sim.scalesim.files import Representation, Setup, read_config, read_topology
from macloom.sim.scalesim.layer import simulate_layer
from macloom.sim.scalesim.records import REPORT_COLUMNS, Config, Conv, Gemm, Layer, Mode, Report, Version
from macloom.sim.scalesim.reference import simulate_reference
from macloom.sim.scalesim.tables import report_files

__all__ = [
    "REPORT_COLUMNS",
    "Config",
    "Conv",
    "Gemm",
    "Layer",
    "Mode",
    "Report",
    "Representation",
    "Setup",
    "Version",
    "read_config",
    "read_topology",
    "report_files",
    "simulate_layer",
    "simulate_reference",
]
