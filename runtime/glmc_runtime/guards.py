"""Check that this machine can run the artifact, before anything large is read."""

from __future__ import annotations

import inspect

import torch
from packaging.version import InvalidVersion, Version

from glmc_runtime import __version__
from glmc_runtime.errors import ArtifactError, GuardError
from glmc_runtime.kernels.vendor import Vendor
from glmc_runtime.manifest import Guards

TARGETS = ("cpu", "cuda", "xpu")


def check_versions(guards: Guards) -> None:
    """Raise :class:`GuardError` when the runtime or torch is older than the artifact needs."""
    for package, minimum, installed in (
        ("glmc-runtime", guards.minimum_runtime, __version__),
        ("torch", guards.minimum_torch, torch.__version__.split("+")[0]),
    ):
        try:
            needed = Version(minimum)
        except InvalidVersion as error:
            raise ArtifactError(f"the guard for {package} is no version: '{minimum}'") from error
        # A release candidate or nightly build of the needed release counts as that release.
        if Version(Version(installed).base_version) < needed:
            raise GuardError(
                f"the artifact needs a newer {package}",
                expected=f">= {minimum}",
                found=installed,
                remedy=f"upgrade {package}, or compile with the {package} of this machine",
            )


def device_for(guards: Guards, vendor: Vendor | None) -> torch.device:
    """The torch device of the guards' target; raises :class:`GuardError` when it is not here.

    Kunlun's torch calls its device ``cuda``. An emulated artifact runs in host memory.
    """
    if guards.target not in TARGETS:
        raise GuardError(
            "the artifact is for an unknown target",
            expected=", ".join(TARGETS),
            found=guards.target,
            remedy="upgrade glmc-runtime",
        )
    if guards.target == "cpu" or (vendor is not None and vendor.emulated):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise GuardError(
            f"the artifact is for {guards.target}, but torch sees no such device",
            expected="torch.cuda.is_available()",
            found="False",
            remedy="run it on a machine with the device, or compile with --target cpu",
        )
    return torch.device("cuda")


def check_vendor_functions(guards: Guards, vendor: Vendor | None) -> None:
    """Raise :class:`GuardError` for a function or keyword that the vendor's library lacks."""
    for name, keywords in sorted(guards.vendor_functions.items()):
        if vendor is None:
            raise GuardError(
                "the artifact needs vendor functions, but no plan calls one", found=name
            )
        function = vendor.function(name)
        try:
            parameters = inspect.signature(function).parameters
        except (TypeError, ValueError):
            continue  # built-in without a signature: the call itself must tell
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            continue
        unknown = sorted(set(keywords) - set(parameters))
        if unknown:
            raise GuardError(
                f"the installed {name} does not take keyword '{unknown[0]}'",
                place=vendor.description,
                expected=", ".join(sorted(keywords)),
                found=", ".join(parameters),
                remedy="compile for the profile (P-A, P-B or P-C) of the installed wheels",
            )
