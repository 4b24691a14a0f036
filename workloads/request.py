"""What is asked of a model: which phase, how long, how many requests."""

from __future__ import annotations

from dataclasses import dataclass

from macloom.errors import MacloomError, require_positive_integer
from macloom.workloads.routing import Routing

DEFAULT_LENGTH = 2048

HEAD_TOKENS = ("all", "last", "none")


@dataclass(frozen=True, kw_only=True)
class Request:
    """The arguments of `load_workload` that say what a model is to do; valid for some model at least."""

    phase: str = "prefill"
    sequence: int | None = None
    context: int | None = None
    batch: int = 1
    head_tokens: str = "all"
    routing: Routing = "uniform"
    source: int | None = None
    past: int = 0

    def __post_init__(self) -> None:
        if self.phase not in ("prefill", "decode"):
            raise MacloomError(f"phase: must be 'prefill' or 'decode', not {self.phase!r}")
        wanted, stray = ("context", "sequence") if self.decode else ("sequence", "context")
        if getattr(self, stray) is not None:
            raise MacloomError(
                f"{stray}: must not be given for {self.phase}, not {getattr(self, stray)!r}; set {wanted} instead"
            )
        if self.length is not None:
            require_positive_integer(wanted, self.length)
        require_positive_integer("batch", self.batch)
        if self.source is not None:
            require_positive_integer("source", self.source)
        if self.past != 0:
            require_positive_integer("past", self.past)
            if self.decode:
                raise MacloomError(f"past: must not be given for decode, not {self.past}; set context instead")
        if self.head_tokens not in HEAD_TOKENS:
            raise MacloomError(f"head_tokens: must be 'all', 'last' or 'none', not {self.head_tokens!r}")

    @property
    def decode(self) -> bool:
        return self.phase == "decode"

    @property
    def length(self) -> int | None:
        """The length that belongs to the phase, if it was given."""
        return self.context if self.decode else self.sequence

    def tokens(self, longest: int | None) -> int:
        """Return the tokens of a prompt, or the keys that a new token sees, of a model that has `longest` positions."""
        if self.length is None:
            return max(1, min(DEFAULT_LENGTH, longest or DEFAULT_LENGTH) - self.past)
        if longest is not None and self.past + self.length > longest:
            wanted = "context" if self.decode else "past + sequence" if self.past else "sequence"
            raise MacloomError(
                f"{wanted}: must be at most {longest}, the model's max_position_embeddings, "
                f"not {self.past + self.length}"
            )
        return self.length

    def without_decode(self, name: str, reason: str) -> None:
        """Raise if tokens one by one are asked of a model that makes none."""
        if self.decode:
            raise MacloomError(f"phase: must be 'prefill', not 'decode'; {name} {reason}")

    def without_source(self, name: str) -> None:
        if self.source is not None:
            raise MacloomError(
                f"source: must be left out for {name}, which has no encoder before a decoder, not {self.source}"
            )

    def without_past(self, name: str) -> None:
        if self.past:
            raise MacloomError(
                f"past: must be left out for {name}, which keeps no keys from pass to pass, not {self.past}"
            )

    def without_experts(self, name: str) -> None:
        if self.routing != "uniform":
            raise MacloomError(f"routing: must be left out for {name}, which has no experts, not {self.routing!r}")

    def of_an_image(self, name: str) -> None:
        """Raise if something is asked that a model of images does not have."""
        self.without_decode(name, "looks at images and makes no tokens one by one")
        if self.length is not None:
            raise MacloomError(f"sequence: must be left out for {name}, whose input is an image, not {self.length}")
        self.without_source(name)
        self.without_past(name)
        self.without_experts(name)
