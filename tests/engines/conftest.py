"""Tests of an adapter are collected only where its engine is installed: they import it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

_HERE = Path(__file__).parent
_ENGINES = ("vllm", "sglang")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """A folder that is named like an engine is left out where that engine is missing."""
    inside = collection_path.is_relative_to(_HERE)
    parts = collection_path.relative_to(_HERE).parts if inside else ()
    return True if parts and parts[0] in _ENGINES and find_spec(parts[0]) is None else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All that needs an engine carries the marker, wherever it is asked for."""
    for item in items:
        if item.path.is_relative_to(_HERE) and item.path.relative_to(_HERE).parts[0] in _ENGINES:
            item.add_marker(pytest.mark.engines)
