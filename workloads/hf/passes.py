"""Running a model one block at a time: what comes before the blocks, each block, what comes after.

The model's own forward pass calls its blocks with more than the hidden states: masks, positions, rotary
tables. A first pass whose blocks let the hidden states through records these arguments; then each block runs
on its own, on every batch; a last pass, whose blocks again do nothing, takes the result to the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from macloom.errors import MacloomError
from macloom.workloads.hf.skeleton import Skeleton
from macloom.workloads.hf.weights import WeightMap

Inputs = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """The arguments of one block besides the hidden states."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Start:
    """What the first block receives, and the further arguments of every block."""

    hidden: Tensor
    calls: tuple[Call, ...]


class _Stop(Exception):
    """Ends a forward pass early; caught where the pass begins."""


class Passes:
    """A model whose blocks run one at a time.

    Weights outside of the blocks are loaded when a module that has them runs, and kept until `release`; those of the
    embedding and of linear modules stay in the checkpoint and are read whenever they are used.
    """

    def __init__(self, skeleton: Skeleton, weights: WeightMap) -> None:
        self._skeleton, self._weights = skeleton, weights
        self._layers = [skeleton.module(name) for name in skeleton.layers]
        inside = {id(m) for layer in self._layers for m in layer.modules()}
        self._outside = {
            name: m
            for name, m in skeleton.model.named_modules()
            if id(m) not in inside and any(True for _ in m.parameters(recurse=False))
        }
        self._filled: set[str] = set()
        # By the shape of the input: the modules that run before the blocks, and the shape of what they give.
        self._before: dict[torch.Size, dict[str, torch.Size]] = {}
        self._tuples = False
        self._interned: dict[tuple[Any, ...], list[Tensor]] = {}

    @property
    def layers(self) -> int:
        return len(self._layers)

    @contextmanager
    def layer(self, index: int, *, lend: bool = True) -> Iterator[nn.Module]:
        """Give a block its weights within this context.

        Args:
            lend: leave those of linear modules in the checkpoint, to be read whenever they are multiplied; else they
                are in memory.
        """
        module, name = self._layers[index], self._skeleton.layers[index]
        self._weights.fill(module, name, lend=lend)
        try:
            yield module
        finally:
            self._weights.empty(module, name)

    def release(self) -> None:
        """Drop the weights outside of the blocks."""
        for name in self._filled:
            self._weights.empty(self._outside[name], name, recurse=False)
        self._filled.clear()

    def probe(self, inputs: Inputs) -> None:
        """Find out how blocks return their result, and that they exchange nothing but the hidden states.

        Args:
            inputs: anything short.

        Raises:
            MacloomError: the model refuses the inputs, or what a block is called with depends on what those before it
                gave.
        """
        try:
            start = self._recorded(inputs, lambda hidden: hidden, 1)
        except (ValueError, RuntimeError, IndexError) as error:
            if isinstance(error, MacloomError):
                raise
            given = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in inputs.items())
            raise MacloomError(
                f"model {self._skeleton.name!r}: refuses {given}: {' '.join(str(error).split())[:200]}"
            ) from None
        self.release()
        with self.layer(0) as first:
            self._tuples = isinstance(first(start.hidden, *start.calls[0].args, **start.calls[0].kwargs), tuple)
        calls, others = (
            self._recorded(inputs, give, self.layers).calls for give in (lambda hidden: hidden, torch.zeros_like)
        )
        if not all(_same(vars(a), vars(b)) for a, b in zip(calls, others, strict=True)):
            raise MacloomError(
                f"model {self._skeleton.name!r}: its blocks must exchange the hidden states alone, and a block of "
                f"{type(self._skeleton.model).__name__} is called with more that others computed; it is not run"
            )

    def begin(self, inputs: Inputs) -> Start:
        """Run what comes before the blocks and record what each of them is called with."""
        return self._recorded(inputs, lambda hidden: hidden, self.layers)

    def _recorded(self, inputs: Inputs, give: Callable[[Tensor], Tensor], layers: int) -> Start:
        """Run the model up to its block number `layers`, each block giving `give` of what it got."""
        found: dict[str, Tensor] = {}
        calls: list[Call] = []

        def record(hidden: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any], index: int) -> Tensor:
            found.setdefault("hidden", hidden)
            calls.append(Call(args=self._intern(args), kwargs=self._intern(dict(kwargs))))
            if index == layers - 1:
                raise _Stop
            return give(hidden)

        before = self._before.setdefault(_input_shape(inputs), {})

        def note(name: str) -> Callable[[Any, Any, Any], None]:
            def hook(module: Any, args: Any, out: Any) -> None:  # whatever a hook returns replaces the output
                before.setdefault(name, _shape(out))

            return hook

        handles = [module.register_forward_hook(note(name)) for name, module in self._outside.items()]
        try:
            with self._replaced(record), self._loading():
                self._skeleton.model(**inputs)
        except _Stop:
            pass
        finally:
            for handle in handles:
                handle.remove()
        if len(calls) != layers:
            raise MacloomError(
                f"model {self._skeleton.name!r}: must call its {self.layers} blocks once each, not {len(calls)} of them"
            )
        return Start(hidden=found["hidden"], calls=tuple(calls))

    def run(self, index: int, hidden: Tensor, call: Call) -> Tensor:
        """Run one block, whose weights are in memory."""
        out = self._layers[index](hidden, *call.args, **call.kwargs)
        return out[0] if isinstance(out, tuple) else out

    def finish(self, inputs: Inputs, hidden: Tensor) -> Tensor:
        """Run what comes after the blocks on what the last one gave, and return the logits."""

        def give(x: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any], index: int) -> Tensor:
            return hidden if index == self.layers - 1 else x

        before = self._before[_input_shape(inputs)]
        with self._replaced(give), self._loading(before), self._stubbed(before):
            out = self._skeleton.model(**inputs)
        return out.logits.float()

    @contextmanager
    def _replaced(self, body: Callable[[Tensor, tuple[Any, ...], Mapping[str, Any], int], Tensor]) -> Iterator[None]:
        """Let every block call `body` in place of its own computation."""

        def forward(index: int) -> Callable[..., Any]:
            def run(*args: Any, **kwargs: Any) -> Any:
                rest = dict(kwargs)
                hidden, args = (args[0], args[1:]) if args else (rest.pop("hidden_states"), args)
                out = body(hidden, args, rest, index)
                return (out, None) if self._tuples else out

            return run

        for index, module in enumerate(self._layers):
            module.forward = forward(index)
        try:
            yield
        finally:
            for module in self._layers:
                del module.forward

    @contextmanager
    def _loading(self, but: Container[str] = ()) -> Iterator[None]:
        """Fill modules outside of the blocks as they run."""

        def fill(name: str) -> Callable[[Any, Any], None]:
            def hook(module: nn.Module, args: Any) -> None:
                if name not in self._filled:
                    self._filled.add(name)
                    self._weights.fill(module, name, recurse=False, lend=True)

            return hook

        handles = [m.register_forward_pre_hook(fill(name)) for name, m in self._outside.items() if name not in but]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def _stubbed(self, before: Mapping[str, torch.Size]) -> Iterator[None]:
        """Let the modules before the blocks give zeros: what they compute is not needed twice."""
        for name, shape in before.items():
            self._outside[name].forward = lambda *args, shape=shape, **kwargs: torch.zeros(shape)
        try:
            yield
        finally:
            for name in before:
                del self._outside[name].forward

    def _intern(self, value: Any) -> Any:
        """Return the same object for equal tensors, so that masks and tables are held once for all batches."""
        if isinstance(value, Tensor):
            known = self._interned.setdefault((value.dtype, *value.shape), [])
            for other in known:
                if other is value or torch.equal(other, value):
                    return other
            known.append(value)
            return value
        if isinstance(value, tuple | list):
            return type(value)(self._intern(v) for v in value)
        if isinstance(value, dict):
            return {key: self._intern(v) for key, v in value.items()}
        return value


def _input_shape(inputs: Inputs) -> torch.Size:
    return next(iter(inputs.values())).shape


def _same(a: Any, b: Any) -> bool:
    """Whether two recorded values hold the same tensors; equal ones have been made the same object."""
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return a is b if isinstance(a, Tensor) else True


def _shape(out: Any) -> torch.Size:
    return out.shape if isinstance(out, Tensor) else torch.Size()
