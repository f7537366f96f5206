"""What the compiled function hands back, in the memory that eager code would hand back.

Dynamo ran the program on fake tensors: those say which outputs are the caller's own memory, which
share memory with each other, and how each lies. An output of the caller's memory is a view of the
argument; all others are copied out of the arena, those that share memory into one storage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from glmc.dynamo.compile.sizes import TracedSizes
from glmc_runtime.format.extent import Extent, Shape
from glmc_runtime.format.plan import Argument
from glmc_runtime.replay.bind import Counts, evaluate


@dataclass(frozen=True)
class Layout:
    """How an output lies: ``stride`` in elements, ``offset`` in bytes; from the beginning of the
    argument that it is a view of, else of the storage."""

    dtype: torch.dtype
    size: Shape
    stride: Shape
    offset: Extent


@dataclass(frozen=True)
class Handed:
    """One tensor that is handed back.

    ``position``: of the argument whose memory it is, None for memory of its own. ``layout`` is None
    where it is that whole argument, or lies without gaps in a storage of its own. ``group`` numbers
    storages of several outputs. ``argument``: where the value is, in memory of its own only, which
    is on ``device``: the program may have moved it there.
    """

    position: int | None
    layout: Layout | None
    device: torch.device
    group: int = -1
    argument: Argument | None = None


def places(
    inputs: Sequence[Any], outputs: Sequence[Any], sizes: TracedSizes
) -> tuple[Handed | None, ...]:
    """Where each of ``outputs`` lies, by the fake tensors of both; None for what is no tensor."""
    positions: dict[int, int] = {}
    for position, fake in enumerate(inputs):
        if isinstance(fake, Tensor):
            positions.setdefault(_storage(fake), position)
    own = [_storage(fake) for fake in outputs if isinstance(fake, Tensor)]
    found: list[Handed | None] = []
    for fake in outputs:
        if not isinstance(fake, Tensor):
            found.append(None)
            continue
        storage = _storage(fake)
        same = [
            position
            for position, given in enumerate(inputs)
            if isinstance(given, Tensor) and _storage(given) == storage and _alike(given, fake)
        ]
        if fake.is_conj() or fake.is_neg():  # lazy bits, which a copy resolves
            found.append(Handed(None, None, fake.device))
        elif same:
            found.append(Handed(same[0], None, fake.device))
        elif storage in positions:
            position = positions[storage]
            found.append(Handed(position, _layout(fake, inputs[position], sizes), fake.device))
        elif own.count(storage) > 1 or not fake.is_contiguous():
            layout = _layout(fake, None, sizes)
            found.append(Handed(None, layout, fake.device, own.index(storage)))
        else:
            found.append(Handed(None, None, fake.device))
    return tuple(found)


def hand_back(
    outputs: Sequence[Any],
    arguments: Sequence[Any],
    value_of: Callable[[Argument], Tensor],
    counts: Counts,
) -> list[Any]:
    """The outputs of one call, whose sizes are ``counts``; ``value_of`` reads the arena."""
    storages = _storages(outputs, counts)
    found: list[Any] = []
    for item in outputs:
        if isinstance(item, Extent):
            found.append(item.evaluate(*counts))
        elif not isinstance(item, Handed):
            found.append(item)
        elif item.position is not None:
            found.append(_view(arguments[item.position], item.layout, counts))
        elif item.argument is not None and item.layout is None:
            value = value_of(item.argument)
            own = torch.empty(value.shape, dtype=value.dtype, device=item.device)
            found.append(own.copy_(value))
        elif item.argument is not None and item.layout is not None:
            storage, start = storages[item.group]
            place = _at(storage, item.layout, -start, counts)
            _fill(place, value_of(item.argument))
            found.append(place)
    return found


def _storage(fake: Tensor) -> int:
    return int(fake.untyped_storage()._cdata)


def _alike(one: Tensor, other: Tensor) -> bool:
    return (
        one.dtype == other.dtype
        and one.shape == other.shape
        and one.stride() == other.stride()
        and bool(one.storage_offset() == other.storage_offset())
        and one.is_conj() == other.is_conj()
        and one.is_neg() == other.is_neg()
    )


def _layout(fake: Tensor, base: Tensor | None, sizes: TracedSizes) -> Layout:
    offset = sizes.extent(fake.storage_offset()) * fake.element_size()
    if base is not None:
        offset += sizes.extent(base.storage_offset()) * -base.element_size()
    size, stride = (tuple(map(sizes.extent, each)) for each in (fake.shape, fake.stride()))
    return Layout(fake.dtype, size, stride, offset)


def _view(base: Tensor, layout: Layout | None, counts: Counts) -> Tensor:
    if layout is None:
        return base
    start = int(base.storage_offset()) * base.element_size()
    if layout.dtype != base.dtype:
        return _at(base.untyped_storage(), layout, start, counts)
    offset = (layout.offset.evaluate(*counts) + start) // base.element_size()
    size, stride = evaluate(layout.size, counts), evaluate(layout.stride, counts)
    return base.detach().as_strided(size, stride, offset)


def _at(storage: Any, layout: Layout, start: int, counts: Counts) -> Tensor:
    """The tensor that lies in ``storage`` as ``layout`` says, from byte ``start`` on."""
    offset = (layout.offset.evaluate(*counts) + start) // layout.dtype.itemsize
    size, stride = evaluate(layout.size, counts), evaluate(layout.stride, counts)
    empty = torch.empty(0, dtype=layout.dtype, device=storage.device)
    return empty.set_(storage, offset, size, stride)


def _storages(outputs: Sequence[Any], counts: Counts) -> dict[int, tuple[Any, int]]:
    """For each group memory for all of it, and the byte at which the group begins."""
    spans: dict[int, tuple[int, int]] = {}
    devices: dict[int, torch.device] = {}
    for item in outputs:
        if isinstance(item, Handed) and item.position is None and item.layout is not None:
            start = item.layout.offset.evaluate(*counts)
            size, stride = (
                evaluate(each, counts) for each in (item.layout.size, item.layout.stride)
            )
            reach = sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
            stop = start + (reach if 0 not in size else 0) * item.layout.dtype.itemsize
            first, last = spans.get(item.group, (start, stop))
            spans[item.group] = min(first, start), max(last, stop)
            devices[item.group] = item.device
    memory = {
        group: torch.empty(stop - start, dtype=torch.uint8, device=devices[group])
        for group, (start, stop) in spans.items()
    }
    return {group: (memory[group].untyped_storage(), span[0]) for group, span in spans.items()}


def _fill(place: Tensor, value: Tensor) -> None:
    """Copy; what an expanded tensor repeats is written once."""
    for dimension, (size, step) in enumerate(zip(place.shape, place.stride(), strict=True)):
        if step == 0 and size > 1:
            place, value = place.narrow(dimension, 0, 1), value.narrow(dimension, 0, 1)
    place.copy_(value)
