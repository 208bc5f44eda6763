"""The rooms of the package: who may import whom. The map is in ARCHITECTURE.md."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "s4gen"

FLOORS = [
    {"errors"},
    {"files", "machine", "showing", "config", "compiling", "bulk"},
    {"ssm"},
    {"models"},
    {"data", "checkpoint", "layers", "hub"},
    {"evaluate"},
    {"train", "sampling", "importing"},
    {"compress"},
    {"bench", "reporting"},
    {"demo", "exporting", "serving"},
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
from s4gen import __version__
from s4gen.showing import plots
from s4gen.data.images import to_image
from . import store
from ..train import loop
def f():
    from s4gen.cli import main
"""
    assert list(imported_rooms(source, "s4gen.data")) == ["ssm", "showing", "data", "data", "train", "cli"]


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
        assert (here, room) not in {("compress", "train"), ("compress", "importing")}, f"{module} imports {room}"


def test_rooms_import_each_other_in_no_circle() -> None:
    """Rooms of one floor may import each other, but only in one direction."""
    imports: dict[str, set[str]] = {room: set() for room in LEVEL}
    for module in MODULES:
        if module != Path("__init__.py"):
            package = ".".join(["s4gen", *module.parent.parts])
            imports[room_of(module)] |= set(imported_rooms((PACKAGE / module).read_text(encoding="utf-8"), package))
    graphlib.TopologicalSorter({room: rooms - {room} for room, rooms in imports.items()}).prepare()


def test_scorers_know_no_engines_so_that_training_can_use_them() -> None:
    """An engine is given to `by_recurrence`: importing the whole room of evaluation loads no room of sampling."""
    names = [path.stem for path in (PACKAGE / "evaluate").glob("*.py") if path.stem != "__init__"]
    assert {"scorers", "images", "text", "audio", "recognition"} <= set(names)
    loading = "import sys\n" + "".join(f"import s4gen.evaluate.{name}\n" for name in names)
    loading += "print([name for name in sys.modules if name.startswith(('s4gen.sampling', 's4gen.train'))])"
    done = subprocess.run([sys.executable, "-c", loading], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_the_benchmark_needs_no_data_and_nothing_needs_the_benchmark() -> None:
    """It measures what others do, so nothing that works may lean on it; only who shows its numbers may."""
    needed = {"bench", "evaluate", "sampling", "compress", "models", "ssm", "config", "compiling"}
    services = {"errors", "machine", "showing"}
    for module in MODULES:
        package = ".".join(["s4gen", *module.parent.parts])
        imported = set(imported_rooms((PACKAGE / module).read_text(encoding="utf-8"), package))
        if room_of(module) == "bench":
            assert imported <= needed | services, module
        elif "bench" in imported:
            assert room_of(module) in {"cli", "demo"}, f"{module} imports the benchmark"


def test_what_is_known_before_torch_is_loaded_needs_none() -> None:
    """The command line imports these two modules of the benchmark at its start, for its help."""
    for name in ("__init__", "ways", "published"):
        tree = ast.parse((PACKAGE / "bench" / f"{name}.py").read_text(encoding="utf-8"))
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert imported <= {"__future__", "math", "s4gen.config"}, name


def test_the_mathematics_knows_no_modules_and_no_configuration() -> None:
    for path in (PACKAGE / "ssm").glob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert set(imported_rooms(source, "s4gen.ssm")) <= {"ssm", "errors"}, path
        assert "nn.Module" not in source, path


SETTINGS_OF_TORCH = {"torch._inductor.config"}
"""PyTorch documents these under a private name; they have no other."""


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_no_private_module_of_torch_is_imported(module: Path) -> None:
    for node in ast.walk(ast.parse((PACKAGE / module).read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            first, *rest = name.split(".")
            private = first == "torch" and any(part.startswith("_") for part in rest)
            assert not private or name in SETTINGS_OF_TORCH, f"{module} imports {name}"


def imported_modules(source: str, module: str) -> Iterator[str]:
    """Dotted names of the modules of s4gen that a module imports, at the top or inside functions, but not for types."""
    known = {".".join(["s4gen", *path.with_suffix("").parts]).removesuffix(".__init__") for path in MODULES}
    tree = ast.parse(source)
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:  # s4gen itself holds the version, and imports the rest only when it is asked for
            found = name if name in known else name.rpartition(".")[0]
            if found in known - {"s4gen", module}:
                yield found


def test_no_module_needs_itself() -> None:
    """A module may be imported without a circle, wherever one begins to read. Packages stand for what they export."""
    graph = {}
    for path in MODULES:
        module = ".".join(["s4gen", *path.with_suffix("").parts]).removesuffix(".__init__")
        graph[module] = set(imported_modules((PACKAGE / path).read_text(encoding="utf-8"), module))
    while leaves := {module for module, needs in graph.items() if not needs & graph.keys()}:
        graph = {module: needs for module, needs in graph.items() if module not in leaves}
    assert not graph, {module: needs & graph.keys() for module, needs in graph.items()}
