"""One row of the table of vendor functions: what is known of a function, said once.

The compiler reads keywords and what a call writes, the allow-list the schema, guard steps and the
emulator what is an output, the emulator its signature, the doctor what to fill. What follows from a
row is made here and written nowhere. Functions differ between generations of the vendor's wheels,
which are the profiles P-A, P-B and P-C.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from inspect import Parameter, Signature
from types import MappingProxyType
from typing import Any, Union

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels.schema import ArgumentSchema, KernelSchema, schema

P_A, P_B, P_C = "P-A", "P-B", "P-C"
PROFILES = (P_A, P_B, P_C)
WHEELS: Mapping[str, str] = MappingProxyType(
    {
        P_A: "torch 2.5.1, kunlun_ops of the 0.1.58 era",
        P_B: "torch 2.9, wheels of August 2026",
        P_C: "newer kunlun_ops, as sglang-kunlun and vllm-kunlun 0.25.1 call it",
    }
)
NAMESPACE = "kunlun_ops"
REQUIRED = Parameter.empty
"""The default of a keyword that has none."""

Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class Keyword:
    """One keyword, under our name of it.

    ``passed`` is the schema of what glmc passes; None where it passes nothing, and then no artifact
    may. ``spelling`` are (profile, name) where a profile has another name. The function ``writes``
    it, ``reads`` it, and reads it ``on_host``, in host memory.
    """

    name: str
    default: object = REQUIRED
    passed: ArgumentSchema | None = None
    profiles: tuple[str, ...] = PROFILES
    spelling: tuple[tuple[str, str], ...] = ()
    writes: bool = False
    reads: bool = False
    on_host: bool = False

    @property
    def required(self) -> bool:
        return self.default is REQUIRED

    @property
    def is_output(self) -> bool:
        """Whether it is written and never read."""
        return self.writes and not self.reads

    def spelled(self, profile: str) -> str:
        return dict(self.spelling).get(profile, self.name)


def optional(
    passed: ArgumentSchema,
    default: object = REQUIRED,
    *,
    profiles: tuple[str, ...] = PROFILES,
    spelling: tuple[tuple[str, str], ...] = (),
) -> Keyword:
    """A keyword that glmc passes, with the vendor's default, of some profiles or spellings."""
    return Keyword(
        passed.name,
        default,
        passed,
        profiles,
        spelling,
        passed.writes,
        passed.reads,
        passed.on_host,
    )


def unused(**defaults: object) -> tuple[Keyword, ...]:
    """Keywords that nothing of glmc passes, with their defaults."""
    return tuple(Keyword(name, default) for name, default in defaults.items())


def keywords(*items: Union[ArgumentSchema, Keyword]) -> tuple[Keyword, ...]:
    """The keywords of a function in the vendor's order; a bare schema is a required one."""
    return tuple(optional(item) if isinstance(item, ArgumentSchema) else item for item in items)


@dataclass(frozen=True)
class Variant:
    """A function in one profile: its keywords there, and the schema of an artifact's call."""

    profile: str
    keywords: tuple[Keyword, ...]
    schema: KernelSchema

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(keyword.spelled(self.profile) for keyword in self.keywords)

    @property
    def required(self) -> tuple[str, ...]:
        return tuple(item.spelled(self.profile) for item in self.keywords if item.required)

    def spelled(self, name: str) -> str:
        """The profile's spelling of our name; a name that it does not have stays as it is."""
        found = [item.spelled(self.profile) for item in self.keywords if item.name == name]
        return found[0] if found else name

    @property
    def signature(self) -> Signature:
        """As Python's own; after a keyword with a default, one without is passed by name."""
        parameters: list[Parameter] = []
        defaults = by_name = False
        for keyword in self.keywords:
            by_name |= defaults and keyword.required
            defaults |= not keyword.required
            kind = Parameter.KEYWORD_ONLY if by_name else Parameter.POSITIONAL_OR_KEYWORD
            name = keyword.spelled(self.profile)
            parameters.append(Parameter(name, kind, default=keyword.default))
        return Signature(parameters)


@dataclass(frozen=True)
class VendorFunction:
    """What is publicly known of one vendor function.

    ``aliases`` are the (output, input) pairs that may be the same memory. ``relations`` hold
    between the arguments of an artifact's call. ``partly_written`` says for given arguments that
    outputs are read, or are not written as a whole; ``real_rows`` that padded rows are left alone
    or not, which is not public. ``hostile`` are the arguments that the doctor fills. ``limits``
    are for readers; ``source`` names the public code that shows the call.
    """

    name: str
    keywords: tuple[Keyword, ...]
    profiles: tuple[str, ...] = PROFILES
    aliases: tuple[tuple[str, str], ...] = ()
    relations: tuple[str, ...] = ()
    partly_written: Callable[[Arguments], bool] | None = None
    real_rows: bool = False
    hostile: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    variants: Mapping[str, Variant] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = [keyword.name for keyword in self.keywords]
        if len(set(names)) != len(names):
            raise PlanError(f"{self.qualified} names a keyword twice", found=", ".join(names))
        variants = {profile: self._variant(profile) for profile in self.profiles}
        object.__setattr__(self, "variants", MappingProxyType(variants))

    @property
    def qualified(self) -> str:
        return f"{NAMESPACE}.{self.name}"

    @property
    def written(self) -> tuple[str, ...]:
        """What it writes, in place or not (the vendor's own schemas declare nothing)."""
        return tuple(keyword.name for keyword in self.keywords if keyword.writes)

    @property
    def outputs(self) -> frozenset[str]:
        """What it writes and never reads, under its name in any profile."""
        return frozenset(
            keyword.spelled(profile)
            for keyword in self.keywords
            if keyword.is_output
            for profile in keyword.profiles
        )

    @property
    def host(self) -> tuple[str, ...]:
        """What is read in host memory when the call is made: a captured graph would freeze it."""
        return tuple(keyword.name for keyword in self.keywords if keyword.on_host)

    def _variant(self, profile: str) -> Variant:
        here = tuple(keyword for keyword in self.keywords if profile in keyword.profiles)
        passed = [
            replace(keyword.passed, name=keyword.spelled(profile))
            for keyword in here
            if keyword.passed is not None
        ]
        on_host = any(argument.on_host for argument in passed)
        found = schema(*passed, aliases=self.aliases, relations=self.relations, host=on_host)
        return Variant(profile, here, found)
