"""Output aliasing: outputs of the compiled function in the memory that eager code would return.

Dynamo ran the program on fake tensors: those say which outputs are the caller's own memory, which
share memory with each other, and the layout of each. An output of the caller's memory is a view of
the argument; all others are copied out of the arena, those that share memory into one storage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from glmc.dynamo.compile.sizes import TracedSizes
from glmc_runtime.format.extent import Extent, Shape
from glmc_runtime.format.plan import Argument
from glmc_runtime.replay.bind import evaluate


@dataclass(frozen=True)
class Layout:
    """Layout of an output: ``stride`` in elements, ``offset`` in bytes; from the beginning of the
    argument that it is a view of, else of the storage."""

    dtype: torch.dtype
    size: Shape
    stride: Shape
    offset: Extent


@dataclass(frozen=True)
class OutputAlias:
    """One output tensor, and what it aliases.

    ``position``: of the argument whose memory it is, None for memory of its own. ``layout`` is None
    where it is that whole argument, or contiguous in a storage of its own. ``group`` numbers
    storages of several outputs. ``argument``: where the value is, in memory of its own only, which
    is on ``device``: the program may have moved it there.
    """

    position: int | None
    layout: Layout | None
    device: torch.device
    group: int = -1
    argument: Argument | None = None


def output_aliases(
    inputs: Sequence[Any], outputs: Sequence[Any], sizes: TracedSizes
) -> tuple[OutputAlias | None, ...]:
    """The alias of each of ``outputs``, by the fake tensors of both; None for what is no tensor."""
    positions: dict[int, int] = {}
    for position, fake in enumerate(inputs):
        if isinstance(fake, Tensor):
            positions.setdefault(_storage(fake), position)
    own = [_storage(fake) for fake in outputs if isinstance(fake, Tensor)]
    aliases: list[OutputAlias | None] = []
    for fake in outputs:
        if not isinstance(fake, Tensor):
            aliases.append(None)
            continue
        storage = _storage(fake)
        same = [
            position
            for position, argument in enumerate(inputs)
            if isinstance(argument, Tensor)
            and _storage(argument) == storage
            and _same_layout(argument, fake)
        ]
        if fake.is_conj() or fake.is_neg():  # lazy bits, which a copy resolves
            aliases.append(OutputAlias(None, None, fake.device))
        elif same:
            aliases.append(OutputAlias(same[0], None, fake.device))
        elif storage in positions:
            position = positions[storage]
            aliases.append(
                OutputAlias(position, _layout(fake, inputs[position], sizes), fake.device)
            )
        elif own.count(storage) > 1 or not fake.is_contiguous():
            layout = _layout(fake, None, sizes)
            aliases.append(OutputAlias(None, layout, fake.device, own.index(storage)))
        else:
            aliases.append(OutputAlias(None, None, fake.device))
    return tuple(aliases)


def make_outputs(
    outputs: Sequence[Any],
    arguments: Sequence[Any],
    value_of: Callable[[Argument], Tensor],
    counts: Mapping[str, int],
) -> list[Any]:
    """The outputs of one call, whose sizes are ``counts``; ``value_of`` reads the arena."""
    storages = _storages(outputs, counts)
    values: list[Any] = []
    for item in outputs:
        if isinstance(item, Extent):
            values.append(item.evaluate(counts))
        elif not isinstance(item, OutputAlias):
            values.append(item)
        elif item.position is not None:
            values.append(_view(arguments[item.position], item.layout, counts))
        elif item.argument is not None and item.layout is None:
            value = value_of(item.argument)
            own = torch.empty(value.shape, dtype=value.dtype, device=item.device)
            values.append(own.copy_(value))
        elif item.argument is not None and item.layout is not None:
            storage, start = storages[item.group]
            place = _at(storage, item.layout, -start, counts)
            _fill(place, value_of(item.argument))
            values.append(place)
    return values


def _storage(fake: Tensor) -> int:
    return int(fake.untyped_storage()._cdata)


def _same_layout(left: Tensor, right: Tensor) -> bool:
    return (
        left.dtype == right.dtype
        and left.shape == right.shape
        and left.stride() == right.stride()
        and bool(left.storage_offset() == right.storage_offset())
        and left.is_conj() == right.is_conj()
        and left.is_neg() == right.is_neg()
    )


def _layout(fake: Tensor, base: Tensor | None, sizes: TracedSizes) -> Layout:
    offset = sizes.extent(fake.storage_offset()) * fake.element_size()
    if base is not None:
        offset += sizes.extent(base.storage_offset()) * -base.element_size()
    size, stride = (tuple(map(sizes.extent, each)) for each in (fake.shape, fake.stride()))
    return Layout(fake.dtype, size, stride, offset)


def _view(base: Tensor, layout: Layout | None, counts: Mapping[str, int]) -> Tensor:
    if layout is None:
        return base
    start = int(base.storage_offset()) * base.element_size()
    if layout.dtype != base.dtype:
        return _at(base.untyped_storage(), layout, start, counts)
    offset = (layout.offset.evaluate(counts) + start) // base.element_size()
    size, stride = evaluate(layout.size, counts), evaluate(layout.stride, counts)
    return base.detach().as_strided(size, stride, offset)


def _at(storage: Any, layout: Layout, start: int, counts: Mapping[str, int]) -> Tensor:
    """The tensor of ``layout`` in ``storage``, from byte ``start`` on."""
    offset = (layout.offset.evaluate(counts) + start) // layout.dtype.itemsize
    size, stride = evaluate(layout.size, counts), evaluate(layout.stride, counts)
    empty = torch.empty(0, dtype=layout.dtype, device=storage.device)
    return empty.set_(storage, offset, size, stride)


def _storages(outputs: Sequence[Any], counts: Mapping[str, int]) -> dict[int, tuple[Any, int]]:
    """For each group memory for all of it, and the byte at which the group begins."""
    spans: dict[int, tuple[int, int]] = {}
    devices: dict[int, torch.device] = {}
    for item in outputs:
        if isinstance(item, OutputAlias) and item.position is None and item.layout is not None:
            start = item.layout.offset.evaluate(counts)
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
