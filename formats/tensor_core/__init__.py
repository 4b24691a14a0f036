"""Tensor cores as accumulators: blocks of products aligned to the largest exponent, cut off and added."""

from macloom.formats.tensor_core.presets import get_preset, list_presets, summary
from macloom.formats.tensor_core.record import Evidence, Maturity, Register, TensorCoreAccumulator

__all__ = ["Evidence", "Maturity", "Register", "TensorCoreAccumulator", "get_preset", "list_presets", "summary"]
