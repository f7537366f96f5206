"""Data flows one way: an import goes to a lower floor, and never in a circle.

The floors, read from below, are the order of a compile and of a replay (docs/architecture.md).
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).parent.parent

# Each floor may import what is below it, and of its own floor only the room itself.
RUNTIME = (
    ("printable",),
    ("errors",),
    ("arguments", "command", "format", "package"),
    ("collectives",),
    ("kernels",),
    ("replay",),
    ("loading",),
    ("engine",),
    ("doctor", "generate", "record"),
    ("__init__",),
    ("cli",),
)
COMPILER = (
    ("console", "plain_file"),
    ("errors",),
    ("config", "dtype_choice", "garbage", "ir", "out_of_memory"),
    ("capture", "lowering", "patterns", "presets"),
    ("backends", "passes", "weights"),
    ("artifact", "pipeline", "tokenizer"),
    ("job",),
    ("range_check", "report"),
    ("compiled",),
    ("observe",),
    ("compiler", "dynamo"),
    ("estimates",),
    ("__init__", "check", "fit"),
    ("cli",),
    ("__main__",),
)
ENGINES = (
    ("core", "surface"),
    ("sglang", "vllm"),
    ("__init__",),
)
# The benchmarks and the tuner stand above both packages.
PACKAGES = {
    "glmc_runtime": RUNTIME,
    "glmc": COMPILER,
    "glmc_engines": ENGINES,
}
# What else of ours a package may import.
ALLOWED = {
    "glmc_runtime": set[str](),
    "glmc_kunlun_emulator": {"glmc_runtime"},  # the table of vendor functions; found by name
    "glmc": {"glmc_runtime"},
    "glmc_engines": {"glmc_runtime"},
}
SOURCES = {
    "glmc": ROOT,
    "glmc_runtime": ROOT / "runtime",
    "glmc_kunlun_emulator": ROOT / "runtime",
    "glmc_engines": ROOT / "runtime",
    "bench": ROOT,
    "tuning": ROOT,
}


@cache
def imports(source: str) -> tuple[ast.Import | ast.ImportFrom, ...]:
    """All imports of a source, at any depth of nesting."""
    nodes = ast.walk(ast.parse(source))
    return tuple(node for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom)))


def imported_names(source: str) -> set[str]:
    """Dotted names that a source imports from our packages."""
    found: set[str] = set()
    for node in imports(source):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif node.module and node.level == 0:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in SOURCES}


def top_level_imports(source: str) -> set[str]:
    """First parts of everything that a source imports, of any package but relative to its own."""
    found: set[str] = set()
    for node in imports(source):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif node.module and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


def modules() -> dict[str, Path]:
    found = {}
    for package, folder in SOURCES.items():
        for file in sorted((folder / package).rglob("*.py")):
            name = ".".join(file.relative_to(folder).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = file
    return found


def module_of(name: str, known: dict[str, Path]) -> str:
    """The module that an imported name is, or is in."""
    while name not in known:
        name = name.rpartition(".")[0]
    return name


def room_of(module: str) -> str:
    """The file or folder of a package that a module is in."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def upward(module: str, imported: str, floors: tuple[tuple[str, ...], ...]) -> bool:
    """Whether an import goes up, or to another room of the same floor."""
    level = {room: number for number, floor in enumerate(floors) for room in floor}
    here, there = room_of(module), room_of(imported)
    return here != there and level[there] >= level[here]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_import_goes_up(package: str) -> None:
    known = modules()
    floors = PACKAGES[package]
    rooms = {room_of(name) for name in known if name.split(".")[0] == package}
    assert rooms == {room for floor in floors for room in floor}
    broken = [
        (module, name)
        for module, file in known.items()
        if module.split(".")[0] == package
        for name in imported_names(file.read_text(encoding="utf-8"))
        if name.split(".")[0] == package and upward(module, module_of(name, known), floors)
    ]
    assert not broken


def test_no_import_goes_in_a_circle() -> None:
    known = modules()
    graph = nx.DiGraph()
    for module, file in known.items():
        for name in imported_names(file.read_text(encoding="utf-8")):
            if module_of(name, known) != module:
                graph.add_edge(module, module_of(name, known))
    assert [circle for circle in nx.strongly_connected_components(graph) if len(circle) > 1] == []


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_only_what_they_may(package: str) -> None:
    broken = {
        (module, name)
        for module, file in modules().items()
        if module.split(".")[0] == package
        for name in imported_names(file.read_text(encoding="utf-8"))
        if name.split(".")[0] not in {package, *ALLOWED[package]}
    }
    assert not broken


def test_an_engine_is_imported_by_its_own_adapter_and_benchmark_alone() -> None:
    engines = {"sglang", "vllm"}
    broken = {
        (module, name)
        for module, file in modules().items()
        for name in top_level_imports(file.read_text(encoding="utf-8")) & engines
        if not module.startswith((f"glmc_engines.{name}.", "bench.engines."))
    }
    assert not broken


def test_the_runtime_has_few_rooms() -> None:
    assert sum(room != "__init__" for floor in RUNTIME for room in floor) <= 15


def test_the_rule_can_fail() -> None:
    assert upward("glmc.passes.rope", "glmc.backends.kunlun", COMPILER)  # same floor
    assert upward("glmc.ir.match", "glmc.passes.base", COMPILER)
    assert not upward("glmc.passes.rope", "glmc.passes.base", COMPILER)
    assert not upward("glmc.compiler", "glmc.ir.program", COMPILER)
    assert upward("glmc_runtime.loading.loader", "glmc_runtime.engine.engine", RUNTIME)
    assert imported_names("def f():\n    import glmc.ir") == {"glmc.ir"}
    assert top_level_imports(
        "import vllm.config as c\nfrom sglang.srt import a\nfrom . import b"
    ) == {
        "vllm",
        "sglang",
    }
