"""How a server forms its iterations, and what it has memory for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from macloom.errors import MacloomError, require_positive_integer


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Continuous batching: every iteration gives each running request one token, and prompts what is left.

    With `chunked` prefill (Agrawal et al., Sarathi-Serve, OSDI 2024) prompts are cut so that an iteration has at
    most `tokens` tokens; running requests come first. Without it, waiting prompts run whole and alone, as many
    as fit into `tokens` but at least one, and running requests wait for them. Requests are served in order of
    arrival. A prompt starts when the cache has room for all of it; when the cache is full the request that
    came last gives up its place, and computes its keys and values again later.

    Attributes:
        tokens: at most so many in one iteration.
        requests: at most so many at a time.
        chunked: whether prompts are cut.
        cache_bits: memory for keys and values; None is as much as they need.
        block: tokens by which the cache of a request grows.
    """

    tokens: int = 512
    requests: int = 256
    chunked: bool = True
    cache_bits: int | None = None
    block: int = 16

    def __post_init__(self) -> None:
        for name in ("tokens", "requests", "block"):
            require_positive_integer(f"serve.{name}", getattr(self, name))
        if not isinstance(self.chunked, bool):
            raise MacloomError(f"serve.chunked: must be true or false, not {self.chunked!r}")
        if self.cache_bits is not None:
            require_positive_integer("serve.cache_bits", self.cache_bits)
        if self.chunked and self.tokens < self.requests:
            raise MacloomError(
                f"serve.tokens: must be at least the {self.requests} requests of a batch, which take one each, "
                f"not {self.tokens}; raise it or lower serve.requests"
            )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
