"""Assembly: the calls of a phase and the buffers that they touch become its plan.

Lifetimes are read off the calls, memory offsets come from passes/memory_plan, and runs of calls
that a device graph can hold become segments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from glmc.errors import InternalError
from glmc.lowering import memory_plan
from glmc_runtime.format.extent import Extent, Shape
from glmc_runtime.format.phases import phase_of
from glmc_runtime.format.plan import (
    Buffer,
    BufferArgument,
    Call,
    Head,
    InputSpec,
    PhasePlan,
    Segment,
    parts_of,
)


@dataclass(frozen=True)
class Scratch:
    """A buffer that has no place yet."""

    name: str
    shape: Shape
    dtype: torch.dtype


def phase_plan(
    name: str,
    inputs: tuple[InputSpec, ...],
    buffers: list[Scratch],
    calls: list[Call],
    output: int,
    greedy: int | None = None,
    head: Head | None = None,
) -> PhasePlan:
    """The plan of a phase; buffers that no call touches are left out. ``output`` and ``greedy``
    live to the end.

    Raises InternalError when nothing writes the output.
    """
    kept = (output,) if greedy is None else (output, greedy)
    placed, arena = place(buffers, calls, kept, phase_of(name).symbols)
    segments = segments_of(calls)
    return PhasePlan(name, inputs, placed, tuple(calls), segments, output, arena, greedy, head)


def place(
    buffers: list[Scratch],
    calls: list[Call],
    outputs: Iterable[int],
    symbols: Sequence[str],
    size: Callable[[Extent], Extent] = lambda size: size,
) -> tuple[tuple[Buffer, ...], Extent]:
    """The place of each buffer that a call touches, and the size of the arena in bytes.

    ``size`` makes of a buffer's size what is planned for it, linear in ``symbols``. ``outputs``
    live to the end.
    """
    spans = _spans(calls, len(buffers), outputs)
    requests = [
        memory_plan.Request(index, size(_bytes(buffers[index])), *span)
        for index, span in enumerate(spans)
        if span is not None
    ]
    planned = memory_plan.plan(requests, symbols)
    placed = tuple(
        Buffer(
            request.id,
            buffers[request.id].name,
            dtype_name(buffers[request.id].dtype),
            buffers[request.id].shape,
            planned.offsets[request.id],
            request.first,
            request.last,
        )
        for request in requests
    )
    return placed, planned.arena


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _bytes(buffer: Scratch) -> Extent:
    """Size in bytes; of an artifact's buffer at most one dimension may follow the step."""
    size = Extent(constant=1)
    for extent in buffer.shape:
        size = size.times(extent)
    return size * buffer.dtype.itemsize


def _spans(calls: list[Call], buffers: int, outputs: Iterable[int]) -> list[tuple[int, int] | None]:
    """First and last call that touches each buffer; outputs live to the end."""
    spans: list[tuple[int, int] | None] = [None] * buffers
    for index, call in enumerate(calls):
        for part in (part for item in call.arguments.values() for part in parts_of(item)):
            if isinstance(part, BufferArgument):
                span = spans[part.buffer]
                spans[part.buffer] = (span[0] if span else index, index)
    for output in outputs:
        last = spans[output]
        if last is None:
            raise InternalError("no call writes the output of the phase")
        spans[output] = (last[0], len(calls) - 1)
    return spans


def segments_of(calls: list[Call]) -> tuple[Segment, ...]:
    """Maximal runs of calls that a device graph can hold, and of those that it can't."""
    segments: list[Segment] = []
    for index, call in enumerate(calls):
        if segments and segments[-1].captured is not call.host:
            segments[-1] = replace(segments[-1], last=index)
        else:
            segments.append(Segment(index, index, not call.host))
    return tuple(segments)
