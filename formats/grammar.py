"""The grammar of format strings, NAME[:option,...], and the register of the names it knows.

An option is a granularity word (`tensor`, `token`, `channel`, `row`, `none`) or `key=value`. Every
entry says which keys it takes; policies (`rounding=toward_zero`) go with every format that rounds
elements one by one. The module that defines a family of formats registers its names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import TypeVar

from macloom._registry import Registry
from macloom.errors import MacloomError, unknown
from macloom.formats.element import MAX_TABLE_BITS, ElementFormat, check_overflow_policy
from macloom.formats.elements.integer import IntFormat
from macloom.formats.elements.minifloat import BF16, FP16, FP32, FloatFormat
from macloom.formats.families import Family
from macloom.formats.policy import DEFAULT_POLICY, NanPolicy, Overflow, Policy, Rounding, ZeroPolicy
from macloom.formats.scale_storage import SCALE_STORAGES
from macloom.formats.scales import E4M3, E8M0, Grain, Granularity, ScaleFormat
from macloom.formats.tensor import TensorFormat
from macloom.formats.tensors.block import Block
from macloom.formats.tensors.scaled import Scaled

Options = Mapping[str, str]
Builder = Callable[[str, Options], TensorFormat]
C = TypeVar("C", bound=StrEnum)

SCALE_FORMATS = {"fp32": FP32, "fp16": FP16, "bf16": BF16, "e8m0": E8M0, "e4m3": E4M3}
WORDS = {
    "none": Grain.NONE,
    "tensor": Grain.TENSOR,
    "row": Grain.ROW,
    "token": Grain.ROW,
    "channel": Grain.ROW,
}


# Options that any format takes whose elements are rounded one by one; see `macloom.formats.policy`.
POLICY_KEYS = ("rounding", "overflow", "nan", "zero", "draw_bits")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One catalog name: what it is, and how its options make the format.

    Attributes:
        summary: one line for the listing.
        source: paper or standard that defines it.
        family: the page of the documentation that it belongs to.
        keys: options it takes besides granularity words.
        words: whether it takes granularity words, `group=` and `axis=`.
        explains: what else documents it: functions or classes whose docstrings say how it is made.
    """

    summary: str
    source: str
    family: Family
    build: Builder
    keys: tuple[str, ...] = ()
    words: bool = False
    explains: tuple[object, ...] = ()

    @property
    def allowed(self) -> tuple[str, ...]:
        return (*self.keys, *((*WORDS, "group", "axis", "scale") if self.words else ()))


CATALOG: Registry[Entry] = Registry("format", "macloom list formats")
ALIASES = {"mxfp8": "mxfp8_e4m3", "mxfp6": "mxfp6_e3m2"}


class Probe(dict[str, str]):
    """Options that are empty and note what a builder asks of them: for each key its choices, or its default.

    >>> probe = Probe()
    >>> integer_option(probe, "block", 32), probe.asked
    (32, {'block': 'an integer (32)'})
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: dict[str, str] = {}

    def get(self, key: str, default: str | None = None) -> str | None:  # type: ignore[override]
        self.asked.setdefault(key, f"({default})" if default else "")
        return default


def note_option(options: Options, key: str, text: str) -> None:
    """Say what an option takes, the default in brackets, to options that want to know."""
    if isinstance(options, Probe):
        options.asked[key] = text


def integer_option(options: Options, key: str, default: int) -> int:
    """Return the integer value of an option, or the default."""
    note_option(options, key, f"an integer ({default})")
    text = options.get(key)
    if text is None:
        return default
    try:
        return int(text)
    except ValueError:
        raise MacloomError(f"format option {key}: must be an integer, not {text!r}") from None


def as_choice(path: str, value: object, kind: type[C]) -> C:
    """Return the member of an enumeration that `value` is or names.

    Raises:
        MacloomError: there is none.
    """
    try:
        return kind(value)
    except ValueError:
        raise unknown(path, value, [choice.value for choice in kind]) from None


def choice_option(options: Options, key: str, *choices: C) -> C:
    """Return the one of `choices` that an option names, the first by default."""
    note_option(options, key, f"{', '.join(c.value for c in choices)} ({choices[0].value})")
    text = options.get(key, choices[0].value)
    for choice in choices:
        if choice.value == text:
            return choice
    raise unknown(f"format option {key}", text, [c.value for c in choices])


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
    note_option(options, "scale", f"{', '.join((*SCALE_FORMATS, *SCALE_STORAGES))} ({default})")
    name = options.get("scale", default)
    if name not in SCALE_FORMATS:
        raise unknown("format option scale", name, [*SCALE_FORMATS, *SCALE_STORAGES])
    return SCALE_FORMATS[name]


def stored_scale_option(options: Options, granularity: Granularity) -> ScaleFormat:
    """Return how scales are stored, which may be in two levels; otherwise as `scale_option`."""
    storage = SCALE_STORAGES.get(options.get("scale", ""))
    if storage is None:
        return scale_option(options, granularity)
    if storage.grouped and granularity.grain is not Grain.GROUP:
        raise MacloomError(f"format option scale: {storage.name!r} stores the scales of groups; name 'group=N', too")
    return storage


def policy_option(options: Options) -> Policy:
    """Return the policies that the options name, the default ones otherwise."""
    rounding = options.get("rounding")
    return Policy(
        rounding=None if rounding is None else as_choice("format option rounding", rounding, Rounding),
        overflow=choice_option(options, "overflow", *Overflow),
        nan=choice_option(options, "nan", *NanPolicy),
        zero=choice_option(options, "zero", *ZeroPolicy),
        draw_bits=integer_option(options, "draw_bits", DEFAULT_POLICY.draw_bits),
    )


def under_policy(fmt: TensorFormat, options: Options) -> TensorFormat:
    """Return a format under the policies that the options name.

    Raises:
        MacloomError: it takes none, or its elements do not know what they ask for.
    """
    policy = policy_option(options)
    if not isinstance(fmt, Scaled | Block) or type(fmt)._encode not in (Scaled._encode, Block._encode):
        raise MacloomError(
            f"format {fmt.name!r}: takes no policies ({', '.join(options)}); its method rounds by itself"
        )
    if fmt.element.bits > MAX_TABLE_BITS:
        raise MacloomError(f"format {fmt.name!r}: takes no policies ({', '.join(options)}); float32 is not rounded")
    if policy.overflow is not Overflow.WRAP or not isinstance(fmt.element, IntFormat):
        check_overflow_policy(fmt.element, policy.overflow)
    return replace(fmt, policy=policy)


def scaled(element: ElementFormat, default: Grain = Grain.TENSOR) -> Builder:
    """Return the builder of scaled tensors of one element format."""

    def build(name: str, options: Options) -> TensorFormat:
        granularity = granularity_option(options, default)
        stored = stored_scale_option(options, granularity)
        return Scaled(name=name, element=element, granularity=granularity, scale_format=stored)

    return build


def integers(make: Callable[[Options], IntFormat]) -> Builder:
    """Return the builder of scaled tensors of integers; those that use every code are scaled to all of them."""

    def build(name: str, options: Options) -> TensorFormat:
        element = make(options)
        made = scaled(element)(name, options)
        return replace(made, full_range=element.signed and not element.symmetric)  # type: ignore[type-var]

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
    return _format_named(text)


@lru_cache(maxsize=512)
def _format_named(text: str) -> TensorFormat:
    name, _, rest = text.partition(":")
    name = ALIASES.get(name.strip(), name.strip())
    entry = CATALOG.get(name)
    options: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in rest.split(","))):
        key, equals, value = (s.strip() for s in part.partition("="))
        if key not in (*entry.allowed, *POLICY_KEYS):
            raise unknown(f"format {name!r}, option", key, entry.allowed, f"macloom show {name}")
        if bool(equals) == (key in WORDS) or (equals and not value):
            written = key if key in WORDS else f"{key}=VALUE"
            raise MacloomError(f"format {name!r}, option {key}: must be written {written}, not {part!r}")
        if key in options:
            raise MacloomError(f"format {name!r}, option {key}: is given twice")
        options[key] = value
    canonical = ",".join(f"{k}={v}" if v else k for k, v in options.items())
    policies = {key: options.pop(key) for key in POLICY_KEYS if key in options}
    fmt = entry.build(f"{name}:{canonical}" if canonical else name, options)
    return under_policy(fmt, policies) if policies else fmt
