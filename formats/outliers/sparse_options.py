"""Options that dense-plus-sparse formats share."""

from __future__ import annotations

import math
from enum import StrEnum

from macloom.errors import MacloomError, unknown
from macloom.formats.elements.minifloat import FP16, FP32, FloatFormat
from macloom.formats.grammar import Options, note_option

FLOATS = {"fp16": FP16, "fp32": FP32}


class Mode(StrEnum):
    """PAPER: what the publication says. UPSTREAM: what released code does where it differs."""

    PAPER = "paper"
    UPSTREAM = "upstream"


def number_option(options: Options, key: str, default: float) -> float:
    """Return the number that an option gives, infinities allowed."""
    note_option(options, key, f"a number ({default:g})")
    text = options.get(key)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise MacloomError(f"format option {key}: must be a number, not {text!r}")
    return value


def fraction_option(options: Options, key: str, default: float) -> float:
    """Return the share, from 0 to below 1, that an option gives."""
    value = number_option(options, key, default)
    if not 0 <= value < 1:
        raise MacloomError(f"format option {key}: must be from 0 to below 1, not {options[key]!r}")
    return value


def float_option(options: Options, key: str, default: FloatFormat) -> FloatFormat:
    """Return fp16 or fp32, as an option says."""
    note_option(options, key, f"{', '.join(FLOATS)} ({default.label})")
    name = options.get(key, default.label)
    if name not in FLOATS:
        raise unknown(f"format option {key}", name, FLOATS)
    return FLOATS[name]
