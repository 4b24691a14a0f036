"""Block formats: OCP MX, NVFP4 and block floating point, whose blocks of a row share a scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from macloom.errors import MacloomError, require_positive_integer
from macloom.formats.arrays import as_float32, check_finite, clip_share, largest_factor, output_for, rows_of
from macloom.formats.element import ElementFormat
from macloom.formats.elements.minifloat import FloatFormat
from macloom.formats.kernels.fused import (
    GroupRule,
    PowerRule,
    encode_by_group,
    encode_by_power,
    quantize_by_group,
    quantize_by_power,
)
from macloom.formats.policy import DEFAULT_POLICY, Policy, Rounding
from macloom.formats.rounders import decode_rows, encode_rows, quantize_rows
from macloom.formats.scales import E4M3, E8M0
from macloom.formats.tensor import Encoded, Operand, TensorFormat
from macloom.formats.threads import run_rows
from macloom.formats.unit_lookup import look_up

# Its products with the smallest block scale are normal float32 numbers.
SMALLEST_OUTER = np.float32(2.0**-120)


class ScaleRule(StrEnum):
    """How the largest magnitude m of a block becomes its power-of-two scale.

    FLOOR: 2**(floor(log2 m) - emax), OCP MX v1.0 section 6.3. CEIL: the exponent rounded up. EVEN: m is
    first rounded to the element's mantissa width, a tie upwards. RCEIL: the smallest power of two for
    which m / scale does not exceed the largest element value, where the quotient is the float32 product
    of m and the float32 reciprocal, as in torchao@36027d8, to which the other names belong, too.
    """

    FLOOR = "floor"
    CEIL = "ceil"
    EVEN = "even"
    RCEIL = "rceil"


def power_of_two_exponents(largest: np.ndarray, element: ElementFormat, rule: ScaleRule) -> np.ndarray:
    """Return the E8M0 exponents (int32, -127..127) for blocks with these largest magnitudes."""
    mantissas, exponents = np.frexp(largest)  # m = mantissa * 2**exponent with mantissa in [1/2, 1); exact
    emax = math.frexp(element.max_value)[1] - 1
    exponents = np.where(largest > 0, exponents - 1 - emax, -127)
    match rule:
        case ScaleRule.EVEN:
            width = element.operand.significand_bits - 1  # with the hidden bit, without sign
            exponents = exponents + (np.floor(np.ldexp(mantissas, width) + np.float32(0.5)) == 1 << width)
        case ScaleRule.CEIL:
            exponents = exponents + (mantissas > 0.5)
        case ScaleRule.RCEIL:
            mantissas, exponents = np.frexp(largest * (np.float32(1) / np.float32(element.max_value)))
            exponents = np.where(mantissas > 0, exponents - (mantissas == 0.5), -127)
    # Products with every element stay finite: above 2**127 the exponent is not rounded up.
    reach = math.frexp(max(element.max_value, -element.min_value))[1] - 1
    return np.clip(exponents, -127, 127 - reach).astype(np.int32)


@dataclass(frozen=True, kw_only=True)
class Block(TensorFormat):
    """Blocks of `size` elements along the last axis share a scale; a row's last block may be shorter.

    With an E8M0 scale this is OCP MX v1.0 or, over integers, block floating point. With `two_level`
    the block scale is stored as E4M3 relative to a float32 scale of the tensor, which puts the
    tensor's largest magnitude on the largest scale times the largest element (NVFP4). With `float_scale`
    the block scale is an E4M3 by itself. Such scales are never below 2**-6, the smallest normal one. A block
    of zeros takes the smallest scale. `clip` below 1 shrinks the magnitude from which scales are made.

    With `reciprocal`, an element is that of x * ((1 / tensor scale) / block scale), as in torchao@36027d8,
    and not that of x / (tensor scale * block scale): they differ in the last place, which shows at ties.

    >>> import numpy as np
    >>> from macloom.formats import get_format
    >>> get_format("mxfp4").quantize(np.float32([5.3, -0.7, 0.25, 1.1]))
    array([ 6. , -0.5,  0. ,  1. ], dtype=float32)
    """

    name: str
    element: ElementFormat
    size: int = 32
    rule: ScaleRule = ScaleRule.FLOOR
    two_level: bool = False
    float_scale: bool = False
    reciprocal: bool = False
    policy: Policy = DEFAULT_POLICY

    def __post_init__(self) -> None:
        require_positive_integer("block.size", self.size)
        if self.two_level and self.float_scale:
            raise MacloomError("block.float_scale: must be off with two levels, whose block scales are E4M3 anyway")
        if self.reciprocal and not self._stores_e4m3:
            raise MacloomError("block.reciprocal: must be off for power-of-two scales, where it changes nothing")

    @property
    def block(self) -> int | None:
        return self.size

    @property
    def static_scale(self) -> bool:
        return self.two_level

    @property
    def encodes_by_row(self) -> bool:
        return self.policy.rounding is not Rounding.STOCHASTIC

    def scales_by_row(self, axes: int) -> bool | None:
        return True

    @property
    def _stores_e4m3(self) -> bool:
        return self.two_level or self.float_scale

    @property
    def scale_format(self) -> FloatFormat:
        return E4M3 if self._stores_e4m3 else E8M0

    def scale_bits(self, shape: tuple[int, ...]) -> int:
        blocks = math.prod(shape[:-1]) * -(-shape[-1] // self.size)
        return blocks * self.scale_format.bits + (32 if self.two_level else 0)

    def _largest(self, x: np.ndarray, size: int | None = None) -> np.ndarray:
        """Return the largest magnitude of each block of `size`, rows x blocks."""
        from macloom.formats.kernels.lookup import absmax

        rows = rows_of(x)
        size = self.size if size is None else size
        out = np.empty((rows.shape[0], -(-rows.shape[1] // size)), np.float32)
        run_rows(absmax, rows.shape[0], x.size, rows, size, out)
        check_finite(out, self.name)
        return out

    def calibrate(self, x: Any, clip: float | None = None) -> np.ndarray:
        """Return the scale of every block (..., blocks); for two levels the scale of the tensor."""
        x = as_float32(x)
        # One maximum for each row will do where only that of the tensor counts.
        largest = self._largest(x, max(x.shape[-1:], default=1) if self.two_level else None) * clip_share(clip)
        if not self.two_level:
            if self.float_scale:
                scales = E4M3.decode(self._e4m3_codes(largest / np.float32(self.element.max_value)))
            else:
                scales = np.ldexp(np.float32(1), power_of_two_exponents(largest, self.element, self.rule))
            return scales.reshape(*x.shape[:-1], scales.shape[1])
        top = E4M3.max_value * self.element.max_value
        largest = largest.max()
        outer = np.clip(largest / np.float32(top), SMALLEST_OUTER, np.nextafter(largest_factor(top), np.float32(0)))
        return np.asarray(outer if largest > 0 else np.float32(1), np.float32)

    def _e4m3_codes(self, wanted: np.ndarray) -> np.ndarray:
        """Return the codes of block scales: normal E4M3 values only, as in torchao; 2**-6 is the smallest."""
        return self._codes_of(np.clip(wanted, np.float32(2.0**-6), np.float32(E4M3.max_value)))

    def _codes_of(self, wanted: np.ndarray) -> np.ndarray:
        """Return the codes of block scales that lie in that range."""
        return encode_rows(E4M3, wanted, np.ones((wanted.shape[0], 1), np.float32), wanted.shape[1], self.name)

    def _outer(self, scale: np.ndarray) -> np.float32:
        """Return the scale of the tensor."""
        if scale.size != 1:
            raise MacloomError(
                f"scale: format {self.name!r} takes the one scale of the tensor, not shape {scale.shape}"
            )
        outer = np.float32(scale.reshape(()))
        if not SMALLEST_OUTER <= outer < np.inf:
            raise MacloomError(f"scale: must be finite and at least 2**-120, not {float(outer)}")
        return outer

    def _inner(self, x: np.ndarray, scale: np.ndarray, clip: float) -> tuple[np.ndarray, np.ndarray, np.float32]:
        """Return stored block scales as values, as codes, and the scale of the tensor."""
        if not self.two_level:
            rows, blocks = math.prod(x.shape[:-1]), -(-x.shape[-1] // self.size) if x.ndim else 1
            if scale.size != rows * blocks:
                expected = (*x.shape[:-1], blocks)
                raise MacloomError(f"scale: must have shape {expected} for a tensor of {x.shape}, not {scale.shape}")
            values = np.ascontiguousarray(scale.reshape(rows, blocks), np.float32)
            if self.float_scale:
                codes = self._e4m3_codes(values)
                if not np.array_equal(E4M3.decode(codes), values):
                    raise MacloomError(f"scale: format {self.name!r} stores normal E4M3 values only")
                return values, codes, np.float32(1)
            exponents = np.frexp(values)[1] - 1
            if not np.array_equal(np.ldexp(np.float32(1), exponents), values) or exponents.min() < -127:
                raise MacloomError(f"scale: format {self.name!r} stores powers of two from 2**-127 to 2**127 only")
            return values, (exponents + 127).astype(np.uint8), np.float32(1)
        outer = self._outer(scale)
        with np.errstate(over="ignore"):  # what is too large for the given scale saturates
            wanted = self._largest(x) * np.float32(clip) / np.float32(self.element.max_value) / outer
        codes = self._e4m3_codes(wanted)
        return E4M3.decode(codes), codes, outer

    def _by_reciprocal(self, x: np.ndarray, inner: np.ndarray, outer: np.float32) -> np.ndarray:
        """Return the element codes (rows x length) of x times the reciprocal of its scales."""
        rows = rows_of(x)
        check_finite(np.abs(rows), self.name)
        with np.errstate(over="ignore"):
            factor = np.minimum((np.float32(1) / outer) / inner, np.finfo(np.float32).max)
            factors = np.repeat(factor, self.size, axis=1)[:, : rows.shape[1]]
            product = np.clip(rows * factors, np.float32(self.element.min_value), np.float32(self.element.max_value))
        return encode_rows(
            self.element, product, np.ones((rows.shape[0], 1), np.float32), rows.shape[1], self.name, self.policy
        )

    def _group_rule(self, scale: np.ndarray) -> GroupRule | None:
        """Return how block scales follow from the scale of the tensor, None where elements are not divided by both."""
        if not self.two_level or self.reciprocal:
            return None
        largest, smallest = self.element.max_value, 2.0**-6
        return GroupRule(E4M3, largest, smallest, E4M3.max_value, smallest, self._outer(scale))

    def _encode(self, x: np.ndarray, scale: np.ndarray, clip: float) -> tuple[np.ndarray, np.ndarray, np.float32]:
        rule = self._group_rule(scale)
        made = (
            encode_by_group(self.element, rows_of(x), self.size, rule, clip, self.name, self.policy) if rule else None
        )
        if rule is not None and made is not None:
            elements, values = made
            codes = self._codes_of(values)
            return elements.reshape(x.shape), codes.reshape(*x.shape[:-1], codes.shape[1]), rule.outer
        inner, codes, outer = self._inner(x, scale, clip)
        if self.reciprocal:
            elements = self._by_reciprocal(x, inner, outer)
        else:
            elements = encode_rows(self.element, rows_of(x), inner * outer, self.size, self.name, self.policy)
        return elements.reshape(x.shape), codes.reshape(*x.shape[:-1], codes.shape[1]), outer

    def _quantize(self, x: np.ndarray, scale: np.ndarray, clip: float, out: Any, template: Any) -> np.ndarray:
        result = output_for(template, out, x.shape)
        rule, into = self._group_rule(scale), rows_of(result)
        if rule and quantize_by_group(self.element, rows_of(x), self.size, rule, clip, into, self.name, self.policy):
            return result
        inner, _, outer = self._inner(x, scale, clip)
        if self.reciprocal:
            codes = self._by_reciprocal(x, inner, outer)
            rows_of(result)[...] = decode_rows(self.element, codes, inner * outer, self.size)
        else:
            quantize_rows(self.element, rows_of(x), inner * outer, self.size, into, self.name, self.policy)
        return result

    def _power_rule(self) -> PowerRule | None:
        """Return the scale rule on float32 bits, None where bits and rule differ for subnormal magnitudes."""
        emax = math.frexp(self.element.max_value)[1] - 1
        reach = math.frexp(max(self.element.max_value, -self.element.min_value))[1] - 1
        if self._stores_e4m3 or emax < 0:
            return None
        match self.rule:
            case ScaleRule.FLOOR:
                return PowerRule(0, emax, 254 - reach)
            case ScaleRule.EVEN if emax > 0:
                return PowerRule(1 << (24 - self.element.operand.significand_bits), emax, 254 - reach)
            case ScaleRule.CEIL if emax > 0:
                return PowerRule(0x7FFFFF, emax, 254 - reach)
            case _:
                return None

    def _encode_at_once(self, x: np.ndarray, clip: float) -> tuple[np.ndarray, np.ndarray, np.float32] | None:
        rule = self._power_rule()
        made = (
            encode_by_power(self.element, rows_of(x), self.size, rule, clip, self.name, self.policy) if rule else None
        )
        if made is None:
            return None
        return made[0].reshape(x.shape), made[1].reshape(*x.shape[:-1], made[1].shape[1]), np.float32(1)

    def _quantize_at_once(self, x: np.ndarray, clip: float, out: Any, template: Any) -> np.ndarray | None:
        rule = self._power_rule()
        if rule is None:
            return None
        result = output_for(template, out, x.shape)
        done = quantize_by_power(
            self.element, rows_of(x), self.size, rule, clip, rows_of(result), self.name, self.policy
        )
        return result if done else None

    def _scale_values(self, encoded: Encoded, factor: Any = 1) -> np.ndarray:
        """Return the block scales times `factor`, rows x blocks."""
        codes = rows_of(encoded.scales)
        expected = (*encoded.shape[:-1], -(-encoded.shape[-1] // self.size) if encoded.shape else 1)
        if codes.shape != (math.prod(expected[:-1]), expected[-1]) or codes.dtype.kind != "u":
            raise MacloomError(
                f"scales: must be unsigned codes of shape {expected} for a tensor of {encoded.shape}, "
                f"not {codes.dtype} of {encoded.scales.shape}"
            )
        if int(codes.max(initial=0)) >= len(self.scale_format.values):
            raise MacloomError(f"scales: must be codes below {len(self.scale_format.values)}, not {int(codes.max())}")
        return look_up(self.scale_format.float32_values * np.float32(factor), codes)

    def decode(self, encoded: Encoded) -> np.ndarray:
        out = np.empty(encoded.shape, np.float32)
        self.decode_to(encoded, out)
        return out

    def decode_to(self, encoded: Encoded, out: np.ndarray) -> None:
        outer = self._outer(np.asarray(encoded.outer)) if self.two_level else encoded.outer
        scales = self._scale_values(encoded, outer)
        decode_rows(self.element, rows_of(encoded.elements), scales, self.size, rows_of(out))

    def operand_of(self, encoded: Encoded) -> Operand:
        table, unit, largest = self.element.units
        scales = self._scale_values(encoded).reshape(encoded.scales.shape)
        return Operand(look_up(table, encoded.elements), unit, scales, self.size, encoded.outer, largest)
