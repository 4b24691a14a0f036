"""The weights of a local model directory: safetensors alone, listed from their headers, read a few rows at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from io import FileIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from macloom.errors import MacloomError
from macloom.workloads.config import read_json
from macloom.workloads.lm.checkpoint import files_sha256, weight_files

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}
"""What weights may be stored as, in the words of safetensors."""
CHUNK_ELEMENTS = 1 << 20
"""Elements that are read and converted at a time: what is read of them stays in a cache."""


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """Where a tensor lies and what it is; nothing of its data has been read.

    Data are read, not mapped, so that no more of them is in memory than what was asked for.

    Attributes:
        offset: bytes of the file before its data, which are in row-major order, little-endian.
    """

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def rows(self) -> int:
        """The length of the first axis; 1 for a scalar."""
        return self.shape[0] if self.shape else 1

    def read(self, part: slice = slice(None), dtype: torch.dtype | None = None, check: bool = True) -> Tensor:
        """Return a stretch of rows; of a scalar, itself.

        Args:
            part: rows of the first axis, in a row.
            dtype: what to convert them to, a chunk at a time; None leaves them as stored.
            check: whether to look for values that are no numbers.

        Raises:
            MacloomError: the file ends before them, or a value is NaN or infinite.
        """
        start, stop, _ = part.indices(self.rows)
        made = torch.empty((max(0, stop - start), *self.shape[1:]), dtype=dtype or DTYPES[self.dtype])
        chunk = torch.empty((min(len(made), self._rows_at_a_time), *self.shape[1:]), dtype=DTYPES[self.dtype])
        with self.file.open("rb", buffering=0) as stream:
            for done in range(0, len(made) if made.numel() else 0, self._rows_at_a_time):
                some = chunk[: len(made) - done]
                self._fill(some, stream, start + done)
                if check:
                    self._check(some)
                made[done : done + len(some)] = some
        return made if self.shape else made[0]

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows of these numbers, an int64 tensor of any shape, in float32 (*shape of `rows`, row)."""
        used, places = torch.unique(rows, return_inverse=True)
        found = torch.empty((len(used), *self.shape[1:]), dtype=DTYPES[self.dtype])
        with self.file.open("rb", buffering=0) as stream:
            for place, row in enumerate(used.tolist()):
                if not 0 <= row < self.rows:
                    raise MacloomError(f"tensor {self.name!r}: rows must be in [0, {self.rows}), not {row}")
                self._fill(found[place : place + 1], stream, row)
        self._check(found)
        return found.float()[places]

    @property
    def _rows_at_a_time(self) -> int:
        return max(1, CHUNK_ELEMENTS // max(1, math.prod(self.shape[1:])))

    def _fill(self, rows: Tensor, stream: FileIO, first: int) -> None:
        """Read as many rows as there is room for, from number `first` on."""
        memory = memoryview(rows.view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
        stream.seek(self.offset + first * (len(memory) // max(1, len(rows))))
        filled = 0
        while filled < len(memory):
            got = stream.readinto(memory[filled:])
            if not got:
                raise _damaged(self.file, f"it ends within tensor {self.name!r}")
            filled += got

    def _check(self, values: Tensor) -> None:
        if values.numel() and not all(bool(torch.isfinite(end)) for end in torch.aminmax(values)):
            raise MacloomError(f"{self.file}: tensor {self.name!r} holds NaN or infinite values; copy the file again")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model directory in Hugging Face's layout.

    Attributes:
        config: what `config.json` holds.
        tensors: every tensor of its safetensors files, by name.
    """

    directory: Path
    config: Mapping[str, Any]
    files: tuple[Path, ...]
    tensors: Mapping[str, StoredTensor]

    @cached_property
    def sha256(self) -> str:
        """Hash of the weight file, or of the files' hashes in name order where there are several."""
        return files_sha256(list(self.files))


def open_checkpoint(directory: str | Path) -> Checkpoint:
    """Return the checkpoint of a directory, from its `config.json` and the headers of its weight files.

    Raises:
        MacloomError: no configuration, code of its own, weights that are already quantized, no safetensors, a
            truncated file, or a tensor that is not floating point.
    """
    directory = Path(directory)
    if not (directory / "config.json").is_file():
        raise MacloomError(f"{directory}: has no config.json; give a directory in Hugging Face layout")
    config = read_json(directory / "config.json")
    where = f"{directory / 'config.json'}: config"
    if config.get("auto_map"):
        raise MacloomError(f"{where}.auto_map: must be absent; models that bring code of their own are not run")
    if config.get("quantization_config"):
        raise MacloomError(f"{where}.quantization_config: must be absent; give the checkpoint before quantization")
    files = weight_files(directory)
    tensors = {name: stored for file in files for name, stored in _header(file)}
    for name, stored in tensors.items():
        if stored.dtype not in DTYPES:
            raise MacloomError(
                f"{stored.file}: tensor {name!r} must be one of {', '.join(DTYPES)}, not {stored.dtype}; "
                "give the checkpoint before quantization"
            )
    return Checkpoint(directory=directory, config=config, files=tuple(files), tensors=tensors)


def _header(file: Path) -> Iterator[tuple[str, StoredTensor]]:
    """Yield the tensors of a file; opening it makes sure that its header and its length belong together."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as shard:
            found = {name: shard.get_slice(name) for name in shard.keys()}  # noqa: SIM118 - safe_open is no mapping
            kinds = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in found.items()}
    except SafetensorError as error:
        raise _damaged(file, error) from None
    # The format: eight bytes, little-endian, say how long the JSON after them is; offsets count from its end.
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        document = json.loads(stream.read(size))
    for name, (dtype, shape) in kinds.items():
        offset = 8 + size + document[name]["data_offsets"][0]
        yield name, StoredTensor(file=file, name=name, dtype=dtype, shape=shape, offset=offset)


def _damaged(file: Path, error: object) -> MacloomError:
    return MacloomError(f"{file}: is not a whole safetensors file ({error}); copy it again")
