"""Kernels by name. A binder turns one call's arguments into a thunk without arguments.

A thunk is called once per step, so a binder does everything that can be done before: it makes
views, transposes and checks shapes. Families are imported when a plan names one of their kernels.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

from glmc_runtime.errors import PlanError

Thunk = Callable[[], Any]
Binder = Callable[[dict[str, Any]], Thunk]

_BINDERS: dict[str, Binder] = {}
VENDOR_FAMILIES = ("kunlun_ops", "xspeedgate_ops")


def register(name: str) -> Callable[[Binder], Binder]:
    """Decorator: make a binder known as ``family.kernel``."""

    def keep(binder: Binder) -> Binder:
        if name in _BINDERS:
            raise PlanError(f"kernel '{name}' is registered twice")
        _BINDERS[name] = binder
        return binder

    return keep


def find_binder(name: str) -> Binder:
    """The binder of a kernel; imports its family first. Raises :class:`PlanError`."""
    if name not in _BINDERS:
        family = f"{__name__}.{name.partition('.')[0]}"
        if family.rpartition(".")[2].isidentifier() and importlib.util.find_spec(family):
            importlib.import_module(family)
    if name not in _BINDERS:
        raise PlanError(
            f"this runtime has no kernel '{name}'",
            remedy="upgrade glmc-runtime, or compile for another target",
        )
    return _BINDERS[name]


def is_vendor(name: str) -> bool:
    """Whether a call goes to the vendor's library (or its emulator)."""
    return name.partition(".")[0] in VENDOR_FAMILIES
