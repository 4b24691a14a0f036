"""What a model and its requests take in memory, in the formats of a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from macloom.explore.serving.passes import Passes, passes_of
from macloom.units import format_quantity
from macloom.workloads import Recipe, Workload
from macloom.workloads.ops import Gemm, Role


def size_text(bits: float) -> str:
    """Return a stored size as people write it, in bytes with a binary prefix like all of a server.

    >>> size_text(3.5 * 2**33)
    '3.5 GiB'
    """
    return format_quantity(bits / 8, "B", binary=True)


def operand_bits(op: Gemm, recipe: Recipe) -> int:
    """Return the stored bits of operand B of a product over all its repeats."""
    fmt = recipe.format_for(op.b, op.name)
    return fmt.storage_bits((op.batch // op.b_sharing, op.n, op.k)) * op.repeat


def weight_bits(model: str | Path | Passes, recipe: Recipe, **options: Any) -> int:
    """Return the stored bits of all parameters: matrices in the recipe's formats, the rest in its output format.

    The rest are embeddings, norms and biases; a tied embedding is stored once, as the head reads it.

    >>> from macloom.workloads import load_recipe
    >>> round(weight_bits("llama-2-7b", load_recipe("int8")) / 8 / 2**30, 2)
    6.52
    """
    passes = passes_of(model, **options)
    workload = passes.chunk(1, 0)
    experts = workload.details.get("experts")
    if experts:  # so many tokens that each expert has one
        workload = passes.chunk(experts, 0)
    matrices = [op for op in workload.gemms if op.b is Role.WEIGHT]
    stored = sum(operand_bits(op, recipe) for op in matrices)
    rest = workload.parameters - sum(op.b_elements * op.repeat for op in matrices)
    return stored + (recipe.output.storage_bits((rest,)) if rest > 0 else 0)


def state_bits(step: Workload, recipe: Recipe) -> int:
    """Return the stored bits of what the cache holds at the end of a decoding step.

    Keys and values have the format in which attention reads them. What the cache holds besides, as a state-space
    model's state, has the output format, as the vector unit writes it. Where layers read the same keys, they are
    stored once.

    >>> from macloom.workloads import load_recipe, load_workload
    >>> state_bits(load_workload("mamba-130m", phase="decode", context=9), load_recipe("int4")) // 16
    737280
    """
    keys = [op for op in step.gemms if op.b is Role.KV]
    bits, elements = (sum(f(op) for op in keys) for f in (lambda o: operand_bits(o, recipe), _stored_elements))
    if step.kv_elements > elements:
        return bits + recipe.output.storage_bits((step.kv_elements - elements,))
    return bits if step.kv_elements == elements else -(-bits * step.kv_elements // elements)


def _stored_elements(op: Gemm) -> int:
    return op.b_elements * op.repeat


@dataclass
class CacheSize:
    """The stored bits of what the cache holds for a request: exact for each length, in whole blocks of tokens.

    >>> from macloom.workloads import load_recipe
    >>> sixteen, four = (CacheSize.of("llama-3-8b", load_recipe(name)) for name in ("fp16", "int4"))
    >>> sixteen.bits(160) / 8 / 1024 / 160, sixteen.bits(145) == sixteen.bits(160)
    (128.0, True)
    >>> 3.9 < sixteen.bits(2048) / four.bits(2048) < 4
    True
    """

    passes: Passes
    recipe: Recipe
    block: int
    _memo: dict[int, int] = field(default_factory=dict, repr=False)

    @staticmethod
    def of(model: str | Path | Passes, recipe: Recipe, block: int = 16, **options: Any) -> CacheSize:
        """Return the cache of a model that `passes_of` knows, by `block` tokens; options are of that function."""
        return CacheSize(passes=passes_of(model, **options), recipe=recipe, block=block)

    def bits(self, tokens: int) -> int:
        """Return the bits that `tokens` tokens hold."""
        held, longest = -(-tokens // self.block) * self.block, self.passes.longest
        if longest is not None:
            held = min(held, max(tokens, longest))
        if held not in self._memo:
            self._memo[held] = state_bits(self.passes.decode(held, 1), self.recipe)
        return self._memo[held]
