"""Modules by the names that they had in version 0.1.0: imported under the new name, with a warning.

They go with version 0.2. Names of the package itself (``glmc_runtime.load``, ``Session``) stay.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

RUNTIME = {
    "format": ("plan", "plan_json", "manifest", "extent", "dtypes", "records", "dependence"),
    "replay": ("arena", "inputs", "bind", "graph", "guard_steps", "statistics", "step", "cache"),
    "loading": ("loader", "weights", "guards", "check", "check_calls"),
    "engine": ("sequences", "packing", "exclusive", "assemble", "sampling"),
    "command": ("output",),
    "package": ("constants", "entry_points"),
    "generate": ("session", "generation", "options", "events", "stream", "text"),
}


class MovedModules(MetaPathFinder, Loader):
    """Finds ``PACKAGE.NAME`` in the folder of ``places`` that it is in now, or by its new name of
    ``renamed``; asked only for names that nothing else finds."""

    def __init__(
        self,
        package: str,
        places: Mapping[str, Iterable[str]],
        renamed: Mapping[str, str] | None = None,
    ) -> None:
        new = {name: f"{place}.{name}" for place, names in places.items() for name in names}
        new.update(renamed or {})
        self._new = {f"{package}.{old}": f"{package}.{name}" for old, name in new.items()}
        self._own: ModuleSpec | None = None

    def install(self) -> None:
        sys.meta_path.append(self)

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in self._new else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = self._new[spec.name]
        warnings.warn(f"{spec.name} is {new} now", DeprecationWarning, stacklevel=2)
        module = import_module(new)
        self._own = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._own  # the import has just put that of the old name there
