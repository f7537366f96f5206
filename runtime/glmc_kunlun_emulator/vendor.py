"""One loaded face of the emulated vendor library."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from .contract import ALL_PROFILES, REGISTRY, bind
from .errors import UnmodelledError

NAMESPACE = "kunlun_ops"
MODELLED_WHEEL = {
    "P-A": "kunlun_ops 0.1.58 era, torch 2.5.1",
    "P-B": "the torch 2.9 wheel of August 2026",
    "P-C": "newer kunlun_ops as called by SGLang",
}


class EmulatedVendor:
    """`kunlun_ops` of one profile. `calls` counts each call by name; `guard` may be switched at
    any time."""

    emulated = True

    def __init__(self, profile: str, guard: bool) -> None:
        if profile not in ALL_PROFILES:
            raise UnmodelledError(
                "load(profile=)", expected=repr(ALL_PROFILES), found=repr(profile)
            )
        self._profile = profile
        self.guard = guard
        self.calls: Counter[str] = Counter()
        self.kunlun_ops = self._face()

    def _face(self) -> ModuleType:
        module = ModuleType(NAMESPACE, f"Emulated {NAMESPACE}, profile {self._profile}.")
        for operation in REGISTRY:
            if self._profile in operation.profiles:
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
    """For tests: meanwhile `import kunlun_ops` finds the emulator.

    A library that is really there is hidden until the end, then back.
    """
    vendor = load(profile, guard)
    before = sys.modules.get(NAMESPACE)
    sys.modules[NAMESPACE] = vendor.kunlun_ops
    try:
        yield vendor
    finally:
        if before is None:
            del sys.modules[NAMESPACE]
        else:
            sys.modules[NAMESPACE] = before
