"""Allow-list of kernels by target: what an artifact may name, never what happens to be there.

A target names the families common to all (``aten``, ``collective``) and its own. Kernels of other
installed distributions may be named by any artifact, for a pass may bring them; what the
distribution has not registered with a schema may not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType

from glmc_runtime.errors import ExtensionError, PlanError
from glmc_runtime.format.manifest import Manifest
from glmc_runtime.kernels import (
    RESERVED,
    VENDOR_FAMILIES,
    find_binder,
    import_family,
    schema_of,
)
from glmc_runtime.kernels.schema import KernelSchema
from glmc_runtime.kernels.vendor_functions import vendor_function

FAMILIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "cpu": ("aten", "collective", "cpu", "ordered"),
        "cuda": ("aten", "collective", "cuda"),
        "xpu": ("aten", "collective", "router", "ordered", "kunlun_ops"),
    }
)
"""Of the runtime and the vendor."""


def allowed_kernels(manifest: Manifest) -> Callable[[str, str], KernelSchema]:
    """A function of a kernel's name and the place of a call that gives the kernel's schema, or
    raises :class:`PlanError` where an artifact of this target may not name it."""
    families = _families(manifest.target)
    profile = manifest.abi_profile or ""

    @cache
    def known(name: str) -> KernelSchema | None:
        family = name.partition(".")[0]
        if family in RESERVED and family not in families:
            return None
        if family in VENDOR_FAMILIES:
            row = vendor_function(name)
            variant = None if row is None else row.variants.get(profile)
            return None if variant is None else variant.schema
        find_binder(name)
        schema = schema_of(name)
        if schema is None:
            raise ExtensionError(
                f"kernel '{name}' has no schema, so no artifact may name it",
                expected=f"register('{name}', schema(...)), with all of its arguments",
                remedy="see docs/writing_a_target.md, or uninstall what brings it",
            )
        return schema

    def find(name: str, place: str) -> KernelSchema:
        schema = known(name)
        if schema is None:
            is_vendor = name.partition(".")[0] in VENDOR_FAMILIES
            raise PlanError(
                f"this runtime calls no vendor function '{name}'"
                + (f" of profile {profile}" if profile else "")
                if is_vendor
                else f"an artifact for {manifest.target} has no kernel '{name}'",
                place=place,
                expected=f"one of {', '.join(f'{family}.*' for family in families)}",
                remedy="upgrade glmc-runtime, or do not use this artifact: it was changed",
            )
        return schema

    return find


def _families(target: str) -> tuple[str, ...]:
    """Of a target that a distribution brings: its own, and those that its module names."""
    if target in FAMILIES:
        return FAMILIES[target]
    module = import_family(target)
    named = getattr(module, "FAMILIES", ())
    known = sorted({family for families in FAMILIES.values() for family in families})
    if not isinstance(named, tuple) or not all(family in known for family in named):
        raise ExtensionError(
            f"the kernels of target '{target}' do not say which others its artifacts may name",
            place=getattr(module, "__name__", target),
            expected=f"FAMILIES = a tuple of {', '.join(known)}",
            found=repr(named)[:80],
        )
    return ("aten", "collective", target, *named)
