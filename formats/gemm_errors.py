"""How far a product with a given accumulator is from the exact one, and in what way."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from macloom.formats.accumulator import Accumulator, ExactAccumulator, get_accumulator
from macloom.formats.accumulators.segments import common_segment
from macloom.formats.gemm import check_operands, gemm_operands
from macloom.formats.gemm_report import GemmReport
from macloom.formats.operand import Operand
from macloom.formats.tensor import Encoded


@dataclass(frozen=True, kw_only=True)
class GemmErrors:
    """What `gemm_errors` found. Errors are in float32 units in the last place (ulp) of the exact output.

    Attributes:
        accumulator: its name.
        outputs: how many there are; those that are not finite are left out below.
        differing: outputs that are not the exact one, rounded once to float32 in every segment.
        worst_ulp, mean_ulp, median_ulp: of the magnitudes of the errors of outputs that are not 0 exactly.
        bias: the sum of errors, each positive where the magnitude is too large, over that of magnitudes.
        toward_zero: among differing outputs, the share that is smaller in magnitude than the exact one.
        relative: the norm of the error over that of the exact outputs.
        overflows: registers that did not hold a sum.
        order_dependent: outputs that change when K is permuted inside segments.
        order_ulp: the largest such change, of outputs that are not 0 exactly.
        trials: how many permutations were tried.
        raised: products that were raised, one at a time, to see whether the result falls.
        violations: how often it did, so that the product is not monotonic.
        violation: a witness: (row, column, k, result before, result after), if there is one.
    """

    accumulator: str
    outputs: int
    differing: int
    worst_ulp: float
    mean_ulp: float
    median_ulp: float
    bias: float
    toward_zero: float
    relative: float
    overflows: int
    order_dependent: int
    order_ulp: float
    trials: int
    raised: int
    violations: int
    violation: tuple[int, int, int, float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the findings as JSON can hold them."""
        return asdict(self)

    def table(self) -> str:
        """Return the findings as text, one per line."""
        lines = [
            ("accumulator", self.accumulator),
            ("outputs", f"{self.outputs}, {self.differing} not exact, {self.overflows} registers overflowed"),
            (
                "error",
                f"{self.median_ulp:.4g} ulp in the median, {self.mean_ulp:.4g} mean, {self.worst_ulp:.4g} at most; "
                f"{self.relative:.3g} relative",
            ),
            ("bias", f"{self.bias:+.3g} relative; {100 * self.toward_zero:.0f} % of the errors toward zero"),
            (
                "order",
                f"{self.order_dependent} outputs change in {self.trials} permutations, by {self.order_ulp:.4g} ulp",
            ),
            ("monotonic", f"{self.violations} of {self.raised} raised products lower the result"),
        ]
        if self.violation is not None:
            row, column, k, before, after = self.violation
            lines.append(("witness", f"output ({row}, {column}), k = {k}: {before:.9g} falls to {after:.9g}"))
        width = max(len(name) for name, _ in lines)
        return "\n".join(f"{name:<{width}}  {text}" for name, text in lines)


def gemm_errors(
    a: Encoded,
    b: Encoded,
    accumulator: Accumulator | str,
    trials: int = 3,
    raises: int = 64,
    rng: np.random.Generator | None = None,
) -> GemmErrors:
    """Return how a product with `accumulator` differs from the exact product of the same operands.

    Order dependence is looked for by permuting K inside every segment, monotonicity by raising one element of A
    to the next value that occurs in the tensor, where the other factor's sign makes the product larger.

    Args:
        trials: permutations of K.
        raises: elements that are raised.
        rng: of both; None takes a fixed seed.

    >>> import numpy as np
    >>> from macloom.formats import get_format
    >>> x = get_format("int8").encode(np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32))
    >>> found = gemm_errors(x, x, "int20:saturate,every=mac")
    >>> found.differing, found.order_dependent, found.violations
    (0, 0, 0)
    """
    check_operands(a, b)
    chosen = get_accumulator(accumulator) if isinstance(accumulator, str) else accumulator
    rng = np.random.default_rng(0) if rng is None else rng
    x, y = (replace(e.operand(), sparse=None) for e in (a, b))
    report = GemmReport()
    with np.errstate(over="ignore", invalid="ignore"):
        got = gemm_operands(x, y, chosen, report)
        exact = gemm_operands(x, y, ExactAccumulator(), GemmReport())
        permuted = [
            _ulps(gemm_operands(*_permuted(x, y, rng), chosen, GemmReport()) - got, exact) for _ in range(trials)
        ]
    finite = np.isfinite(got) & np.isfinite(exact)
    wrong = finite & (got != exact)
    counted = finite & (exact != 0)
    ulps = np.abs(_ulps(got[counted] - exact[counted], exact[counted]))
    growth = (got[counted].astype(np.float64) - exact[counted]) * np.sign(exact[counted])
    moved = np.max([np.abs(np.nan_to_num(p, posinf=0.0, neginf=0.0)) for p in permuted], axis=0, initial=0.0)
    norm = float(np.linalg.norm(exact[finite].astype(np.float64)))
    distance = float(np.linalg.norm((got - exact)[finite].astype(np.float64)))
    raised, violations, witness = _raised(x, y, chosen, raises, rng)
    return GemmErrors(
        accumulator=chosen.name,
        outputs=int(got.size),
        differing=int(np.count_nonzero(wrong)),
        worst_ulp=float(ulps.max(initial=0)),
        mean_ulp=float(ulps.sum() / max(ulps.size, 1)),
        median_ulp=float(np.median(ulps)) if ulps.size else 0.0,
        bias=float(growth.sum() / max(np.abs(exact[counted], dtype=np.float64).sum(), np.finfo(np.float64).tiny)),
        toward_zero=float(np.count_nonzero(wrong & (np.abs(got) < np.abs(exact))) / max(np.count_nonzero(wrong), 1)),
        relative=distance / norm if norm else 0.0,
        overflows=report.overflows,
        order_dependent=int(np.count_nonzero(moved)),
        order_ulp=float(moved[exact != 0].max(initial=0)),
        trials=trials,
        raised=raised,
        violations=violations,
        violation=witness,
    )


def _ulps(difference: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Return differences in units of the last place of float32 numbers, those of 0 being the smallest subnormal's."""
    return difference.astype(np.float64) / np.spacing(np.abs(exact)).astype(np.float64)


def _permuted(a: Operand, b: Operand, rng: np.random.Generator) -> tuple[Operand, Operand]:
    segment, depth = common_segment(a, b), a.units.shape[-1]
    order = np.concatenate([start + rng.permutation(min(segment, depth - start)) for start in range(0, depth, segment)])
    return replace(a, units=a.units[..., order]), replace(b, units=b.units[..., order])


def _raised(
    a: Operand, b: Operand, accumulator: Accumulator, count: int, rng: np.random.Generator
) -> tuple[int, int, tuple[int, int, int, float, float] | None]:
    """Raise single products of the first matrices and count results that fall."""
    x, y = a.matrices[0], b.matrices[0]
    values = np.unique(x.units)
    done, violations, witness = 0, 0, None
    for _ in range(count):
        m, n, k = (int(rng.integers(size)) for size in (len(x.units), len(y.units), x.units.shape[1]))
        factor, place = float(y.centred().units[n, k]), int(np.searchsorted(values, x.units[m, k]))
        place += 1 if factor > 0 else -1
        if factor == 0 or not 0 <= place < len(values):
            continue
        one, column = x.take(np.array([m])), y.take(np.array([n]))
        units = one.units.copy()
        units[0, k] = values[place]
        with np.errstate(over="ignore", invalid="ignore"):
            before = float(gemm_operands(one, column, accumulator, GemmReport())[0, 0])
            after = float(gemm_operands(replace(one, units=units), column, accumulator, GemmReport())[0, 0])
        done += 1
        if after < before:
            violations += 1
            witness = witness or (m, n, k, before, after)
    return done, violations, witness
