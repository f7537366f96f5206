"""Targets by name. A backend knows no model; adding one is one package and one line here."""

from __future__ import annotations

from glmc.backends.base import Target
from glmc.errors import UsageError


def target_by_name(name: str) -> Target:
    """The target called ``name``; raises UsageError for one that does not exist yet."""
    if name == "cpu":
        from glmc.backends import cpu

        return cpu.TARGET
    if name == "xpu":
        from glmc.backends import kunlun

        return kunlun.TARGET
    raise UsageError(
        f"target '{name}' is not built yet",
        expected="cpu or xpu",
        found=name,
        remedy="compile with --target cpu or --target xpu",
    )
