"""memory_plan: lifetimes of buffers become offsets in one arena.

Sizes are linear in the step, so offsets must be too: buffers that grow with a symbol, such as
tokens or sequences, get a lane for each, and fixed ones get one; inside a lane everything is a
multiple of one symbol. A plan that is free of overlap for one bucket is then free of it for all.
Within a lane the largest buffer goes first, to the lowest offset that nothing alive at the same
time takes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from glmc.errors import InternalError
from glmc_runtime.format.extent import Extent

NAME = "memory_plan"
# Bytes per row (or of a fixed buffer) are rounded up to this, so that every offset is aligned.
ALIGNMENT = 64


@dataclass(frozen=True)
class Request:
    """A buffer of ``size`` bytes that lives from call ``first`` to call ``last``, both counted."""

    id: int
    size: Extent
    first: int
    last: int


@dataclass(frozen=True)
class MemoryPlan:
    """Offset of each buffer by id, and the size of the arena, all in bytes."""

    offsets: Mapping[int, Extent]
    arena: Extent


def plan(requests: Iterable[Request], symbols: Sequence[str] = ()) -> MemoryPlan:
    """Place all buffers, a lane for each of ``symbols`` in their order and one for fixed sizes;
    raises InternalError for a size that mixes symbols."""
    lanes: dict[str | None, list[tuple[int, Request]]] = defaultdict(list)
    for request in requests:
        lane, coefficient = _lane(request.size, symbols)
        lanes[lane].append((-(-coefficient // ALIGNMENT) * ALIGNMENT, request))
    offsets: dict[int, Extent] = {}
    base = Extent()
    for lane in (*symbols, None):
        unit = Extent(constant=1) if lane is None else Extent.of(**{lane: 1})
        placed, height = _place(lanes[lane])
        for identifier, offset in placed.items():
            offsets[identifier] = base + unit * offset
        base += unit * height
    return MemoryPlan(offsets, base)


def _lane(size: Extent, symbols: Sequence[str]) -> tuple[str | None, int]:
    """The symbol that a size grows with, None where it is fixed, and the bytes for one of it."""
    if not size.terms:
        return None, size.constant
    (names, factor), *others = size.terms
    if others or size.constant or len(names) > 1 or names[0] not in symbols:
        raise InternalError(f"a buffer of {size} bytes mixes step sizes")
    return names[0], factor


def _place(requests: Sequence[tuple[int, Request]]) -> tuple[dict[int, int], int]:
    """Offsets by id in units of the lane's symbol, and the lane's height."""
    alive: dict[int, list[int]] = defaultdict(list)
    spans: dict[int, tuple[int, int]] = {}
    height = 0
    for size, request in sorted(requests, key=lambda item: (-item[0], item[1].first, item[1].id)):
        calls = range(request.first, request.last + 1)
        neighbours = {identifier for call in calls for identifier in alive[call]}
        offset = 0
        for start, stop in sorted(spans[identifier] for identifier in neighbours):
            if start - offset >= size:
                break
            offset = max(offset, stop)
        spans[request.id] = (offset, offset + size)
        for call in calls:
            alive[call].append(request.id)
        height = max(height, offset + size)
    return {identifier: start for identifier, (start, _) in spans.items()}, height
