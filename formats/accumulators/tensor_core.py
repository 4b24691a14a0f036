"""Tensor cores: `tc:hopper-fp8`, `tc:hopper-fp8,promote=128`; see `macloom.formats.tensor_core`."""

from __future__ import annotations

from macloom.formats.accumulators.base import FAMILIES, Accumulator, Family, malformed


def _parse(head: str, options: str) -> Accumulator:
    from macloom.formats.tensor_core.presets import parse

    if head != "tc" or not options:
        raise malformed(_FAMILY, f"{head}:{options}" if options else head)
    return parse(options)


_FAMILY = FAMILIES.add(
    "tc",
    Family(
        form="tc:PRESET[,key=value...]",
        summary="tensor core: blocks of products aligned to the largest exponent and truncated",
        parse=_parse,
        examples=("tc:volta-fp16", "tc:hopper-fp8", "tc:hopper-fp8,promote=128", "tc:ampere-bf16,fraction=25"),
    ),
)
