"""What tests of recorded artifacts share: a sink in memory, and the toy's values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from glmc_runtime.format.phases import PhaseKey
from glmc_runtime.format.plan import BufferArgument, CacheArgument, PhasePlan
from glmc_runtime.format.tensor_key import OUTPUT, TensorKey
from glmc_runtime.format.values import PlanValue, Values
from glmc_runtime.record.sink import Part

UNWRITTEN = -77


class MemorySink:
    """Keeps what it is given: ``tensors`` and ``facts`` of each by step and first key, ``others``
    the other keys, ``parts`` how many of each were written."""

    def __init__(self) -> None:
        self.lengths: dict[int, list[int]] = {}
        self.tensors: dict[tuple[int, str], Tensor] = {}
        self.others: dict[tuple[int, str], list[str]] = {}
        self.facts: dict[tuple[int, str], Mapping[str, Any]] = {}
        self.parts: dict[tuple[int, str], int] = {}
        self.run: dict[str, Any] = {}
        self._step = -1

    def begin(self, step: int, lengths: Sequence[int]) -> None:
        assert step == self._step + 1
        self._step = step
        self.lengths[step] = list(lengths)

    def write(
        self,
        keys: Sequence[TensorKey],
        tensor: Tensor,
        facts: Mapping[str, Any],
        part: Part | None = None,
    ) -> None:
        first, *others = map(str, keys)
        place = self._step, first
        assert part is not None or place not in self.tensors
        if place not in self.tensors:
            shape = tensor.shape if part is None else part.whole(tensor.shape)
            self.tensors[place] = torch.full(tuple(shape), UNWRITTEN, dtype=tensor.dtype)
            self.others[place], self.facts[place], self.parts[place] = others, facts, 0
        whole = self.tensors[place]
        if part is not None:
            whole = whole.narrow(part.axis, part.begin, tensor.shape[part.axis])
        whole.copy_(tensor)
        self.parts[place] += 1

    def link(self, key: TensorKey, step: int, written: TensorKey) -> None:
        place = self._step, str(key)
        self.tensors[place] = self.tensors[step, str(written)]
        self.others[place] = []

    def describe(self, facts: Mapping[str, Any]) -> None:
        self.run.update(facts)


def same_bits(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors are equal, NaN included."""
    if (first.shape, first.dtype) != (second.shape, second.dtype):
        return False
    return torch.equal(first.reshape(-1).view(torch.uint8), second.reshape(-1).view(torch.uint8))


def differing(first: MemorySink, second: MemorySink) -> list[tuple[int, str]]:
    """Tensors of two records that are not the same bits, or not in the same order."""
    if list(first.tensors) != list(second.tensors):
        return list(first.tensors.keys() ^ second.tensors.keys()) or [(-1, "another order")]
    return [
        place
        for place, tensor in first.tensors.items()
        if not same_bits(tensor, second.tensors[place])
    ]


def values_of_plans(plans: Mapping[PhaseKey, PhasePlan]) -> Values:
    """A value for all that a call writes, by the buffer's name."""
    return Values({key.phase: tuple(_written(plan)) for key, plan in plans.items()})


def _written(plan: PhasePlan) -> list[PlanValue]:
    buffers = {buffer.id: buffer for buffer in plan.buffers}
    found = []
    for place, call in enumerate(plan.calls):
        for name in call.writes:
            argument = call.arguments[name]
            if isinstance(argument, BufferArgument):
                buffer = buffers[argument.buffer]
                shape = argument.shape or buffer.shape
                texts = tuple(map(str, shape))
                stands = {"buffer": buffer.id, "cache": None}
                module, kind = buffer.name, "Toy"
            else:
                assert isinstance(argument, CacheArgument)
                texts, stands = ("blocks",), {"buffer": None, "cache": argument.cache}
                module, kind = f"{argument.cache}_cache", "Toy"
            key = TensorKey(f"model.layers.0.{module}", kind, 0, OUTPUT, "0")
            found.append(
                PlanValue(
                    call=place,
                    node=call.node,
                    op=call.origin,
                    module=call.module,
                    layer=call.layer,
                    dtype="float32",
                    shape=texts,
                    captured=None,
                    keys=(key,),
                    source="toy.py:1",
                    passes=("by_hand",),
                    **stands,  # type: ignore[arg-type]
                )
            )
    return found
