"""Targets by name. A backend knows no model; one of another distribution needs no line here."""

from __future__ import annotations

from glmc.backends.installed import TARGETS, load_target
from glmc.errors import UsageError
from glmc.lowering.target import Target
from glmc_runtime.package.entry_points import entries

OWN = ("cpu", "cuda", "xpu")
"""Names that no other distribution may take."""


def target_by_name(name: str) -> Target:
    """The target called ``name``: glmc's own, or an installed one (``installed.py``).

    Raises UsageError for one that does not exist, ExtensionError for one that can't be used.
    """
    installed = load_target(name, OWN)
    if installed is not None:
        return installed
    if name == "cpu":
        from glmc.backends import cpu

        return cpu.TARGET
    if name == "cuda":
        from glmc.backends import cuda

        return cuda.TARGET
    if name == "xpu":
        from glmc.backends import kunlun

        return kunlun.TARGET
    raise UsageError(
        f"there is no target '{name}'",
        expected=", ".join((*OWN, *entries(TARGETS))),
        found=name,
        remedy="name one of these, or install the distribution that brings it",
    )
