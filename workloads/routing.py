"""How the tokens of a mixture of experts spread over the experts: balanced, by Zipf's law, or as recorded.

The multiply-accumulates do not depend on it; which weights have to be read, and how full the array is, do.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import groupby
from pathlib import Path

from macloom.errors import MacloomError

Routing = str | Sequence[float]

_KNOWN = "'uniform', 'zipf', 'zipf:S' with a number S > 0, or one share for each expert"


def _shares(routing: Routing, experts: int) -> list[Fraction]:
    if routing == "uniform":
        return [Fraction(1)] * experts
    if isinstance(routing, str):
        name, _, text = routing.partition(":")
        try:
            exponent = float(text or "1")
        except ValueError:
            exponent = 0.0
        if name != "zipf" or not 0 < exponent < 100:
            raise MacloomError(f"routing: must be {_KNOWN}, not {routing!r}")
        return [Fraction((i + 1) ** -exponent) for i in range(experts)]
    shares = list(routing)
    if len(shares) != experts:
        raise MacloomError(f"routing: must have one share for each of the {experts} experts, not {len(shares)}")
    for share in shares:
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < math.inf:
            raise MacloomError(f"routing: must be numbers of at least 0, not {share!r}")
    return [Fraction(share) for share in shares]


def expert_rows(tokens: int, per_token: int, experts: int, routing: Routing = "uniform") -> list[int]:
    """Return how many tokens each expert gets when every token goes to `per_token` different ones.

    Rows are shared out by largest remainder, so `uniform` is the balanced case: no two experts differ by more
    than one row. A random router leaves more experts without a token in small batches. No expert gets more
    rows than there are tokens; what is above goes to the others.

    Raises:
        MacloomError: unknown routing, or fewer experts with a share than a token needs.

    >>> expert_rows(5, 2, 4), expert_rows(1, 2, 8), expert_rows(100, 2, 4, "zipf")
    ([3, 3, 2, 2], [1, 1, 0, 0, 0, 0, 0, 0], [96, 48, 32, 24])
    """
    shares = _shares(routing, experts)
    if sum(share > 0 for share in shares) < per_token:
        raise MacloomError(f"routing: must give a share to at least {per_token} experts, not {routing!r}")
    rows = [0] * experts
    left, open_ = tokens * per_token, [i for i in range(experts) if shares[i]]
    while True:
        total = sum(shares[i] for i in open_)
        full = [i for i in open_ if left * shares[i] > tokens * total]
        if not full:
            break
        for i in full:
            rows[i] = tokens
        left -= tokens * len(full)
        open_ = [i for i in open_ if i not in full]
    quotas = {i: left * shares[i] / total for i in open_}
    for i, quota in quotas.items():
        rows[i] = math.floor(quota)
    spare = left - sum(rows[i] for i in open_)
    for i in sorted(open_, key=lambda i: (rows[i] - quotas[i], i))[:spare]:
        rows[i] += 1
    return rows


def expert_groups(rows: Sequence[int]) -> list[tuple[int, int]]:
    """Return (rows, experts with so many rows), the fullest first; experts without a token are left out.

    >>> expert_groups([3, 2, 0, 3])
    [(3, 2), (2, 1)]
    """
    return [(n, len(list(same))) for n, same in groupby(sorted((r for r in rows if r), reverse=True))]


def load_routing(text: str) -> Routing:
    """Return the routing that a name says, or the shares that a JSON file holds: one number for each expert.

    Raises:
        MacloomError: neither a known name nor a file with a list of numbers.

    >>> load_routing("zipf:1.2")
    'zipf:1.2'
    """
    if text.partition(":")[0] in ("uniform", "zipf"):
        return text
    path = Path(text)
    if not path.is_file():
        raise MacloomError(f"routing: must be {_KNOWN} in a JSON file, not {text!r}")
    try:
        shares = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MacloomError(f"{path}: is not valid JSON: {error}") from None
    if not isinstance(shares, list):
        raise MacloomError(f"{path}: must hold a list with one share for each expert, not {type(shares).__name__}")
    return shares
