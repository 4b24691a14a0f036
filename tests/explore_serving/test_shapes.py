"""Operations of any size from a few passes: equal to the passes themselves, whatever begins between the sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from macloom.explore.serving.shapes import Experts, Shapes, ends_of, key_of
from macloom.workloads.ops import Gemm, Role, Vector, VectorKind, Workload
from macloom.workloads.routing import expert_groups, expert_rows

LONGEST = 300
Make = Callable[[tuple[int, int]], Workload]


def workload(*ops: Gemm | Vector, kv: int = 0, tokens: int = 1) -> Workload:
    return Workload(name="made", phase="prefill", ops=ops, parameters=1, kv_elements=kv, tokens=tokens)


def plain(size: tuple[int, int]) -> Workload:
    n, past = size
    scores = Gemm(name="scores", m=n, n=past + n, k=8, b=Role.KV, causal=n > 1)
    return workload(Gemm(name="up", m=n, n=32, k=8), scores, kv=16 * (past + n), tokens=n)


def windowed(size: tuple[int, int]) -> Workload:
    n, past = size
    whole = plain(size)
    if past < 64:
        return whole
    near = Gemm(name="near.scores", m=n, n=63 + n, k=8, b=Role.KV, causal=n > 1)
    return replace(whole, ops=(*whole.ops, near))


def padded(size: tuple[int, int]) -> Workload:
    n, past = size
    rows = -(-n // 32) * 32
    return workload(Vector(name="scan", kind=VectorKind.SCAN, rows=rows, width=8), *plain((n, past)).ops, tokens=n)


def squared(size: tuple[int, int]) -> Workload:
    n, past = size
    return workload(Gemm(name="odd", m=n * n, n=past + 1, k=8), tokens=n)


def shapes(make: Make, **fields: object) -> Shapes:
    options = {"low": (1, 0), "high": (LONGEST, LONGEST - 1), "total": LONGEST, "cache": True, **fields}
    return Shapes(make=make, **options)  # type: ignore[arg-type]


sizes = st.tuples(st.integers(1, LONGEST), st.integers(0, LONGEST)).filter(lambda s: sum(s) <= LONGEST)


@pytest.mark.parametrize("make", [plain, windowed, padded, squared])
@settings(max_examples=15, deadline=None)
@given(st.lists(sizes, min_size=1, max_size=8))
def test_every_size_is_what_its_own_pass_is(make: Make, asked: list[tuple[int, int]]) -> None:
    found = shapes(make, starts=((1,), (0,)))
    for size in asked:
        said, made = found.at(size), make(size)
        assert (said.ops, said.kv_elements, said.tokens) == (made.ops, made.kv_elements, made.tokens)


@pytest.mark.parametrize(("make", "most"), [(plain, 12), (windowed, 40)])
def test_few_passes_are_made(make: Make, most: int) -> None:
    found = shapes(make, starts=((1, 63, 64), (0, 63, 64)))
    for n in range(1, LONGEST, 7):
        for past in range(0, LONGEST - n + 1, 5):
            assert found.at((n, past)).ops == make((n, past)).ops
    assert found.passes <= most


def test_a_size_beyond_the_range_is_made() -> None:
    found = shapes(plain)
    assert found.at((LONGEST + 50, 0)) == plain((LONGEST + 50, 0))
    assert found.passes == 1


def test_a_check_that_looks_at_the_corners_alone_would_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def corners(first, last, between, span, middle):  # type: ignore[no-untyped-def]
        return tuple((y - x) // span for x, y in zip(first.numbers, last.numbers, strict=True))

    def bumped(size: tuple[int, int]) -> Workload:
        return workload(Gemm(name="up", m=size[0], n=4, k=4), kv=min(size[0], 64), tokens=size[0])

    right = shapes(bumped, high=(LONGEST, 0)).at((64, 0)).kv_elements
    monkeypatch.setattr(Shapes, "_slope", staticmethod(corners))
    wrong = shapes(bumped, high=(LONGEST, 0)).at((64, 0)).kv_elements
    assert (right, wrong != 64) == (64, True)


@pytest.mark.parametrize("routing", ["uniform", "zipf", "zipf:3"])
@pytest.mark.parametrize("prefix", ["", "layers.3."])
def test_products_of_experts_have_the_groups_of_their_tokens(routing: str, prefix: str) -> None:
    def made(size: tuple[int, int]) -> Workload:
        groups = expert_groups(expert_rows(size[0], 2, 8, routing))
        names = [f"{prefix}mlp.up"] if len(groups) == 1 else [f"{prefix}mlp.up.{i}" for i in range(len(groups))]
        parts = [Gemm(name=n, m=m, batch=b, n=4, k=4) for n, (m, b) in zip(names, groups, strict=True)]
        router = Gemm(name=f"{prefix}mlp.router", m=size[0], n=8, k=4)  # as many rows as an expert may have at most
        return workload(router, *parts, tokens=size[0])

    experts = Experts.of(made((9, 0)), 8, 2, routing, 9)
    assert experts.names == {key_of(f"{prefix}mlp.up")}
    found = shapes(made, high=(LONGEST, 0), experts=experts)
    for tokens in (1, 2, 4, 5, 77, 128, 299):
        assert found.at((tokens, 0)).ops == made((tokens, 0)).ops
    assert found.passes <= 5


def test_names_without_what_sizes_change() -> None:
    assert key_of("model.layers.12.attn.scores") == "model.layers.attn.scores"
    assert ends_of("full.attn.scores")[1] == "attn.scores"
