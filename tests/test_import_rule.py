"""Data flows one way: capture, passes, backends, artifact, runtime (docs/architecture.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# What each package may import of ours. Anything else is a shortcut against the flow of data.
ALLOWED = {
    "runtime/glmc_runtime": {"glmc_runtime", "glmc_kunlun_emulator"},
    "runtime/glmc_kunlun_emulator": {"glmc_kunlun_emulator"},
    "glmc/ir": {"glmc.ir", "glmc.errors", "glmc.weights", "glmc_runtime"},
    "glmc/capture": {"glmc.capture", "glmc.ir", "glmc.errors", "glmc.weights", "glmc_runtime"},
    "glmc/passes": {"glmc.passes", "glmc.ir", "glmc.errors", "glmc.weights", "glmc_runtime"},
    "glmc/weights": {
        "glmc.weights",
        "glmc.ir",
        "glmc.errors",
        "glmc.plain_file",
        "glmc.presets",
        "glmc_runtime",
    },
    "glmc/presets": {"glmc.presets", "glmc.ir", "glmc.errors", "glmc.plain_file"},
    "glmc/backends": {
        "glmc.backends",
        "glmc.ir",
        "glmc.errors",
        "glmc.weights",
        "glmc.passes.memory_plan",
        "glmc_runtime",
    },
    "glmc/artifact": {"glmc.artifact", "glmc.ir", "glmc.errors", "glmc.weights", "glmc_runtime"},
}
_OURS = ("glmc", "glmc_runtime", "glmc_kunlun_emulator")


def imported_modules(source: str) -> set[str]:
    """Modules of ours that a source imports, at any depth of nesting."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in _OURS}


def forbidden(package: str, source: str) -> set[str]:
    return {
        name
        for name in imported_modules(source)
        if not any(
            name == allowed or name.startswith(f"{allowed}.") for allowed in ALLOWED[package]
        )
    }


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_package_imports_only_what_lies_before_it(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, package
    broken = {
        str(file.relative_to(ROOT)): sorted(found)
        for file in files
        if (found := forbidden(package, file.read_text(encoding="utf-8")))
    }
    assert not broken


def test_the_rule_can_fail() -> None:
    assert forbidden("glmc/passes", "from glmc.backends.kunlun import TARGET")
    assert forbidden("runtime/glmc_runtime", "def f():\n    import glmc.ir")
    assert not forbidden("glmc/passes", "from glmc.passes.base import Pass\nimport torch")
