"""`macloom show NAME`: one format, accelerator, workload or recipe in full."""

from __future__ import annotations

import math
import textwrap
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from macloom.cli.console import Console
from macloom.errors import MacloomError, unknown
from macloom.formats import format_entry, get_format, list_formats


def run(options: Namespace, console: Console) -> None:
    """Find out what the name stands for and print it."""
    show = _finder(options.name)
    if options.routing is None:
        show(options.name, console)
    elif show is _workload:
        _workload(options.name, console, options.routing)
    else:
        raise MacloomError(f"--routing: must be left out for {options.name}, which is no workload")


def _finder(name: str) -> Callable[[str, Console], None]:
    from macloom.arch import list_accelerators, list_technologies
    from macloom.workloads import list_workloads

    if name in list_accelerators():
        return _accelerator
    if name in list_technologies():
        return _technology
    if name in list_workloads() or name.endswith(".json") or (Path(name) / "config.json").is_file():
        return _workload
    if name.endswith(".toml"):
        return _file
    if _is_format(name):
        return _format
    known = [*list_formats(), *list_accelerators(), *list_workloads(), *list_technologies()]
    raise unknown("show", name, known, "macloom list KIND")


def _is_format(name: str) -> bool:
    """Whether the part before the options is a format, so that a wrong option is reported as such."""
    try:
        format_entry(name)
    except MacloomError:
        return False
    return True


def _format(name: str, console: Console) -> None:
    from macloom.formats.describe import describe
    from macloom.formats.describe_datapath import datapath
    from macloom.formats.describe_error import DATA, noise

    fmt = get_format(name)
    data = {**describe(fmt), "sqnr_db": noise(fmt), "sqnr_data": DATA}
    hardware = datapath(fmt).text if fmt.stores else "none: it has values alone, no codes"
    console.emit(data, lambda: _show_format(data, hardware, console))


def _show_format(facts: dict[str, Any], hardware: str, console: Console) -> None:
    options = facts["options"]
    width = max(map(len, options), default=0)
    taken = [f"{key:<{width}}  {text}".rstrip() for key, text in options.items()]
    noise = [f"{db:.1f} dB, {facts['sqnr_data'][name]}" for name, db in facts["sqnr_db"].items()]
    policies = ", ".join(facts["policies"]) or "none: the method rounds by itself"
    console.lines(
        [
            ("format", facts["format"]),
            ("summary", facts["summary"]),
            ("family", facts["family"]),
            ("source", facts["source"]),
            ("bits per element", _storage(facts["bits_per_element"])),
            ("largest value", f"{facts['max_value']:g} before scaling"),
            ("elements per scale", facts["block"] or "a whole row or more"),
            ("hardware", hardware),
            *zip(["SQNR", *[""] * len(noise)], noise, strict=False),
            *zip(["options", *[""] * len(taken)], taken or ["none"], strict=False),
            ("policies", policies),
        ]
    )
    for name, paragraphs in facts["definitions"].items():
        print(f"\n{name}:")
        for paragraph in paragraphs:
            print(textwrap.fill(paragraph, 100, initial_indent="  ", subsequent_indent="  "))
    for use, values in facts["values"].items():
        unused, pairs = set(facts["unused_codes"][use]), facts["pairs"][use]
        note = " (* decodes, but the encoder never writes it)" if unused else ""
        print(f"\n{use} codes, their values before scaling, and e,i with value = i * 2**e{note}:")
        written = ["" if pair is None else f"{pair[0]},{pair[1]}" for pair in pairs]
        longest = max(map(len, written))
        cells = [
            f"{code:0{facts['code_bits']}b} {_value(value):>11}{'*' if code in unused else ' '} {text:>{longest}}"
            for code, (value, text) in enumerate(zip(values, written, strict=True))
        ]
        height = -(-len(cells) // 4)
        for row in range(height):
            print("  ".join(cells[row::height]).rstrip())


def _storage(bits_per_element: float | None) -> str:
    if bits_per_element is None:
        return "none: the released code that this models stores no bit patterns; only quantize works"
    return f"{bits_per_element:.6g}, scales and padding of a 4096 x 4096 tensor included"


def _value(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:g}"


def _accelerator(name: str, console: Console) -> None:
    from macloom.arch import accelerator_to_toml, load_accelerator

    accelerator = load_accelerator(name)
    configuration = accelerator.to_dict()
    console.emit(configuration, lambda: _show_accelerator(accelerator_to_toml(accelerator), configuration))


def _show_accelerator(toml: str, configuration: dict[str, Any]) -> None:
    """Print TOML that `load_accelerator` reads back, with the technology's constants as comments."""
    technology = configuration["technology"]
    print(toml)
    print(f"# Constants of the technology {technology['name']}, which the line `technology = ...` stands for:")
    for line in _constant_lines(technology["constants"]):
        print(f"# {line}")


def _technology(name: str, console: Console) -> None:
    from macloom.arch import load_technology

    technology = load_technology(name)
    constants = {
        key: {field: getattr(c, field) for field in c.__dataclass_fields__} for key, c in technology.constants.items()
    }
    data = {
        "technology": technology.name,
        "description": technology.description,
        "node_nm": technology.node_nm,
        "voltage_v": technology.voltage_v,
        "constants": constants,
    }
    console.emit(data, lambda: print(f"{technology.description}\n\n" + "\n".join(_constant_lines(constants))))


def _constant_lines(constants: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line for each constant (value, unit, how it is known, node), then the numbered sources."""
    sources = list(dict.fromkeys(c["source"] for c in constants.values()))
    width = max(map(len, constants))
    for name, c in constants.items():
        node = "-" if c["node_nm"] is None else f"{c['node_nm']:g} nm"
        number = sources.index(c["source"]) + 1
        yield f"{name:<{width}}  {c['value']:>10.4g} {c['unit']:<6}  {c['kind']:<9}  {node:>5}  [{number}]"
    for number, source in enumerate(sources, 1):
        yield f"[{number}] {source}"


def _workload(name: str, console: Console, routing: str | None = None) -> None:
    from macloom.cli.operations import show_workload
    from macloom.workloads import load_workload
    from macloom.workloads.routing import load_routing

    show_workload(load_workload(name, routing=load_routing(routing or "uniform")), console)


def _file(name: str, console: Console) -> None:
    """Show a TOML file: a recipe if it names formats for tensors, else an accelerator."""
    import tomllib

    from macloom.workloads import Role, load_recipe

    try:
        document = tomllib.loads(Path(name).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MacloomError(f"{name}: malformed TOML: {error}") from None
    if {"format", *map(str, Role)} & set(document):
        recipe = load_recipe(Path(name))
        console.emit(recipe.to_dict(), lambda: print(recipe.to_toml(), end=""))
    else:
        _accelerator(name, console)
