"""Rebuild the pages and pictures of the formats from the catalog: `python docs/rebuild_formats.py`."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from format_pictures import data_hash, members, picture

from macloom._files import write_atomically
from macloom.formats import ElementFormat, TensorFormat, format_entry, get_format, list_formats
from macloom.formats.describe import definitions, fixed_elements, format_options, paragraphs, takes_policies
from macloom.formats.describe_datapath import Datapath, datapath
from macloom.formats.describe_error import DATA, noise, one_sided
from macloom.formats.families import FAMILIES, Family
from macloom.formats.grammar import POLICY_KEYS
from macloom.formats.policy import DEFAULT_POLICY, NanPolicy, Overflow, Rounding, ZeroPolicy

HERE = Path(__file__).resolve().parent / "formats"
NOTE = "<!-- Made by docs/rebuild_formats.py from the catalog. Change the catalog, not this page. -->"
LISTED_BITS = 5  # wider element formats get a row for each binade
BINADES = 24

PICTURE = (
    "Left: the values that codes have, relative to the largest. Right: the distance to the next larger value, relative "
    "to the value, where data do not change it. Formats of more than 8 bits are not drawn."
)
POLICIES = "[policies](index.md#policies)"
NUMBERS = (
    "A block is the elements of a row that share a scale, where it is not a whole row or tensor. Bits per element are "
    "exact and count scales, tables, indices and padding of a 4096 x 4096 tensor. The last three columns are signal to "
    "quantization noise in dB on the data that [Formats](index.md) describes."
)
MAGNITUDES = " ⁺ On magnitudes: the format stores no negative values."
NOISE = (
    "Signal to quantization noise ratio, 10 log10 of the sum of squares over the sum of squared errors, of 256 x 256 "
    "elements from a fixed seed, each format calibrated on the same data as it is by default:"
)
HARDWARE = (
    "The class of a datapath follows from the exponent-integer pair (e, i), worth i times 2^e, that a processing "
    "element multiplies after decoding: the integers multiply and the exponents add. The first class that holds:"
)
COSTS = (
    "A multiplier of n x n bits takes signed significands and costs about (n - 1)² full adders; a table of 2^b entries "
    "decodes b bits, unless arithmetic does; a sparse path is a second multiplier for the few elements stored apart."
)


# -- words -----------------------------------------------------------------------------------------


def escape(text: str) -> str:
    """Return a docstring's text as Markdown: what is not quoted as code stands for itself."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"([*_<|\[\]])", r"\\\1", p) for p in parts)


def number(value: float) -> str:
    return f"{value:.6g}"


def table(head: Sequence[str], rows: Sequence[Sequence[object]], left: int = 1) -> str:
    """Return a Markdown table whose first `left` columns are words."""
    rule = ["---" if i < left else "--:" for i in range(len(head))]
    lines = [head, rule, *[[str(c) for c in row] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


# -- facts -----------------------------------------------------------------------------------------


@cache
def measured(name: str) -> tuple[str, ...]:
    """Return the SQNR of a format on each kind of data, in dB."""
    return tuple("exact" if math.isinf(db) else f"{db:.1f}" for db in noise(get_format(name)).values())


def side(fmt: TensorFormat) -> str:
    return str(fmt.block) if fmt.block else "-"


def facts_table(names: Sequence[str]) -> str:
    rows = []
    for name in names:
        fmt = get_format(name)
        bits = number(fmt.bits_per_element())
        decibels = (f"{db}{'⁺' if one_sided(fmt) else ''}" for db in measured(name))
        rows.append([f"`{name}`", escape(format_entry(name).summary), datapath(fmt).text, side(fmt), bits, *decibels])
    head = ("format", "what it is", "hardware", "block", "bits per element", *DATA)
    return table(head, rows, 3)


def sources(names: Sequence[str]) -> str:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(format_entry(name).source, []).append(f"`{name}`")
    return "\n".join(f"- {', '.join(n)}: {escape(source)}" for source, n in found.items())


def options(names: Sequence[str]) -> Iterator[str]:
    found: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for name in names:
        fmt = get_format(name)
        taken = tuple(format_options(fmt).items())
        if takes_policies(fmt):
            taken += ((", ".join(POLICY_KEYS), "policies"),)
        found.setdefault(taken, []).append(f"`{name}`")
    for taken, which in found.items():
        yield f"{', '.join(which)}:"
        rows = [
            [f"`{re.sub(r' [|] |, ', '` `', key)}`", POLICIES if text == "policies" else escape(text)]
            for key, text in taken
        ]
        yield table(("option", "takes (default)"), rows, 2) if taken else "no options."


# -- values ----------------------------------------------------------------------------------------


def elements(names: Sequence[str]) -> dict[ElementFormat, list[str]]:
    """Return the element formats of some formats that data do not change, and which formats use each."""
    found: dict[ElementFormat, list[str]] = {}
    for name in names:
        for element in fixed_elements(get_format(name)).values():
            found.setdefault(element, []).append(name)
    return found


def code_table(element: ElementFormat) -> str:
    """Return every code with its value and pair, down four columns."""
    cells = []
    for code, value in enumerate(element.values):
        if not math.isfinite(value):
            text = ("NaN" if code == element.nan_code else "not used") if math.isnan(value) else number(value)
            cells.append([f"`{code:0{element.bits}b}`", text, ""])
        else:
            e, i = element.pair(code)
            mark = "" if element.encodes(code) else " (never written)"
            cells.append([f"`{code:0{element.bits}b}`", f"{number(value)}{mark}", f"{e}, {i}"])
    columns = 4 if len(cells) > 8 else 2 if len(cells) > 2 else 1
    height = -(-len(cells) // columns)
    rows = [[cell for c in range(columns) for cell in cells[row + c * height]] for row in range(height)]
    return table(("code", "value", "e, i") * columns, rows, 0)


def binade_table(element: ElementFormat) -> str:
    """Return the positive values in rows of one binade each: how many, from where to where, in which step."""
    values, codes = (a[element.encodable[0] > 0] for a in element.encodable)
    binade = np.frexp(values)[1] - 1
    rows = []
    for b in np.unique(binade):
        own, own_codes = values[binade == b], codes[binade == b]
        steps = np.unique(np.diff(own))
        step = number(steps[0]) if len(steps) == 1 else "-" if not len(steps) else f"{steps[0]:.4g} ... {steps[-1]:.4g}"
        first = f"{own_codes[0]:0{element.bits}b}"
        e, i = element.pair(int(own_codes[0]))
        rows.append([f"2^{b}", f"{number(own[0])} ... {number(own[-1])}", len(own), step, f"`{first}`", f"{e}, {i}"])
    if len(rows) > BINADES:
        middle = len(rows) - BINADES
        rows[BINADES // 2 : -(BINADES // 2)] = [[f"{middle} more", "...", "", "", "", ""]]
    head = ("binade", "values", "how many", "step", "first code", "its e, i")
    return table(head, rows, 2)


def element_facts(element: ElementFormat) -> str:
    values = element.encodable[0]
    positive = values[values > 0]
    special = [f"NaN at `{element.nan_code:0{element.bits}b}`"] if element.nan_code is not None else []
    special += ["infinities"] if element.infinity else []
    smallest = f", the smallest positive one {number(positive[0])}" if len(positive) else ""
    return (
        f"{len(values)} values from {number(values[0])} to {number(values[-1])}{smallest}; "
        f"{', '.join(special) or 'no NaN or infinities'}."
    )


def value_sections(names: Sequence[str]) -> Iterator[str]:
    for element, users in elements(names).items():
        used = ", ".join(f"`{u}`" for u in dict.fromkeys(users))
        yield f"### {element.name}"
        if element.bits > 16:
            yield f"The element of {used}; {element.bits} bits, too many to list."
            continue
        yield f"The element of {used}: {element_facts(element)}"
        yield code_table(element) if element.bits <= LISTED_BITS else binade_table(element)
    learned = [f"`{n}`" for n in names if not fixed_elements(get_format(n))]
    if learned:
        yield (
            f"What a code of {', '.join(learned)} is worth depends on the tensor; the picture shows the values "
            "in one row of the normal data."
        )


# -- pages -----------------------------------------------------------------------------------------


def definition_sections(names: Sequence[str], family: Family) -> Iterator[str]:
    found: dict[str, list[str]] = {}
    for name in names:
        found |= definitions(get_format(name))
    differ = {
        title: [p for p in texts if re.search(r"upstream|released|differ|depart", p, re.IGNORECASE)]
        for title, texts in found.items()
    }
    yield "## Definition"
    for title, texts in found.items():
        rest = [p for p in texts if p not in differ[title]]
        if rest:
            yield f"### {title}"
            yield from map(escape, rest)
    for path in family.related:
        module = importlib.import_module(path)
        yield f"### {path.rpartition('.')[2]}"
        yield from map(escape, paragraphs(module))
    if any(differ.values()):
        yield "## The paper and released code"
        for title, texts in differ.items():
            for p in texts:
                yield f"**{title}.** {escape(p)}"


def page(family: Family) -> str:
    """Return the Markdown page of a family."""
    names = members(family)
    parts = [
        NOTE,
        f"# {family.title}",
        escape(family.text),
        f"![Where the values lie, and the relative step between them]({family.key}.svg)",
        PICTURE,
        facts_table(names),
        NUMBERS + (MAGNITUDES if any(one_sided(get_format(n)) for n in names) else ""),
        "## Sources",
        sources(names),
        "## Values before scaling",
        *value_sections(names),
        "## Options",
        *options(names),
        *definition_sections(names, family),
    ]
    return "\n\n".join(parts) + "\n"


def index() -> str:
    """Return the page that leads to the others."""
    kinds = "\n".join(f"- **{kind.value}**: {escape(text)}" for kind, text in zip(Datapath, _kind_texts(), strict=True))
    rows = []
    for key in FAMILIES:
        family = FAMILIES.get(key)
        names = members(family)
        rows.append([f"[{family.title}]({key}.md)", ", ".join(f"`{n}`" for n in names)])
    data = "\n".join(f"- **{name}**: {text}" for name, text in DATA.items())
    return (
        "\n\n".join(
            [
                NOTE,
                "# Formats",
                f"{len(list_formats())} names, each with options after a colon (`int4:group=128`). `macloom show NAME` "
                "prints what these pages say of a format, with the options that you give it; `macloom list formats` "
                "lists the names.",
                table(("page", "formats"), rows, 2),
                "## Noise",
                NOISE,
                data,
                "A number says how a format treats that distribution, not how a model fares with it; "
                "see [Language models](../language-models.md) for that.",
                "## Policies",
                "How elements are rounded is an option of every format that rounds them one by one, as in "
                "`fp8_e4m3:rounding=toward_zero`; methods that fit tables or pairs round by themselves.",
                *policies(),
                "## Hardware",
                HARDWARE,
                kinds,
                COSTS,
            ]
        )
        + "\n"
    )


def policies() -> Iterator[str]:
    """Yield a paragraph for each policy: its key, its choices and its docstring."""
    kinds = {"rounding": Rounding, "overflow": Overflow, "nan": NanPolicy, "zero": ZeroPolicy}
    for key in POLICY_KEYS:
        if key in kinds:
            choices = ", ".join(f"`{choice.value}`" for choice in kinds[key])
            yield f"`{key}`: {choices}. {escape(' '.join(paragraphs(kinds[key])))}"
        else:
            yield f"`{key}`: bits of each random draw of stochastic rounding, 1 to 16 ({DEFAULT_POLICY.draw_bits})."


def _kind_texts() -> list[str]:
    """Return what the docstring of `Datapath` says of each member."""
    text = " ".join((Datapath.__doc__ or "").split())
    return [re.split(r" [A-Z]+: ", part)[0].strip() for part in re.split(r"\b[A-Z]{3,}: ", text)[1:]]


def pages() -> dict[str, str]:
    """Return the text of every page by its path below docs/formats."""
    return {"index.md": index()} | {f"{key}.md": page(FAMILIES.get(key)) for key in FAMILIES}


def main() -> None:
    HERE.mkdir(exist_ok=True)
    for name, text in pages().items():
        write_atomically(HERE / name, text)
    for key in FAMILIES:
        path = HERE / f"{key}.svg"
        mark = f"<!-- data {data_hash(FAMILIES.get(key))} -->"
        if not path.exists() or mark not in path.read_text(encoding="utf-8"):
            write_atomically(path, picture(FAMILIES.get(key)))


if __name__ == "__main__":
    main()
