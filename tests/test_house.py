"""The house: rooms, links, packages, quick imports, and the lint rules that keep them so."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import macloom

ROOT = Path(__file__).resolve().parents[1]
FRONT = ROOT / "src" / "macloom"
ROOMS = ("arch", "explore", "formats", "rtl", "sim", "workloads")
DATA_SUFFIXES = {".toml", ".json", ".safetensors", ".j2", ".v"}
# design.md section 1: which rooms a room may import.
MAY_IMPORT = {
    "formats": set(),
    "arch": {"formats"},
    "workloads": {"formats"},
    "sim": {"formats", "arch", "workloads"},
    "rtl": {"formats", "arch"},
    "explore": {"formats", "arch", "workloads", "sim", "rtl"},
}
HEAVY = ("torch", "numba", "matplotlib", "rich", "pydantic", "transformers")


def expected_files() -> set[str]:
    """Return the path below `macloom/` of every module and data file of the package."""
    found = {p.relative_to(FRONT).as_posix() for p in FRONT.rglob("*") if p.suffix == ".py" or p.name == "py.typed"}
    for room in ROOMS:
        found |= {
            p.relative_to(ROOT).as_posix()
            for p in (ROOT / room).rglob("*")
            if p.suffix == ".py" or p.suffix in DATA_SUFFIXES
        }
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_room_is_a_relative_link_that_resolves(room: str) -> None:
    link = FRONT / room
    if not (ROOT / "src" / "macloom.egg-info").is_dir() and not (ROOT / ".git").exists():
        pytest.skip("not a checkout: an unpacked sdist holds the rooms themselves")
    assert os.readlink(link) == f"../../{room}"
    assert link.resolve() == ROOT / room
    assert (link / "__init__.py").is_file()


@pytest.mark.parametrize("room", ROOMS)
def test_room_imports_only_rooms_below_it(room: str) -> None:
    wrong = []
    for path in sorted((ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            for name in names:
                parts = name.split(".")
                if parts[0] == "macloom" and len(parts) > 1 and parts[1] in ROOMS:
                    private = any(p.startswith("_") for p in parts[2:]) and parts[1] != room
                    if private or parts[1] not in MAY_IMPORT[room] | {room}:
                        wrong.append(f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)} imports {name}")
    assert not wrong


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Build sdist and wheel, the wheel from the sdist, without network, and return their paths."""
    directory = tmp_path_factory.mktemp("house")
    skipped = (".venv", ".git", "runs", "build", "dist", "site", "__pycache__", "*.egg-info", "*.partial", ".*_cache")
    shutil.copytree(ROOT, directory / "tree", symlinks=True, ignore=shutil.ignore_patterns(*skipped))
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(directory / "dist"), "tree"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,), (wheel,) = (directory / "dist").glob("*.tar.gz"), (directory / "dist").glob("*.whl")
    return sdist, wheel


def test_wheel_holds_every_module_and_data_file(distributions: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(distributions[1]) as wheel:
        names = {n.removeprefix("macloom/") for n in wheel.namelist() if n.startswith("macloom/")}
        outside = {n.split("/")[0] for n in wheel.namelist()}
    assert names == expected_files()
    assert outside == {"macloom", f"macloom-{macloom.__version__}.dist-info"}


def test_sdist_holds_every_module_data_file_and_test(distributions: tuple[Path, Path]) -> None:
    prefix = f"macloom-{macloom.__version__}"
    with tarfile.open(distributions[0]) as sdist:
        files = {m.name.removeprefix(f"{prefix}/") for m in sdist.getmembers() if m.isfile() or m.islnk()}
        links = [m.name for m in sdist.getmembers() if m.issym()]
    assert {f"src/macloom/{name}" for name in expected_files()} <= files
    assert {"LICENSE", "CITATION.cff", "Makefile", "README.md", "constraints.txt", "tests/test_house.py"} <= files
    assert not links


def test_wheel_works_alone(distributions: tuple[Path, Path], tmp_path: Path) -> None:
    """The unpacked wheel lists its presets and formats from a foreign directory, without the checkout."""
    with zipfile.ZipFile(distributions[1]) as wheel:
        wheel.extractall(tmp_path)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import macloom;"
        f"assert macloom.__file__.startswith({str(tmp_path)!r}), macloom.__file__;"
        "print(macloom.load_accelerator('olive-sa').name, macloom.load_workload('opt-6.7b').name)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, ["olive-sa", "opt-6.7b"]), done.stderr


def loaded_modules(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import json, sys\n{code}\nprint(json.dumps(list(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.split(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_import_macloom_loads_nothing_heavy() -> None:
    loaded = loaded_modules("import macloom")
    assert loaded.isdisjoint({*HEAVY, "numpy", "argparse"})


@pytest.mark.parametrize("room", ["formats", "arch", "workloads", "sim"])
def test_importing_a_room_loads_nothing_heavy(room: str) -> None:
    assert loaded_modules(f"import macloom.{room}").isdisjoint(HEAVY)


def test_help_loads_nothing_heavy() -> None:
    code = """
import contextlib, io
from macloom.cli import main
with contextlib.redirect_stdout(io.StringIO()):
    assert main(["--help"]) == 0
"""
    assert loaded_modules(code).isdisjoint({*HEAVY, "numpy"})


def test_public_names_resolve_and_are_listed() -> None:
    for name in macloom.__all__:
        assert getattr(macloom, name) is not None
        assert name in dir(macloom)


def test_unknown_public_name() -> None:
    with pytest.raises(AttributeError, match="module 'macloom' has no attribute 'simulat'"):
        _ = macloom.simulat  # type: ignore[attr-defined]


def test_versions_agree() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {macloom.__version__}\n" in citation
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["dynamic"]["version"] == {
        "attr": "macloom.__version__"
    }


def requirement_name(text: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", text)
    assert match, text
    return re.sub(r"[-_.]+", "-", match.group()).lower()


def test_constraints_pin_every_dependency_by_version_alone() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "torch==2.13.0"
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line)] == []
    pinned = {requirement_name(line) for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    assert {requirement_name(r) for r in needed} <= pinned


def test_every_dependency_says_what_needs_it() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    requirements = re.findall(r'^    "[^"]+>=[^"]+",.*$', text, re.MULTILINE)
    assert len(requirements) > 20
    assert [line for line in requirements if not re.search(r"# \w.*: .+|# make \w+", line)] == []


@pytest.mark.parametrize("room", ROOMS)
def test_lint_forbids_rooms_by_their_directory_name(room: str) -> None:
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--no-cache",
        "--select",
        "TID251",
        "--stdin-filename",
        "x.py",
        "-",
    ]
    done = subprocess.run(command, cwd=ROOT, input=f"import {room}\n", capture_output=True, text=True)
    assert done.returncode == 1
    assert f"import it as macloom.{room}" in done.stdout


def test_makefile_explains_each_target() -> None:
    done = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("demo", "test", "lint", "bench", "docs", "help", "clean"):
        assert f"make {target} " in done.stdout


def test_makefile_refuses_an_old_python(tmp_path: Path) -> None:
    """A Python that says it is 3.9 is refused with the version and a way out, before anything is made."""
    old = tmp_path / "python-old"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2" && exit 0\nexit 1\n')
    old.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    done = subprocess.run(["make", f"PYTHON={old}", "test"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "macloom needs Python 3.11 or newer" in done.stderr
    assert "Python 3.9.2; try: make PYTHON=python3.11 test" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_every_page_of_the_documentation_is_in_the_menu() -> None:
    menu = re.findall(r"^  - [^:]+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(menu) == sorted(p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("page", [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"], ids=lambda p: p.name)
def test_links_of_the_documentation_resolve(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_documented_names_exist() -> None:
    for name in re.findall(r"^::: (\S+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE):
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


def test_docstring_examples_are_collected_once_under_the_public_name() -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "src/macloom"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = [line for line in done.stdout.splitlines() if "::" in line]
    assert len(found) == len(set(found)) > 20
    assert {room for line in found for room in ROOMS if line.startswith(f"src/macloom/{room}/")} >= {"formats", "arch"}
    assert all(line.startswith("src/macloom/") for line in found)
