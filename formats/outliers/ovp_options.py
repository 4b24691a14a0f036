"""The catalog's outlier-victim pairs and what their options build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from macloom.errors import MacloomError, unknown
from macloom.formats.element import ElementFormat
from macloom.formats.elements.abfloat import AbFloat
from macloom.formats.elements.flint import Flint
from macloom.formats.elements.integer import IntFormat
from macloom.formats.families import OVP
from macloom.formats.grammar import (
    CATALOG,
    Entry,
    Options,
    choice_option,
    granularity_option,
    note_option,
    scale_option,
)
from macloom.formats.outliers.ovp import Assign, Ovp
from macloom.formats.outliers.ovp_adaptive import AdaptiveOvp
from macloom.formats.outliers.ovp_upstream import Kind, OvpUpstream, Signed
from macloom.formats.scales import Grain
from macloom.formats.tensor import TensorFormat

ADAPTIVE = "adaptive"
KEYS = ("normal", "assign", "threshold", "mode", "signed")


class Mode(StrEnum):
    PAPER = "paper"
    UPSTREAM = "upstream"


@dataclass(frozen=True)
class Family:
    """The normal types of one width, each with its outlier type, the default one first."""

    width: int
    types: Mapping[str, tuple[ElementFormat, AbFloat]]

    def build(self, name: str, options: Options) -> TensorFormat:
        normal = options.get("normal", next(iter(self.types)))
        names = [*self.types, *([ADAPTIVE] if len(self.types) > 1 else [])]
        note_option(options, "normal", f"{', '.join(names)} ({normal})")
        if normal not in names:
            raise unknown("format option normal", normal, names)
        note_option(options, "threshold", "a number, in integer units (the largest normal value), for assign=threshold")
        note_option(options, "signed", f"{', '.join(Signed)} ({Signed.AUTO.value}), for mode=upstream")
        note_option(options, "chosen", f"{', '.join(self.types)}, what normal=adaptive chose")
        if "chosen" in options and normal != ADAPTIVE:
            raise MacloomError("format option chosen: says which type normal=adaptive chose; drop it here")
        if choice_option(options, "mode", *Mode) is Mode.UPSTREAM:
            return self._upstream(name, normal, options)
        if "signed" in options:
            raise MacloomError("format option signed: belongs to mode=upstream; pairs are always signed otherwise")
        if normal != ADAPTIVE:
            return self._pairs(name, normal, options)
        if "chosen" in options:
            if options["chosen"] not in self.types:
                raise unknown("format option chosen", options["chosen"], self.types)
            return self._pairs(name, options["chosen"], options, (len(self.types) - 1).bit_length())
        choices = [
            self._pairs(f"{name},chosen={each}", each, options, (len(self.types) - 1).bit_length())
            for each in self.types
        ]
        return AdaptiveOvp(name=name, choices=tuple(choices))

    def _pairs(self, name: str, normal: str, options: Options, selector_bits: int = 0) -> Ovp:
        granularity = granularity_option(options, Grain.TENSOR)
        threshold = options.get("threshold")
        try:
            boundary = None if threshold is None else float(threshold)
        except ValueError:
            raise MacloomError(f"format option threshold: must be a number, not {threshold!r}") from None
        return Ovp(
            name=name,
            normal=self.types[normal][0],
            outlier=self.types[normal][1],
            granularity=granularity,
            scale_format=scale_option(options, granularity),
            assign=choice_option(options, "assign", *Assign),
            threshold=boundary,
            selector_bits=selector_bits,
        )

    def _upstream(self, name: str, normal: str, options: Options) -> OvpUpstream:
        for key in ("assign", "threshold", "scale", "chosen"):
            if key in options:
                raise MacloomError(f"format option {key}: is not known to the released code; drop it or mode=upstream")
        names = list(self.types) if normal == ADAPTIVE else [normal]
        return OvpUpstream(
            name=name,
            width=self.width,
            kinds=tuple(Kind.FLINT if isinstance(self.types[n][0], Flint) else Kind.INT for n in names),
            signed=choice_option(options, "signed", *Signed),
            granularity=granularity_option(options, Grain.TENSOR),
        )


OVP4 = Family(
    4,
    {
        "int4": (IntFormat(width=4), AbFloat(exponent_bits=2, mantissa_bits=1, bias=2)),
        "flint4": (Flint(width=4), AbFloat(exponent_bits=2, mantissa_bits=1, bias=3)),
    },
)
OVP8 = Family(8, {"int8": (IntFormat(width=8), AbFloat(exponent_bits=4, mantissa_bits=3, bias=4, limit=1 << 15))})


def _fill() -> None:
    olive = "Guo et al., OliVe, ISCA 2023"
    CATALOG.add(
        "ovp4",
        Entry(
            family=OVP,
            summary="4-bit outlier-victim pairs: int4 (or flint4) with abfloat E2M1 outliers",
            source=olive,
            build=OVP4.build,
            keys=(*KEYS, "chosen"),
            words=True,
        ),
    )
    CATALOG.add(
        "ovp8",
        Entry(
            family=OVP,
            summary="8-bit outlier-victim pairs: int8 with abfloat E4M3 outliers of bias 4, at most 2**15",
            source=f"{olive}; bias and limit are a reconstruction",
            build=OVP8.build,
            keys=KEYS,
            words=True,
        ),
    )


_fill()
