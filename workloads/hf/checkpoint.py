"""The weights of a local model directory: safetensors alone, listed from their headers, read one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from macloom.errors import MacloomError
from macloom.workloads.config import read_json
from macloom.workloads.lm.checkpoint import files_sha256, weight_files

DTYPES = ("F32", "BF16", "F16", "F64")
"""What weights may be stored as, in the words of safetensors."""


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """Where a tensor lies and what it is; nothing of its data has been read."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


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

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors of these names, as stored, opening each file once.

        Raises:
            MacloomError: a file that is not whole, or a value that is NaN or infinite.
        """
        from safetensors import SafetensorError, safe_open

        with ExitStack() as stack:
            shards: dict[Path, Any] = {}
            for name in names:
                file = self.tensors[name].file
                try:
                    if file not in shards:
                        shards[file] = stack.enter_context(safe_open(file, "pt"))
                    tensor = shards[file].get_tensor(name)
                except SafetensorError as error:
                    raise _damaged(file, error) from None
                if tensor.numel() and not all(bool(torch.isfinite(t)) for t in torch.aminmax(tensor)):
                    raise MacloomError(f"{file}: tensor {name!r} holds NaN or infinite values; copy the file again")
                yield name, tensor


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
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as shard:
            for name in shard.keys():  # noqa: SIM118 - safe_open is not a mapping
                found = shard.get_slice(name)
                yield name, StoredTensor(file=file, dtype=found.get_dtype(), shape=tuple(found.get_shape()))
    except SafetensorError as error:
        raise _damaged(file, error) from None


def _damaged(file: Path, error: Exception) -> MacloomError:
    return MacloomError(f"{file}: is not a whole safetensors file ({error}); copy it again")
