"""A release of an engine as a folder of sources: its modules by name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from glmc_engines.surface.bindings import Scope
from glmc_engines.surface.scopes import module_scope
from glmc_runtime.errors import RequestError


@dataclass(frozen=True)
class Release:
    """The package ``name`` in ``folder``, of a version that is empty where nothing tells it."""

    name: str
    version: str
    folder: Path

    def __str__(self) -> str:
        return f"{self.name} {self.version or 'of unknown version'}"

    def file(self, module: str) -> Path | None:
        """The source of a module; a folder without ``__init__.py`` stands for itself."""
        path = self.folder.joinpath(*module.split("."))
        for file in (path / "__init__.py", path.with_name(f"{path.name}.py")):
            if file.is_file():
                return file
        return path if path.is_dir() else None

    def modules(self) -> Iterator[tuple[str, Path]]:
        """Every module that has a source, in the order of its name."""
        for file in sorted((self.folder / self.name).rglob("*.py")):
            dotted = ".".join(file.relative_to(self.folder).with_suffix("").parts)
            yield dotted.removesuffix(".__init__"), file


class Sources:
    """The modules of a release, each parsed once, when it is first asked for."""

    def __init__(self, release: Release) -> None:
        self.release = release
        self._scopes: dict[str, Scope | None] = {}

    def scope(self, module: str) -> Scope | None:
        """What a module binds; None where the release has no such module."""
        if module not in self._scopes:
            self._scopes[module] = self._read(module)
        return self._scopes[module]

    def defining(self, name: str) -> list[tuple[str, Scope]]:
        """The modules that define a name, with their scopes."""
        found = []
        # Most modules don't, as their text tells without a parse.
        text = rb"^\s*(class|def|async def)\s+NAME\b|^\s*NAME\s*[:=]".replace(
            b"NAME", name.encode()
        )
        wanted = re.compile(text, re.MULTILINE)
        for module, file in self._modules:
            source = file.read_bytes()
            if name.encode() in source and wanted.search(source):
                scope = self.scope(module)
                if scope is not None and name in scope.names:
                    found.append((module, scope))
        return found

    @cached_property
    def _modules(self) -> list[tuple[str, Path]]:
        return list(self.release.modules())

    def _read(self, module: str) -> Scope | None:
        file = self.release.file(module)
        if file is None:
            return None
        if file.is_dir():
            return Scope()
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError) as error:
            raise RequestError(
                f"{self.release} has a source that this Python can't read",
                place=module,
                found=str(error),
                remedy="run this command with the Python that the release is for",
            ) from error
        return module_scope(tree, module, package=file.name == "__init__.py")
