"""What a matrix product tells about itself besides its result."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class GemmReport:
    """What happened inside the products it was handed to; counts add up over several of them.

    Attributes:
        accumulator: name of the accumulator that was used last.
        outputs: accumulations done (outputs times segments).
        overflows: how many of them did not fit the register.
        locate: ask for `where`.
        where: bool (..., M, N) of the last product: the outputs of which an accumulation did not fit; None
            unless `locate`.
    """

    accumulator: str = ""
    outputs: int = 0
    overflows: int = 0
    locate: bool = False
    where: np.ndarray | None = None
