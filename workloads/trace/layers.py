"""Fold the equal layers of a model into one that is repeated, and give every operation a short name of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from macloom.workloads.ops import Gemm, Op, Vector
from macloom.workloads.trace.drafts import Draft

HEAD = "lm_head"
"""What every output head is called, the name by which recipes exempt it."""


@dataclass(eq=False, slots=True)
class _Item:
    """One operation, how often it occurs, its name in parts, and the drafts that it stands for, layer by layer."""

    op: Op
    repeat: int
    parts: list[str]
    drafts: list[Draft]

    def signature(self, start: int) -> tuple[Any, ...]:
        op = self.op
        plain = replace(op, name="op", reads=())
        return (tuple(self.parts[start:]), plain, self.repeat)


def _stacks(model: nn.Module) -> set[tuple[str, ...]]:
    """Return the names, in parts, of the lists of equal modules."""
    found = set()
    for name, module in model.named_modules():
        kinds = [type(m) for m in module.children()]
        repeated = isinstance(module, nn.Sequential) and len(kinds) > len(set(kinds))
        if name and (isinstance(module, nn.ModuleList) or repeated):
            found.add(tuple(name.split(".")))
    return found


def _folded(items: Sequence[_Item], start: int, stacks: set[tuple[str, ...]]) -> list[_Item]:
    """Return items below a prefix of `start` parts, with the layers of every stack folded."""
    found: list[_Item | tuple[str, ...]] = []
    layers: dict[tuple[str, ...], dict[str, list[_Item]]] = {}
    for item in items:
        parts = item.parts
        end = next(
            (i for i in range(start + 1, len(parts)) if parts[i].isdecimal() and tuple(parts[:i]) in stacks), None
        )
        if end is None:
            found.append(item)
            continue
        stack = tuple(parts[:end])
        if stack not in layers:
            layers[stack] = {}
            found.append(stack)
        layers[stack].setdefault(parts[end], []).append(item)
    out: list[_Item] = []
    for entry in found:
        if isinstance(entry, _Item):
            out.append(entry)
            continue
        start_of_layer = len(entry) + 1
        kinds: dict[tuple[Any, ...], list[list[_Item]]] = {}
        for layer in layers[entry].values():
            inner = _folded(layer, start_of_layer, stacks)
            kinds.setdefault(tuple(item.signature(start_of_layer) for item in inner), []).append(inner)
        for same in kinds.values():
            for column in zip(*same, strict=True):
                first = column[0]
                parts = first.parts
                if len(kinds) == 1:
                    parts = [*entry[:-1], *parts[start_of_layer:]]
                out.append(_Item(first.op, sum(i.repeat for i in column), parts, [d for i in column for d in i.drafts]))
    return out


def _short(items: list[_Item], drafts: Sequence[Draft], stacks: set[tuple[str, ...]], base: str) -> dict[int, str]:
    """Return a name for each item: relative to the layer where the model has one stack, else to the model."""
    outer = set()
    for draft in drafts:
        parts = draft.op.name.split(".")
        end = next((i for i in range(1, len(parts)) if parts[i].isdecimal() and tuple(parts[:i]) in stacks), None)
        if end is not None:
            outer.add(tuple(parts[:end]))
    above = next(iter(outer))[:-1] if len(outer) == 1 else ()
    names: dict[int, str] = {}
    used: set[str] = set()
    for item in items:
        parts = item.parts
        if above and tuple(parts[: len(above)]) == above and len(parts) > len(above):
            parts = parts[len(above) :]
        elif base and parts[0] == base and len(parts) > 1:
            parts = parts[1:]
        name = wanted = ".".join(parts)
        count = 1
        while name in used:
            name, count = f"{wanted}_{count}", count + 1
        used.add(name)
        names[id(item)] = name
    return names


def collapsed(drafts: Sequence[Draft], model: nn.Module) -> tuple[Op, ...]:
    """Return the operations of drafts, equal layers folded, with what they read by name.

    Layers are equal if their operations are, in names, order and shapes; layers of two kinds that take turns are
    one layer of each kind, repeated.
    """
    stacks = _stacks(model)
    items = _folded([_Item(d.op, 1, d.op.name.split("."), [d]) for d in drafts], 0, stacks)
    names = _short(items, drafts, stacks, getattr(model, "base_model_prefix", ""))
    heads = getattr(model, "get_output_embeddings", lambda: None)()
    head = next((name for name, module in model.named_modules() if heads is not None and module is heads), None)
    of_draft: dict[int, str] = {}
    for item in items:
        if head is not None and item.drafts[0].op.name == head:
            names[id(item)] = HEAD
        for draft in item.drafts:
            of_draft[id(draft)] = names[id(item)]
    return tuple(_finished(item, names[id(item)], of_draft) for item in items)


def _finished(item: _Item, name: str, of_draft: dict[int, str]) -> Op:
    def read(position: int) -> tuple[str, ...]:
        return tuple(dict.fromkeys(of_draft[id(d)] for draft in item.drafts for d in draft.reads[position]))

    op = item.op
    count = len(item.drafts[0].reads)
    if isinstance(op, Gemm):
        return replace(op, name=name, repeat=item.repeat, reads=read(0) if count else ())
    assert isinstance(op, Vector)
    reads = tuple(read(i) for i in range(count))
    return replace(op, name=name, repeat=item.repeat, reads=reads if count == op.inputs and any(reads) else ())
