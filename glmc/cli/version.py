"""``glmc --version``: what a report of a fault begins with."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator

import glmc
import glmc_runtime

_OTHERS = ("torch", "transformers")


def version_lines() -> Iterator[str]:
    """The version, and those of what it works with; none of these is imported."""
    yield f"glmc {glmc.__version__}"
    yield f"glmc-runtime {glmc_runtime.__version__}"
    for name in _OTHERS:
        try:
            yield f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            yield f"{name} is not installed"
    yield f"Python {platform.python_version()}"
