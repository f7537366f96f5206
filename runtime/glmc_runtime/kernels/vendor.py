"""The vendor's functions, or the emulator that stands in for them on a machine without a card."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from glmc_runtime.errors import ArtifactError, GuardError, VendorError
from glmc_runtime.kernels import Thunk

_LOG = logging.getLogger("glmc_runtime.device")
EMULATOR = "glmc_kunlun_emulator"
EMULATED_NOTICE = "emulated: vendor calls run on the emulator, not on Kunlun hardware"


@dataclass(frozen=True)
class Vendor:
    """Where vendor functions come from. ``calls`` counts them by name on the emulator."""

    libraries: dict[str, Any]
    emulated: bool
    calls: Counter[str] | None
    description: str

    def function(self, name: str) -> Callable[..., Any]:
        """``kunlun_ops.X``; raises :class:`VendorError`."""
        library, _, attribute = name.partition(".")
        function = getattr(self.libraries.get(library), attribute, None)
        if function is None:
            raise VendorError(
                f"the vendor's library has no function '{name}'",
                place=self.description,
                remedy="install the wheels of the profile that the artifact was compiled for",
            )
        resolved: Callable[..., Any] = function
        return resolved

    def bind(self, name: str, arguments: dict[str, Any]) -> Thunk:
        return partial(self.function(name), **arguments)


@cache
def say_emulated(description: str) -> None:
    """Log, once in a process, that what runs is no hardware; ``description`` is the vendor's."""
    _LOG.warning("%s (%s)", EMULATED_NOTICE, description)


def find_vendor(profile: str | None, emulate: bool | None, ordered: bool = False) -> Vendor:
    """The installed library, or the emulator when none is installed.

    ``emulate`` True takes the emulator, False insists on the library. A library that is installed
    but does not import is an error, never a reason to emulate. ``ordered``: sums must have an
    order of their own, which is known of the emulator alone. Raises :class:`VendorError` and
    :class:`GuardError`.
    """
    installed = "kunlun_ops" in sys.modules or importlib.util.find_spec("kunlun_ops") is not None
    if emulate is True or (emulate is None and not installed):
        return _emulator(profile, ordered)
    if not installed:
        raise GuardError(
            "the vendor's library kunlun_ops is not installed",
            remedy="install the Kunlun wheels, or allow the emulator",
        )
    if ordered:
        raise GuardError(
            "the artifact was compiled with --deterministic, and in which order the vendor's "
            "kernels add is not known",
            expected="the emulator",
            found="the installed kunlun_ops",
            remedy="compile the model without --deterministic, or load it with emulate=True",
        )
    try:
        library = importlib.import_module("kunlun_ops")
    except (ImportError, OSError) as error:
        raise VendorError(
            f"the vendor's library is installed but does not import: {error}",
            remedy="check that the wheels, xpytorch and the driver belong together",
        ) from error
    if getattr(library, "emulated", False):  # the emulator under the vendor's name
        return Vendor({"kunlun_ops": library}, True, None, str(library.__version__))
    return Vendor({"kunlun_ops": library}, False, None, "installed vendor libraries")


def _emulator(profile: str | None, ordered: bool) -> Vendor:
    if importlib.util.find_spec(EMULATOR) is None:
        raise GuardError(
            "neither the vendor's library kunlun_ops nor the emulator is installed",
            remedy="install the Kunlun wheels, or a glmc-runtime that brings the emulator",
        )
    package = importlib.import_module(EMULATOR)
    try:
        emulator = package.load(profile, ordered=ordered)
    except package.UnmodelledError as error:
        raise ArtifactError(
            "the artifact names no ABI profile that is known", found=repr(profile)
        ) from error
    libraries = {"kunlun_ops": emulator.kunlun_ops}
    return Vendor(libraries, True, emulator.calls, f"emulator, profile {profile}")
