"""One loaded face of the emulated vendor libraries."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

from .contract import ALL_PROFILES, REGISTRY, bind
from .errors import UnmodelledError

NAMESPACES = ("kunlun_ops", "xspeedgate_ops", "_C")
MODELLED_WHEEL = {
    "P-A": "kunlun_ops 0.1.58 era, torch 2.5.1",
    "P-B": "the torch 2.9 wheel of August 2026",
    "P-C": "newer kunlun_ops as called by SGLang",
}


class EmulatedVendor:
    """`kunlun_ops`, `xspeedgate_ops` and `_C` of one profile, with a log of calls.

    `calls` counts each call by name: the bare name for kunlun_ops, `xspeedgate_ops.NAME` and
    `_C.NAME` for the others. A `_C` wrapper counts once, under its own name. `guard` may be
    switched at any time.
    """

    emulated = True

    def __init__(self, profile: str, guard: bool) -> None:
        if profile not in ALL_PROFILES:
            raise UnmodelledError(
                "load(profile=)", expected=repr(ALL_PROFILES), found=repr(profile)
            )
        self._profile = profile
        self.guard = guard
        self.calls: Counter[str] = Counter()
        self.kunlun_ops, self.xspeedgate_ops, self._C = (self._face(name) for name in NAMESPACES)

    def _face(self, namespace: str) -> ModuleType:
        module = ModuleType(namespace, f"Emulated {namespace}, profile {self._profile}.")
        for operation in REGISTRY:
            if operation.namespace == namespace and self._profile in operation.profiles:
                setattr(module, operation.name, bind(operation, self.calls, lambda: self.guard))
        module.__dict__["emulated"] = True
        module.__dict__["__version__"] = self.version
        return module

    @property
    def profile(self) -> str:
        """P-A, P-B or P-C."""
        return self._profile

    @property
    def version(self) -> str:
        """Text for reports; always says that it is emulated."""
        return f"emulated {self._profile} (modelled on {MODELLED_WHEEL[self._profile]})"


def load(profile: str, guard: bool = True) -> EmulatedVendor:
    """Make an emulated vendor face. Raises UnmodelledError for an unknown profile."""
    return EmulatedVendor(profile, guard)


@contextmanager
def install(profile: str, guard: bool = True) -> Iterator[EmulatedVendor]:
    """For tests: meanwhile the emulator is where the vendor's libraries would be.

    `import kunlun_ops`, `import xspeedgate_ops`, `torch.ops.xspeedgate_ops.NAME` and
    `torch.ops._C.NAME`. A library that is really there is hidden until the end, then back. The
    names under `torch.ops` are plain functions here: no dispatcher, no fakes, no tracing.
    """
    vendor = load(profile, guard)
    modules: dict[str, ModuleType] = {
        "kunlun_ops": vendor.kunlun_ops,
        "xspeedgate_ops": vendor.xspeedgate_ops,
    }
    operators: dict[str, ModuleType] = {"xspeedgate_ops": vendor.xspeedgate_ops, "_C": vendor._C}
    with _replaced(sys.modules, modules), _replaced(vars(torch.ops), operators):
        yield vendor


@contextmanager
def _replaced(table: dict[str, Any], entries: dict[str, ModuleType]) -> Iterator[None]:
    before = {name: table[name] for name in entries if name in table}
    table.update(entries)
    try:
        yield
    finally:
        for name in entries:
            table.pop(name, None)
        table.update(before)
