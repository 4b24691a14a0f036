"""What there is to say about a format: facts that the command line prints and the documentation shows.

Everything is read from records and asked of the format itself, so that a new one needs no words here.
"""

from __future__ import annotations

import inspect
import math
import re
from functools import lru_cache
from typing import Any

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.describe_datapath import datapath
from macloom.formats.element import MAX_TABLE_BITS, ElementFormat
from macloom.formats.grammar import POLICY_KEYS, WORDS, Probe, format_entry, under_policy
from macloom.formats.outliers.ovp import Ovp
from macloom.formats.outliers.ovp_adaptive import AdaptiveOvp
from macloom.formats.tensor import Encoded, TensorFormat

# Codes of up to this many bits are shown one by one; a longer table is no reading matter.
TABLE_BITS = 8
PROBE = (32, 64)


def format_summary(fmt: TensorFormat) -> dict[str, Any]:
    """Return the facts of a format that fit on a line.

    Bits per element are those of a 4096 x 4096 tensor, scales and padding included; the largest value
    is before scaling. A decoder of 0 bits means that codes are operands. What follows from codes is None where a
    format has none.

    >>> from macloom.formats import get_format
    >>> format_summary(get_format("mxfp4"))["bits_per_element"]
    4.25
    """
    entry = format_entry(fmt.name)
    return {
        "format": fmt.name,
        "family": entry.family.key,
        "bits_per_element": fmt.bits_per_element() if fmt.stores else None,
        "code_bits": fmt.code_bits if fmt.stores else None,
        "block": fmt.block,
        "max_value": fmt.largest_value,
        "significand_bits": fmt.operand.significand_bits if fmt.stores else None,
        "exponent_bits": fmt.operand.exponent_bits if fmt.stores else None,
        "decoder_bits": fmt.decoder_bits if fmt.stores else None,
        "datapath": datapath(fmt).kind.value if fmt.stores else None,
        "summary": entry.summary,
    }


def element_formats(fmt: TensorFormat) -> dict[str, ElementFormat]:
    """Return the element formats that the codes of a tensor format follow, by what they are for."""
    if isinstance(fmt, AdaptiveOvp):
        return {f"{use} {e.name}": e for choice in fmt.choices for use, e in element_formats(choice).items()}
    if isinstance(fmt, Ovp):
        return {"normal": fmt.normal, "outlier": fmt.outlier}
    return {"element": fmt.element}


@lru_cache(maxsize=256)
def fixed_elements(fmt: TensorFormat) -> dict[str, ElementFormat]:
    """Return the element formats whose values are those of the codes whatever the data are; none if they are not.

    Where a table is learned, a second scale counts or a code stands for several elements, the
    element format of a tensor format does not say what a code is worth. The format itself tells: what
    multipliers see of a small tensor is then not what the element format makes of its codes.

    >>> from macloom.formats import get_format
    >>> list(fixed_elements(get_format("nf4"))), list(fixed_elements(get_format("gobo3")))
    (['element'], [])
    """
    elements = element_formats(fmt)
    if len(elements) > 1:
        return elements
    element = fmt.element
    if not fmt.stores:
        return {}
    if element.bits > MAX_TABLE_BITS:
        return elements
    encoded = _probe(fmt)
    if encoded is None:
        return elements if fmt.operand == element.operand and fmt.code_bits == element.bits else {}
    units, codes = encoded.operand().units, encoded.elements
    if units.shape != codes.shape or codes.max() >= 1 << element.bits:
        return {}
    return elements if np.array_equal(units, np.take(element.units[0], codes)) else {}


def _probe(fmt: TensorFormat) -> Encoded | None:
    """Return a small tensor with outliers in stored form; None if the format takes none without further help."""
    x = np.random.default_rng(0).normal(size=PROBE).astype(np.float32)
    x[:, :: PROBE[1] // 2] *= 16
    for values in (x, np.abs(x)):
        try:
            encoded = fmt.encode(values)
            encoded.operand()
        except MacloomError:
            continue
        return encoded
    return None


def code_tables(fmt: TensorFormat) -> dict[str, dict[str, list[Any]]]:
    """Return value and exponent-integer pair of every code, and the codes that decode but are never written.

    All are before scaling, by element format, and empty where codes are too wide to list or the data decide what
    they are worth. A pair (e, i) has the value i * 2**e; it is None where a code has no finite value.
    """
    elements = {use: e for use, e in fixed_elements(fmt).items() if max(fmt.code_bits, e.bits) <= TABLE_BITS}
    return {
        "values": {use: element.values.tolist() for use, element in elements.items()},
        "pairs": {
            use: [list(element.pair(c)) if math.isfinite(v) else None for c, v in enumerate(element.values)]
            for use, element in elements.items()
        },
        "unused_codes": {
            use: [c for c, v in enumerate(element.values) if math.isfinite(v) and not element.encodes(c)]
            for use, element in elements.items()
        },
    }


def format_options(fmt: TensorFormat) -> dict[str, str]:
    """Return what each option of a format takes, the default in brackets; empty where it cannot be told.

    >>> from macloom.formats import get_format
    >>> format_options(get_format("mxfp4"))["block"]
    'an integer (32)'
    """
    entry, probe = format_entry(fmt.name), Probe()
    entry.build(fmt.name, probe)
    grains = (*WORDS, "group", "axis")
    texts = {key: probe.asked.get(key, "") for key in entry.keys if key not in grains}
    if entry.words or set(grains) & set(entry.keys):
        texts[" | ".join(WORDS)] = "what shares a scale: nothing, the tensor, a row"
        texts |= {"group": "an integer: that many elements of a row share a scale", "axis": "an integer: that axis"}
    if entry.words:
        texts["scale"] = probe.asked.get("scale", "")
    return texts


def takes_policies(fmt: TensorFormat) -> bool:
    """Whether a format takes policies (`rounding=toward_zero`), as those do that round one element at a time."""
    try:
        under_policy(fmt, {})
    except MacloomError:
        return False
    return True


def describe(fmt: TensorFormat) -> dict[str, Any]:
    """Return all facts of a format that need no data; `describe_error.noise` measures the rest.

    >>> from macloom.formats import get_format
    >>> facts = describe(get_format("fp4_e2m1"))
    >>> facts["values"]["element"][:8], facts["pairs"]["element"][3], facts["hardware"]["kind"]
    ([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], [-1, 3], 'pair')
    """
    entry = format_entry(fmt.name)
    return {
        **format_summary(fmt),
        "source": entry.source,
        "options": format_options(fmt),
        "policies": list(POLICY_KEYS) if takes_policies(fmt) else [],
        "hardware": datapath(fmt).to_dict() if fmt.stores else None,
        **code_tables(fmt),
        "definitions": definitions(fmt),
    }


def definitions(fmt: TensorFormat) -> dict[str, list[str]]:
    """Return the docstrings that define a format, in paragraphs without examples and lists, by what they belong to."""
    sources: list[Any] = [type(fmt), *(type(e) for e in fixed_elements(fmt).values()), *format_entry(fmt.name).explains]
    return {source.__name__: paragraphs(source) for source in dict.fromkeys(sources)}


def paragraphs(source: object) -> list[str]:
    """Return the paragraphs of a docstring, without its examples and its lists of arguments."""
    found: list[str] = []
    for part in re.split(r"\n\s*\n", inspect.getdoc(source) or ""):
        if re.match(r">>>|(Attributes|Args|Raises|Returns):", part):
            continue
        text = " ".join(part.split())
        if found and found[-1].endswith(":"):  # a list belongs to the sentence that announces it
            found[-1] += " " + text
        else:
            found.append(text)
    return found


def grid_points(element: ElementFormat) -> list[float]:
    """Return the values that an element format's encoder produces, ascending; empty beyond 16 bits."""
    return element.encodable[0].tolist() if element.bits <= MAX_TABLE_BITS else []
