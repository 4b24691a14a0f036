"""The grammar of format strings, NAME[:option,...], and the register of the names it knows.

An option is a granularity word (`tensor`, `token`, `channel`, `row`, `none`) or `key=value`. Every
entry says which keys it takes. The module that defines a family of formats registers its names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from macloom._registry import Registry
from macloom.errors import MacloomError, unknown
from macloom.formats.element import ElementFormat
from macloom.formats.minifloat import BF16, FP16, FP32, FloatFormat
from macloom.formats.scaled import Scaled
from macloom.formats.scales import Grain, Granularity
from macloom.formats.tensor import TensorFormat

Options = Mapping[str, str]
Builder = Callable[[str, Options], TensorFormat]

SCALE_FORMATS = {"fp32": FP32, "fp16": FP16, "bf16": BF16}
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
    build: Builder
    keys: tuple[str, ...] = ()
    words: bool = False

    @property
    def allowed(self) -> tuple[str, ...]:
        return (*self.keys, *((*WORDS, "group", "axis", "scale") if self.words else ()))


CATALOG: Registry[Entry] = Registry("format", "macloom list formats")
ALIASES = {"mxfp8": "mxfp8_e4m3", "mxfp6": "mxfp6_e3m2"}


def integer_option(options: Options, key: str, default: int) -> int:
    """Return the integer value of an option, or the default."""
    text = options.get(key)
    if text is None:
        return default
    try:
        return int(text)
    except ValueError:
        raise MacloomError(f"format option {key}: must be an integer, not {text!r}") from None


def granularity_option(options: Options, default: Grain) -> Granularity:
    """Return the granularity that the options name, or the default one."""
    chosen = [key for key in options if key in WORDS or key in ("group", "axis")]
    if len(chosen) > 1:
        raise MacloomError(f"format options: name one granularity, not {' and '.join(chosen)}")
    if not chosen:
        return Granularity(grain=default)
    match chosen[0]:
        case "group":
            return Granularity(grain=Grain.GROUP, size=integer_option(options, "group", 0))
        case "axis":
            return Granularity(grain=Grain.AXIS, axis=integer_option(options, "axis", 0))
        case word:
            return Granularity(grain=WORDS[word])


def scale_option(options: Options, granularity: Granularity) -> FloatFormat:
    """Return the format that scales are stored in: float16 for groups and float32 otherwise, unless given."""
    default = "fp16" if granularity.grain is Grain.GROUP else "fp32"
    name = options.get("scale", default)
    if name not in SCALE_FORMATS:
        raise unknown("format option scale", name, SCALE_FORMATS)
    return SCALE_FORMATS[name]


def scaled(element: ElementFormat, default: Grain = Grain.TENSOR) -> Builder:
    """Return the builder of scaled tensors of one element format."""

    def build(name: str, options: Options) -> TensorFormat:
        granularity = granularity_option(options, default)
        return Scaled(
            name=name, element=element, granularity=granularity, scale_format=scale_option(options, granularity)
        )

    return build


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
