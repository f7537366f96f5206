"""glmc: compile GLM-4.x for Kunlun XPU and CPU.

import glmc
glmc.compile("models/tiny-moe", "out/tiny-moe.xpu", target="xpu")
session = glmc.load("out/tiny-moe.xpu")
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glmc.report import Report
    from glmc_runtime.generate.session import Session

__all__ = ["compile", "load"]


def compile(model: str | Path, output: str | Path, **options: Any) -> Report:
    """Compile ``model``, a checkpoint directory or a preset's name, into the artifact ``output``.

    ``options`` are the fields of :class:`glmc.config.CompileOptions`. Returns the report; raises a
    :class:`glmc.errors.GlmcError`, and leaves nothing at ``output`` then.
    """
    from glmc.compiler import compile_model
    from glmc.config import compile_options
    from glmc.errors import UsageError
    from glmc_runtime.arguments import path

    chosen = compile_options(options)
    source = model if isinstance(model, Path) else path("model", model, refuse=UsageError)
    return compile_model(source, path("output", output, refuse=UsageError), chosen)


def load(path: str | PathLike[str], **options: Any) -> Session:
    """Load an artifact for replay; ``options`` as for :func:`glmc_runtime.load`."""
    import glmc_runtime

    return glmc_runtime.load(path, **options)
