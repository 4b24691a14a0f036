"""What an interrupted evaluation leaves behind, so that the next one goes on after the last finished block.

A directory holds `state.json` and one safetensors file with the hidden states of every batch. The JSON
names the file and is replaced last, so that whatever interrupts a run, both belong together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from macloom._files import write_atomically
from macloom.errors import MacloomError
from macloom.workloads.config import read_json

FILE = "state.json"


@dataclass(kw_only=True)
class Progress:
    """How far an evaluation has come.

    Attributes:
        blocks: how many are finished.
        hidden: the hidden states after them, by stream, one tensor per batch.
        searches, overflows, sqnr_db, cosine, floating: what the result will say about the products so far.
    """

    blocks: int = 0
    hidden: dict[str, list[Tensor]] = field(default_factory=dict)
    searches: list[dict[str, Any]] = field(default_factory=list)
    overflows: dict[str, int] = field(default_factory=dict)
    sqnr_db: dict[str, float] = field(default_factory=dict)
    cosine: dict[str, float] = field(default_factory=dict)
    floating: list[str] = field(default_factory=list)


RECORDS = ("blocks", "searches", "overflows", "sqnr_db", "cosine", "floating")


class StateDirectory:
    """Saves and loads the progress of one evaluation.

    Args:
        identity: everything that decides the result; a directory of another evaluation is refused.
    """

    def __init__(self, path: str | Path, identity: Mapping[str, Any]) -> None:
        self._path, self._identity = Path(path), json.loads(json.dumps(identity))
        if self._path.exists() and not self._path.is_dir():
            raise MacloomError(f"state: {str(path)!r} must be a directory, or not be there yet")

    def save(self, progress: Progress) -> None:
        """Write the progress; what was there before is replaced once the new state is whole."""
        from safetensors.torch import save_file

        tensors = {
            f"{stream}/{i}": t.contiguous() for stream, parts in progress.hidden.items() for i, t in enumerate(parts)
        }
        name = f"hidden-{progress.blocks:05}.safetensors"
        write_atomically(self._path / name, lambda file: save_file(tensors, file.name))
        document = {"identity": self._identity, "hidden": name, **{key: getattr(progress, key) for key in RECORDS}}
        write_atomically(self._path / FILE, json.dumps(document, indent=1) + "\n")
        for old in self._path.glob("hidden-*.safetensors"):
            if old.name != name:
                old.unlink(missing_ok=True)

    def load(self) -> Progress | None:
        """Return the progress that was saved; None where there is none.

        Raises:
            MacloomError: it is of another evaluation, or damaged.
        """
        if not (self._path / FILE).is_file():
            return None
        document = read_json(self._path / FILE)
        differing = [
            key for key, value in self._identity.items() if document.get("identity", {}).get(key) != value
        ]  # fmt: skip
        if differing:
            raise MacloomError(
                f"{self._path / FILE}: is of another evaluation ({', '.join(differing)} differs); "
                "give another --state directory, or remove this one"
            )
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors = load_file(self._path / document["hidden"])
            progress = Progress(**{key: document[key] for key in RECORDS})
        except (SafetensorError, OSError, KeyError) as error:
            raise MacloomError(f"{self._path}: its state is damaged ({error}); remove it to start afresh") from None
        for key in sorted(tensors, key=lambda k: (k.split("/")[0], int(k.split("/")[1]))):
            progress.hidden.setdefault(key.split("/")[0], []).append(tensors[key])
        return progress

    def clear(self) -> None:
        """Remove the state of a finished evaluation; other files stay."""
        for file in (self._path / FILE, *self._path.glob("hidden-*.safetensors")):
            file.unlink(missing_ok=True)
