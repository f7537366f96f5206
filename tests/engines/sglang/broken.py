"""Processes of Python in which a module lacks a name, or can't be imported at all."""

from __future__ import annotations

import os
from pathlib import Path

# Python imports sitecustomize, if there is one, before anything else.
_TEXT = """
import sys
from importlib.machinery import PathFinder


class Without:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != MODULE:
            return None
        if NAME is None:
            raise ImportError(f"{{name}} can't be imported")
        spec = PathFinder.find_spec(name, path, target)
        run = spec.loader.exec_module

        def without_a_name(module):
            run(module)
            delattr(module, NAME)

        spec.loader.exec_module = without_a_name
        return spec


MODULE, NAME = {module!r}, {name!r}
sys.meta_path.insert(0, Without)
"""


def without(folder: Path, module: str, name: str | None = None) -> dict[str, str]:
    """Environment of processes whose ``module`` lacks ``name``; None is for the module itself."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(_TEXT.format(module=module, name=name))
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
