"""The plan: what the compiler emits and the runtime replays, as plain data.

A phase (``prefill`` or ``decode``) is a list of calls over buffers of one arena. Two symbols size
everything: ``tokens`` (rows of the packed step) and ``sequences`` (requests in the step; equal to
``tokens`` in decode). Every size and offset is linear in them, so one plan serves every bucket.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any, Union

from glmc_runtime.errors import PlanError
from glmc_runtime.records import misfit

SCHEMA_VERSION = 1

_TERM = re.compile(r"^(?:(\d{1,18})\*)?(tokens|sequences)$|^(\d{1,18})$")
_LARGEST = 1 << 48


Sizes = tuple[str, ...]
"""A product of named sizes, sorted: ``("s0", "s1")`` is s0 * s1."""


@dataclass(frozen=True)
class Extent:
    """A size that is linear in the step: ``tokens * a + sequences * b + constant``.

    A plan that was not made for an artifact has sizes of other names instead, and products of
    them: ``named`` holds each with its factor, sorted. Such an extent has no JSON form.
    """

    tokens: int = 0
    sequences: int = 0
    constant: int = 0
    named: tuple[tuple[Sizes, int], ...] = ()

    def evaluate(
        self, tokens: int, sequences: int, sizes: Mapping[str, int] = MappingProxyType({})
    ) -> int:
        total = self.tokens * tokens + self.sequences * sequences + self.constant
        for names, factor in self.named:
            total += factor * prod([sizes[name] for name in names])
        return total

    @property
    def moves(self) -> bool:
        """Whether the size is another one in another step."""
        return bool(self.tokens or self.sequences or self.named)

    def __add__(self, other: Extent) -> Extent:
        return Extent(
            self.tokens + other.tokens,
            self.sequences + other.sequences,
            self.constant + other.constant,
            _sum((*self.named, *other.named)) if self.named or other.named else (),
        )

    def __mul__(self, factor: int) -> Extent:
        return Extent(
            self.tokens * factor,
            self.sequences * factor,
            self.constant * factor,
            _sum((names, number * factor) for names, number in self.named) if self.named else (),
        )

    def times(self, other: Extent) -> Extent:
        """The product; raises :class:`PlanError` where tokens or sequences meet another size."""
        if not other.moves:
            return self * other.constant
        if not self.moves:
            return other * self.constant
        if self.tokens or self.sequences or other.tokens or other.sequences:
            raise PlanError("a size would be quadratic in the step", found=f"({self}) * ({other})")
        terms = [
            (tuple(sorted((*one, *two))), first * second)
            for one, first in (*self.named, ((), self.constant))
            for two, second in (*other.named, ((), other.constant))
        ]
        constant = sum(number for names, number in terms if not names)
        return Extent(constant=constant, named=_sum(term for term in terms if term[0]))

    def __str__(self) -> str:
        terms = []
        for factor, name in (
            (self.tokens, "tokens"),
            (self.sequences, "sequences"),
            *((factor, "*".join(names)) for names, factor in self.named),
        ):
            if factor:
                terms.append(name if factor == 1 else f"{factor}*{name}")
        if self.constant or not terms:
            terms.append(str(self.constant))
        return "+".join(terms)

    @staticmethod
    def parse(text: int | str) -> Extent:
        """Read ``128``, ``"tokens"``, ``"8*tokens"`` or ``"sequences+1"``."""
        if isinstance(text, int):
            return Extent(constant=text)._checked(text)
        total = Extent()
        for term in str(text).replace(" ", "").split("+"):
            match = _TERM.match(term)
            if match is None:
                raise PlanError(f"'{text}' is not a size", expected="a*tokens+b*sequences+c")
            factor, symbol, constant = match.groups()
            if constant is not None:
                total += Extent(constant=int(constant))
            elif symbol == "tokens":
                total += Extent(tokens=int(factor or 1))
            else:
                total += Extent(sequences=int(factor or 1))
        return total._checked(text)

    def _checked(self, text: int | str) -> Extent:
        """Refuse what no memory has, so that later sums stay within 64 bits."""
        if not all(0 <= part <= _LARGEST for part in (self.tokens, self.sequences, self.constant)):
            raise PlanError("a size is out of range", expected=f"0 to {_LARGEST}", found=str(text))
        return self

    def to_json(self) -> int | str:
        return str(self) if self.moves else self.constant


def _sum(terms: Iterable[tuple[Sizes, int]]) -> tuple[tuple[Sizes, int], ...]:
    """Like terms added up, sorted; those that vanish are left out."""
    total: dict[Sizes, int] = {}
    for names, factor in terms:
        total[names] = total.get(names, 0) + factor
    return tuple(sorted((names, factor) for names, factor in total.items() if factor))


Shape = tuple[Extent, ...]


@dataclass(frozen=True)
class BufferArgument:
    """A contiguous view of an arena buffer.

    ``shape`` overrides the buffer's own. With ``real`` it is evaluated with the real numbers of
    tokens and sequences and not with the bucket's, so that padded rows are not seen.
    """

    buffer: int
    shape: Shape | None = None
    real: bool = False


@dataclass(frozen=True)
class WeightArgument:
    """A packed weight, or rows ``rows[0]:rows[1]`` of it (dimension 0, a view)."""

    weight: str
    rows: tuple[int, int] | None = None


@dataclass(frozen=True)
class InputArgument:
    """A step input by name (see :data:`STEP_INPUTS`); ``shape`` and ``real`` as for buffers."""

    input: str
    shape: Shape | None = None
    real: bool = False


@dataclass(frozen=True)
class CacheArgument:
    """The key or value cache of one layer, in the manifest's layout."""

    cache: str
    layer: int


@dataclass(frozen=True)
class ExtentArgument:
    """An int that follows the step, such as the number of sequences."""

    extent: Extent
    real: bool = False


@dataclass(frozen=True)
class ValueArgument:
    """A constant: None, bool, int, float, str or a list of ints."""

    value: Any


@dataclass(frozen=True)
class ViewArgument:
    """A view of another argument, made once when the call is bound; in no artifact.

    ``operation`` is the full name of an ATen op, such as ``aten.permute.default``; ``parameters``
    are what it takes behind the tensor: numbers, extents, lists of them and None. Of an op with
    several results ``item`` says which.
    """

    source: Argument
    operation: str
    parameters: tuple[Any, ...]
    item: int | None = None


@dataclass(frozen=True)
class ListArgument:
    """Several arguments as one list, such as the tensors of a concatenation; in no artifact."""

    items: tuple[Argument, ...]


Argument = Union[
    BufferArgument,
    WeightArgument,
    InputArgument,
    CacheArgument,
    ExtentArgument,
    ValueArgument,
    ViewArgument,
    ListArgument,
]


def storage_of(argument: Argument) -> Argument:
    """What a view is a view of; other arguments are their own storage."""
    while isinstance(argument, ViewArgument):
        argument = argument.source
    return argument


def parts_of(argument: Argument) -> tuple[Argument, ...]:
    """The storages that an argument points into."""
    if isinstance(argument, ListArgument):
        return tuple(part for item in argument.items for part in parts_of(item))
    return (storage_of(argument),)


# name -> what the runtime fills in. ``*_host`` lives in host memory; all others on the device.
# Whether a phase uses an input, its dtype and its shape are said by the phase's InputSpec.
STEP_INPUTS: dict[str, str] = {
    "token_ids": "ids of the step's tokens, [tokens]; padding rows hold 0",
    "positions": "position of each token in its sequence, [tokens]; padding rows hold 0",
    "slot_mapping": "block * block_size + offset of each token, [tokens]; padding rows point into "
    "the scratch block (block 0)",
    "block_tables": "blocks of each sequence, [sequences, blocks_per_sequence]; the tail is 0",
    "context_lengths": "tokens in the cache after this step, [sequences]; padding rows hold 1",
    "context_lengths_host": "the same in host memory",
    "query_lod": "prefix sums of new tokens, [sequences+1]",
    "query_lod_host": "the same in host memory",
    "context_lod": "prefix sums of context lengths (new tokens included), [sequences+1]",
    "context_lod_host": "the same in host memory",
    "last_rows": "row of the last token of each sequence, [sequences]",
}


@dataclass(frozen=True)
class InputSpec:
    name: str
    dtype: str
    shape: Shape


@dataclass(frozen=True)
class Buffer:
    """A temporary: bytes ``offset`` into the arena, alive from call ``first`` to ``last``."""

    id: int
    name: str
    dtype: str
    shape: Shape
    offset: Extent
    first: int
    last: int


@dataclass(frozen=True)
class Call:
    """One kernel call.

    ``function`` is a runtime kernel (``cpu.linear``, ``aten.copy``) or a vendor function
    (``kunlun_ops.rmsnorm``). ``arguments`` are keywords in the kernel's own words. ``writes``
    names the arguments that the kernel writes. ``host`` marks a call that reads host memory when
    it is called, so it can't be part of a captured device graph. ``node`` is the id that the
    value had since capture; ``origin`` the semantic op.
    """

    function: str
    arguments: dict[str, Argument]
    writes: tuple[str, ...]
    host: bool
    node: str
    origin: str
    layer: int | None
    module: str


@dataclass(frozen=True)
class Segment:
    """Calls ``first`` to ``last``, both counted: one device graph, or called one by one."""

    first: int
    last: int
    captured: bool


@dataclass(frozen=True)
class PhasePlan:
    """One phase. ``arena`` is its size in bytes; ``output`` the buffer of the logits,
    [sequences, vocabulary].

    ``greedy`` is, where there is one, the int64 buffer [sequences] that the last call fills with
    the argmax of each row of logits, -1 where the largest is not finite.
    """

    name: str
    inputs: tuple[InputSpec, ...]
    buffers: tuple[Buffer, ...]
    calls: tuple[Call, ...]
    segments: tuple[Segment, ...]
    output: int
    arena: Extent
    greedy: int | None = None

    @property
    def rows_apart(self) -> bool:
        """Whether some call writes the cache and attends over it in one launch, so that no row of
        a step sees the keys and values that another row writes."""
        return any(
            "block_tables" in call.arguments
            and any(isinstance(call.arguments[name], CacheArgument) for name in call.writes)
            for call in self.calls
        )


def _shape_to_json(shape: Shape) -> list[int | str]:
    return [extent.to_json() for extent in shape]


def _shape_from_json(data: Any) -> Shape:
    if not isinstance(data, list):
        raise TypeError(f"a shape is {data!r:.60} and not a list")
    return tuple(Extent.parse(item) for item in data)


def _argument_to_json(argument: Argument) -> dict[str, Any]:
    if isinstance(argument, (BufferArgument, InputArgument)):
        data: dict[str, Any] = (
            {"buffer": argument.buffer}
            if isinstance(argument, BufferArgument)
            else {"input": argument.input}
        )
        if argument.shape is not None:
            data["shape"] = _shape_to_json(argument.shape)
        if argument.real:
            data["real"] = True
        return data
    if isinstance(argument, WeightArgument):
        if argument.rows is None:
            return {"weight": argument.weight}
        return {"weight": argument.weight, "rows": list(argument.rows)}
    if isinstance(argument, CacheArgument):
        return {"cache": argument.cache, "layer": argument.layer}
    if isinstance(argument, ExtentArgument):
        data = {"extent": argument.extent.to_json()}
        if argument.real:
            data["real"] = True
        return data
    if isinstance(argument, (ViewArgument, ListArgument)):
        raise PlanError(f"a {type(argument).__name__} is in no artifact")
    return {"value": argument.value}


def _argument_from_json(data: dict[str, Any]) -> Argument:
    shape = _shape_from_json(data["shape"]) if "shape" in data else None
    real = data.get("real", False)
    if "buffer" in data:
        return BufferArgument(data["buffer"], shape, real)
    if "input" in data:
        return InputArgument(data["input"], shape, real)
    if "weight" in data:
        rows = data.get("rows")
        return WeightArgument(data["weight"], None if rows is None else tuple(rows))
    if "cache" in data:
        return CacheArgument(data["cache"], data["layer"])
    if "extent" in data:
        return ExtentArgument(Extent.parse(data["extent"]), real)
    if "value" in data:
        return ValueArgument(data["value"])
    raise PlanError(f"an argument of an unknown kind: {sorted(data)}")


def phase_to_json(plan: PhasePlan) -> dict[str, Any]:
    """The phase as JSON data; :func:`phase_from_json` reads it back to an equal value."""
    return {
        "schema_version": SCHEMA_VERSION,
        "name": plan.name,
        "arena": plan.arena.to_json(),
        "output": plan.output,
        **({} if plan.greedy is None else {"greedy": plan.greedy}),
        "inputs": [
            {"name": spec.name, "dtype": spec.dtype, "shape": _shape_to_json(spec.shape)}
            for spec in plan.inputs
        ],
        "buffers": [
            {
                "id": buffer.id,
                "name": buffer.name,
                "dtype": buffer.dtype,
                "shape": _shape_to_json(buffer.shape),
                "offset": buffer.offset.to_json(),
                "first": buffer.first,
                "last": buffer.last,
            }
            for buffer in plan.buffers
        ],
        "segments": [
            {"first": segment.first, "last": segment.last, "captured": segment.captured}
            for segment in plan.segments
        ],
        "calls": [
            {
                "function": call.function,
                "arguments": {
                    name: _argument_to_json(argument) for name, argument in call.arguments.items()
                },
                "writes": list(call.writes),
                "host": call.host,
                "node": call.node,
                "origin": call.origin,
                "layer": call.layer,
                "module": call.module,
            }
            for call in plan.calls
        ],
    }


def phase_from_json(data: dict[str, Any]) -> PhasePlan:
    """Read a phase; raises :class:`PlanError` when a field is missing or of another kind."""
    try:
        if data["schema_version"] != SCHEMA_VERSION:
            raise PlanError(
                "the plan has another schema version",
                expected=str(SCHEMA_VERSION),
                found=str(data["schema_version"]),
                remedy="compile the model again with a glmc of this runtime's version",
            )
        plan = PhasePlan(
            name=data["name"],
            inputs=tuple(
                InputSpec(item["name"], item["dtype"], _shape_from_json(item["shape"]))
                for item in data["inputs"]
            ),
            buffers=tuple(
                Buffer(
                    item["id"],
                    item["name"],
                    item["dtype"],
                    _shape_from_json(item["shape"]),
                    Extent.parse(item["offset"]),
                    item["first"],
                    item["last"],
                )
                for item in data["buffers"]
            ),
            calls=tuple(
                Call(
                    item["function"],
                    {name: _argument_from_json(arg) for name, arg in item["arguments"].items()},
                    tuple(item["writes"]),
                    item["host"],
                    item["node"],
                    item["origin"],
                    item["layer"],
                    item["module"],
                )
                for item in data["calls"]
            ),
            segments=tuple(
                Segment(item["first"], item["last"], item["captured"]) for item in data["segments"]
            ),
            output=data["output"],
            arena=Extent.parse(data["arena"]),
            greedy=data.get("greedy"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PlanError(f"the plan is not well formed: {error!r}") from error
    problem = misfit(plan, PhasePlan, "plan")
    if problem is not None:
        raise PlanError(f"the plan is not well formed: {problem}")
    return plan
