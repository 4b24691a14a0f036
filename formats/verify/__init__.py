"""What `macloom verify formats` checks: elements against exact fractions, tensors against other packages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from macloom.verification import Check, Options


def checks(options: Options) -> Iterator[Check]:
    """Yield every check of the formats room."""
    from macloom.formats.verify.peers import peer_checks
    from macloom.formats.verify.tensors import tensor_checks

    calls = [*peer_checks(options), *tensor_checks(options), *element_checks(options)]
    options.expect(len(calls))
    yield from options.spread(calls)


def element_checks(options: Options) -> list[Callable[[], Check]]:
    """Return the checks of every element format of at most 8 bits, under every policy."""
    from macloom.formats.verify.elements import DETERMINISTIC, check_policies, check_rounding, check_stochastic
    from macloom.formats.verify.subjects import elements

    calls: list[Callable[[], Check]] = []
    for element in elements():
        calls += [partial(check_rounding, element, mode, options.exhaustive, options.seed) for mode in DETERMINISTIC]
        calls.append(partial(check_stochastic, element, options.exhaustive, options.seed))
        calls.append(partial(check_policies, element, options.seed))
    return calls
