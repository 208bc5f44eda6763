"""The rooms of the package: who may import whom. The map is in ARCHITECTURE.md."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "s4gen"

FLOORS = [
    {"errors"},
    {
        "compiling",
        "config",
        "device",
        "shipped",
        "atomic",
        "unfinished",
        "fitting",
        "folders",
        "progress",
        "apart",
        "memory",
        "timing",
    },
    {"ssm"},
    {"models"},
    {
        "data",
        "checkpoint",
        "classify",
        "evaluation",
        "text_evaluation",
        "audio_evaluation",
        "plots",
        "report",
        "layers",
        "hub",
    },
    {"train", "sampling", "importing"},
    {"demo", "bench_core", "exporting"},
    {"cli", "examples"},
    {"__main__"},
]
"""From the bottom up. A room imports from lower floors and from its own, except that train and sampling are apart."""

LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def room_of(module: Path) -> str:
    return module.parts[0].removesuffix(".py")


def imported_rooms(source: str, package: str) -> Iterator[str]:
    """Rooms of s4gen that a module of `package` ("s4gen.data") imports, at the top or inside functions."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            outside = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*outside, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "s4gen" and len(parts) > 1 and parts[1] != "__version__":
                yield parts[1]


def test_the_reader_of_imports_sees_every_form() -> None:
    source = """
import s4gen.ssm.hippo, torch
from s4gen import __version__, plots
from s4gen.data.images import to_image
from . import store
from ..train import loop
def f():
    from s4gen.cli import main
"""
    assert list(imported_rooms(source, "s4gen.data")) == ["ssm", "plots", "data", "data", "train", "cli"]


def test_every_module_is_in_a_room_and_no_room_is_empty() -> None:
    assert {room_of(module) for module in MODULES} - {"__init__"} == set(LEVEL)


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_imports_point_downwards(module: Path) -> None:
    if module == Path("__init__.py"):
        pytest.skip("holds the version alone")
    here = room_of(module)
    package = ".".join(["s4gen", *module.parent.parts])
    for room in imported_rooms((PACKAGE / module).read_text(encoding="utf-8"), package):
        assert LEVEL[room] <= LEVEL[here], f"{module} imports {room}, which is above it"
        assert {here, room} != {"train", "sampling"}, f"{module} imports {room}"


def test_the_mathematics_knows_no_modules_and_no_configuration() -> None:
    for path in (PACKAGE / "ssm").glob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert set(imported_rooms(source, "s4gen.ssm")) <= {"ssm", "errors"}, path
        assert "nn.Module" not in source, path
