"""The plan: what the compiler emits and the runtime replays, as plain data.

The plan of a phase is a list of calls over buffers of one arena. The symbols of the phase
(:mod:`glmc_runtime.format.phases`) size everything, such as ``tokens`` (rows of the packed step)
and ``sequences`` (requests in it). Every size and offset is linear in them, so one plan serves
every bucket.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Union

from glmc_runtime.format.extent import Extent, Shape
from glmc_runtime.format.phases import Phase, phase_of

HOST_SUFFIX = "_host"
"""Step inputs of such a name are in host memory, all others on the device."""


@dataclass(frozen=True)
class BufferArgument:
    """A contiguous view of an arena buffer.

    ``shape`` overrides the buffer's own. With ``real`` it is evaluated with the real values of the
    symbols and not with the bucket's, so that padded rows are not seen.
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
    """A step input by name, a row of :mod:`glmc_runtime.format.step_inputs`; ``shape`` and ``real``
    as for buffers."""

    input: str
    shape: Shape | None = None
    real: bool = False


@dataclass(frozen=True)
class CacheArgument:
    """A tensor of the cache by its name in the manifest, such as ``key``, in one layer."""

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
    are what it takes after the tensor: numbers, extents, lists of them and None. Of an op with
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


@dataclass(frozen=True)
class InputSpec:
    """A step input that a phase has, and as what."""

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
class Head:
    """The head of a model: calls from ``first`` on, which compute logits from rows of the buffer
    ``hidden``, [tokens, hidden size]: the last hidden states, after the last norm. The calls before
    complete that buffer, and those of the head read no other of theirs, no cache, and in decode no
    step input."""

    hidden: int
    first: int


@dataclass(frozen=True)
class PhasePlan:
    """One phase. ``arena`` is its size in bytes; ``output`` the buffer of what it gives back, such
    as the logits, [sequences, vocabulary].

    ``greedy`` is, where there is one, the int64 buffer [sequences] that the last call fills with
    the argmax of each row of logits, -1 where the largest is not finite. A traced program has no
    ``head``.
    """

    name: str
    inputs: tuple[InputSpec, ...]
    buffers: tuple[Buffer, ...]
    calls: tuple[Call, ...]
    segments: tuple[Segment, ...]
    output: int
    arena: Extent
    greedy: int | None = None
    head: Head | None = None

    @property
    def phase(self) -> Phase:
        """The row of the table of phases; raises :class:`PlanError` for a name that has none."""
        return phase_of(self.name)

    @property
    def fused_cache_write(self) -> bool:
        """Whether some call writes the cache and attends over it in one launch, so that no row of
        a step sees the keys and values that another row writes."""
        return any(
            "block_tables" in call.arguments
            and any(isinstance(call.arguments[name], CacheArgument) for name in call.writes)
            for call in self.calls
        )


def place_of(call: Call) -> str:
    """Where a call stands in the model, for an error message."""
    layer = "" if call.layer is None else f", layer {call.layer}"
    return f"call '{call.function}', node '{call.node}'{layer}, module '{call.module}'"
