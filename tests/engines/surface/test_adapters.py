"""The rows of an adapter: what it declares, what it imports, what it reads of that."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmc_engines.surface.adapters import adapter_uses
from glmc_engines.surface.uses import Use
from glmc_runtime.errors import RequestError
from tests.engines.surface.made_up import write

ADAPTER = {
    "engine/__init__.py": "def register():\n    from engine.registry import Registry\n",
    "engine/compat.py": """
from __future__ import annotations
import logging
from typing import TYPE_CHECKING
import engine.choice as choice
from engine import config
from glmc_engines.surface.uses import Use
if TYPE_CHECKING:
    from engine.types import ForCheckers
try:
    from engine.layers import Attention
except ImportError:
    from engine.attention import Attention
try:
    from engine.new import Layout
except ImportError:
    Layout = None
try:
    number = int("1")
except ValueError:
    from engine.needed import always

class Ours(config.Parallel, Attention, dict):
    def __init__(self): ...
    def forward(self, x): ...

def touch():
    choice.run(1)
    if hasattr(config, "Late"):
        return config.Late, Layout.BOTH, logging.INFO
    return Attention.kind

SURFACE: tuple[Use, ...] = (
    Use(
        "engine.layers.Attention.forward",
        "method",
        ("x", "metadata"),
        why="replaced by "
        "ours",
        override=True,
    ),
    Use(name="engine.choice.run", kind="function", parameters=["x"]),
)
""",
}


def rows(folder: Path, files: dict[str, str] = ADAPTER) -> dict[str, Use]:
    return {use.name: use for use in adapter_uses("engine", write(files, folder))}


def test_declared_rows_are_read_and_not_imported(tmp_path: Path) -> None:
    found = rows(tmp_path)
    assert found["engine.layers.Attention.forward"] == Use(
        "engine.layers.Attention.forward",
        "method",
        ("x", "metadata"),
        "replaced by ours",
        override=True,
    )
    # It says more than the import does.
    assert found["engine.choice.run"].parameters == ("x",)


def test_imports_are_rows(tmp_path: Path) -> None:
    found = rows(tmp_path)
    needed = {name for name, use in found.items() if not use.optional and not use.either}
    assert needed == {
        "engine.registry.Registry",
        "engine.choice",
        "engine.choice.run",
        "engine.config",
        "engine.config.Parallel",
        "engine.needed.always",
        "engine.layers.Attention.forward",
    }
    assert found["engine.registry.Registry"].why == "imported by engine/__init__.py"
    assert "engine.types.ForCheckers" not in found


def test_an_import_that_may_fail_is_optional_or_one_of_several(tmp_path: Path) -> None:
    found = rows(tmp_path)
    assert found["engine.new.Layout"].optional
    assert found["engine.new.Layout.BOTH"].optional
    first, second = found["engine.layers.Attention"], found["engine.attention.Attention"]
    assert first.either == second.either == "engine/compat.py: Attention"
    # Which of both has it is not known.
    assert found["engine.layers.Attention.kind"].optional
    assert found["engine.attention.Attention.kind"].optional


def test_what_is_asked_for_before_it_is_read_is_optional(tmp_path: Path) -> None:
    assert rows(tmp_path)["engine.config.Late"].optional


def test_methods_that_a_subclass_overrides_are_looked_up(tmp_path: Path) -> None:
    found = rows(tmp_path)
    row = found["engine.attention.Attention.forward"]
    assert found["engine.config.Parallel.forward"].optional
    assert (row.optional, row.why) == (True, "overridden by engine/compat.py")
    assert not [name for name in found if "__init__" in name or name.endswith("dict.forward")]
    # What is declared says more.
    assert found["engine.layers.Attention.forward"].override


@pytest.mark.parametrize("row", ["NAME", "Use(NAME, 'class')", "Use('engine.x')", "Use(nothing=1)"])
def test_a_row_that_only_importing_would_tell_is_refused(tmp_path: Path, row: str) -> None:
    with pytest.raises(RequestError, match="can't be read") as caught:
        rows(tmp_path, {"engine/compat.py": f"SURFACE = (\n    {row},\n)"})
    assert caught.value.place.endswith("compat.py:2")


def test_an_engine_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no adapter"):
        adapter_uses("other", tmp_path)


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_our_own_rows_can_be_read(engine: str) -> None:
    uses = adapter_uses(engine)
    assert uses and all(use.name.split(".")[0] == engine for use in uses)
