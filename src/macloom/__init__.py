"""What a number format does to a language model on an accelerator: accuracy, cycles and energy.

The public names are loaded on first use, so that `import macloom` takes milliseconds.

>>> import macloom
>>> macloom.get_format("int4:group=128").name
'int4:group=128'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from macloom import arch, explore, formats, rtl, sim, workloads
    from macloom.arch import list_accelerators, load_accelerator
    from macloom.errors import MacloomError
    from macloom.formats import gemm, get_format, list_formats
    from macloom.sim import simulate
    from macloom.workloads import evaluate, list_workloads, load_model, load_recipe, load_workload

__version__ = "0.1.0"

_ROOMS = ("arch", "explore", "formats", "rtl", "sim", "workloads")
_HOMES = {
    "MacloomError": "macloom.errors",
    "evaluate": "macloom.workloads",
    "gemm": "macloom.formats",
    "get_format": "macloom.formats",
    "list_accelerators": "macloom.arch",
    "list_formats": "macloom.formats",
    "list_workloads": "macloom.workloads",
    "load_accelerator": "macloom.arch",
    "load_model": "macloom.workloads",
    "load_recipe": "macloom.workloads",
    "load_workload": "macloom.workloads",
    "simulate": "macloom.sim",
}

__all__ = [
    "MacloomError",
    "__version__",
    "arch",
    "evaluate",
    "explore",
    "formats",
    "gemm",
    "get_format",
    "list_accelerators",
    "list_formats",
    "list_workloads",
    "load_accelerator",
    "load_model",
    "load_recipe",
    "load_workload",
    "rtl",
    "sim",
    "simulate",
    "workloads",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"macloom.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'macloom' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
