"""One ABI profile: the runtime's table of vendor functions as rules ask it.

The vendor's wheels differ in their keyword lists; a profile is one generation of wheels. Rules name
keywords in one spelling, and the table says how the profile spells them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from glmc.errors import AbiError
from glmc_runtime.command.nearest import did_you_mean
from glmc_runtime.kernels.vendor_functions import VENDOR_FUNCTIONS
from glmc_runtime.kernels.vendor_functions.row import (
    NAMESPACE,
    PROFILES,
    WHEELS,
    Variant,
    VendorFunction,
)


@dataclass(frozen=True)
class AbiProfile:
    """One generation of the vendor's wheels and the functions that we may call in it."""

    name: str

    def function(self, name: str) -> VendorFunction:
        """The function; raises :class:`AbiError` when this profile is not known to have it."""
        found = VENDOR_FUNCTIONS.get(name)
        if found is None or self.name not in found.variants:
            raise AbiError(
                f"profile {self.name} is not known to have {NAMESPACE}.{name}",
                expected=", ".join(sorted(self.names)),
                found=name,
                remedy="compile for a profile that has it"
                + (f": {', '.join(found.variants)}" if found else ""),
            )
        return found

    def variant(self, name: str) -> Variant:
        return self.function(name).variants[self.name]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(
            name for name, function in VENDOR_FUNCTIONS.items() if self.name in function.variants
        )

    def has_keyword(self, name: str, keyword: str) -> bool:
        variant = self.variant(name)
        return variant.spelled(keyword) in variant.names

    def resolve(self, name: str, arguments: Mapping[str, object]) -> dict[str, str]:
        """Our name of each argument -> the profile's.

        Raises :class:`AbiError` for a keyword that the profile lacks or one that it requires and
        that is not given.
        """
        variant = self.variant(name)
        spelled = {argument: variant.spelled(argument) for argument in arguments}
        unknown = sorted(set(spelled.values()) - set(variant.names))
        if unknown:
            raise AbiError(
                f"{NAMESPACE}.{name} has no keyword '{unknown[0]}' in profile {self.name}",
                expected=", ".join(variant.names),
                found=", ".join(unknown),
                remedy="compile for the profile of the installed wheels",
            )
        missing = sorted(set(variant.required) - set(spelled.values()))
        if missing:
            raise AbiError(
                f"{NAMESPACE}.{name} needs '{missing[0]}' in profile {self.name}",
                expected=", ".join(variant.required),
                found=", ".join(sorted(spelled.values())),
                remedy="report it: the lowering does not pass this argument",
            )
        return spelled


def abi_profile(name: str | None) -> AbiProfile:
    """The profile of a name; raises :class:`AbiError` for none or an unknown one."""
    if name not in PROFILES:
        raise AbiError(
            "the xpu target needs an ABI profile" if name is None else "unknown ABI profile",
            expected="; ".join(f"{known} ({wheels})" for known, wheels in WHEELS.items()),
            found=str(name),
            remedy=did_you_mean(name or "", PROFILES)
            or "choose the profile of the wheels on the target machine",
        )
    return AbiProfile(name)
