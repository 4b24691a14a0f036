"""SCALE-Sim's input files: its `.cfg`, and topologies of products or convolutions.

Errors name the place as `file:line:column`. Where SCALE-Sim drops what it does not understand (a last
field without a comma behind it, a first line that is not a header), these readers read it or raise.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, TypeVar

from macloom.errors import MacloomError, unknown
from macloom.sim.scalesim.records import Config, Conv, Gemm, Layer, Mode, Version

E = TypeVar("E", bound=StrEnum)


class Representation(StrEnum):
    """How a sparse filter is stored; it decides the counts of SPARSE_REPORT.csv only."""

    CSR = "csr"
    CSC = "csc"
    ELLPACK_BLOCK = "ellpack_block"


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a `.cfg` says: the run's name, the array and its memories, and how sparse filters are stored if at all."""

    name: str
    config: Config
    sparsity: Representation | None = None


class _Field(NamedTuple):
    text: str
    line: int
    column: int


CONV_FIELDS = ("IFMAP height", "IFMAP width", "filter height", "filter width", "channels", "filters", "stride")
GEMM_FIELDS = ("M", "N", "K")


def read_config(path: str | Path, version: Version | str = Version.V3) -> Setup:
    """Read SCALE-Sim's `.cfg`.

    In USER mode the bandwidths of input and filter come from `IfmapSRAMBankBandwidth` and
    `FilterSRAMBankBandwidth` of `[layout]` as in 3.0.0, or all three from `Bandwidth` as in v2.

    Raises:
        MacloomError: a key is missing or wrong, or asks for what is not modelled: layouts of one's own,
            Ramulator traces, or the mapping of random sparsity (`OptimizedMapping`).
    """
    text = _text(path)
    keys = _Keys(str(path), text)
    sizes = {name: keys.integer("architecture_presets", key) for name, key in _SIZES.items()}
    mode = keys.choice("run_presets", "InterfaceBandwidth", Mode)
    dataflow = keys.get("architecture_presets", "Dataflow")
    if dataflow.text not in ("os", "ws", "is"):
        raise keys.error(dataflow, str(unknown("Dataflow", dataflow.text, ["os", "ws", "is"])))
    bandwidths: dict[str, int] = {}
    if mode is Mode.USER:
        output = keys.integer("architecture_presets", "Bandwidth", first=True)
        bandwidths = {"bw_ifmap": output, "bw_filter": output, "bw_ofmap": output}
        if Version(version) is Version.V3:
            bandwidths["bw_ifmap"] = keys.integer("layout", "IfmapSRAMBankBandwidth")
            bandwidths["bw_filter"] = keys.integer("layout", "FilterSRAMBankBandwidth")
    for section, key, what in _NOT_MODELLED:
        field = keys.find(section, key)
        if field and field.text.lower() == "true":
            raise keys.error(field, f"{key}: must be False: {what} not modelled")
    sparse = keys.find("sparsity", "SparsitySupport")
    representation = None
    if sparse and sparse.text.lower() == "true":
        representation = keys.choice("sparsity", "SparseRep", Representation)
    config = Config(**sizes, **bandwidths, mode=mode, dataflow=dataflow.text)
    return Setup(name=keys.get("general", "run_name").text, config=config, sparsity=representation)


_SIZES = {
    "rows": "ArrayHeight",
    "cols": "ArrayWidth",
    "ifmap_kb": "IfmapSramSzkB",
    "filter_kb": "FilterSramSzkB",
    "ofmap_kb": "OfmapSramSzkB",
}
_NOT_MODELLED = (
    ("layout", "IfmapCustomLayout", "layouts of the input are"),
    ("layout", "FilterCustomLayout", "layouts of the filter are"),
    ("run_presets", "UseRamulatorTrace", "latencies from Ramulator are"),
    ("sparsity", "OptimizedMapping", "random sparsity within a block is"),
)


class _Keys:
    """The keys of an INI file, found whatever their case, each with its place."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.keys: dict[tuple[str, str], _Field] = {}
        section = ""
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.lstrip()[0] in "#;":
                continue
            if header := re.fullmatch(r"\s*\[([^\]]+)\]\s*", line):
                section = header[1].strip()
            elif entry := re.fullmatch(r"\s*([^=:\s][^=:]*?)\s*[=:]\s*(.*?)\s*", line):
                self.keys[section, entry[1].lower()] = _Field(entry[2], number, entry.start(2) + 1)
            else:
                field = _Field(line, number, len(line) - len(line.lstrip()) + 1)
                raise self.error(field, f"must be '[section]' or 'key = value', not {line.strip()!r}")

    def error(self, field: _Field, message: str) -> MacloomError:
        return MacloomError(f"{self.path}:{field.line}:{field.column}: {message}")

    def find(self, section: str, key: str) -> _Field | None:
        return self.keys.get((section, key.lower()))

    def get(self, section: str, key: str) -> _Field:
        field = self.find(section, key)
        if field is None:
            raise MacloomError(f"{self.path}: [{section}] must have the key {key}")
        return field

    def integer(self, section: str, key: str, *, first: bool = False) -> int:
        """Return a positive integer; with `first` the first of a list with commas."""
        field = self.get(section, key)
        text = field.text.split(",")[0].strip() if first else field.text
        if not text.isdecimal() or int(text) < 1:
            raise self.error(field, f"{key}: must be a positive integer, not {text!r}")
        return int(text)

    def choice(self, section: str, key: str, kind: type[E]) -> E:
        field = self.get(section, key)
        try:
            return kind(field.text)
        except ValueError:
            raise self.error(field, str(unknown(key, field.text, [k.value for k in kind]))) from None


def read_topology(path: str | Path, *, sparse: bool = False) -> tuple[Layer, ...]:
    """Read SCALE-Sim's topology: products (`Layer, M, N, K,`) or convolutions, as the header has it.

    The first line is the header, empty lines count nothing, commas may end a line, and what follows # is a
    comment. Another field may give the sparsity as `N:M`, which counts if `sparse`, as in SCALE-Sim; a layer
    without it is then 1:1. A convolution whose name contains `DP` is depth-wise: one layer per channel.

    Raises:
        MacloomError: a line is malformed, or there is no layer.
    """
    name = str(path)
    rows = [_split(line, number) for number, line in enumerate(_text(path).splitlines(), 1)]
    if not rows:
        raise MacloomError(f"{name}: must have a header and a layer, not an empty file")
    header = rows[0]
    if len(header) > 1 and re.fullmatch(r"\d+", header[1].text):
        raise _error(name, header[1], "must be a header, because SCALE-Sim skips the first line; put one before it")
    titles = [field.text.lower() for field in header]
    is_gemm = titles[1:4] == ["m", "n", "k"]
    if not is_gemm and len(titles) < 1 + len(CONV_FIELDS):
        raise _error(
            name, header[0], "must be the header of a product ('Layer, M, N, K,') or of a convolution (eight fields)"
        )
    layers: list[Layer] = []
    for row in rows[1:]:
        if row and any(field.text for field in row):
            layers += _layers(name, row, is_gemm, sparse)
    if not layers:
        raise MacloomError(f"{name}: must have at least one layer below the header")
    return tuple(layers)


def _layers(path: str, row: list[_Field], is_gemm: bool, sparse: bool) -> list[Layer]:
    names = GEMM_FIELDS if is_gemm else CONV_FIELDS
    sizes, rest = row[1 : 1 + len(names)], row[1 + len(names) :]
    if len(sizes) < len(names):
        raise _error(
            path, row[-1], f"must be followed by {names[len(sizes)]}: a layer has a name and {len(names)} sizes"
        )
    numbers = [_positive(path, title, field) for title, field in zip(names, sizes, strict=True)]
    stride_w = None
    if rest and not is_gemm and rest[0].text.isdecimal():
        stride_w = _positive(path, "stride width", rest.pop(0))
    ratio = _ratio(path, rest.pop(0)) if rest else (1, 1)
    if rest:
        raise _error(path, rest[0], f"must be the end of the line, not {rest[0].text!r}")
    sparsity = ratio if sparse else None
    name = row[0].text
    if is_gemm:
        m, n, k = numbers
        return [Gemm(m=m, n=n, k=k, sparsity=sparsity, name=name)]
    h, w, fh, fw, channels, filters, stride = numbers
    try:
        conv = Conv(
            h=h, w=w, fh=fh, fw=fw, channels=channels, filters=filters, stride=stride, stride_w=stride_w,
            sparsity=sparsity, name=name,
        )  # fmt: skip
    except MacloomError as error:
        raise _error(path, row[3 if fh > h else 4], str(error)) from None
    if "DP" in name:
        return [replace(conv, channels=1, name=f"{name}Channel_{channel}") for channel in range(channels)]
    return [conv]


def _split(line: str, number: int) -> list[_Field]:
    """Return the fields of a line with their places; commas at its end start no fields, and # starts a comment."""
    fields: list[_Field] = []
    column = 0
    for part in line.split("#")[0].split(","):
        blank = len(part) - len(part.lstrip())
        fields.append(_Field(part.strip(), number, column + blank + 1))
        column += len(part) + 1
    while len(fields) > 1 and not fields[-1].text:
        fields.pop()
    return fields


def _positive(path: str, title: str, field: _Field) -> int:
    if not field.text.isdecimal() or int(field.text) < 1:
        raise _error(path, field, f"{title}: must be a positive integer, not {field.text!r}")
    return int(field.text)


def _ratio(path: str, field: _Field) -> tuple[int, int]:
    ratio = re.fullmatch(r"(\d+)\s*:\s*(\d+)", field.text)
    if not ratio or not 1 <= int(ratio[1]) <= int(ratio[2]):
        raise _error(path, field, f"sparsity: must be N:M with 1 <= N <= M, such as 2:4, not {field.text!r}")
    return int(ratio[1]), int(ratio[2])


def _error(path: str, field: _Field, message: str) -> MacloomError:
    return MacloomError(f"{path}:{field.line}:{field.column}: {message}")


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise MacloomError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise MacloomError(f"{path}: must be text in UTF-8") from None
