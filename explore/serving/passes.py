"""The passes of a model that a server runs: tokens of a prompt after others, and one more token of each request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from macloom.errors import MacloomError
from macloom.explore.serving.shapes import Experts, Shapes
from macloom.workloads import Workload, load_workload
from macloom.workloads.config import TRACE, Unsupported, decoder_config, find_config, read_json

BATCHES = 4096
"""The largest batch whose operations follow from others; larger ones are traced."""


class Passes(Protocol):
    """What a server asks of a model; `passes_of` finds it."""

    @property
    def model(self) -> str | Path:
        """What it was found by."""
        ...

    @property
    def longest(self) -> int | None:
        """How many tokens a context may have; None for any number."""
        ...

    @property
    def facts(self) -> dict[str, Any]:
        """How the operations were found."""
        ...

    def decode(self, context: int, batch: int) -> Workload:
        """Return one more token of each of `batch` requests that sees `context` keys."""
        ...

    def chunk(self, tokens: int, history: int, head_tokens: str = "last") -> Workload:
        """Return `tokens` tokens of a prompt after `history` earlier ones."""
        ...


@dataclass(frozen=True, kw_only=True)
class FormulaPasses:
    """The passes of a model that has a formula."""

    model: str | Path
    longest: int | None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, Any]:
        return {"operations": "formula"}

    def decode(self, context: int, batch: int) -> Workload:
        return load_workload(self.model, phase="decode", context=context, batch=batch, **self.options)

    def chunk(self, tokens: int, history: int, head_tokens: str = "last") -> Workload:
        return load_workload(self.model, sequence=tokens, past=history, head_tokens=head_tokens, **self.options)


@dataclass(frozen=True, kw_only=True)
class TracedPasses:
    """The passes of a model that is traced: a few dozen traces, and all other sizes from them (`Shapes`).

    Attributes:
        reach: the longest context that will be asked for; longer ones are traced each.
        window: keys that some layers see, where they see not all.
        first: the decoding step of one request with two keys.
        load: makes one pass, with the arguments of `load_workload`.
    """

    model: str | Path
    longest: int | None
    reach: int
    window: int | None
    first: Workload
    options: dict[str, Any] = field(default_factory=dict)
    load: Callable[..., Workload] = load_workload
    _made: list[None] = field(default_factory=list, repr=False)

    @property
    def facts(self) -> dict[str, Any]:
        return {"operations": self.first.details["traced"], "traces": 1 + len(self._made)}

    def _decode(self, context: int, batch: int) -> Workload:
        return self._load(phase="decode", context=context, batch=batch)

    def _chunk(self, tokens: int, history: int, head_tokens: str = "last") -> Workload:
        return self._load(sequence=tokens, past=history, head_tokens=head_tokens)

    def _load(self, **arguments: Any) -> Workload:
        self._made.append(None)
        return self.load(self.model, **arguments, **self.options)

    def decode(self, context: int, batch: int) -> Workload:
        if batch == 1:
            return self._by_context.at((context, 1))
        return self._by_batch.at((batch, 2)) if context == 2 else self._decode(context, batch)

    def chunk(self, tokens: int, history: int, head_tokens: str = "last") -> Workload:
        if head_tokens == "last":
            return self._chunks.at((tokens, history))
        return self._chunk(tokens, history, head_tokens)

    @cached_property
    def _windows(self) -> tuple[int, ...]:
        return () if self.window is None else (self.window - 1, self.window)

    @cached_property
    def _experts(self) -> Experts | None:
        details = self.first.details
        if "experts" not in details:
            return None
        tokens = details["experts"] + 1  # with one more than there are experts not all have equally many rows
        return Experts.of(
            self._decode(2, tokens), details["experts"], details["experts_per_token"], details["routing"], tokens
        )

    @cached_property
    def _by_context(self) -> Shapes:
        return Shapes(
            make=lambda size: self._decode(size[0], 1), low=(1, 1), high=(self.reach, 1),
            starts=((1, *self._windows), ()), tokens=lambda size: 1, experts=self._experts,
            cache=True,
        )  # fmt: skip

    @cached_property
    def _by_batch(self) -> Shapes:
        return Shapes(
            make=lambda size: self._decode(2, size[0]), low=(1, 2), high=(BATCHES, 2), starts=((1,), ()),
            experts=self._experts,
        )  # fmt: skip

    @cached_property
    def _chunks(self) -> Shapes:
        return Shapes(
            make=lambda size: self._chunk(*size), low=(1, 0), high=(self.reach, self.reach - 1), total=self.reach,
            starts=((1, *self._windows), (0, *self._windows)), experts=self._experts,
        )  # fmt: skip


def longest_context(model: str | Path) -> int | None:
    """Return how many tokens a model's context may have; None if there is no limit.

    Raises:
        MacloomError: a model that cannot be served.

    >>> longest_context("opt-6.7b"), longest_context("mamba-130m")
    (2048, None)
    """
    return passes_of(model).longest


def passes_of(model: str | Path | Passes, reach: int | None = None, **options: Any) -> Passes:
    """Return the passes of a model: by formula where there is one, else traced.

    Args:
        model: what `load_workload` takes: a name, a model directory, a `config.json`. It must make tokens one by
            one, behind a cache, and read its prompt itself.
        reach: the longest context that will be asked for (the model's longest, at most 4096).
        options: of `load_workload`, such as `routing`.

    Raises:
        MacloomError: a model that makes no tokens, one with an encoder before its decoder, a saved trace, or what
            `load_workload` refuses.

    >>> passes_of("mixtral-8x7b").decode(100, 4).tokens
    4
    """
    if not isinstance(model, str | Path):
        return model
    name, path = find_config(model)
    document = read_json(path)
    if TRACE in document:
        raise MacloomError(
            f"serve: {path} is the trace of one pass, and a server has passes of every size; "
            "give the model's configuration"
        )
    try:
        first = load_workload(model, phase="decode", context=2, **options)
    except MacloomError as error:
        # Encoders and models of images say so where they are asked to decode.
        if str(error).startswith("phase: "):
            raise MacloomError(f"serve: {str(error).partition('; ')[2]}; there is nothing to serve") from None
        raise
    if "source" in first.details:
        raise MacloomError(
            f"serve: {name} reads its prompt with an encoder, all at once; serve-sim serves decoders, whose prompts "
            "and answers share iterations. `macloom simulate` gives the cost of its passes"
        )
    if "traced" not in first.details:
        return FormulaPasses(model=model, longest=_stated(document), options=options)
    from macloom.workloads.trace.build import configuration

    text = configuration(document).get_text_config(decoder=True)
    longest, window = (
        value if isinstance(value := getattr(text, key, None), int) and value > 0 else None
        for key in ("max_position_embeddings", "sliding_window")
    )
    reach = min(reach or 4096, longest or reach or 4096)
    return TracedPasses(
        model=model, longest=longest, reach=reach, window=window, first=first, options=options
    )  # fmt: skip


def _stated(document: dict[str, Any]) -> int | None:
    """Return the longest context that a configuration with a formula has."""
    try:
        return decoder_config(document).max_positions
    except Unsupported:  # a formula of another architecture, whose state has no length
        return None
