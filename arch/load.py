"""Accelerators and technology tables from TOML files, and back to TOML."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from macloom.arch._check import choose
from macloom.arch._table import Table, read_toml
from macloom.arch.accelerator import Accelerator, VectorUnit
from macloom.arch.array import AccumulatorKind, Array, Dataflow, ProcessingElement
from macloom.arch.dram_presets import NUMBERS, load_memory
from macloom.arch.memory import Buffers, Dram, Sram
from macloom.arch.technology import Constant, Technology, unit_of
from macloom.errors import MacloomError, unknown
from macloom.units import format_quantity

R = TypeVar("R")
PRESETS = Path(__file__).parent / "presets"
TECHNOLOGIES = Path(__file__).parent / "technologies"
_NOT_STATED = "not stated"


def list_accelerators() -> list[str]:
    """Return the names of the presets.

    >>> list_accelerators()
    ['fp16-sa', 'int8-sa', 'olive-sa']
    """
    return sorted(p.stem for p in PRESETS.glob("*.toml"))


def load_accelerator(name_or_path: str | Path | Accelerator) -> Accelerator:
    """Return the preset of this name, or the accelerator that a TOML file describes.

    A text that ends in `.toml` or holds a path separator is a file. An Accelerator is returned as it is.
    Raises MacloomError with the path of the key, what came, what is allowed, and the file.

    >>> load_accelerator("olive-sa").array.pes
    4096
    """
    if isinstance(name_or_path, Accelerator):
        return name_or_path
    path = _find("accelerator", name_or_path, PRESETS, list_accelerators(), "macloom list accelerators")
    return _in_file(path, lambda: _accelerator(read_toml(path), path.parent))


def list_technologies() -> list[str]:
    """Return the names of the technology tables in the package.

    >>> list_technologies()
    ['16nm', '22nm', '28nm', '45nm', '7nm']
    """
    return sorted(p.stem for p in TECHNOLOGIES.glob("*nm.toml"))


def load_technology(name_or_path: str | Path) -> Technology:
    """Return the technology table of this name, or the one that a TOML file describes.

    >>> load_technology("45nm").constant("int8_multiply").kind.value
    'published'
    """
    path = _find("technology", name_or_path, TECHNOLOGIES, list_technologies(), "")
    return _in_file(path, lambda: _technology(read_toml(path), path.parent))


def accelerator_to_toml(accelerator: Accelerator) -> str:
    """Return a TOML text that `load_accelerator` reads back to an equal record.

    A technology of the package is named; any other is written out.
    """
    a, pe, t = accelerator.array, accelerator.array.pe, accelerator.technology
    named = t.name in list_technologies() and t == load_technology(t.name)
    lines = [
        _assign("name", accelerator.name),
        _assign("description", accelerator.description),
        _assign("clock", format_quantity(accelerator.clock_hz, "Hz", None)),
        *([_assign("technology", t.name)] if named else []),
        "\n[array]",
        *(_assign(n, getattr(a, n)) for n in a.__dataclass_fields__ if n != "pe"),
        "\n[array.pe]",
        *(_assign(n, getattr(pe, n)) for n in pe.__dataclass_fields__),
    ]
    for name, sram in accelerator.buffers.present.items():
        size = (sram.size_bits // 8, "B") if sram.size_bits % 8 == 0 else (sram.size_bits, "bit")
        lines += [
            f"\n[buffers.{name}]",
            _assign("size", format_quantity(*size, None)),
            _assign("bandwidth", f"{sram.bandwidth_bits_per_cycle} bit/cycle"),
            *(_assign(n, getattr(sram, n)) for n in ("double_buffered", "banks", "ports")),
        ]
    lines += [
        "\n[dram]",
        _assign("kind", accelerator.dram.kind),
        *_dram_lines(accelerator.dram),
        "\n[vector]",
        _assign("lanes", accelerator.vector.lanes),
        _assign("bits", accelerator.vector.bits),
        *([] if named else _technology_lines(t)),
    ]
    return "\n".join(lines) + "\n"


def _dram_lines(dram: Dram) -> list[str]:
    """Return the lines of a DRAM; the bandwidth is that of all channels, as `[dram]` without a preset has it."""
    lines = []
    for key, (field, unit) in NUMBERS.items():
        value = getattr(dram, field)
        if value is None or (unit == "s" and not value):
            continue
        if unit == "bit/s":
            lines.append(_assign(key, format_quantity(value / 8, "B/s", None)))
        else:
            lines.append(_assign(key, value if unit is None else format_quantity(value, unit, None)))
    return lines


def _find(kind: str, name_or_path: str | Path, folder: Path, known: list[str], hint: str) -> Path:
    if isinstance(name_or_path, Path):
        return name_or_path
    if not isinstance(name_or_path, str):
        raise MacloomError(f"{kind}: must be a name or the path of a TOML file, not {name_or_path!r}")
    if name_or_path.endswith(".toml") or os.sep in name_or_path:
        return Path(name_or_path)
    if name_or_path not in known:
        raise unknown(kind, name_or_path, known, hint)
    return folder / f"{name_or_path}.toml"


def _in_file(path: Path, read: Callable[[], R]) -> R:
    """Call `read` and add the file to the message of an error that does not name it."""
    try:
        return read()
    except MacloomError as error:
        if str(error).startswith(f"{path}:") or str(error).endswith(".toml)"):
            raise
        raise MacloomError(f"{error} (in {path})") from None


def _accelerator(content: Mapping[str, Any], folder: Path) -> Accelerator:
    keys = ("name", "description", "clock", "technology", "array", "buffers", "dram", "vector")
    top = Table("arch", content, keys)
    vector = top.table("vector", ("lanes", "bits"))
    return Accelerator(
        name=top.name("name"),
        description=top.text("description"),
        clock_hz=top.quantity("clock", "Hz"),
        array=_array(top.table("array", tuple(Array.__dataclass_fields__))),
        buffers=_buffers(top.table("buffers", tuple(Buffers.__dataclass_fields__))),
        dram=_dram(top.table("dram", ("kind", "preset", *NUMBERS))),
        vector=VectorUnit(lanes=vector.integer("lanes"), bits=vector.integer("bits", 16)),
        technology=_technology_of(top, folder),
    )


def _array(table: Table) -> Array:
    pe = table.table("pe", tuple(ProcessingElement.__dataclass_fields__))
    return Array(
        rows=table.integer("rows"),
        cols=table.integer("cols"),
        dataflow=choose(Dataflow, "arch.array.dataflow", table.name("dataflow", "os")),
        shadow_registers=table.boolean("shadow_registers", False),
        border_decoders=table.boolean("border_decoders", False),
        decoder_latency=table.integer("decoder_latency", 0, least=0),
        count=table.integer("count", 1),
        pe=ProcessingElement(
            significand_bits=pe.integer("significand_bits"),
            exponent_bits=pe.integer("exponent_bits", 0, least=0),
            accumulator=choose(AccumulatorKind, "arch.array.pe.accumulator", pe.name("accumulator", "int")),
            accumulator_bits=pe.integer("accumulator_bits", 32),
            fusable=pe.boolean("fusable", False),
            block_scaling=pe.boolean("block_scaling", False),
            gates=pe.text("gates"),
        ),
    )


def _buffers(table: Table) -> Buffers:
    srams: dict[str, Sram] = {}
    for name in Buffers.__dataclass_fields__:
        if name == "shared" and name not in table:
            continue
        sram = table.table(name, ("size", "bandwidth", "double_buffered", "banks", "ports"))
        srams[name] = Sram(
            size_bits=sram.whole_quantity("size", "bit"),
            bandwidth_bits_per_cycle=sram.whole_quantity("bandwidth", "bit/cycle"),
            double_buffered=sram.boolean("double_buffered", True),
            banks=sram.integer("banks", 1),
            ports=sram.integer("ports", 1),
        )
    return Buffers(**srams)


def _dram(table: Table) -> Dram:
    """Return the DRAM that `preset` names, with some other number of channels, or that the table describes."""
    if "preset" in table:
        stray = [key for key in table.content if key not in ("preset", "channels")]
        if stray:
            raise MacloomError(f"{table.path}.{stray[0]}: must not be given beside preset; leave one of them out")
        channels = table.integer("channels") if "channels" in table else None
        return load_memory(table.name("preset"), channels).dram
    fields: dict[str, Any] = {}
    for key, (field, unit) in NUMBERS.items():
        if key in table or key == "bandwidth":
            wanted = {"bit": table.whole_quantity, None: lambda k, _: table.integer(k)}.get(unit, table.quantity)
            fields[field] = wanted(key, unit or "")
    return Dram(kind=table.name("kind"), **fields)


def _technology_of(top: Table, folder: Path) -> Technology:
    """Return the technology that the accelerator names, points to (relative to its own file) or holds."""
    value = top.value("technology", f"a name ({', '.join(list_technologies())}), a TOML file or a table")
    if isinstance(value, Mapping):
        return _technology(value, folder)
    name = top.name("technology")
    return load_technology(folder / name if name.endswith(".toml") else name)


def _technology(content: Mapping[str, Any], folder: Path) -> Technology:
    table = Table("technology", content, ("name", "description", "node", "voltage", "include", "sources", "constants"))
    constants: dict[str, Constant] = {}
    include = table.value("include", "a list of TOML files", [])
    if not isinstance(include, list) or not all(isinstance(i, str) for i in include):
        raise MacloomError(f"technology.include: must be a list of TOML files, not {include!r}")
    for file in include:
        constants |= _included(folder / file)
    return Technology(
        name=table.name("name"),
        description=table.text("description"),
        node_nm=table.quantity("node", "nm"),
        voltage_v=_stated(table, "voltage", "V"),
        constants=constants | _constants(table),
    )


def _included(path: Path) -> dict[str, Constant]:
    return _in_file(path, lambda: _constants(Table("technology", read_toml(path), ("sources", "constants"))))


def _constants(table: Table) -> dict[str, Constant]:
    sources = table.table("sources", None)
    rows = table.table("constants", None)
    constants: dict[str, Constant] = {}
    for name in rows.content:
        row = rows.table(name, ("value", "low", "high", "kind", "source", "node", "voltage"))
        unit = unit_of("technology.constants", name)
        source = row.name("source")
        if source not in sources:
            raise unknown(f"{row.path}.source", source, sources.content, "keys of [sources]")
        fields: dict[str, Any] = {
            "value": row.quantity("value", unit),
            "low": row.quantity("low", unit) if "low" in row else None,
            "high": row.quantity("high", unit) if "high" in row else None,
            "unit": unit,
            "kind": row.name("kind"),
            "source": sources.name(source),
            "node_nm": _stated(row, "node", "nm"),
            "voltage_v": _stated(row, "voltage", "V"),
        }
        try:
            constants[name] = Constant(**fields)
        except MacloomError as error:
            raise MacloomError(row.path + str(error).removeprefix("constant")) from None
    return constants


def _stated(table: Table, key: str, unit: str) -> float | None:
    if table.value(key, f"a quantity in {unit} or {_NOT_STATED!r}") == _NOT_STATED:
        return None
    return table.quantity(key, unit)


def _technology_lines(technology: Technology) -> list[str]:
    texts = list(dict.fromkeys(c.source for c in technology.constants.values()))
    lines = [
        "\n[technology]",
        _assign("name", technology.name),
        _assign("description", technology.description),
        _assign("node", format_quantity(technology.node_nm, "nm", None)),
        _assign("voltage", _or_not_stated(technology.voltage_v, "V")),
        "\n[technology.sources]",
        *(_assign(f"source_{i}", text) for i, text in enumerate(texts)),
    ]
    for name, c in technology.constants.items():
        bounds = {n: getattr(c, n) for n in ("low", "high") if getattr(c, n) is not None}
        lines += [
            f"\n[technology.constants.{_text(name)}]",
            *(_assign(n, format_quantity(v, c.unit, None)) for n, v in {"value": c.value, **bounds}.items()),
            _assign("kind", c.kind),
            _assign("source", f"source_{texts.index(c.source)}"),
            _assign("node", _or_not_stated(c.node_nm, "nm")),
            _assign("voltage", _or_not_stated(c.voltage_v, "V")),
        ]
    return lines


def _or_not_stated(value: float | None, unit: str) -> str:
    return _NOT_STATED if value is None else format_quantity(value, unit, None)


def _assign(key: str, value: bool | int | str) -> str:
    return f"{key} = {_text(value)}"


def _text(value: bool | int | str) -> str:
    # JSON and TOML write these alike, except that TOML wants the delete character escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
