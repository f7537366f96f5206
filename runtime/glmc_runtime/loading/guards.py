"""Check that this machine can run the artifact, before anything large is read."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

import torch
from packaging.version import InvalidVersion, Version

from glmc_runtime.errors import ArtifactError, ExtensionError, GuardError, PlanError
from glmc_runtime.format.manifest import Guards
from glmc_runtime.format.plan import PhasePlan
from glmc_runtime.kernels import import_family, interpreter, is_vendor
from glmc_runtime.kernels.vendor import Vendor
from glmc_runtime.package.constants import __version__
from glmc_runtime.package.entry_points import KERNELS, entries

TARGETS = ("cpu", "cuda", "xpu")
DEVICES = ("cpu", "cuda")


def check_versions(guards: Guards) -> None:
    """Raise :class:`GuardError` when the runtime or torch is older than the artifact needs."""
    for package, minimum, installed in (
        ("glmc-runtime", guards.minimum_runtime, __version__),
        ("torch", guards.minimum_torch, torch.__version__.split("+")[0]),
    ):
        try:
            needed = Version(minimum)
        except ValueError as error:  # InvalidVersion, and numbers of thousands of digits
            raise ArtifactError(f"the guard for {package} is no version: '{minimum}'") from error
        try:
            # A release candidate or nightly build of the needed release counts as that release.
            old = Version(Version(installed).base_version) < needed
        except InvalidVersion as error:
            raise GuardError(
                f"the version of the installed {package} can't be read",
                expected=f">= {minimum}",
                found=installed,
            ) from error
        if old:
            raise GuardError(
                f"the artifact needs a newer {package}",
                expected=f">= {minimum}",
                found=installed,
                remedy=f"upgrade {package}, or compile with the {package} of this machine",
            )


def device_for(guards: Guards, vendor: Vendor | None, name: str | None = None) -> torch.device:
    """The torch device of the guards' target; raises :class:`GuardError` when it is not here.

    Kunlun's torch calls its device ``cuda``. An emulated artifact runs in host memory, or where
    ``name`` ("cpu" or "cuda") puts it; any other artifact runs on the device of its target alone,
    and naming another one is an error. Where Triton's interpreter is on, one for cuda runs in host
    memory (:mod:`glmc_runtime.kernels.interpreter`).
    """
    home = _device_of_target(guards.target)
    if name is not None and name not in DEVICES:
        raise GuardError(
            "there is no such device",
            expected=" or ".join(DEVICES),
            found=name,
            remedy="name one of these, and choose among several cards by CUDA_VISIBLE_DEVICES",
        )
    emulated = vendor is not None and vendor.emulated
    interpreted = guards.target == interpreter.TARGET and interpreter.interpreting()
    own = "cpu" if emulated or interpreted else home
    if guards.target == interpreter.TARGET and not emulated and not torch.cuda.is_available():
        if name == "cuda" or not interpreted:
            raise interpreter.no_device(name == "cuda")
    elif name not in (None, own) and not emulated:
        raise GuardError(
            f"the artifact is for {guards.target} and can't be put on another device",
            expected=own,
            found=str(name),
            remedy="leave the device out, or compile for the other target",
        )
    device_name = name or own
    if device_name == "cuda" and not torch.cuda.is_available():
        raise GuardError(
            f"the artifact is for {guards.target}, but torch sees no such device"
            if name is None
            else "the device 'cuda' was asked for, but torch sees none",
            expected="torch.cuda.is_available()",
            found="False",
            remedy="leave the device out: the emulator also runs in host memory"
            if emulated
            else "run it on a machine with the device, or compile with --target cpu",
        )
    return torch.device(device_name)


def _device_of_target(target: str) -> str:
    """The device of a target; that of an installed one stands in its family of kernels."""
    if target in TARGETS:
        return "cpu" if target == "cpu" else "cuda"
    family = import_family(target)
    if family is None:
        raise GuardError(
            "the artifact is for an unknown target",
            expected=", ".join((*TARGETS, *entries(KERNELS))),
            found=target,
            remedy="upgrade glmc-runtime, or install the distribution that brings the target",
        )
    device = getattr(family, "DEVICE", None)
    if device not in DEVICES:
        raise ExtensionError(
            f"the kernels of target '{target}' do not say where they run",
            place=family.__name__,
            expected="DEVICE = 'cpu' or 'cuda'",
            found=repr(device),
        )
    return str(device)


def called_keywords(plans: Iterable[PhasePlan]) -> dict[str, set[str]]:
    """Each vendor function of the plans with every keyword that some call passes."""
    keywords: dict[str, set[str]] = {}
    for plan in plans:
        for call in plan.calls:
            if is_vendor(call.function):
                keywords.setdefault(call.function, set()).update(call.arguments)
    return keywords


def check_vendor_calls(guards: Guards, plans: Iterable[PhasePlan]) -> None:
    """Raise :class:`PlanError` where the plans call the vendor otherwise than the guards say.

    So the keywords that :func:`check_vendor_functions` tries are those of the calls themselves.
    """
    called = called_keywords(plans)
    guarded = {name: set(keywords) for name, keywords in guards.vendor_functions.items()}
    for name in sorted(called.keys() | guarded.keys()):
        expected, found = guarded.get(name), called.get(name)
        if expected != found:
            raise PlanError(
                f"the plans do not call {name} as the manifest's guards say",
                place="manifest.json, guards.vendor_functions",
                expected=_keywords(expected, "the guards do not name it"),
                found=_keywords(found, "no plan calls it"),
                remedy="do not use this artifact: it was changed; compile the model again",
            )


def _keywords(names: set[str] | None, otherwise: str) -> str:
    return otherwise if names is None else ", ".join(sorted(names))


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
