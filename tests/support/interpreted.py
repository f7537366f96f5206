"""Triton's interpreter, which patches ``triton.language`` anew at each call of a device function.

A third of an interpreted launch is spent on it, and all but the first of a launch change nothing.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest


def patched_once(patch: pytest.MonkeyPatch) -> None:
    """Patch each module of the language once in a launch, not at each call within it."""
    from triton.runtime import interpreter

    original = interpreter._patch_lang
    seen: set[str] = set()

    def languages(function: Any) -> set[str]:
        modules = filter(inspect.ismodule, function.__globals__.values())
        names = {module.__name__ for module in modules}
        return names & {"triton.language", "triton.language.core"}

    def launch(executor: Any, *arguments: Any, **constants: Any) -> Any:
        seen.clear()
        return run(executor, *arguments, **constants)

    def patch_new(function: Any) -> Any:
        names = languages(function)
        if names and names <= seen:
            return interpreter._LangPatchScope()
        seen.update(names)
        return original(function)

    run = interpreter.GridExecutor.__call__
    patch.setattr(interpreter.GridExecutor, "__call__", launch)
    patch.setattr(interpreter, "_patch_lang", patch_new)
