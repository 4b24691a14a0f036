"""Operations of a trace before equal layers are folded: who reads whose result, and what results are therefore."""

from __future__ import annotations

from dataclasses import dataclass, field

from macloom.workloads.ops import Gemm, Op, Role, Vector, VectorKind


@dataclass(eq=False, slots=True)
class Draft:
    """An operation with its full module path as its name, and the drafts whose results it reads."""

    op: Op
    reads: tuple[tuple[Draft, ...], ...] = ()
    b_reads: tuple[Draft, ...] = ()
    readers: list[tuple[Draft, bool]] = field(default_factory=list)
    """Who reads the result, and whether as the second operand of a product."""

    def __post_init__(self) -> None:
        for drafts, second in ((self.reads, False), ((self.b_reads,), True)):
            for draft in {id(d): d for group in drafts for d in group}.values():
                draft.readers.append((self, second))


Result = tuple[Draft, ...]

_BETWEEN = (VectorKind.ROPE, VectorKind.RMS_NORM, VectorKind.LAYER_NORM)
"""What happens to queries and keys between their projection and the product."""


def origin(draft: Draft) -> Draft | None:
    """Return the product whose result reaches a draft through rope and norms of heads."""
    while isinstance(draft.op, Vector) and draft.op.kind in _BETWEEN:
        if not draft.reads or not draft.reads[0]:
            return None
        draft = draft.reads[0][0]
    return draft if isinstance(draft.op, Gemm) else None


def out_role(draft: Draft) -> Role:
    """Return the role of a product's result: that of its readers, if they agree and read what it writes."""
    uses = {_use(reader, second) for reader, second in draft.readers}
    return next(iter(uses)) if len(uses) == 1 else Role.OUTPUT


def _use(reader: Draft, second: bool) -> Role:
    if isinstance(reader.op, Gemm):
        return (Role.KV if reader.op.b is Role.KV else Role.OUTPUT) if second else reader.op.a
    if reader.op.kind in _BETWEEN and reader.readers:
        uses = {_use(further, also) for further, also in reader.readers}
        return Role.KV if uses == {Role.KV} else Role.OUTPUT
    return Role.OUTPUT
