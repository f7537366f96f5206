"""The inputs of a traced program: bound in place, or copied to a place of their own.

One comparison of lists tells which addresses are those of the call before, without a look at
each input: a decode step has two caches a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from glmc.dynamo.compile.normal_form import Placeholder

# Inputs of at most that many bytes are copied to a place of their own: that is cheaper than to
# bind what reads them again.
STAGED_BYTES = 1 << 14
# A copy on the device costs one launch, and what moves can't be part of a device graph.
STAGED_BYTES_ON_DEVICE = 1 << 20

Places = tuple[list[int], list[torch.Size], list[tuple[int, ...]]]
_ADDRESS, _SHAPE, _STRIDE = Tensor.data_ptr, attrgetter("shape"), Tensor.stride


@dataclass(frozen=True)
class _Slot:
    """One input: its place among the arguments of the compiled function."""

    position: int
    name: str
    written: bool


class Inputs:
    """The inputs of a call, by name; ``mutated`` names those that the program writes."""

    def __init__(
        self, placeholders: Sequence[Placeholder], mutated: frozenset[str], device: torch.device
    ) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._device = device
        self._staged_bytes = STAGED_BYTES_ON_DEVICE if device.type == "cuda" else STAGED_BYTES
        self._staged: dict[str, Tensor] = {}
        self._places: dict[str, tuple[Any, ...]] = {}
        self._slots = [
            _Slot(index, item.name, item.name in mutated)
            for index, item in enumerate(placeholders)
            if item.kind == "input"
        ]
        # What is written comes first: it decides what may be staged.
        self._slots.sort(key=lambda slot: not slot.written)
        self._weights = [index for index, item in enumerate(placeholders) if item.kind == "weight"]
        self._written: set[int] = set()
        self._in_place: list[int] = []
        self._as_before: Places | None = None
        self._copied = self._slots
        self._moved: list[str] = []

    def view(self, name: str, shape: tuple[int, ...] | None, step: object) -> Tensor:
        """What an argument of a call is bound to."""
        tensor = self.tensors[name]
        if shape is None or tuple(tensor.shape) == tuple(shape):
            return tensor
        return tensor.view(shape)

    def take(self, arguments: Sequence[Any]) -> list[str]:
        """Note the inputs of this call; the names of those that calls must be bound to anew."""
        places = _places([arguments[position] for position in self._in_place])
        steady = places == self._as_before
        moved = self._moved  # not empty where the call before raised below
        if not steady:
            self._as_before = None  # until all are noted
        for slot in self._copied if steady else self._slots:
            tensor = arguments[slot.position]
            where = self._stage(slot, tensor) if self._may_stage(slot, tensor) else None
            if where is None:
                self._staged.pop(slot.name, None)
                where = (tensor.data_ptr(), tensor.shape, tensor.stride())
            if self._places.get(slot.name) == where:
                continue
            moved.append(slot.name)
            self._places[slot.name] = where
            if slot.name not in self._staged:
                self.tensors[slot.name] = tensor
                if slot.written:
                    self._written = {
                        _storage(arguments[one.position]) for one in self._slots if one.written
                    }
        if moved or not steady:
            self._copied = [slot for slot in self._slots if slot.name in self._staged]
            self._in_place = [
                slot.position for slot in self._slots if slot.name not in self._staged
            ]
            self._as_before = _places([arguments[position] for position in self._in_place])
        self._moved = []
        return moved

    def _may_stage(self, slot: _Slot, tensor: Tensor) -> bool:
        if slot.written:
            return False
        # What is on the CPU beside tensors of a device is read by kernels of that device.
        elsewhere = tensor.device.type != self._device.type
        small = tensor.numel() * tensor.element_size() <= self._staged_bytes
        return (small or elsewhere) and _storage(tensor) not in self._written

    def _stage(self, slot: _Slot, tensor: Tensor) -> tuple[Any, ...]:
        staged = self._staged.get(slot.name)
        if staged is None or staged.shape != tensor.shape:
            with torch.inference_mode(False):
                staged = torch.empty(tensor.shape, dtype=tensor.dtype, device=self._device)
            self._staged[slot.name] = self.tensors[slot.name] = staged
        staged.copy_(tensor)
        return staged.data_ptr(), staged.shape, staged.stride()

    def overlap(self, arguments: Sequence[Any]) -> bool:
        """Whether a tensor that is written shares memory with another one, or with a weight: then
        the order of reads and writes is the program's business, and its own code runs."""
        if any(_storage(arguments[position]) in self._written for position in self._weights):
            return True  # a weight under another name
        spans: dict[int, list[tuple[int, int, bool]]] = {}
        for slot in self._slots:
            tensor = arguments[slot.position]
            if tensor.numel() == 0 or slot.name in self._staged:
                continue
            start = tensor.data_ptr()
            reach = sum(
                (size - 1) * stride
                for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
            )
            stop = start + (reach + 1) * tensor.element_size()
            spans.setdefault(_storage(tensor), []).append((start, stop, slot.written))
        return any(
            (one[2] or other[2]) and one[0] < other[1] and other[0] < one[1]
            for group in spans.values()
            for index, one in enumerate(group)
            for other in group[:index]
        )


def _places(tensors: Sequence[Tensor]) -> Places:
    return list(map(_ADDRESS, tensors)), list(map(_SHAPE, tensors)), list(map(_STRIDE, tensors))


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage().data_ptr())
