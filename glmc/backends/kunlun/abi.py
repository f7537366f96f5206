"""How a vendor function is described, and what one ABI profile offers.

The vendor's wheels differ in their keyword lists. A profile is one generation of wheels; a
:class:`VendorFunction` holds what is publicly known of one function in each of them. Rules name
keywords in one spelling, a :class:`Variant` says how its profile spells them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from glmc.errors import AbiError

NAMESPACE = "kunlun_ops"


@dataclass(frozen=True)
class Keyword:
    """One argument of a vendor function; ``default`` says nothing when it is ``required``."""

    name: str
    required: bool = True
    default: object = None


@dataclass(frozen=True)
class Variant:
    """The ordered keyword list of a function in one profile.

    ``spelling`` maps our name of an argument to the profile's, where they differ.
    """

    keywords: tuple[Keyword, ...]
    spelling: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(keyword.name for keyword in self.keywords)

    @property
    def required(self) -> tuple[str, ...]:
        return tuple(keyword.name for keyword in self.keywords if keyword.required)

    def spelled(self, name: str) -> str:
        return self.spelling.get(name, name)


@dataclass(frozen=True)
class VendorFunction:
    """What is known of one vendor function.

    ``mutates`` are the arguments that it writes, in our spelling (the vendor's own schemas declare
    none). ``aliases`` are the (output, input) pairs that may be the same memory. ``host`` are read
    in host memory when the call is made, so a captured graph would freeze them. ``source`` names
    the public code that shows the call.
    """

    name: str
    variants: Mapping[str, Variant]
    mutates: tuple[str, ...]
    aliases: tuple[tuple[str, str], ...] = ()
    host: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    source: tuple[str, ...] = ()

    @property
    def qualified(self) -> str:
        return f"{NAMESPACE}.{self.name}"


@dataclass(frozen=True)
class AbiProfile:
    """One generation of the vendor's wheels and the functions that we may call in it."""

    name: str
    wheels: str
    functions: Mapping[str, VendorFunction]

    def function(self, name: str) -> VendorFunction:
        """The function; raises :class:`AbiError` when this profile is not known to have it."""
        found = self.functions.get(name)
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
            name for name, function in self.functions.items() if self.name in function.variants
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
