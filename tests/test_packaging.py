"""What an installation holds, and what the set-up says on a machine that does not fit."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest

import s4gen
from s4gen.compiling.shipping import tag_of
from s4gen.files.shipped import KINDS, shipped_names

ROOT = Path(__file__).resolve().parent.parent


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "S4GEN_DATA"}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def unpacked_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, without a compiled engine, unpacked as pip would."""
    folder = tmp_path_factory.mktemp("wheel")
    command = (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder)
    built = run(*command, cwd=ROOT, HATCH_BUILD_NO_HOOKS="true")
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("s4gen-*.whl")
    with ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.mark.skipif(importlib.util.find_spec("ziglang") is not None, reason="ziglang is a compiler")
def test_without_a_compiler_the_wheel_is_a_pure_one_and_says_so(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path)
    built = run(*command, cwd=ROOT, PATH=str(tmp_path), CXX="")
    assert [path.name for path in tmp_path.iterdir()] == [f"s4gen-{s4gen.__version__}-py3-none-any.whl"]
    assert "s4gen: a wheel without a compiled engine: there is no C++ compiler here" in built.stderr


@pytest.mark.parametrize(
    ("needed", "tag"),
    [
        (["GLIBC_2.2.5", "GLIBC_2.34", "GLIBC_2.4", "GLIBCXX_3.4.30"], f"py3-none-manylinux_2_34_{platform.machine()}"),
        ([], f"py3-none-linux_{platform.machine()}"),
    ],
)
def test_a_wheel_with_libraries_says_which_c_library_they_need(needed: list[str], tag: str, tmp_path: Path) -> None:
    library = tmp_path / "library.so"
    library.write_bytes("\0".join(["", *needed, ""]).encode())
    assert tag_of([library]) == tag


def test_the_wheel_installs_one_package(unpacked_wheel: Path) -> None:
    names = {path.name for path in unpacked_wheel.iterdir()}
    assert names == {"s4gen", f"s4gen-{s4gen.__version__}.dist-info"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_wheel_ships_every_file_that_a_person_edits(kind: str, unpacked_wheel: Path) -> None:
    def files(folder: Path) -> set[Path]:
        return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}

    assert files(unpacked_wheel / "s4gen" / "_shipped" / kind) == files(ROOT / kind)


def test_the_installed_package_finds_what_it_ships_and_its_images(unpacked_wheel: Path, tmp_path: Path) -> None:
    code = (
        "import s4gen; from s4gen.files.shipped import KINDS, shipped_names; from s4gen.data import open_split\n"
        "shipped = [shipped_names(kind) for kind in KINDS]\n"
        "print(s4gen.__file__, shipped, len(open_split('mnist-mini', 'test')))"
    )
    done = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(unpacked_wheel))
    names = [shipped_names(kind) for kind in KINDS]
    assert done.stdout == f"{unpacked_wheel / 's4gen' / '__init__.py'} {names} 500\n", done.stderr


def test_the_installed_package_is_typed_and_licensed(unpacked_wheel: Path) -> None:
    (info,) = unpacked_wheel.glob("*.dist-info")
    assert (unpacked_wheel / "s4gen" / "py.typed").exists()
    assert "License-Expression: Apache-2.0" in (info / "METADATA").read_text()
    assert (info / "licenses" / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert (info / "entry_points.txt").read_text().split() == [
        "[console_scripts]",
        "s4gen",
        "=",
        "s4gen.__main__:program",
    ]


def test_the_environment_holds_this_version() -> None:
    assert importlib.metadata.version("s4gen") == s4gen.__version__


def test_every_dependency_is_pinned_for_the_set_up() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {*project["dependencies"], *extras["dev"], *extras["docs"]}
    pinned = re.findall(r"^([\w-]+)==", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert sorted(pinned) == sorted(re.split(r"[^\w-]", requirement)[0] for requirement in wanted)


@pytest.mark.parametrize("module", ["s4gen", "s4gen.files.shipped", "s4gen.config", "s4gen.data"])
def test_light_modules_do_not_import_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert run(sys.executable, "-c", code, cwd=ROOT).returncode == 0


@pytest.mark.parametrize("python", ["false", "no-such-python"])
def test_make_says_which_python_it_needs(python: str, tmp_path: Path) -> None:
    """`false` stands for an interpreter too old: it, too, answers the question with exit code 1."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    done = run("make", f"PYTHON={python}", "test", cwd=tmp_path)
    assert done.returncode == 2
    assert f"s4gen needs Python 3.11 or newer, but '{python}' is not" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_the_check_of_changes_uses_data_beside_the_checkout(tmp_path: Path) -> None:
    checkout, beside, elsewhere = tmp_path / "checkout", tmp_path / "shared" / "data", tmp_path / "elsewhere"
    shutil.copytree(ROOT / ".ci", checkout / ".ci")
    make = tmp_path / "bin" / "make"
    make.parent.mkdir()
    make.write_text('#!/bin/sh\necho "make $* in $PWD with ${S4GEN_DATA-nothing}"\n')
    make.chmod(0o755)
    path = f"{make.parent}:{os.environ['PATH']}"
    for before, data in (({}, "nothing"), ({"S4GEN_DATA": str(elsewhere)}, str(elsewhere))):
        done = run(checkout / ".ci" / "run", cwd=tmp_path, PATH=path, **before)
        assert done.stdout == f"make test in {checkout} with {data}\n"
    beside.mkdir(parents=True)
    assert run(checkout / ".ci" / "run", cwd=tmp_path, PATH=path).stdout.endswith(f"with {beside}\n")
