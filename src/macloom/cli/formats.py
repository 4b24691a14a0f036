"""What the command line says about a format."""

from __future__ import annotations

import math
from typing import Any

from macloom.formats import ElementFormat, Ovp, TensorFormat, format_entry

# Codes of up to this many bits are shown one by one; a longer table is no reading matter.
TABLE_BITS = 8


def format_summary(fmt: TensorFormat) -> dict[str, Any]:
    """Return the facts of a format that fit on a line.

    Bits per element are those of a 4096 x 4096 tensor, scales and padding included; the largest value
    is before scaling. A decoder of 0 bits means that codes are operands.
    """
    return {
        "format": fmt.name,
        "bits_per_element": fmt.bits_per_element(),
        "code_bits": fmt.code_bits,
        "block": fmt.block,
        "max_value": max(element.max_value for element in element_formats(fmt).values()),
        "significand_bits": fmt.operand.significand_bits,
        "exponent_bits": fmt.operand.exponent_bits,
        "decoder_bits": fmt.decoder_bits,
        "summary": format_entry(fmt.name).summary,
    }


def element_formats(fmt: TensorFormat) -> dict[str, ElementFormat]:
    """Return the element formats that the codes of a tensor format follow, by what they are for."""
    if isinstance(fmt, Ovp):
        return {"normal": fmt.normal, "outlier": fmt.outlier}
    return {"element": fmt.element}


def code_tables(fmt: TensorFormat) -> dict[str, dict[str, list[Any]]]:
    """Return the value of every code before scaling, and the codes that decode but are never written.

    Both are by element format, and empty where codes are too wide to list.
    """
    elements = {use: e for use, e in element_formats(fmt).items() if max(fmt.code_bits, e.bits) <= TABLE_BITS}
    return {
        "values": {use: element.values.tolist() for use, element in elements.items()},
        "unused_codes": {
            use: [c for c, v in enumerate(element.values) if math.isfinite(v) and not element.encodes(c)]
            for use, element in elements.items()
        },
    }
