"""Every matrix product of a model, found: linear modules by replacement, the others as they are called."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from macloom.workloads.hf.interfaces import Route, active, name_of, routed
from macloom.workloads.hf.skeleton import Skeleton
from macloom.workloads.hf.stored import StoredParameter
from macloom.workloads.ops import Role
from macloom.workloads.quantized import Operand, QuantizedArithmetic


class ProductLinear(nn.Module):
    """A linear module whose product goes to the arithmetic of the active route.

    Parameters keep their names and layout; GPT-2's `Conv1D` holds its weight transposed.
    """

    def __init__(self, name: str, source: nn.Module, transposed: bool) -> None:
        super().__init__()
        self.macloom_name, self.transposed = name, transposed
        self.weight, self.bias = source.weight, source.bias

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.weight, Tensor)
        assert self.bias is None or isinstance(self.bias, Tensor)
        weight = self.weight.t() if self.transposed else self.weight
        return active().linear(self.macloom_name, x, weight, self.bias)

    @property
    def by_row(self) -> bool:
        """Whether the rows of the weight as it is stored are those of the product."""
        return not self.transposed

    def spend(self, arithmetic: QuantizedArithmetic) -> None:
        """Give up the weight once the arithmetic has it in its own form; one that is not in memory is left alone."""
        assert isinstance(self.weight, Tensor)
        if not self.weight.is_meta and (self.macloom_name, "weight") in arithmetic.plan:
            arithmetic.encode_weight(self.macloom_name, self.weight.t() if self.transposed else self.weight)
            self.weight = nn.Parameter(self.weight.to("meta"), requires_grad=False)


def instrument(skeleton: Skeleton) -> None:
    """Replace every linear module of a model and tell each module its name."""
    from transformers.pytorch_utils import Conv1D

    model = skeleton.model
    for name, module in list(model.named_modules()):
        module.macloom_name = name
        if isinstance(module, nn.Linear | Conv1D):
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, ProductLinear(name, module, isinstance(module, Conv1D)))


class Watch(TorchFunctionMode):
    """Catches the products that modules compute themselves, and notes those that stay in float.

    `F.linear` on a parameter is a product under the parameter's module (routers of experts). Products of two
    activations in an attention module are its scores and its values, in this order (BLOOM, Falcon). A convolution
    over images is the product of its patches. Any other product runs in float and is named in `floating`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.floating: set[str] = set()
        self._model = model
        self._stack: list[nn.Module] = []
        self._attention: list[int] = []  # products so far of each attention module on the stack
        self._handles: list[Any] = []

    @contextmanager
    def running(self, route: Route) -> Iterator[None]:
        """Run the model within this context; its products go to `route`."""
        handles = []
        for module in self._model.modules():
            if not isinstance(module, ProductLinear):
                handles += [
                    module.register_forward_pre_hook(self._enter),
                    module.register_forward_hook(self._leave, always_call=True),
                ]
        try:
            with routed(route), torch.inference_mode(), self:
                yield
        finally:
            self._stack.clear()
            self._attention.clear()
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, args: Any) -> None:
        self._stack.append(module)
        self._attention.append(0)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._stack and self._stack[-1] is module:  # else the stack was cleared by an abandoned pass
            self._stack.pop()
            self._attention.pop()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        handler = _HANDLERS.get(func)
        if handler is None or not self._stack or active().busy:
            return func(*args, **(kwargs or {}))
        made = handler(self, *args, **(kwargs or {}))
        if made is not None:
            return made
        return func(*args, **(kwargs or {}))

    def float_product(self, what: str) -> None:
        self.floating.add(f"{name_of(self._stack[-1])}: {what}")

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
        owner = next((name for name, p in self._stack[-1].named_parameters() if p is weight), None)
        if owner is None:
            return self.float_product("linear")
        inner = owner.rpartition(".")[0]
        name = ".".join(part for part in (name_of(self._stack[-1]), inner) if part)
        return active().linear(name, x, weight, bias)

    def embedding(self, tokens: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor | None:
        """Return the rows of an embedding that stays in its file; of any other, nothing."""
        return weight.source.gather(tokens) if isinstance(weight, StoredParameter) else None

    def product(self, x: Tensor, y: Tensor) -> Tensor | None:
        """Return x (..., M, K) times y (..., K, N) if both are activations of an attention module."""
        if "Attention" not in type(self._stack[-1]).__name__ or x.ndim < 3 or y.ndim < 3:
            if x.ndim > 1 and y.ndim > 1 and x.shape[-1] > 1:  # rotary angles are an outer product
                self.float_product("matrix product")
            return None
        name, first = name_of(self._stack[-1]), self._attention[-1] % 2 == 0
        self._attention[-1] += 1
        rows = x
        if x.ndim == 4 and y.shape[1] == 1 != x.shape[1]:  # query heads that share keys are rows of one product
            rows = x.reshape(x.shape[0], 1, -1, x.shape[-1])
        a = (
            Operand(name="query", role=Role.ACTIVATION, values=rows)
            if first
            else Operand(name="probability", role=Role.PROBABILITY, values=rows)
        )
        b = Operand(name="key" if first else "value", role=Role.KV, values=y.transpose(-1, -2))
        out = active().run(f"{name}.scores" if first else f"{name}.values", a, b)
        return out.clone().view(*x.shape[:-1], -1)  # models scale their scores in place

    def scaled_sum(self, added: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
        made = self.product(batch1, batch2)
        return None if made is None else added * beta + made * alpha

    def convolution(
        self, x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
        dilation: Any = 1, groups: int = 1,
    ) -> Tensor | None:  # fmt: skip
        if groups != 1 or isinstance(padding, str):
            return self.float_product("convolution")
        patches = F.unfold(x, weight.shape[-2:], dilation=dilation, padding=padding, stride=stride).transpose(1, 2)
        out = active().linear(name_of(self._stack[-1]), patches.contiguous(), weight.flatten(1), bias)
        (pad_h, pad_w), (step_h, step_w), (far_h, far_w) = (
            (v, v) if isinstance(v, int) else v for v in (padding, stride, dilation)
        )
        height = (x.shape[2] + 2 * pad_h - far_h * (weight.shape[2] - 1) - 1) // step_h + 1
        width = (x.shape[3] + 2 * pad_w - far_w * (weight.shape[3] - 1) - 1) // step_w + 1
        return out.transpose(1, 2).reshape(len(x), -1, height, width)


def _floating(what: str) -> Callable[..., None]:
    return lambda watch, *args, **kwargs: watch.float_product(what)


_HANDLERS: Mapping[Any, Callable[..., Tensor | None]] = {
    F.embedding: Watch.embedding,
    F.linear: Watch.linear,
    torch.matmul: Watch.product,
    torch.Tensor.matmul: Watch.product,
    torch.Tensor.__matmul__: Watch.product,
    torch.bmm: Watch.product,
    torch.Tensor.bmm: Watch.product,
    torch.baddbmm: Watch.scaled_sum,
    torch.Tensor.baddbmm: Watch.scaled_sum,
    torch.conv2d: Watch.convolution,
    F.conv2d: Watch.convolution,
    torch.conv1d: _floating("convolution"),
    F.conv1d: _floating("convolution"),
    torch.einsum: _floating("einsum"),
    torch.addmm: _floating("matrix product"),
    torch.mm: _floating("matrix product"),
    torch.Tensor.mm: _floating("matrix product"),
    F.scaled_dot_product_attention: _floating("attention"),
}
"""The functions of torch that multiply matrices or look up their rows, and what becomes of a call within a module."""
