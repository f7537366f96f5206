"""Entry points of other installed distributions: passes, targets and kernels.

Looking for names reads the metadata of installed distributions and imports nothing. Code is only
imported for a name that was asked for, and only if an installed distribution registered it.
"""

from __future__ import annotations

import importlib.metadata
import re
from dataclasses import dataclass
from typing import Any

from glmc_runtime.errors import ExtensionError

KERNELS = "glmc_runtime.kernels"
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Entry:
    """One entry point; ``distribution`` is name and version, ``value`` what it points at."""

    group: str
    name: str
    value: str
    distribution: str
    point: importlib.metadata.EntryPoint

    @property
    def place(self) -> str:
        return f"{self.distribution}, entry point '{self.name} = {self.value}' of {self.group}"

    def load(self) -> Any:
        """The object behind the entry point; raises :class:`ExtensionError`."""
        try:
            return self.point.load()
        except Exception as error:  # code of others may raise whatever it likes
            raise ExtensionError(
                f"'{self.name}' can't be imported: {type(error).__name__}: {error}",
                place=self.place,
                expected="module:attribute that imports",
                found=self.value,
                remedy=f"repair or uninstall {self.distribution}, or do not name '{self.name}'",
            ) from error


def entries(group: str) -> dict[str, tuple[Entry, ...]]:
    """The entry points of a group by name, sorted; more than one for a name that two claim."""
    by_name: dict[str, list[Entry]] = {}
    for point in importlib.metadata.entry_points(group=group):
        distribution = "an unnamed distribution"
        if point.dist is not None:
            distribution = f"{point.dist.name} {point.dist.version}"
        entry = Entry(group, point.name, point.value, distribution, point)
        by_name.setdefault(point.name, []).append(entry)
    return {
        name: tuple(sorted(by_name[name], key=lambda one: (one.distribution, one.value)))
        for name in sorted(by_name)
    }


def find(group: str, name: str, reserved: tuple[str, ...] = ()) -> Entry | None:
    """The entry point of that name, or None; ``reserved`` names are glmc's own.

    Raises :class:`ExtensionError` for a name that several distributions claim, that is reserved,
    or that is no lower-case identifier.
    """
    matches = entries(group).get(name, ())
    if not matches:
        return None
    first, *others = matches
    if name in reserved:
        raise ExtensionError(
            f"'{name}' is a name of glmc itself",
            place=first.place,
            expected=f"another name than {', '.join(reserved)}",
            remedy=f"rename it, or uninstall {first.distribution}",
        )
    if others:
        raise ExtensionError(
            f"'{name}' is registered more than once",
            place="; ".join(entry.place for entry in matches),
            expected="one installed distribution that brings it",
            found=", ".join(entry.distribution for entry in matches),
            remedy="uninstall all but one",
        )
    if _NAME.fullmatch(name) is None:
        raise ExtensionError(
            f"'{name}' is no name for a pass, target or family of kernels",
            place=first.place,
            expected="lower-case letters, digits and underscores, a letter first",
        )
    return first
