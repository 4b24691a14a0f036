"""Serving: requests that arrive, continuous batching over the simulator's costs, and what users then wait for."""

from macloom.explore.serving.passes import longest_context
from macloom.explore.serving.policy import Policy
from macloom.explore.serving.request import Fitted, Request, fitted, read_requests
from macloom.explore.serving.result import Objective, Served, ServingResult
from macloom.explore.serving.scenario import SCENARIOS, Lengths, Scenario, fixed, get_scenario
from macloom.explore.serving.serve import serve

__all__ = [
    "SCENARIOS",
    "Fitted",
    "Lengths",
    "Objective",
    "Policy",
    "Request",
    "Scenario",
    "Served",
    "ServingResult",
    "fitted",
    "fixed",
    "get_scenario",
    "longest_context",
    "read_requests",
    "serve",
]
