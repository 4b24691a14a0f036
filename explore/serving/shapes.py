"""The operations of a pass at any size, from passes at a few sizes.

A trace takes half a second, and a server needs hundreds of sizes. The sizes of an operation (rows, keys, batch) are
straight lines in those of the pass, except where something begins: a cache, a window, padding. So passes are made
at the corners of a range of sizes; if others inside it are what the corners say, all of the range is, and else it
is divided.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeGuard

from macloom.workloads.ops import Gemm, Op, Role, Vector, Workload
from macloom.workloads.routing import Routing, expert_groups, expert_rows

Size = tuple[int, int]

_LENGTHS: dict[type, tuple[str, ...]] = {
    Gemm: ("m", "n", "k", "batch", "b_sharing", "repeat"),
    Vector: ("rows", "width", "inputs", "repeat", "terms"),
}
_SMALL = 8
"""A range of at most so many sizes is not worth its corners."""


def key_of(name: str) -> str:
    """Return the name of an operation without the numbers of layers and of groups of experts.

    >>> key_of("layers.3.mlp.experts.up_proj.0")
    'layers.mlp.experts.up_proj'
    """
    return ".".join(part for part in name.split(".") if not part.isdecimal())


def ends_of(key: str) -> list[str]:
    """Return a name and what is left of it when parts in front are dropped, as of layers that differ by size.

    >>> ends_of("windowed.attn.scores")
    ['windowed.attn.scores', 'attn.scores', 'scores']
    """
    parts = key.split(".")
    return [".".join(parts[i:]) for i in range(len(parts))]


@dataclass(frozen=True, kw_only=True)
class Experts:
    """Products of experts, one operation for each number of rows: how many there are depends on the tokens.

    `names` are those of `key_of`.

    >>> rows = Experts(experts=8, per_token=2, routing="uniform", names=frozenset({"up"}))
    >>> one = Gemm(name="layers.0.up", m=1, n=4, k=4)
    >>> [(op.name, op.m, op.batch) for op in rows.spread((one,), 9)]
    [('layers.0.up.0', 3, 2), ('layers.0.up.1', 2, 6)]
    >>> rows.folded(rows.spread((one,), 9), 9) == (one,)
    True
    """

    experts: int
    per_token: int
    routing: Routing
    names: frozenset[str]

    @staticmethod
    def of(workload: Workload, experts: int, per_token: int, routing: Routing, tokens: int) -> Experts:
        """Return the experts of a workload of `tokens` tokens, whose groups must tell them from other products."""
        shape = Experts(experts=experts, per_token=per_token, routing=routing, names=frozenset())
        groups = shape.groups(tokens)
        sizes = {op.name: (op.m, op.batch) for op in workload.gemms if op.b is Role.WEIGHT}
        if len(groups) == 1:
            found = [name for name, size in sizes.items() if size == groups[0] and size[1] > 1]
        else:
            bases = [name.removesuffix(".0") for name in sizes if name.endswith(".0")]
            found = [b for b in bases if all(sizes.get(f"{b}.{i}") == group for i, group in enumerate(groups))]
        return replace(shape, names=frozenset(map(key_of, found)))

    def groups(self, tokens: int) -> list[tuple[int, int]]:
        """Return (rows, experts with so many rows) for so many tokens."""
        return expert_groups(expert_rows(tokens, self.per_token, self.experts, self.routing))

    def has(self, op: Op) -> TypeGuard[Gemm]:
        """Whether an operation is a product of experts."""
        return isinstance(op, Gemm) and not self.names.isdisjoint(ends_of(key_of(op.name)))

    def folded(self, ops: tuple[Op, ...], tokens: int) -> tuple[Op, ...]:
        """Return the operations with one product of one row in place of those of all groups."""
        several, found = len(self.groups(tokens)) > 1, []
        for op in ops:
            base, _, number = op.name.rpartition(".")
            if not self.has(op):
                found.append(op)
            elif not several or number == "0":
                found.append(replace(op, name=base if several else op.name, m=1, batch=1))
        return tuple(found)

    def spread(self, ops: tuple[Op, ...], tokens: int) -> tuple[Op, ...]:
        """Return what `folded` was made of."""
        groups = self.groups(tokens)
        found: list[Op] = []
        for op in ops:
            if not self.has(op):
                found.append(op)
                continue
            for i, (rows, experts) in enumerate(groups):
                name = op.name if len(groups) == 1 else f"{op.name}.{i}"
                found.append(replace(op, name=name, m=rows, batch=experts))
        return tuple(found)


@dataclass(frozen=True)
class _Pass:
    """A pass as what it is, and as the numbers of it that depend on its size."""

    kind: tuple[Any, ...]
    numbers: tuple[int, ...]


@dataclass
class _Range:
    """Sizes from `low` to `high` along two axes; `line` gives the numbers of each, None where no line does."""

    low: Size
    high: Size
    line: tuple[_Pass, tuple[int, ...], tuple[int, ...]] | None = None
    parts: tuple[_Range, ...] = ()
    tried: bool = False

    def holds(self, size: Size) -> bool:
        return all(lo <= s <= hi for lo, s, hi in zip(self.low, size, self.high, strict=True))

    @property
    def count(self) -> int:
        return (self.high[0] - self.low[0] + 1) * (self.high[1] - self.low[1] + 1)


@dataclass
class Shapes:
    """Workloads of passes with two sizes, most of them from others.

    Attributes:
        make: makes the pass of a size; slow.
        high: the largest sizes along both axes; the smallest are `low`. Beyond them every pass is made.
        total: what both sizes together may not exceed; None for any.
        starts: along each axis, sizes with which something ends that the next one begins, for a quick division.
        tokens: the tokens of a size, over which experts share their rows.
        experts: the products of experts, if there are any.
        cache: whether what the cache holds is wanted, too; if not it is 0.
    """

    make: Callable[[Size], Workload]
    low: Size
    high: Size
    total: int | None = None
    starts: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    tokens: Callable[[Size], int] = lambda size: size[0]
    experts: Experts | None = None
    cache: bool = False
    _made: dict[Size, Workload] = field(default_factory=dict, repr=False)
    _root: _Range | None = field(default=None, repr=False)

    @property
    def passes(self) -> int:
        """How many passes were made."""
        return len(self._made)

    def at(self, size: Size) -> Workload:
        """Return the workload of a size."""
        if size in self._made:
            return self._made[size]
        part = self._root = self._root or _Range(self.low, self.high)
        while part.holds(size) and part.count > _SMALL:
            if not part.tried:
                self._try(part)
            if part.line is not None:
                return self._on(part.line, part.low, size)
            part = next(inner for inner in part.parts if inner.holds(size))
        return self._at(size)

    def _at(self, size: Size) -> Workload:
        if size not in self._made:
            self._made[size] = self.make(size)
        return self._made[size]

    def _pass(self, size: Size) -> _Pass:
        workload = self._at(size)
        ops = self.experts.folded(workload.ops, self.tokens(size)) if self.experts else workload.ops
        numbers = [workload.tokens, workload.kv_elements if self.cache else 0]
        kind: list[Any] = []
        for op in ops:
            lengths = _LENGTHS[type(op)]
            numbers += [getattr(op, name) for name in lengths]
            others = (f.name for f in fields(op) if f.name not in lengths and f.name != "reads")
            kind.append((type(op), *((name, getattr(op, name)) for name in others)))
        return _Pass(tuple(kind), tuple(numbers))

    def _allowed(self, size: Size) -> bool:
        return self.total is None or sum(size) <= self.total

    def _try(self, part: _Range) -> None:
        """Find the line of a range, or divide it."""
        part.tried = True
        (a, b), room = part.low, self.total
        ends = part.high if room is None else (min(part.high[0], room - b), min(part.high[1], room - a))
        first, slopes = self._pass((a, b)), []
        for axis, end in enumerate(ends):
            span, middle = end - part.low[axis], (end + part.low[axis]) // 2
            if not span:
                slopes.append((0,) * len(first.numbers))
                continue
            last, between = (self._pass((s, b) if axis == 0 else (a, s)) for s in (end, middle))
            slope = self._slope(first, last, between, span, middle - part.low[axis])
            if slope is None:
                return self._divide(part, axis)
            slopes.append(slope)
        line = (first, slopes[0], slopes[1])
        if all(end > low for end, low in zip(ends, part.low, strict=True)):
            far = part.high if self._allowed(part.high) else ((a + ends[0]) // 2, (b + ends[1]) // 2)
            far = far if self._allowed(far) else (far[0], (room or 0) - far[0])
            if self._pass(far) != _Pass(first.kind, self._numbers(line, part.low, far)):
                return self._divide(part, int(part.high[1] - b > part.high[0] - a))
        part.line = line
        return None

    @staticmethod
    def _slope(first: _Pass, last: _Pass, between: _Pass, span: int, middle: int) -> tuple[int, ...] | None:
        """Return by how much numbers grow with each step, or None where that is no whole number all the way."""
        if not first.kind == last.kind == between.kind:
            return None
        slope = tuple((y - x) // span for x, y in zip(first.numbers, last.numbers, strict=True))
        for at, found in ((span, last), (middle, between)):
            if any(x + at * s != y for x, s, y in zip(first.numbers, slope, found.numbers, strict=True)):
                return None
        return slope

    def _divide(self, part: _Range, axis: int) -> None:
        low, high = part.low[axis], part.high[axis]
        at = next((s for s in self.starts[axis] if low <= s < high), (low + high) // 2)
        upper, lower = list(part.low), list(part.high)
        lower[axis], upper[axis] = at, at + 1
        below, above = _Range(part.low, (lower[0], lower[1])), _Range((upper[0], upper[1]), part.high)
        part.parts = (below, above)

    @staticmethod
    def _numbers(line: tuple[_Pass, tuple[int, ...], tuple[int, ...]], low: Size, size: Size) -> tuple[int, ...]:
        first, along, across = line
        i, j = size[0] - low[0], size[1] - low[1]
        return tuple(x + i * s + j * t for x, s, t in zip(first.numbers, along, across, strict=True))

    def _on(self, line: tuple[_Pass, tuple[int, ...], tuple[int, ...]], low: Size, size: Size) -> Workload:
        base = self._made[low]
        numbers = iter(self._numbers(line, low, size))
        tokens, kv = next(numbers), next(numbers)
        plain: list[Op] = []
        for kind, *others in line[0].kind:
            plain.append(kind(**dict(others), **{name: next(numbers) for name in _LENGTHS[kind]}))
        ops = tuple(plain)
        if self.experts:
            ops = self.experts.spread(ops, self.tokens(size))
        return replace(base, ops=ops, kv_elements=kv, tokens=tokens, details={**base.details, "size": list(size)})
