"""Kernel schema: the arguments that a kernel takes, beside which it is registered.

A plan is data from elsewhere. Before anything of it is bound, each call is held against the schema
of its kernel (:mod:`glmc_runtime.loading.check_calls`), so that a kernel only ever sees arguments
of the kinds, dtypes, shapes and ranges that it was written for.

Shapes are strings of sizes, such as ``"tokens 2*width"``. A name stands for one size throughout the
call; ``...`` in front for any number of leading dimensions, the same ones throughout, and
``...name`` for others; ``_`` for any size. Relations are comparisons of such sizes and of integer
arguments, all of which must hold; they may also ask ``x.size`` (the number of elements),
``x.columns`` (the last size, of numbered arguments their sum), ``x.given``, and ``step.tokens`` or
``step.real_tokens``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels.expressions import Expression, ShapePattern, expression, pattern

Kind = Literal["tensor", "integer", "number", "flag", "text", "integers", "none"]

FLOATS = ("float32", "bfloat16", "float16")
INDICES = ("int32", "int64")
ANY_DTYPE = (*FLOATS, *INDICES, "int16", "int8", "uint8", "bool")
LARGEST_INTEGER = 1 << 31
LARGEST_NUMBER = 1e30
MOST_PARTS = 64
"""Of one argument that comes in numbered parts."""
ROWS_OF_THE_STEP = "tokens == step.tokens or tokens == step.real_tokens"
"""Of a kernel whose prefix sums say which rows it reads."""


@dataclass(frozen=True)
class ArgumentSchema:
    """One argument; see :func:`tensor`, :func:`integer` and the others, which make them.

    ``holds`` names what an integer tensor must hold when it is read: a step input, or what another
    kernel ``leaves``. ``below`` is a size that all of its values must stay below when it is read,
    or do once it is written. ``negative``: -1 may be among its values, always or where the flag of
    that name is set; elsewhere a kernel takes every value for a place. ``source`` names the
    argument whose content a written tensor takes over; ``of`` names the one that a written tensor
    was computed from, or that a read tensor must have been computed from as it is now. ``equals``
    is the size that an integer must be. ``strided`` says that a cache may have any strides but the
    last.
    """

    name: str
    kind: Kind
    required: bool = True
    numbered: bool = False
    or_number: bool = False
    reads: bool = False
    writes: bool = False
    dtypes: tuple[str, ...] = ()
    like: str | None = None
    shape: ShapePattern | None = None
    strided: bool = False
    on_host: bool = False
    holds: tuple[str, ...] = ()
    leaves: str = ""
    below: Expression | None = None
    negative: bool | str = False
    source: str | None = None
    of: str | None = None
    equals: Expression | None = None
    minimum: float = -LARGEST_NUMBER
    maximum: float = LARGEST_NUMBER
    infinite: bool = False
    choices: tuple[str | int | bool, ...] = ()

    @property
    def expected(self) -> str:
        """What an argument must be, in words for an error."""
        if self.kind == "tensor":
            return f"a tensor of {' or '.join(self.dtypes)}, [{self.shape}]"
        if self.choices:
            return " or ".join(map(repr, self.choices))
        if self.kind in ("integer", "number"):
            kind = "an integer" if self.kind == "integer" else "a finite number"
            return f"{kind} from {self.minimum:g} to {self.maximum:g}"
        return {"flag": "a bool", "text": "a string", "integers": "a list of integers"}.get(
            self.kind, "nothing"
        )


@dataclass(frozen=True)
class KernelSchema:
    """The arguments of a kernel by name, and what must hold between them.

    ``aliases`` are the pairs of arguments, of which the first is written, that may share memory.
    ``broadcast`` names tensors whose shapes widen to that of the last of them. ``together`` are
    groups of arguments that are given all or not at all. ``host`` says that the kernel reads host
    memory when it is called.
    """

    arguments: tuple[ArgumentSchema, ...]
    aliases: frozenset[tuple[str, str]] = frozenset()
    relations: tuple[Expression, ...] = ()
    broadcast: tuple[str, ...] = ()
    together: tuple[tuple[str, ...], ...] = ()
    host: bool = False
    by_name: Mapping[str, ArgumentSchema] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_name = {argument.name: argument for argument in self.arguments}
        if len(by_name) != len(self.arguments):
            raise PlanError("a schema names an argument twice", found=", ".join(by_name))
        object.__setattr__(self, "by_name", MappingProxyType(by_name))

    def argument(self, name: str) -> ArgumentSchema | None:
        """The schema of an argument; ``out_2`` is one of the numbered ``out``."""
        known = self.by_name.get(name)
        if known is not None:
            return None if known.numbered else known
        stem, _, number = name.rpartition("_")
        known = self.by_name.get(stem)
        if known is None or not known.numbered or not (number.isascii() and number.isdecimal()):
            return None
        plain = len(number) < 3 and str(int(number)) == number and int(number) < MOST_PARTS
        return known if plain else None


def schema(
    *arguments: ArgumentSchema,
    aliases: tuple[tuple[str, str], ...] = (),
    relations: tuple[str, ...] = (),
    broadcast: tuple[str, ...] = (),
    together: tuple[tuple[str, ...], ...] = (),
    host: bool = False,
) -> KernelSchema:
    """The schema of a kernel; see :class:`KernelSchema`."""
    return KernelSchema(
        arguments,
        frozenset(aliases),
        tuple(map(expression, relations)),
        broadcast,
        together,
        host,
    )


def tensor(
    name: str,
    shape: str,
    *dtypes: str,
    like: str | None = None,
    required: bool = True,
    numbered: bool = False,
    or_number: bool = False,
    on_host: bool = False,
    strided: bool = False,
    holds: str = "",
    below: str | None = None,
    negative: bool | str = False,
    of: str | None = None,
) -> ArgumentSchema:
    """A tensor that is read. Without ``dtypes`` it is one of the float kinds; ``like`` names the
    argument whose dtype it has. ``holds`` are the names of what it may hold, with spaces."""
    return ArgumentSchema(
        name,
        "tensor",
        required,
        numbered,
        or_number,
        reads=True,
        dtypes=dtypes or (ANY_DTYPE if like is not None else FLOATS),
        like=like,
        shape=pattern(shape),
        strided=strided,
        on_host=on_host,
        holds=tuple(holds.split()),
        below=None if below is None else expression(below),
        negative=negative,
        of=of,
    )


def written(
    name: str,
    shape: str,
    *dtypes: str,
    like: str | None = None,
    required: bool = True,
    numbered: bool = False,
    reads: bool = False,
    strided: bool = False,
    holds: str = "",
    leaves: str = "",
    below: str | None = None,
    negative: bool | str = False,
    source: str | None = None,
    of: str | None = None,
) -> ArgumentSchema:
    """A tensor that is written, and read before that only with ``reads``; ``leaves`` names what
    integers are there afterwards."""
    return ArgumentSchema(
        name,
        "tensor",
        required,
        numbered,
        reads=reads,
        writes=True,
        dtypes=dtypes or (ANY_DTYPE if like is not None else FLOATS),
        like=like,
        shape=pattern(shape),
        strided=strided,
        holds=tuple(holds.split()),
        leaves=leaves,
        below=None if below is None else expression(below),
        negative=negative,
        source=source,
        of=of,
    )


def scratch(name: str, shape: str, *dtypes: str, like: str | None = None) -> ArgumentSchema:
    """Work memory that may be left out: written, and only then read."""
    return written(name, shape, *dtypes, like=like, required=False)


def integer(
    name: str,
    minimum: int = 0,
    maximum: int = LARGEST_INTEGER,
    *,
    equals: str | None = None,
    required: bool = True,
    choices: tuple[int, ...] = (),
) -> ArgumentSchema:
    """An integer, which shapes and relations may name; ``equals`` is the size that it must be,
    which may follow the step."""
    return ArgumentSchema(
        name,
        "integer",
        required,
        equals=None if equals is None else expression(equals),
        minimum=minimum,
        maximum=maximum,
        choices=choices,
    )


def number(
    name: str,
    minimum: float = -LARGEST_NUMBER,
    maximum: float = LARGEST_NUMBER,
    *,
    infinite: bool = False,
    required: bool = True,
) -> ArgumentSchema:
    """A number within its range, never NaN; with ``infinite`` also an infinity."""
    if math.isnan(minimum) or math.isnan(maximum):
        raise PlanError(f"the range of '{name}' is none")
    return ArgumentSchema(
        name, "number", required, minimum=minimum, maximum=maximum, infinite=infinite
    )


def flag(name: str, *, only: bool | None = None, required: bool = True) -> ArgumentSchema:
    """A bool; ``only`` is the one value that it may have."""
    return ArgumentSchema(name, "flag", required, choices=() if only is None else (only,))


def integers(name: str, *, equals: str) -> ArgumentSchema:
    """A list of integers: the last sizes of the numbered tensors ``equals``."""
    return ArgumentSchema(name, "integers", source=equals)


def nothing(name: str) -> ArgumentSchema:
    """An argument that is passed as None and has no other value yet."""
    return ArgumentSchema(name, "none", False)
