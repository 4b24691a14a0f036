"""The presets of tensor cores, read from presets.toml, and the names that say one with changes."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from macloom._registry import Registry
from macloom.errors import MacloomError, unknown
from macloom.formats.element import ElementFormat
from macloom.formats.policy import Rounding
from macloom.formats.tensor_core.record import (
    INT32,
    MOST_FRACTION_BITS,
    REGISTERS,
    Evidence,
    Maturity,
    SplitOrder,
    SplitSum,
    TensorCoreAccumulator,
    with_options,
)

FILE = Path(__file__).with_name("presets.toml")


def _integer(key: str, text: str) -> int:
    if not text.lstrip("-").isdigit():
        raise MacloomError(f"tc.{key}: must be an integer, not {text!r}")
    return int(text)


def _choice(kind: type[Rounding] | type[SplitOrder] | type[SplitSum]) -> Callable[[str, str], Any]:
    def read(key: str, text: str) -> Any:
        if text not in [member.value for member in kind]:
            raise unknown(f"tc.{key}", text, [member.value for member in kind])
        return kind(text)

    return read


# What a name can change, in the order in which names say it.
OPTIONS: dict[str, Callable[[str, str], Any]] = {
    "block": _integer,
    "k": _integer,
    "fraction": _integer,
    "align": _choice(Rounding),
    "lowest": _integer,
    "register": lambda key, text: REGISTERS.get(text),
    "rounding": _choice(Rounding),
    "promote": _integer,
    "split": _integer,
    "tile": _integer,
    "order": _choice(SplitOrder),
    "sum": _choice(SplitSum),
}


def _elements() -> dict[str, ElementFormat]:
    from macloom.formats.catalog import FLOATS
    from macloom.formats.elements.integer import IntFormat
    from macloom.formats.elements.minifloat import FP32
    from macloom.formats.scales import E8M0

    integers = {f"int{width}": IntFormat(width=width) for width in (4, 8)}
    return {**FLOATS, **integers, "fp32": FP32, "e8m0": E8M0}


@cache
def _presets() -> Registry[TensorCoreAccumulator]:
    table = tomllib.loads(FILE.read_text(encoding="utf-8"))
    elements = _elements()
    evidence = {name: Evidence(**fields) for name, fields in table["evidence"].items()}
    presets = Registry[TensorCoreAccumulator]("tensor core", hint="macloom list tensor-cores")
    for name, fields in table["presets"].items():
        register = REGISTERS.get(fields.pop("register", "fp32"))
        late, reads = REGISTERS.get(fields.pop("late", "fp32")), fields.pop("reads", None)
        reasons = tuple(evidence[key] for key in fields.pop("evidence"))
        floating = {} if register is not INT32 else {"fraction": MOST_FRACTION_BITS, "lowest": 0}
        presets.add(
            name,
            TensorCoreAccumulator(
                preset=name,
                takes=tuple(elements[element] for element in fields.pop("takes")),
                scales=tuple(elements[element] for element in fields.pop("scales", ())),
                register=register,
                late=late,
                reads=elements[reads] if reads else None,  # type: ignore[arg-type]
                # IEEE half precision is rounded to nearest on all devices, float32 toward zero.
                rounding=Rounding.NEAREST_EVEN if register.max_exponent == 15 else Rounding.TOWARD_ZERO,
                evidence=reasons,
                maturity=_maturity(reasons),
                **floating,
                **fields,
            ),
        )
    return presets


def _maturity(reasons: tuple[Evidence, ...]) -> Maturity:
    compared = [reason for reason in reasons if reason.compared]
    if any(reason.kind == "measured" for reason in compared):
        return Maturity.MEASURED
    return Maturity.MODELLED if compared else Maturity.PUBLISHED


def list_presets() -> list[str]:
    """Return the names of all tensor cores, oldest first.

    >>> [name for name in list_presets() if name.startswith("volta")]
    ['volta-fp16', 'volta-fp16-fp16']
    """
    return list(_presets())


def get_preset(name: str) -> TensorCoreAccumulator:
    """Return a preset; `hopper-fp8_e4m3` is read as `hopper-fp8`, which takes that format among others.

    Raises:
        MacloomError: there is none of that name; the message has the nearest.
    """
    presets = _presets()
    if name not in presets:
        device, _, element = name.partition("-fp")
        for known in presets:
            record = presets.get(known)
            if known.startswith(f"{device}-fp") and f"fp{element}" in [fmt.name for fmt in record.takes]:
                return record
    return presets.get(name)


def summary(name: str) -> dict[str, object]:
    """Return what `macloom list tensor-cores` shows of a preset."""
    tc = get_preset(name)
    return {
        "accumulator": f"tc:{name}",
        "device": tc.device,
        "takes": ", ".join(fmt.name for fmt in tc.takes),
        "block": tc.block,
        "fraction": tc.fraction if tc.register is not INT32 else None,
        "register": tc.register.name,
        "k": tc.k,
        "maturity": tc.maturity.value,
    }


def parse(text: str) -> TensorCoreAccumulator:
    """Return the tensor core that a name without its `tc:` says: a preset, then `,key=value` for each change."""
    name, *options = text.split(",")
    changes: dict[str, object] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise MacloomError(f"tc: must be 'tc:PRESET,key=value,...', not 'tc:{text}'; {option!r} has no '='")
        if key in changes:
            raise MacloomError(f"tc.{key}: must be given once, not twice in 'tc:{text}'")
        changes[key] = OPTIONS[key](key, value) if key in OPTIONS else value
    return with_options(get_preset(name), **changes) if changes else get_preset(name)


def presets_taking(element: ElementFormat, scaled: bool) -> list[str]:
    """Return the presets whose operands may be of this element format, with or without scales in the instruction."""
    return [
        f"tc:{name}"
        for name in list_presets()
        if element in get_preset(name).takes and bool(get_preset(name).scale_block) == scaled
    ]
