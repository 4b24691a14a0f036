"""Text for the embedded language models: the running Python's own standard library.

The corpus is split by package, never by file, because neighbouring modules of one package repeat
each other. Generated tables (`encodings`, `pydoc_data`, `_sysconfigdata*`) and tests are left out.
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from macloom.errors import MacloomError

# Packages that no embedded model has seen. Present in every Python from 3.11 on.
HELD_OUT = frozenset(
    {"argparse", "fractions", "heapq", "json", "logging", "statistics", "textwrap", "tomllib", "wsgiref", "zipfile"}
)
EXCLUDED_PACKAGES = frozenset({"encodings", "pydoc_data", "site-packages", "dist-packages", "test", "antigravity"})
EXCLUDED_DIRECTORIES = frozenset({"test", "tests", "idle_test", "site-packages", "__pycache__", "_bundled"})
MAX_FILE_BYTES = 400_000
SEPARATOR = b"\n\0"


@dataclass(frozen=True, kw_only=True)
class Text:
    """Bytes to evaluate or train on, with the name and content hash that a result reports."""

    name: str
    data: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def windows(self, length: int, count: int | None = None) -> np.ndarray:
        """Return non-overlapping windows of `length` bytes, spread evenly over the text.

        Returns:
            uint8 array, windows x length.

        Raises:
            MacloomError: the text is shorter than one window.
        """
        available = len(self.data) // length
        if available == 0:
            raise MacloomError(
                f"text {self.name!r}: must hold at least one window of {length} bytes, not {len(self.data)}; "
                "give a longer text or a shorter context"
            )
        take = available if count is None else min(count, available)
        starts = np.arange(take) * available // take * length
        flat = np.frombuffer(self.data, np.uint8)
        return np.stack([flat[s : s + length] for s in starts])


def _package(relative: Path) -> str:
    return relative.parts[0].removesuffix(".py")


def stdlib_files(root: Path | None = None) -> Iterator[tuple[str, bytes]]:
    """Yield (relative path, bytes) of every usable source file of the standard library, in sorted order."""
    root = root or Path(sysconfig.get_path("stdlib"))
    found: list[Path] = []
    for directory, subdirectories, files in os.walk(root):
        subdirectories[:] = [d for d in subdirectories if d not in EXCLUDED_DIRECTORIES]
        found += [Path(directory, f).relative_to(root) for f in files if f.endswith(".py")]
    for relative in sorted(found, key=lambda p: p.as_posix()):
        package = _package(relative)
        if package in EXCLUDED_PACKAGES or package.startswith("_sysconfigdata"):
            continue
        data = (root / relative).read_bytes()
        if len(data) > MAX_FILE_BYTES:
            continue
        try:
            data.decode("utf-8")
        except UnicodeDecodeError:
            continue
        yield relative.as_posix(), data


def stdlib_text(split: str, root: Path | None = None) -> Text:
    """Return the training or the held-out half of the standard library as one text.

    Args:
        split: `train` or `held-out`.
        root: directory to read instead of the running Python's library.
    """
    if split not in ("train", "held-out"):
        raise MacloomError(f"split: must be 'train' or 'held-out', not {split!r}")
    wanted = split == "held-out"
    parts = [data for path, data in stdlib_files(root) if (_package(Path(path)) in HELD_OUT) == wanted]
    return Text(name=f"python-stdlib/{split}", data=SEPARATOR.join(parts))


def text_from_file(path: str | Path) -> Text:
    """Read a user's text file; the bytes are taken as they are."""
    path = Path(path)
    if not path.is_file():
        raise MacloomError(f"text: no such file {str(path)!r}; give the path of a text file")
    data = path.read_bytes()
    if not data:
        raise MacloomError(f"text: file {str(path)!r} is empty")
    return Text(name=path.name, data=data)


def load_text(source: Text | str | Path | None) -> Text:
    """Return a text as it is or from a file, or the held-out half of the standard library for None."""
    if isinstance(source, Text):
        return source
    return stdlib_text("held-out") if source is None else text_from_file(source)
