"""Every named format and the grammar of format strings: NAME[:option,...].

An option is a granularity word (`tensor`, `token`, `channel`, `row`, `none`) or `key=value`. Each
family below says which keys it knows; adding a format is one entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from macloom._registry import Registry
from macloom.errors import MacloomError, unknown
from macloom.formats.abfloat import AbFloat
from macloom.formats.block import Block, ScaleRule
from macloom.formats.element import ElementFormat
from macloom.formats.flint import Flint
from macloom.formats.integer import IntFormat
from macloom.formats.minifloat import FloatFormat, Specials
from macloom.formats.ovp import Ovp
from macloom.formats.scaled import FP32, Scaled
from macloom.formats.scales import Grain, Granularity
from macloom.formats.tensor import TensorFormat

Options = Mapping[str, str]


def _float(
    label: str, exponent_bits: int, mantissa_bits: int, specials: Specials, bias: int | None = None
) -> FloatFormat:
    return FloatFormat(
        label=label, exponent_bits=exponent_bits, mantissa_bits=mantissa_bits, specials=specials, bias=bias
    )


FLOATS = {
    f.label: f
    for f in (
        _float("fp16", 5, 10, Specials.IEEE),
        _float("bf16", 8, 7, Specials.IEEE),
        _float("fp8_e4m3", 4, 3, Specials.FN),
        _float("fp8_e5m2", 5, 2, Specials.IEEE),
        _float("fp8_e4m3fnuz", 4, 3, Specials.FNUZ, 8),
        _float("fp8_e5m2fnuz", 5, 2, Specials.FNUZ, 16),
        _float("fp6_e3m2", 3, 2, Specials.NONE),
        _float("fp6_e2m3", 2, 3, Specials.NONE),
        _float("fp4_e2m1", 2, 1, Specials.NONE),
    )
}
SCALE_FORMATS = {"fp32": FP32, "fp16": FLOATS["fp16"], "bf16": FLOATS["bf16"]}
WORDS = {
    "none": Grain.NONE,
    "tensor": Grain.TENSOR,
    "row": Grain.ROW,
    "token": Grain.ROW,
    "channel": Grain.ROW,
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One catalog name: what it is, and how its options make the format.

    Attributes:
        summary: one line for the listing.
        source: paper or standard that defines it.
        keys: options it takes besides granularity words.
        words: whether it takes granularity words, `group=` and `axis=`.
    """

    summary: str
    source: str
    build: Callable[[str, Options], TensorFormat]
    keys: tuple[str, ...] = ()
    words: bool = False

    @property
    def allowed(self) -> tuple[str, ...]:
        return (*self.keys, *((*WORDS, "group", "axis", "scale") if self.words else ()))


CATALOG: Registry[Entry] = Registry("format", "macloom list formats")
ALIASES = {"mxfp8": "mxfp8_e4m3", "mxfp6": "mxfp6_e3m2"}


def _integer(options: Options, key: str, default: int) -> int:
    text = options.get(key)
    if text is None:
        return default
    try:
        return int(text)
    except ValueError:
        raise MacloomError(f"format option {key}: must be an integer, not {text!r}") from None


def _granularity(options: Options, default: Grain) -> Granularity:
    chosen = [key for key in options if key in WORDS or key in ("group", "axis")]
    if len(chosen) > 1:
        raise MacloomError(f"format options: name one granularity, not {' and '.join(chosen)}")
    if not chosen:
        return Granularity(grain=default)
    match chosen[0]:
        case "group":
            return Granularity(grain=Grain.GROUP, size=_integer(options, "group", 0))
        case "axis":
            return Granularity(grain=Grain.AXIS, axis=_integer(options, "axis", 0))
        case word:
            return Granularity(grain=WORDS[word])


def _scale_format(options: Options, granularity: Granularity) -> FloatFormat:
    default = "fp16" if granularity.grain is Grain.GROUP else "fp32"
    name = options.get("scale", default)
    if name not in SCALE_FORMATS:
        raise unknown("format option scale", name, SCALE_FORMATS)
    return SCALE_FORMATS[name]


def _scaled(element: ElementFormat, default: Grain = Grain.TENSOR) -> Callable[[str, Options], TensorFormat]:
    def build(name: str, options: Options) -> TensorFormat:
        granularity = _granularity(options, default)
        return Scaled(
            name=name, element=element, granularity=granularity, scale_format=_scale_format(options, granularity)
        )

    return build


def _block(element: ElementFormat, size: int, two_level: bool = False) -> Callable[[str, Options], TensorFormat]:
    def build(name: str, options: Options) -> TensorFormat:
        rule = options.get("rule", "floor")
        rules = [r.value for r in ScaleRule]
        if rule not in rules:
            raise unknown("format option rule", rule, rules)
        return Block(
            name=name, element=element, size=_integer(options, "block", size), rule=ScaleRule(rule), two_level=two_level
        )

    return build


def _ovp(normals: Mapping[str, tuple[ElementFormat, AbFloat]], default: str) -> Callable[[str, Options], TensorFormat]:
    def build(name: str, options: Options) -> TensorFormat:
        normal = options.get("normal", default)
        if normal not in normals:
            raise unknown("format option normal", normal, normals)
        granularity = _granularity(options, Grain.TENSOR)
        return Ovp(
            name=name,
            normal=normals[normal][0],
            outlier=normals[normal][1],
            granularity=granularity,
            scale_format=_scale_format(options, granularity),
        )

    return build


def _fill() -> None:
    ieee, ofp8, mx = "IEEE 754-2019", "OCP 8-bit Floating Point (OFP8) v1.0", "OCP Microscaling (MX) v1.0"
    CATALOG.add("fp32", Entry(summary="float32", source=ieee, build=_scaled(FP32, Grain.NONE)))
    for name, summary in {"fp16": "IEEE half precision", "bf16": "bfloat16"}.items():
        CATALOG.add(name, Entry(summary=summary, source=ieee, build=_scaled(FLOATS[name], Grain.NONE), words=True))
    for name, source in {
        "fp8_e4m3": ofp8, "fp8_e5m2": ofp8, "fp8_e4m3fnuz": "Noune et al. 2022", "fp8_e5m2fnuz": "Noune et al. 2022",
        "fp6_e3m2": mx, "fp6_e2m3": mx, "fp4_e2m1": mx,
    }.items():  # fmt: skip
        element = FLOATS[name]
        summary = f"{element.bits}-bit float: {element.exponent_bits} exponent, {element.mantissa_bits} mantissa bits"
        CATALOG.add(name, Entry(summary=summary, source=source, build=_scaled(element), words=True))
    integers = [IntFormat(width=w) for w in range(2, 9)] + [IntFormat(width=w, signed=False) for w in (4, 8)]
    for element in integers:
        summary = f"{element.width}-bit {'symmetric' if element.signed else 'unsigned'} integer"
        CATALOG.add(element.name, Entry(summary=summary, source="common practice", build=_scaled(element), words=True))
    flint, ant = Flint(width=4), "Guo et al., ANT, MICRO 2022"
    CATALOG.add(flint.name, Entry(summary="4-bit float-integer hybrid", source=ant, build=_scaled(flint), words=True))
    for name, element in {
        "mxfp8_e4m3": FLOATS["fp8_e4m3"], "mxfp8_e5m2": FLOATS["fp8_e5m2"], "mxfp6_e3m2": FLOATS["fp6_e3m2"],
        "mxfp6_e2m3": FLOATS["fp6_e2m3"], "mxfp4": FLOATS["fp4_e2m1"], "mxint8": IntFormat(width=8, fraction_bits=6),
    }.items():  # fmt: skip
        summary = f"blocks of 32 {element.name} with a shared power-of-two scale"
        CATALOG.add(name, Entry(summary=summary, source=mx, build=_block(element, 32), keys=("block", "rule")))
    CATALOG.add(
        "nvfp4",
        Entry(
            summary="blocks of 16 fp4_e2m1 with an E4M3 scale and a float32 scale per tensor",
            source="NVIDIA Blackwell; definition as in torchao",
            build=_block(FLOATS["fp4_e2m1"], 16, two_level=True),
            keys=("block",),
        ),
    )
    for width in (4, 6, 8):
        element = IntFormat(width=width, fraction_bits=width - 2)
        CATALOG.add(
            f"bfp{width}",
            Entry(
                summary=f"block floating point: {width}-bit signed mantissas share an 8-bit exponent",
                source="definition as in d-Matrix dmx-compressor",
                build=_block(element, 32),
                keys=("block", "rule"),
            ),
        )
    olive = "Guo et al., OliVe, ISCA 2023"
    pairs = {
        "int4": (IntFormat(width=4), AbFloat(exponent_bits=2, mantissa_bits=1, bias=2)),
        "flint4": (Flint(width=4), AbFloat(exponent_bits=2, mantissa_bits=1, bias=3)),
    }
    CATALOG.add(
        "ovp4",
        Entry(
            summary="4-bit outlier-victim pairs: int4 (or flint4) with abfloat E2M1 outliers",
            source=olive,
            build=_ovp(pairs, "int4"),
            keys=("normal",),
            words=True,
        ),
    )
    wide = {"int8": (IntFormat(width=8), AbFloat(exponent_bits=4, mantissa_bits=3, bias=4, limit=1 << 15))}
    CATALOG.add(
        "ovp8",
        Entry(
            summary="8-bit outlier-victim pairs: int8 with abfloat E4M3 outliers of bias 4, at most 2**15",
            source=f"{olive}; bias and limit are a reconstruction",
            build=_ovp(wide, "int8"),
            keys=("normal",),
            words=True,
        ),
    )


_fill()


def list_formats() -> list[str]:
    """Return the catalog names that `get_format` knows, without options.

    >>> "ovp4" in list_formats()
    True
    """
    return sorted(CATALOG)


def format_entry(text: str) -> Entry:
    """Return the catalog entry (summary, source, options) behind a format string."""
    name = text.partition(":")[0]
    return CATALOG.get(ALIASES.get(name, name))


@lru_cache(maxsize=512)
def get_format(text: str) -> TensorFormat:
    """Return the tensor format that a string names.

    Args:
        text: `NAME[:option,...]`, e.g. `int4:group=128`, `ovp4:normal=flint4`, `fp8_e4m3:token`.

    Raises:
        MacloomError: unknown name or option (with the nearest ones), or an option's bad value.

    >>> get_format("int4:group=128").bits_per_element()
    4.125
    >>> get_format("mxpf4")
    Traceback (most recent call last):
        ...
    macloom.errors.MacloomError: format: unknown name 'mxpf4'; did you mean 'mxfp4', ...? (macloom list formats)
    """
    if not isinstance(text, str):
        raise MacloomError(f"format: must be a string such as 'int4:group=128', not {type(text).__name__}")
    name, _, rest = text.strip().partition(":")
    name = ALIASES.get(name, name)
    entry = CATALOG.get(name)
    options: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in rest.split(","))):
        key, equals, value = (s.strip() for s in part.partition("="))
        if key not in entry.allowed:
            raise unknown(f"format {name!r}, option", key, entry.allowed, f"macloom show {name}")
        if bool(equals) == (key in WORDS) or (equals and not value):
            written = key if key in WORDS else f"{key}=VALUE"
            raise MacloomError(f"format {name!r}, option {key}: must be written {written}, not {part!r}")
        if key in options:
            raise MacloomError(f"format {name!r}, option {key}: is given twice")
        options[key] = value
    canonical = ",".join(f"{k}={v}" if v else k for k, v in options.items())
    return entry.build(f"{name}:{canonical}" if canonical else name, options)
