"""What a model and its requests take in memory, in the formats of a recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from macloom.errors import MacloomError
from macloom.workloads import Recipe, Workload, load_workload
from macloom.workloads.config import decoder_config, find_config, read_json
from macloom.workloads.ops import Gemm, Role


def longest_context(model: str | Path) -> int:
    """Return how many tokens a model's context may have.

    >>> longest_context("opt-6.7b")
    2048
    """
    return decoder_config(read_json(find_config(model)[1])).max_positions


def operand_bits(op: Gemm, recipe: Recipe) -> int:
    """Return the stored bits of operand B of a product over all its repeats."""
    fmt = recipe.format_for(op.b, op.name)
    return fmt.storage_bits((op.batch // op.b_sharing, op.n, op.k)) * op.repeat


def weight_bits(model: str | Path, recipe: Recipe, **options: Any) -> int:
    """Return the stored bits of all parameters: matrices in the recipe's formats, the rest in its output format.

    The rest are embeddings, norms and biases; a tied embedding is stored once, as the head reads it.

    >>> from macloom.workloads import load_recipe
    >>> round(weight_bits("llama-2-7b", load_recipe("int8")) / 8 / 2**30, 2)
    6.52
    """
    workload = load_workload(model, sequence=1, **options)
    experts = workload.details.get("experts")
    if experts:  # so many tokens that each expert has one
        workload = load_workload(model, sequence=experts, **options)
    matrices = [op for op in workload.gemms if op.b is Role.WEIGHT]
    stored = sum(operand_bits(op, recipe) for op in matrices)
    rest = workload.parameters - sum(op.b_elements * op.repeat for op in matrices)
    return stored + (recipe.output.storage_bits((rest,)) if rest > 0 else 0)


@dataclass
class CacheSize:
    """The stored bits of the keys and values of a request: exact for each length, in whole blocks of tokens.

    >>> from macloom.workloads import load_recipe
    >>> sixteen, four = (CacheSize.of("llama-3-8b", load_recipe(name)) for name in ("fp16", "int4"))
    >>> sixteen.bits(160) / 8 / 1024 / 160, sixteen.bits(145) == sixteen.bits(160)
    (128.0, True)
    >>> 3.9 < sixteen.bits(2048) / four.bits(2048) < 4
    True
    """

    decode: Callable[[int], Workload]
    recipe: Recipe
    block: int
    longest: int
    _memo: dict[int, int] = field(default_factory=dict, repr=False)

    @staticmethod
    def of(model: str | Path, recipe: Recipe, block: int = 16, **options: Any) -> CacheSize:
        """Return the cache of a model that `load_workload` knows, by `block` tokens; options are of that function."""

        def decode(context: int) -> Workload:
            return load_workload(model, phase="decode", context=context, **options)

        return CacheSize(decode=decode, recipe=recipe, block=block, longest=longest_context(model))

    def bits(self, tokens: int) -> int:
        """Return the bits that `tokens` tokens hold."""
        whole = -(-tokens // self.block) * self.block
        held = min(whole, max(tokens, self.longest))
        if held not in self._memo:
            operands = [op for op in self.decode(held).gemms if op.b is Role.KV]
            if not operands:
                raise MacloomError("serve: the model must have attention with a cache of keys and values")
            self._memo[held] = sum(operand_bits(op, self.recipe) for op in operands)
        return self._memo[held]
