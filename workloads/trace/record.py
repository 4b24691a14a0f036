"""Record what a model computes on the meta device: operations, where their operands come from, and in which module.

Every tensor is known by its storage, so that views, transposes and tied weights keep their names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from macloom.workloads.trace.prices import COPIES, CREATED, VIEWS

CONSTANT, WEIGHT, TABLE, CACHE, ACTIVATION = range(5)
"""What a tensor is, the strongest last: a result is what the strongest of its inputs is. Tables are sines and cosines.
"""


@dataclass(slots=True)
class Value:
    """What a storage holds: its kind, the name of the weight, and the nodes whose results are in it."""

    kind: int = CONSTANT
    name: str = ""
    makers: tuple[int, ...] = ()
    sharing: int = 1
    """How many times in a row a copy holds the same elements, as keys repeated for grouped queries do."""


_NOTHING = Value()


@dataclass(slots=True)
class Operand:
    """One tensor that an operation reads."""

    shape: tuple[int, ...]
    value: Value
    floating: bool
    sharing: int = 1
    """How many entries of the first axis in a row are the same elements."""


@dataclass(slots=True)
class Node:
    """One operation that computes something, in the module in which it ran."""

    index: int
    op: str
    module: str
    operands: list[Operand]
    shape: tuple[int, ...]
    arguments: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)


def storage_of(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _tensors(arguments: Any) -> Iterator[torch.Tensor]:
    for argument in arguments:
        if isinstance(argument, torch.Tensor):
            yield argument
        elif isinstance(argument, list | tuple):
            yield from _tensors(argument)


def _distinct(tensor: torch.Tensor) -> int:
    """Return the elements of a tensor, those that an expanded axis repeats counted once."""
    return math.prod(size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or size == 0)


def merged(values: list[Value]) -> Value:
    """Return what is known of a tensor that consists of others."""
    kind = max((v.kind for v in values), default=CONSTANT)
    name = next((v.name for v in values if v.name), "") if kind in (WEIGHT, CACHE) else ""
    return Value(kind, name, tuple(dict.fromkeys(m for v in values for m in v.makers)))


class Recorder(TorchDispatchMode):
    """Records every operation between `with recorder:` and its end.

    `nodes` holds what depends on activations; `failed` names the module that raised an exception.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.nodes: list[Node] = []
        self.values: dict[int, Value] = {}
        self.failed = ""
        self._modules = [""]
        self._kept: list[Any] = []  # a storage that is freed would give its address to another tensor
        self._names: dict[Any, str] = {}
        self._handles: list[Any] = []
        # A parameter that several modules share keeps its first name.
        for name, tensor in [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]:
            self.values.setdefault(storage_of(tensor), Value(WEIGHT, name))
        for name, module in model.named_modules():
            self._handles.append(module.register_forward_pre_hook(self._entering(name)))
            self._handles.append(module.register_forward_hook(self._leaving, always_call=True))

    def _entering(self, name: str) -> Any:
        def enter(module: Any, arguments: Any) -> None:
            self._modules.append(name)

        return enter

    def _leaving(self, module: Any, arguments: Any, output: Any) -> None:
        left = self._modules.pop()
        # After an exception every module is left, the innermost first, without a result.
        self.failed = "" if output is not None else self.failed or left

    def __exit__(self, *exception: Any) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        super().__exit__(*exception)

    def mark(self, tensor: torch.Tensor, kind: int) -> None:
        """Say what a tensor is that exists before the trace: an input of the model or a part of its cache."""
        self.values[storage_of(tensor)] = Value(kind)
        self._kept.append(tensor)

    def value(self, tensor: torch.Tensor) -> Value:
        return self.values.get(storage_of(tensor), _NOTHING)

    @property
    def module(self) -> str:
        return self._modules[-1]

    def _name(self, function: Any) -> str:
        name = self._names.get(function)
        if name is None:
            space, _, name = function._schema.name.partition("::")
            name = name.rstrip("_") if space == "aten" else f"{space}.{name}"
            self._names[function] = name
        return name

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = self._name(func)
        if name in CREATED:
            return self._keep(out)
        ins = list(_tensors((*args, *kwargs.values())))
        outs = list(_tensors((out,)))
        values = [self.values.get(storage_of(t), _NOTHING) for t in ins]
        if name in VIEWS:
            if values:
                for tensor in outs:
                    self.values.setdefault(storage_of(tensor), values[0])
        elif not any(o.is_floating_point() or o.is_complex() for o in outs):
            pass  # masks, positions and choices of experts are integers
        elif name in COPIES:
            floating = [v for v, t in zip(values, ins, strict=True) if t.is_floating_point() or t.is_complex()]
            value = merged(floating)
            if len(ins) == 1:
                value.sharing = values[0].sharing * max(1, outs[0].numel() // max(1, _distinct(ins[0])))
            self._set(outs, value)
        elif name not in ("embedding", "embedding_bag") and max((v.kind for v in values), default=CONSTANT) < CACHE:
            # Nothing but weights and constants: computed once, before the model runs.
            value = merged(values)
            self._set(outs, Value(TABLE) if name in ("cos", "sin", "polar") else Value(value.kind, value.name))
        else:
            self._node(name, ins, values, outs, args, kwargs)
        return self._keep(out)

    def _keep(self, out: Any) -> Any:
        self._kept.append(out)
        return out

    def _set(self, outs: list[torch.Tensor], value: Value) -> None:
        for tensor in outs:
            self.values[storage_of(tensor)] = value

    def _node(
        self,
        name: str,
        ins: list[torch.Tensor],
        values: list[Value],
        outs: list[torch.Tensor],
        args: Any,
        kwargs: dict[str, Any],
    ) -> None:
        operands = [
            Operand(
                tuple(t.shape),
                v,
                t.is_floating_point() or t.is_complex(),
                t.shape[0] if t.dim() > 2 and t.stride(0) == 0 else v.sharing,
            )
            for t, v in zip(ins, values, strict=True)
        ]
        first = next(o for o in outs if o.is_floating_point() or o.is_complex())
        index = len(self.nodes)
        self.nodes.append(Node(index, name, self.module, operands, tuple(first.shape), args, kwargs))
        # An operation in place, such as one on a part of the cache, leaves in the storage what was there, too.
        cached = any(v.kind == CACHE for v in values) and any(storage_of(o) == storage_of(i) for o in outs for i in ins)
        self._set(outs, Value(CACHE if cached else ACTIVATION, "", (index,)))
