"""Requests to a server: when each arrives, how many tokens it brings and how many it wants."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from macloom.errors import MacloomError, require_positive_integer

COLUMNS = ("arrived_at", "num_prefill_tokens", "num_decode_tokens")
"""The columns of Vidur's request traces (https://github.com/microsoft/vidur): seconds and tokens."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request that arrives at `arrived_s` with a prompt of `prompt` tokens and wants `output` tokens.

    >>> Request(arrived_s=0.5, prompt=100, output=20).tokens
    119
    """

    arrived_s: float
    prompt: int
    output: int

    def __post_init__(self) -> None:
        if (
            isinstance(self.arrived_s, bool)
            or not isinstance(self.arrived_s, int | float)
            or not 0 <= self.arrived_s < math.inf
        ):
            raise MacloomError(f"request.arrived_s: must be zero or a positive number, not {self.arrived_s!r}")
        require_positive_integer("request.prompt", self.prompt)
        require_positive_integer("request.output", self.output)

    @property
    def tokens(self) -> int:
        """Tokens whose keys and values are in the cache at the end; the last one that comes out is not."""
        return self.prompt + self.output - 1


def read_requests(path: str | Path) -> tuple[Request, ...]:
    """Return the requests of a CSV file as Vidur writes them, sorted by arrival.

    The columns `arrived_at` (seconds), `num_prefill_tokens` and `num_decode_tokens` are read, others ignored.

    Raises:
        MacloomError: no such file, a missing column, or a malformed row (with its line).
    """
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            return _parse(csv.reader(file), str(path))
    except FileNotFoundError:
        raise MacloomError(
            f"requests: no such file {str(path)!r}; it must be a CSV with {', '.join(COLUMNS)}"
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MacloomError(f"requests: cannot read {str(path)!r}: {error}") from None


def _parse(rows: Iterable[Sequence[str]], where: str) -> tuple[Request, ...]:
    lines = iter(rows)
    header = [name.strip() for name in next(lines, [])]
    for name in COLUMNS:
        if name not in header:
            raise MacloomError(f"{where}: line 1: must have the columns {', '.join(COLUMNS)}, not {', '.join(header)}")
    places = [header.index(name) for name in COLUMNS]
    found = []
    for number, row in enumerate(lines, start=2):
        if not any(cell.strip() for cell in row):
            continue
        try:
            arrived, prompt, output = (row[place].strip() for place in places)
            found.append(Request(arrived_s=float(arrived), prompt=_count(prompt), output=_count(output)))
        except (IndexError, ValueError) as error:
            raise MacloomError(
                f"{where}: line {number}: must be a time and two counts, not {','.join(row)!r}"
            ) from error
    if not found:
        raise MacloomError(f"{where}: must hold at least one request")
    return tuple(sorted(found, key=lambda request: request.arrived_s))


def _count(text: str) -> int:
    number = float(text)  # Vidur's files have whole numbers with and without a decimal point
    if not number.is_integer():
        raise ValueError(text)
    return int(number)


def fitted(requests: Sequence[Request], longest: int) -> tuple[tuple[Request, ...], int]:
    """Return the requests with prompts cut so that each needs at most `longest` tokens, and how many were cut.

    Raises:
        MacloomError: an output alone is longer.

    >>> fitted([Request(arrived_s=0, prompt=90, output=20), Request(arrived_s=1, prompt=5, output=2)], 100)[1]
    1
    """
    kept, cut = [], 0
    for number, request in enumerate(requests):
        if request.output > longest:
            raise MacloomError(
                f"requests[{number}].output: must be at most {longest}, the model's longest context, "
                f"not {request.output}"
            )
        prompt = min(request.prompt, longest - request.output + 1)
        cut += prompt < request.prompt
        kept.append(replace(request, prompt=prompt))
    return tuple(kept), cut
