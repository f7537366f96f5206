"""Taps: copies of a plan's values, made between the calls of a replayed step.

A buffer is used again by later calls, so each value is copied right after the call that completes
it. The copies stand among the bound calls: where a segment is captured as a device graph they are
part of it, and each replay of the graph delivers the values of its step. Tap memory is a static
place for each value at the size of the largest step that is recorded. Groups of values whose copies
do not fit into it together share it, and a step is replayed for each group.

Only a session that records has this binder; the thunks of any other are as they were.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

from torch import Tensor

from glmc_runtime.command.units import bytes_text
from glmc_runtime.errors import CapacityError
from glmc_runtime.format.dependence import Symbols
from glmc_runtime.format.dtypes import dtype_of
from glmc_runtime.format.memory import aligned
from glmc_runtime.format.plan import BufferArgument, PhasePlan
from glmc_runtime.kernels import Thunk
from glmc_runtime.record.plan_values import RecordedValue
from glmc_runtime.replay.arena import Arena
from glmc_runtime.replay.bind import Memory, PhaseBinder


@dataclass(frozen=True)
class TapGroup:
    """Values that are copied in one replay of a step, in the order of the calls, and how many bytes
    into the tap memory the copy of each begins. What stands in the cache stays there, and has
    none."""

    values: tuple[RecordedValue, ...]
    offsets: tuple[int | None, ...]
    size: int


def tap_groups(
    plan: PhasePlan, values: Sequence[RecordedValue], largest: Mapping[str, int], limit: int
) -> tuple[TapGroup, ...]:
    """As few groups of at most ``limit`` bytes as go through the values in their order, for steps
    of up to ``largest``; at least one. Raises :class:`CapacityError` for a value that is larger."""
    dtypes = {buffer.id: dtype_of(buffer.dtype) for buffer in plan.buffers}
    groups: list[TapGroup] = []
    taken: list[RecordedValue] = []
    offsets: list[int | None] = []
    end = 0
    for each in values:
        size = 0
        if each.value.buffer is not None:
            elements = prod(extent.evaluate(largest) for extent in each.shape)
            size = aligned(elements * dtypes[each.value.buffer].itemsize)
        if size > limit:
            raise CapacityError(
                "a value is larger than the tap memory",
                place=f"{plan.name}, node '{each.value.node}'",
                expected=f"at most {bytes_text(limit)}",
                found=f"{bytes_text(size)} for {each.tensors[0].keys[0]}",
                remedy="raise --tap-memory, record shorter prompts or other --layers, or record "
                "with --calls, which needs no tap memory",
            )
        if end + size > limit:
            groups.append(TapGroup(tuple(taken), tuple(offsets), end))
            taken, offsets, end = [], [], 0
        taken.append(each)
        offsets.append(end if size else None)
        end += size
    return (*groups, TapGroup(tuple(taken), tuple(offsets), end))


class TappedBinder(PhaseBinder):
    """Binds the calls of a phase, each followed by the copies of the values that it completes."""

    def __init__(
        self,
        group: TapGroup,
        taps: Arena,
        plan: PhasePlan,
        memory: Memory,
        keep: int | None,
        ranges: bool = False,
    ) -> None:
        self._taps = taps
        self._completed: dict[int, list[tuple[RecordedValue, int]]] = defaultdict(list)
        for each, offset in zip(group.values, group.offsets, strict=True):
            if offset is not None:
                self._completed[each.value.call].append((each, offset))
        super().__init__(plan, memory, keep, ranges)

    def dependencies(self, plan: PhasePlan) -> list[tuple[str, ...]]:
        """Those of the calls and of the copies after them: a graph holds both."""
        found = []
        for position, names in enumerate(super().dependencies(plan)):
            shapes = [each.shape for each, _ in self._completed.get(position, ())]
            copied = (name for shape in shapes for extent in shape for name in extent.symbols)
            found.append(tuple(dict.fromkeys((*names, *copied))))
        return found

    def bind(self, first: int, last: int, symbols: Symbols) -> tuple[Thunk, ...]:
        """Thunks of the calls ``first`` to ``last`` (inclusive) and of the copies among them."""
        thunks: list[Thunk] = []
        for position in range(first, last + 1):
            thunks += super().bind(position, position, symbols)
            thunks += self._copies(position, symbols)
        return tuple(thunks)

    def _copies(self, position: int, symbols: Symbols) -> Iterator[Thunk]:
        for each, offset in self._completed.get(position, ()):
            source = in_arena(self, each, symbols)
            yield partial(self.copied(source, offset).copy_, source)

    def copied(self, source: Tensor, offset: int) -> Tensor:
        """The place in tap memory of the copy of ``source``."""
        return self._taps.view(offset, source.dtype, tuple(source.shape))


def in_arena(binder: PhaseBinder, each: RecordedValue, symbols: Symbols) -> Tensor:
    """Where a call leaves a value that is in a buffer, at the size of the step's bucket."""
    buffer = each.value.buffer
    assert buffer is not None
    view: Tensor = binder.value(BufferArgument(buffer, each.shape), symbols)
    return view
