"""Requests to a server: when each arrives, how many tokens it brings and how many it wants."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

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


def read_requests(path: str | Path, longest: int | None = None) -> tuple[Request, ...]:
    """Return the requests of a CSV file as Vidur writes them, sorted by arrival.

    The columns `arrived_at` (seconds), `num_prefill_tokens` and `num_decode_tokens` are read, others ignored.

    Args:
        path: the file.
        longest: the longest context of the model, which no output may exceed; None for any.

    Raises:
        MacloomError: no such file, a missing column, or a malformed row (with its line).
    """
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            return _parse(csv.reader(file), str(path), longest)
    except FileNotFoundError:
        raise MacloomError(
            f"requests: no such file {str(path)!r}; it must be a CSV with {', '.join(COLUMNS)}"
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MacloomError(f"requests: cannot read {str(path)!r}: {error}") from None


def _parse(rows: Iterable[Sequence[str]], where: str, longest: int | None) -> tuple[Request, ...]:
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
        if len(row) <= max(places):
            raise MacloomError(f"{where}: line {number}: must have {len(header)} columns, not {','.join(row)!r}")
        arrived, prompt, output = (
            _number(row[place].strip(), f"{where}: line {number}: {name}")
            for name, place in zip(COLUMNS, places, strict=True)
        )
        if longest is not None and output > longest:
            raise MacloomError(
                f"{where}: line {number}: {COLUMNS[2]}: must be at most {longest}, the model's longest context, "
                f"not {output:.0f}"
            )
        found.append(Request(arrived_s=arrived, prompt=int(prompt), output=int(output)))
    if not found:
        raise MacloomError(f"{where}: must hold at least one request")
    return tuple(sorted(found, key=lambda request: request.arrived_s))


def _number(text: str, where: str) -> float:
    """Return the number in a column of `COLUMNS`, whose name `where` ends with."""
    time = where.endswith(COLUMNS[0])
    try:
        number = float(text)  # Vidur's files have whole numbers with and without a decimal point
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number < (0 if time else 1) or not (time or number.is_integer()):
        wanted = "zero or a positive number of seconds" if time else "a whole number of at least 1"
        raise MacloomError(f"{where}: must be {wanted}, not {text!r}")
    return number


class Fitted(NamedTuple):
    """Requests that a model's context holds, and how many prompts and outputs were cut for it."""

    requests: tuple[Request, ...]
    prompts_cut: int
    outputs_cut: int


def fitted(requests: Sequence[Request], longest: int | None) -> Fitted:
    """Return the requests with prompts cut so that each needs at most `longest` tokens; None is no limit.

    An output that alone is longer is cut to `longest` tokens, behind a prompt of one.

    >>> fitted([Request(arrived_s=0, prompt=90, output=20), Request(arrived_s=1, prompt=5, output=200)], 100)[1:]
    (2, 1)
    """
    if longest is None:
        return Fitted(tuple(requests), 0, 0)
    kept, prompts, outputs = [], 0, 0
    for request in requests:
        output = min(request.output, longest)
        prompt = min(request.prompt, longest - output + 1)
        prompts += prompt < request.prompt
        outputs += output < request.output
        kept.append(replace(request, prompt=prompt, output=output))
    return Fitted(tuple(kept), prompts, outputs)
