"""Every catalog name, and what its options make, holds what `macloom.testing` says of formats."""

from __future__ import annotations

import re

import pytest

from macloom.formats import ElementFormat, IntFormat, Ovp, format_entry, get_format, list_formats
from macloom.formats.elements.flint import Flint
from macloom.formats.elements.minifloat import FloatFormat, Specials
from macloom.formats.grammar import WORDS
from macloom.formats.scales import E8M0
from macloom.testing import ELEMENT_CHECKS, TENSOR_CHECKS, check_element_format, check_tensor_format

# The values that options take in the variants below; an unknown key is left at its default.
VARIANTS = {
    "rule": ("ceil", "even", "rceil"),
    "block": ("8", "24"),
    "normal": ("flint4",),
    "group": ("16",),
    "axis": ("0",),
    "scale": ("fp16", "bf16"),
    "range": ("full",),
}
THOROUGH = ("int4", "uint4", "fp8_e4m3", "mxfp4", "mxfp8_e4m3", "mxint8", "nvfp4", "ovp4")
BRIEF = ("quantize", "packing", "scale", "idempotent", "operand", "facts")


def elements() -> dict[str, ElementFormat]:
    """Return every element format of the catalog, and some that only a user would build."""
    found: dict[str, ElementFormat] = {}
    for name in list_formats():
        fmt = get_format(name)
        for element in (getattr(fmt, "element", None), fmt.outlier if isinstance(fmt, Ovp) else None):
            if element is not None and element.bits <= 16 and len(element.encodable[0]) > 1:
                found[element.name] = element
    own: list[ElementFormat] = [
        IntFormat(width=4, symmetric=False),
        IntFormat(width=16, fraction_bits=14),
        IntFormat(width=12, signed=False, fraction_bits=3),
        FloatFormat(label="e3m4", exponent_bits=3, mantissa_bits=4, specials=Specials.IEEE),
        FloatFormat(label="e5m0", exponent_bits=5, mantissa_bits=0),
        FloatFormat(label="e1m6", exponent_bits=1, mantissa_bits=6, bias=0),
        FloatFormat(label="e4m3b11fnuz", exponent_bits=4, mantissa_bits=3, bias=11, specials=Specials.FNUZ),
        FloatFormat(label="ue5m3", exponent_bits=5, mantissa_bits=3, signed=False, specials=Specials.IEEE),
        E8M0,
        *(Flint(width=w, signed=s) for w in range(3, 9) for s in (True, False)),
    ]
    for element in own:
        label = f"{element.name}{'' if getattr(element, 'symmetric', True) else ' asymmetric'}"
        found.setdefault(label, element)
    return found


def variants() -> list[str]:
    """Return format strings with options: all that are known for some names, two for each of the others."""
    texts = []
    for name in list_formats():
        entry = format_entry(name)
        if name not in THOROUGH:
            texts += [f"{name}:{option}" for option in ("token", "group=16") if option.split("=")[0] in entry.allowed]
            continue
        texts += [f"{name}:{word}" for word in WORDS if word in entry.allowed]
        options = [f"{key}={value}" for key in entry.allowed for value in VARIANTS.get(key, ())]
        texts += [f"{name}:{option}" for option in options if (name, option) != ("ovp8", "normal=flint4")]
        if "group" in entry.allowed:
            texts.append(f"{name}:group=8,scale=fp32")
    return texts


ELEMENTS = elements()


@pytest.mark.parametrize("name", list_formats())
def test_tensor_format_conforms(name: str) -> None:
    check_tensor_format(get_format(name))


@pytest.mark.parametrize("name", ELEMENTS)
def test_element_format_conforms(name: str) -> None:
    check_element_format(ELEMENTS[name])


@pytest.mark.parametrize("text", variants())
def test_format_with_options_conforms(text: str) -> None:
    fmt = get_format(text)
    for check in BRIEF:
        TENSOR_CHECKS[check](fmt)
    if text.startswith(("mx", "nvfp4", "int4")) or text == "ovp4:normal=flint4":
        for check in ("power_of_two", "zeros", "exponents"):
            TENSOR_CHECKS[check](fmt)


@pytest.mark.parametrize("name", [*list_formats(), *variants()])
def test_name_reads_back_as_an_equal_format(name: str) -> None:
    fmt = get_format(name)
    assert get_format(fmt.name) == fmt
    assert hash(get_format(fmt.name)) == hash(fmt)


def test_aliases_name_the_same_format() -> None:
    assert get_format("mxfp8") == get_format("mxfp8_e4m3")
    assert get_format("mxfp6") == get_format("mxfp6_e3m2")


CONTRACT = """fp32 fp16 bf16 int2 int3 int4 int5 int6 int7 int8 uint4 uint8 fp8_e4m3 fp8_e5m2 fp6_e3m2 fp6_e2m3
fp4_e2m1 flint4 mxfp8_e4m3 mxfp8_e5m2 mxfp6_e3m2 mxfp6_e2m3 mxfp4 mxint8 nvfp4 bfp4 bfp8 ovp4 ovp8"""


@pytest.mark.parametrize("name", re.findall(r"\S+", CONTRACT))
def test_catalog_keeps_its_first_names(name: str) -> None:
    assert name in list_formats()


@pytest.mark.parametrize(
    "name, significand, exponent, decoder_bits, decoder_elements",
    [
        ("int4", 4, 0, 0, 1),
        ("int8", 8, 0, 0, 1),
        ("fp4_e2m1", 3, 2, 4, 1),
        ("fp8_e4m3", 5, 4, 8, 1),
        ("fp16", 12, 5, 16, 1),
        ("ovp4", 4, 3, 8, 2),
        ("ovp8", 8, 4, 16, 2),
        ("flint4", 3, 3, 4, 1),
    ],
)
def test_operand_classes_are_those_of_the_hardware(
    name: str, significand: int, exponent: int, decoder_bits: int, decoder_elements: int
) -> None:
    fmt = get_format(name)
    got = (fmt.operand.significand_bits, fmt.operand.exponent_bits, fmt.decoder_bits, fmt.decoder_elements)
    assert got == (significand, exponent, decoder_bits, decoder_elements)


@pytest.mark.parametrize(
    "name, shape, bits",
    [
        ("int4", (3, 5), 3 * 24 + 32),  # rows end at a byte
        ("int4:token", (3, 5), 3 * 24 + 3 * 32),
        ("int4:group=128", (2, 256), 2 * 1024 + 4 * 16),
        ("int3:tensor", (2, 3), 2 * 16 + 32),
        ("fp16", (2, 3), 96),
        ("fp32", (2, 3), 192),
        ("mxfp4", (2, 32), 2 * (128 + 8)),
        ("mxfp4", (1, 33), 17 * 8 + 2 * 8),
        ("mxfp6_e3m2", (1, 32), 192 + 8),
        ("nvfp4", (4, 16), 4 * (64 + 8) + 32),
        ("bfp4:block=128", (1, 128), 512 + 8),
        ("ovp4", (2, 5), 2 * 24 + 32),
        ("ovp8", (2, 5), 2 * 48 + 32),
        ("ovp4", (), 8 + 32),
        ("int8:axis=0", (4, 6), 192 + 4 * 32),
    ],
)
def test_storage_bits_counted_by_hand(name: str, shape: tuple[int, ...], bits: int) -> None:
    assert get_format(name).storage_bits(shape) == bits


def test_every_check_of_the_kit_is_run() -> None:
    assert set(BRIEF) <= set(TENSOR_CHECKS)
    assert len(TENSOR_CHECKS) >= 14
    assert len(ELEMENT_CHECKS) >= 10
