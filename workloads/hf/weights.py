"""Filling the modules of a skeleton from a checkpoint and emptying them again, a few at a time."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from macloom.errors import MacloomError
from macloom.workloads.hf.checkpoint import Checkpoint, StoredTensor
from macloom.workloads.hf.products import ProductLinear
from macloom.workloads.hf.skeleton import Skeleton
from macloom.workloads.hf.stored import StoredParameter

IGNORED = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".attention.bias", ".position_ids")
"""Constants that older versions of transformers saved with the weights."""


@dataclass(kw_only=True)
class Source:
    """The tensors of a checkpoint that one or more parameters are made of, and how: renamed, or converted."""

    targets: tuple[str, ...]
    names: list[tuple[str, str]] = field(default_factory=list)  # pattern of the converter, tensor
    converter: Any = None


class WeightMap:
    """Which tensors of a checkpoint make each parameter of a model, in the rules of transformers.

    Args:
        skeleton: the model, before its linear modules are replaced or after: names are the same.

    Raises:
        MacloomError: a tensor is missing, or one has no place in the model.
    """

    def __init__(self, checkpoint: Checkpoint, skeleton: Skeleton) -> None:
        self._checkpoint, self._model = checkpoint, skeleton.model
        self._empty: dict[str, Tensor] = dict(skeleton.model.named_parameters(remove_duplicate=False))
        self._buffers: dict[str, Tensor] = {
            name: b for name, b in skeleton.model.named_buffers() if name in skeleton.model.state_dict()
        }
        self._tied: dict[str, str] = dict(getattr(skeleton.model, "all_tied_weights_keys", {}) or {})
        self._sources: dict[str, Source] = {}
        self._embedding = _embedding(self._model)
        self._collect()

    def _collect(self) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

        rules = get_model_conversion_mapping(self._model)
        renamings = [r for r in rules if isinstance(r, WeightRenaming)]
        converters = [r for r in rules if isinstance(r, WeightConverter)]
        by_pattern = {pattern: c for c in converters for pattern in c.source_patterns}
        prefix, places = self._model.base_model_prefix, {**self._empty, **self._buffers}
        superfluous: list[str] = []
        for name in sorted(self._checkpoint.tensors, key=dot_natural_key):
            target, pattern = rename_source_key(name, renamings, converters, prefix, places)
            if target not in places and name in places:
                target, pattern = rename_source_key(name, [], [], prefix, places)
            if target not in places:
                superfluous += [] if name.endswith(IGNORED) else [name]
                continue
            if pattern is None:
                self._sources[target] = Source(targets=(target,), names=[(name, name)])
                continue
            rule = by_pattern[pattern]
            if target not in self._sources:
                first, *others = rule.target_patterns
                targets = (target, *(target.replace(first, other) for other in others))
                self._sources |= dict.fromkeys(targets, Source(targets=targets, converter=rule))
            self._sources[target].names.append((pattern, name))
        where = self._checkpoint.directory
        if superfluous:
            raise MacloomError(
                f"{where}: holds the tensor {superfluous[0]!r}{_more(superfluous)}, which its config.json has no place "
                "for"
            )
        missing = [name for name in self._empty if self._canonical(name) not in self._sources]
        if missing:
            raise MacloomError(f"{where}: lacks the tensor {missing[0]!r}{_more(missing)}; the copy is incomplete")
        for name, source in self._sources.items():
            if source.converter is None:
                self._check(name, self._checkpoint.tensors[source.names[0][1]].shape, source.names[0][1])

    def _canonical(self, name: str) -> str:
        """Return the name under which a checkpoint holds a parameter, following ties."""
        if name in self._sources and name not in self._tied:
            return name
        return self._tied.get(name, name) if self._tied.get(name, name) in self._sources else name

    def _check(self, name: str, shape: tuple[int, ...], stored: str) -> None:
        wanted = tuple({**self._empty, **self._buffers}[name].shape)
        if shape != wanted:
            raise MacloomError(f"{self._checkpoint.directory}: tensor {stored!r} must be {wanted}, not {shape}")

    def load(self, names: Iterable[str], *, lend: bool = False) -> dict[str, Tensor]:
        """Return the float32 values of parameters by name; those that are tied are the same object.

        Args:
            lend: leave the weights of experts in the type that they are stored in.
        """
        wanted = list(names)
        found: dict[str, Tensor] = {}
        for name in wanted:
            canonical = self._canonical(name)
            if canonical not in found:
                found |= self._made(self._sources[canonical], lend)
            found[name] = found[canonical]
        return {name: found[name] for name in wanted}

    def _made(self, source: Source, lend: bool) -> dict[str, Tensor]:
        tensors = self._checkpoint.tensors
        dtype = None if lend and all(map(self._of_experts, source.targets)) else torch.float32
        if source.converter is None:
            return {source.targets[0]: tensors[source.names[0][1]].read(dtype=dtype)}
        rule = copy.deepcopy(source.converter)
        for pattern, name in source.names:
            rule.add_tensor(source.targets[0], name, pattern, tensors[name].read(dtype=dtype))
        try:
            made = rule.convert(source.targets[0], model=self._model, config=self._model.config)
        except (RuntimeError, ValueError, IndexError) as error:
            raise MacloomError(
                f"{self._checkpoint.directory}: the tensors of {source.targets[0]!r} do not fit together: {error}"
            ) from None
        values = {name: t[0] if isinstance(t, list) else t for name, t in made.items()}
        for name, value in values.items():
            self._check(name, tuple(value.shape), name)
        return {name: value.contiguous() for name, value in values.items()}

    def fill(self, module: nn.Module, prefix: str, recurse: bool = True, *, lend: bool = False) -> None:
        """Load the parameters of a module, and what a checkpoint holds of its buffers.

        Args:
            lend: leave in the checkpoint what can be read row by row when it is used, weights of linear modules and
                the embedding, and weights of experts in the type that they are stored in.
        """
        own = [prefix + "." * bool(prefix) + name for name, _ in _parameters(module, recurse)]
        lent = {name: tensor for name in own if lend and (tensor := self._rows(name)) is not None}
        for name, tensor in lent.items():
            self._place(name, StoredParameter.of(tensor))
        for name, value in self.load((name for name in own if name not in lent), lend=lend).items():
            self._put(name, value)
        for name, _ in module.named_buffers(prefix, recurse=recurse):
            if name in self._sources:
                self._model.get_buffer(name).copy_(self.load([name])[name])

    def empty(self, module: nn.Module, prefix: str, recurse: bool = True) -> None:
        """Put the parameters of a module back on the meta device."""
        for name, _ in _parameters(module, recurse):
            full = prefix + "." * bool(prefix) + name
            self._put(full, self._empty[full])

    def _rows(self, name: str) -> StoredTensor | None:
        """Return where a parameter lies if its module takes it row by row and it is in the checkpoint as it is used."""
        parent, _, leaf = name.rpartition(".")
        module, source = self._model.get_submodule(parent), self._sources[self._canonical(name)]
        by_row = module is self._embedding or (isinstance(module, ProductLinear) and module.by_row)
        if not by_row or leaf != "weight" or source.converter is not None:
            return None
        return self._checkpoint.tensors[source.names[0][1]]

    def _of_experts(self, name: str) -> bool:
        """Say whether a parameter holds a weight of every expert, whose products macloom takes one at a time."""
        module = self._model.get_submodule(name.rpartition(".")[0])
        return hasattr(module, "is_transposed") and self._empty[name].ndim == 3

    def _put(self, name: str, value: Tensor) -> None:
        self._place(name, nn.Parameter(value, requires_grad=False))

    def _place(self, name: str, parameter: nn.Parameter) -> None:
        parent, _, leaf = name.rpartition(".")
        self._model.get_submodule(parent)._parameters[leaf] = parameter

    @property
    def parameters(self) -> int:
        """How many parameters the model has, tied ones once."""
        return sum(t.numel() for t in {id(t): t for t in self._empty.values()}.values())


def _embedding(model: Any) -> nn.Embedding | None:
    """Return the embedding of the input tokens, if a model has one whose rows are used as they are."""
    try:
        found = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):  # models of images
        return None
    return found if isinstance(found, nn.Embedding) and found.max_norm is None else None


def _parameters(module: nn.Module, recurse: bool) -> list[tuple[str, Tensor]]:
    return list(module.named_parameters(recurse=recurse, remove_duplicate=False))


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
