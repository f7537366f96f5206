"""Kernels by name. A binder turns one call's arguments into a thunk without arguments.

A thunk is called once per step, so a binder does everything that can be done before: it makes
views, transposes and checks shapes. Families are imported when a plan names one of their kernels;
those that are not the runtime's own, only from installed distributions that registered them.

Kernels that only traced programs need, such as any ATen op by its name, are kept apart: no plan of
an artifact finds them (:mod:`glmc_runtime.kernels.traced`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from glmc_runtime.errors import ExtensionError, PlanError
from glmc_runtime.package import entry_points

if TYPE_CHECKING:
    from glmc_runtime.kernels.schema import KernelSchema

Thunk = Callable[[], Any]
Binder = Callable[[dict[str, Any]], Thunk]
_Kept = TypeVar("_Kept")

_BINDERS: dict[str, Binder] = {}
_TRACED: dict[str, Binder] = {}
_SCHEMAS: dict[str, KernelSchema] = {}
OWN_FAMILIES = ("aten", "collective", "cpu", "cuda", "ordered", "router")
VENDOR_FAMILIES = ("kunlun_ops", "xspeedgate_ops")
RESERVED = (*OWN_FAMILIES, *VENDOR_FAMILIES, "xpu")


def register(name: str, schema: KernelSchema | None = None) -> Callable[[Binder], Binder]:
    """Decorator: make a binder known as ``family.kernel``.

    ``schema`` says what an artifact may call it with; without one no artifact may name it.
    """

    def keep(binder: Binder) -> Binder:
        registered = _keep(_BINDERS, name, binder)
        if schema is not None:
            _SCHEMAS[name] = schema
        return registered

    return keep


def register_traced(name: str) -> Callable[[Binder], Binder]:
    """Decorator: as :func:`register`, for traced programs alone; an artifact can't name it."""
    return partial(_keep, _TRACED, name)


def _keep(registry: dict[str, Binder], name: str, binder: Binder) -> Binder:
    if name in _BINDERS or name in _TRACED:
        raise PlanError(f"kernel '{name}' is registered twice")
    registry[name] = binder
    return binder


def find_binder(name: str) -> Binder:
    """The binder of a kernel that an artifact may name; imports its family first.

    A family is a module of this package or an entry point of ``glmc_runtime.kernels``. Raises
    :class:`PlanError`, and :class:`ExtensionError` where an installed family can't be used.
    """
    load_family(name)
    if name not in _BINDERS:
        raise PlanError(
            f"this runtime has no kernel '{name}'",
            remedy="upgrade glmc-runtime, install what the artifact was compiled with, or compile "
            "for another target",
        )
    return _BINDERS[name]


def schema_of(name: str) -> KernelSchema | None:
    """The schema that a kernel was registered with."""
    return _SCHEMAS.get(name)


def load_family(name: str) -> None:
    """Import what registers the kernel ``name``, unless that is done."""
    if name in _BINDERS or name in _TRACED:
        return
    family = name.partition(".")[0]
    if family in OWN_FAMILIES:
        importlib.import_module(f"{__name__}.{family}")
    else:
        import_family(family)


def import_family(family: str) -> ModuleType | None:
    """The module of an installed distribution that registers ``family.*``, or None.

    Raises :class:`ExtensionError` when it does not import or registers kernels of other families.
    """
    entry = entry_points.find(entry_points.KERNELS, family, RESERVED)
    if entry is None:
        return None
    before, schemas = dict(_BINDERS), dict(_SCHEMAS)
    try:
        module = entry.load()
        names = set(_BINDERS) - set(before)
        foreign = sorted(name for name in names if name.partition(".")[0] != family)
        if foreign or not isinstance(module, ModuleType):
            raise ExtensionError(
                f"'{family}' is no family of kernels",
                place=entry.place,
                expected=f"a module that registers kernels named '{family}.*'",
                found=", ".join(foreign) or type(module).__name__,
            )
    except ExtensionError:
        _restore(_BINDERS, before)
        _restore(_SCHEMAS, schemas)
        raise
    return module


def _restore(registry: dict[str, _Kept], before: dict[str, _Kept]) -> None:
    registry.clear()
    registry.update(before)


def is_vendor(name: str) -> bool:
    """Whether a call goes to the vendor's library (or its emulator)."""
    return name.partition(".")[0] in VENDOR_FAMILIES
