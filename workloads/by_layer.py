"""A workload layer by layer, with the operations named as in a checkpoint, for recipes that differ between layers.

A workload holds identical layers once, with a `repeat`, and experts as a batch. An exception of a recipe such as
`model.layers.3.*` or `model.layers.3.mlp.experts.0.*` concerns one of them; `for_recipe` writes layers and experts out
where a recipe tells them apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from macloom.errors import MacloomError
from macloom.workloads.groups import layer_of, stack_of
from macloom.workloads.ops import Gemm, Op, Workload
from macloom.workloads.recipe import Recipe

STACK = "model.layers"  # where most families keep their layers
# Groups of experts that equally many tokens reach are numbered behind the name of their product, the fullest first.
_EXPERTS = re.compile(r"(?P<experts>(?:.+\.)?experts)\.(?P<leaf>[^.]+)(?:\.\d+)?")
_ONE_EXPERT = re.compile(r".*\.experts\.\d+\..*")


def by_layer(workload: Workload, stack: str = STACK) -> Workload:
    """Return the workload with every layer's operations written out as `<stack>.<number>.<operation>`.

    Operations that do not repeat in every layer keep their names. What operations read is renamed too, so that
    tensors stay on chip between the same operations as before.

    Raises:
        MacloomError: the workload does not say how many layers it has.

    >>> from macloom.workloads import load_workload
    >>> split = by_layer(load_workload("tiny", sequence=16))
    >>> [op.name for op in split.gemms][8:10], split.macs == load_workload("tiny", sequence=16).macs
    (['model.layers.0.mlp.down_proj', 'model.layers.1.self_attn.q_proj'], True)
    """
    layers = workload.details.get("layers")
    if not isinstance(layers, int) or layers < 1:
        raise MacloomError(f"workload {workload.name!r}: must say in details how many layers it has, to be split")
    first, last = _body(workload.ops, layers)
    body = workload.ops[first : last + 1]
    place = {op.name: i for i, op in enumerate(body)}

    def named(name: str, layer: int) -> str:
        return f"{stack}.{layer}.{name}" if name in place else name

    def inside(reader: int, layer: int, sources: tuple[str, ...]) -> tuple[str, ...]:
        """Of what a repeated operation may read, that which it reads in this layer."""
        earlier = [s for s in sources if s in place and place[s] < reader]
        former = [s for s in sources if s in place and place[s] >= reader]
        outside = [s for s in sources if s not in place]
        if earlier:
            return tuple(named(s, layer) for s in earlier)
        return tuple(named(s, layer - 1) for s in former) if former and layer else tuple(outside)

    ops: list[Op] = list(workload.ops[:first])
    for layer in range(layers):
        for reader, op in enumerate(body):
            ops.append(_copy(op, named(op.name, layer), layers, partial(inside, reader, layer)))

    def behind(sources: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(named(s, layers - 1) for s in sources)

    ops += [_copy(op, op.name, 1, behind) for op in workload.ops[last + 1 :]]
    return replace(workload, ops=tuple(ops))


def _copy(op: Op, name: str, layers: int, read: Callable[[tuple[str, ...]], tuple[str, ...]]) -> Op:
    if isinstance(op, Gemm):
        return replace(op, name=name, repeat=op.repeat // layers, reads=read(op.reads))
    return replace(op, name=name, repeat=op.repeat // layers, reads=tuple(read(sources) for sources in op.reads))


def _body(ops: tuple[Op, ...], layers: int) -> tuple[int, int]:
    """Return the first and the last operation of a layer: those that repeat with it, or what reads say of one layer."""
    if layers > 1:
        inside = [i for i, op in enumerate(ops) if op.repeat % layers == 0]
    else:
        order = {op.name: i for i, op in enumerate(ops)}
        back = [(i, order[s]) for i, op in enumerate(ops) for s in _sources(op) if order.get(s, -1) > i]
        inside = [i for pair in back for i in pair]
    if not inside:
        raise MacloomError("workload: must have operations that repeat in every layer, to be split")
    if layers > 1 and inside != list(range(inside[0], inside[-1] + 1)):
        raise MacloomError("workload: must have layers of one kind in a row, to be split")
    return inside[0], inside[-1]


def _sources(op: Op) -> Iterable[str]:
    return op.reads if isinstance(op, Gemm) else (s for sources in op.reads for s in sources)


def by_expert(workload: Workload) -> Workload:
    """Return the workload with the products of every expert on their own, as `<experts>.<number>.<product>`.

    Experts are numbered from the fullest to the emptiest.

    Raises:
        MacloomError: some expert gets no token, so that the workload has nothing of it.

    >>> from macloom.workloads import load_workload
    >>> split = by_expert(by_layer(load_workload("mixtral-8x7b", sequence=64)))
    >>> [op.name for op in split.gemms][7:9]
    ['model.layers.0.mlp.experts.0.gate_up_proj', 'model.layers.0.mlp.experts.1.gate_up_proj']
    """
    count = workload.details.get("experts")
    if not isinstance(count, int):
        return workload
    counted: dict[tuple[str, str], int] = {}
    parts: dict[str, tuple[str, ...]] = {}
    for op in workload.gemms:
        match = _EXPERTS.fullmatch(op.name)
        if match:
            first = counted.get((match["experts"], match["leaf"]), 0)
            numbers = range(first, first + op.batch)
            parts[op.name] = tuple(f"{match['experts']}.{i}.{match['leaf']}" for i in numbers)
            counted[match["experts"], match["leaf"]] = first + op.batch
    for (experts, _), reached in counted.items():
        if reached != count:
            raise MacloomError(
                f"workload {workload.name!r}: must have tokens for all {count} experts of {experts}, not {reached} of "
                "them, to be split; give a longer sequence or a larger batch"
            )

    def read(sources: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(part for source in sources for part in parts.get(source, (source,)))

    ops: list[Op] = []
    for op in workload.ops:
        if isinstance(op, Gemm) and op.name in parts:
            ops += [replace(op, name=name, batch=1, reads=read(op.reads)) for name in parts[op.name]]
        else:
            ops.append(_copy(op, op.name, 1, read))
    return replace(workload, ops=tuple(ops))


def named_like(workload: Workload, names: Iterable[str]) -> Workload:
    """Return the workload with operations outside of layers that `names` knows, once, under a longer name under that.

    >>> from macloom.workloads import load_workload
    >>> workload = named_like(load_workload("deit-base"), ["vit.embeddings.patch_embeddings.projection"])
    >>> workload.gemms[0].name
    'vit.embeddings.patch_embeddings.projection'
    """
    known = list(names)
    renamed: dict[str, str] = {}
    for op in workload.ops:
        longer = [name for name in known if name.endswith(f".{op.name}") and layer_of(name) is None]
        if op.name not in known and len(longer) == 1:
            renamed[op.name] = longer[0]

    def read(sources: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(renamed.get(source, source) for source in sources)

    if not renamed:
        return workload
    return replace(workload, ops=tuple(_copy(op, renamed.get(op.name, op.name), 1, read) for op in workload.ops))


def for_recipe(workload: Workload, recipe: Recipe) -> Workload:
    """Return the workload as it is, or layer by layer where the recipe gives layers different formats.

    >>> from macloom.workloads import load_recipe, load_workload
    >>> workload = load_workload("tiny", sequence=16)
    >>> for_recipe(workload, load_recipe("int4")) is workload
    True
    """
    patterns = [pattern for pattern, _ in recipe.overrides]
    workload = named_like(workload, [pattern for pattern in patterns if not set(pattern) & set("*?[")])
    if not isinstance(workload.details.get("layers"), int):
        return workload
    apart = any(_ONE_EXPERT.fullmatch(pattern) for pattern in patterns)
    stacks = dict.fromkeys(s for s in (stack_of(pattern) for pattern, _ in recipe.overrides) if s)
    for stack in stacks or [STACK]:
        try:
            split = by_layer(workload, stack)
        except MacloomError:
            return workload
        split = by_expert(split) if apart else split
        if _formats(split, recipe) != _formats(workload, recipe):
            return split
    return workload


def _formats(workload: Workload, recipe: Recipe) -> set[tuple[str, ...]]:
    """Return the operation, without its layer, and the formats of every product."""
    found = set()
    for op in workload.gemms:
        stack = stack_of(op.name)
        name = op.name.removeprefix(f"{stack}.").partition(".")[2] if stack else op.name
        found.add((name, *(recipe.format_for(role, op.name).name for role in (op.a, op.b))))
    return found


def unmatched(workload: Workload, recipe: Recipe) -> tuple[str, ...]:
    """Return the patterns of a recipe that match no product of a workload, by layer and expert or not.

    >>> from macloom.workloads import load_recipe, load_workload
    >>> recipe = replace(load_recipe("int4"), overrides=(("q_porj", load_recipe("int8").weight),))
    >>> unmatched(load_workload("tiny", sequence=16), recipe)
    ('q_porj',)
    """
    patterns = [pattern for pattern, _ in recipe.overrides]
    stacks = {s for s in map(stack_of, patterns) if s} or {STACK}
    names = [op.name for op in workload.gemms]
    layers = workload.details.get("layers")
    if isinstance(layers, int):
        names += [f"{stack}.{i}.{name}" for stack in sorted(stacks) for i in range(layers) for name in names]
    if "experts" in workload.details:
        names += [pattern for pattern in patterns if _ONE_EXPERT.fullmatch(pattern)]
    return recipe.unmatched(names)
