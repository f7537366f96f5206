"""One loaded face of the emulated vendor library."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType

from glmc_runtime.kernels.vendor_functions import VENDOR_FUNCTIONS
from glmc_runtime.kernels.vendor_functions.row import NAMESPACE, PROFILES, WHEELS, Arguments

from .contract import bind
from .errors import UnmodelledError
from .sums import adding


class EmulatedVendor:
    """`kunlun_ops` of one profile. `calls` counts each call by name; `guard` may be switched at
    any time. `ordered`: sums are in an order of their own (:mod:`glmc_kunlun_emulator.sums`)."""

    emulated = True

    def __init__(self, profile: str, guard: bool, ordered: bool = False) -> None:
        if profile not in PROFILES:
            raise UnmodelledError("load(profile=)", expected=repr(PROFILES), found=repr(profile))
        self._profile = profile
        self.guard = guard
        self._ordered = ordered
        self.calls: Counter[str] = Counter()
        self.kunlun_ops = self._face()

    def _face(self) -> ModuleType:
        module = ModuleType(NAMESPACE, f"Emulated {NAMESPACE}, profile {self._profile}.")
        for row in VENDOR_FUNCTIONS.values():
            if self._profile in row.variants:
                call = bind(row, self._profile, self.calls, lambda: self.guard, self._run)
                setattr(module, row.name, call)
        module.__dict__["emulated"] = True
        module.__dict__["__version__"] = self.version
        return module

    def _run(self, function: Callable[..., None], arguments: Arguments) -> None:
        with adding(self._ordered):
            function(**arguments)

    @property
    def profile(self) -> str:
        """P-A, P-B or P-C."""
        return self._profile

    @property
    def version(self) -> str:
        """Text for reports; always says that it is emulated."""
        return f"emulated {self._profile} (modelled on {WHEELS[self._profile]})"


def load(profile: str, guard: bool = True, ordered: bool = False) -> EmulatedVendor:
    """Make an emulated vendor face. Raises UnmodelledError for an unknown profile."""
    return EmulatedVendor(profile, guard, ordered)


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
