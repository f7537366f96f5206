"""The page of a compile as another page leads to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from glmc.errors import UsageError
from glmc.observe.page.embedded import (
    COMPILE,
    WRITTEN_BY,
    content_of,
    embedded_data,
    relative_address,
)


@dataclass(frozen=True)
class CompilePage:
    """``address`` is relative to the page that leads there."""

    place: Path
    address: str
    model: str
    target: str

    def require_one_of(self, sides: Iterable[tuple[str, str]]) -> None:
        """Raise UsageError where it is the compile of no side; a side is a model and its target."""
        known = [(model, target) for model, target in sides if model]
        if (self.model, self.target) not in known:
            found = ", ".join(f"{model} for {target or 'no target'}" for model, target in known)
            raise UsageError(
                "the page is of another compile",
                place=str(self.place),
                expected=f"the page of {found}" if found else "files that say their model",
                found=f"{self.model} for {self.target or 'no target'}",
                remedy=WRITTEN_BY[COMPILE],
            )


def compile_page(place: Path, page: Path) -> CompilePage:
    """The page at ``place`` as ``page`` leads to it. Raises UsageError for what is none."""
    data = embedded_data(place, content_of(place, COMPILE), COMPILE)
    model, target = (str(data.get(name) or "") for name in ("model", "target"))
    return CompilePage(place, relative_address(place, page), model, target)
