"""The analytical simulator released with ANT and OliVe, which grew out of BitFusion: its numbers, to compare with."""

from macloom.sim.ant.cost import LayerCost, layer_cost
from macloom.sim.ant.records import DESIGNS, Design, Layer, Tiling
from macloom.sim.ant.search import best_tiling

__all__ = ["DESIGNS", "Design", "Layer", "LayerCost", "Tiling", "best_tiling", "layer_cost"]
