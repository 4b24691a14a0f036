"""The text split: what is in, what is out, and that it is the same every time."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from macloom.workloads.lm.data import HELD_OUT, MAX_FILE_BYTES, Text, stdlib_files, stdlib_text, text_from_file


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return dict(stdlib_files())


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A standard library of a dozen files."""
    contents = {
        "abc.py": b"# abc",
        "json/__init__.py": b"# json",
        "json/tool.py": b"# json.tool",
        "jsonlike.py": b"# not json",
        "heapq.py": b"# heapq",
        "xml/dom.py": b"# xml.dom",
        "xml/test/test_dom.py": b"# test",
        "xml/__pycache__/dom.py": b"# cache",
        "xml/notes.txt": b"# not source",
        "test/test_abc.py": b"# test",
        "encodings/latin_1.py": b"# table",
        "site-packages/foreign.py": b"# foreign",
        "pydoc_data/topics.py": b"# table",
        "_sysconfigdata_linux.py": b"# generated",
        "latin.py": b"# \xe9",
        "huge.py": b"#" * (MAX_FILE_BYTES + 1),
    }
    for name, data in contents.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    return tmp_path


def test_split_of_a_small_library(library: Path) -> None:
    assert stdlib_text("train", library).data == b"# abc\n\0# not json\n\0# xml.dom"
    assert stdlib_text("held-out", library).data == b"# heapq\n\0# json\n\0# json.tool"


def test_no_held_out_package_is_trained_on(files: dict[str, bytes]) -> None:
    packages = {path.split("/")[0].removesuffix(".py") for path in files}
    assert packages >= HELD_OUT
    train, held_out = stdlib_text("train").data, stdlib_text("held-out").data
    for path, data in files.items():
        if not data.strip():
            continue
        mine, other = (held_out, train) if path.split("/")[0].removesuffix(".py") in HELD_OUT else (train, held_out)
        assert data in mine
        assert len(data) < 200 or data not in other, f"{path} is in both splits"


def test_tests_and_generated_tables_are_left_out(files: dict[str, bytes]) -> None:
    assert len(files) > 300
    for path in files:
        assert not re.search(r"(^|/)(tests?|idle_test|site-packages|__pycache__)/", path)
        assert not re.match(r"(encodings|pydoc_data|_sysconfigdata)", path)


def test_the_text_is_the_same_every_time() -> None:
    first, second = stdlib_text("held-out"), stdlib_text("held-out")
    assert first == second
    assert first.sha256 == hashlib.sha256(first.data).hexdigest()
    assert 300_000 < len(first.data) < len(stdlib_text("train").data) / 10


def test_windows_are_whole_disjoint_and_spread_over_the_text() -> None:
    text = Text(name="count", data=bytes(range(100)))
    every = text.windows(8)
    assert every.shape == (12, 8)
    assert every.dtype == np.uint8
    assert np.array_equal(every.ravel(), np.arange(96))
    some = text.windows(8, 4)
    assert np.array_equal(some[:, 0], [0, 24, 48, 72])
    assert np.array_equal(text.windows(8, 99), every)
    assert np.array_equal(text.windows(8, 4), some)
    assert np.array_equal(text.windows(100)[0], np.arange(100))


def test_windows_of_odd_counts_stay_disjoint() -> None:
    text = Text(name="count", data=bytes(range(210)))
    for count in range(1, 22):
        starts = text.windows(10, count)[:, 0].astype(int)
        assert len(starts) == min(count, 21)
        assert (np.diff(starts) >= 10).all()
        assert starts[-1] <= 200


def test_text_shorter_than_a_window() -> None:
    with pytest.raises(
        ValueError, match=r"text 'short': must hold at least one window of 8 bytes, not 5; give a longer"
    ):
        Text(name="short", data=b"12345").windows(8)


def test_unknown_split() -> None:
    with pytest.raises(ValueError, match="split: must be 'train' or 'held-out', not 'valid'"):
        stdlib_text("valid")


def test_text_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    path.write_bytes(b"a\r\nb\xff")
    assert text_from_file(path) == Text(name="note.txt", data=b"a\r\nb\xff")
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"text: file '.*note\.txt' is empty"):
        text_from_file(str(path))
    with pytest.raises(ValueError, match=r"text: no such file '.*gone\.txt'; give the path of a text file"):
        text_from_file(tmp_path / "gone.txt")
