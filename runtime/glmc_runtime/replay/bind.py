"""Bind a plan: each call becomes a thunk over views that are made once.

A call is bound again only for another value of a symbol that it depends on. Most calls of a
prefill depend on the token bucket alone; only those that see real counts are bound anew, and the
oldest of these are forgotten.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from glmc_runtime.collectives.group import Group
from glmc_runtime.errors import GlmcError, PlanError
from glmc_runtime.format.dependence import Dependence, Symbols
from glmc_runtime.format.dtypes import dtype_of
from glmc_runtime.format.extent import Shape
from glmc_runtime.format.plan import (
    Argument,
    BufferArgument,
    CacheArgument,
    Call,
    ExtentArgument,
    InputArgument,
    ListArgument,
    PhasePlan,
    ValueArgument,
    ViewArgument,
    WeightArgument,
    place_of,
)
from glmc_runtime.kernels import Binder, Thunk, find_binder, is_vendor
from glmc_runtime.kernels.group import in_group
from glmc_runtime.kernels.owner import owned_by
from glmc_runtime.kernels.vendor import Vendor
from glmc_runtime.replay.arena import Arena
from glmc_runtime.replay.cache import KVCache
from glmc_runtime.replay.inputs import StepInputs
from glmc_runtime.replay.profile import call_range, in_range


@dataclass(frozen=True)
class Memory:
    """Everything that an argument can point into, and the group that its collectives are of."""

    arena: Arena
    inputs: StepInputs
    weights: dict[str, torch.Tensor]
    cache: KVCache
    vendor: Vendor | None
    group: Group | None = None


class PhaseBinder:
    """Binds the calls of one phase; keeps at most ``keep`` bindings of each call (None: all).

    With ``ranges`` each call shows in a profiler's timeline (:mod:`glmc_runtime.replay.profile`).
    """

    def __init__(
        self, plan: PhasePlan, memory: Memory, keep: int | None, ranges: bool = False
    ) -> None:
        self.plan = plan
        self.ranges = ranges
        self.bound = 0
        self._memory = memory
        self._keep = keep
        self._buffers = {buffer.id: buffer for buffer in plan.buffers}
        self._symbols = self.dependencies(plan)
        self._thunks: list[OrderedDict[tuple[Any, ...], Thunk]] = [
            OrderedDict() for _ in plan.calls
        ]

    @property
    def in_group(self) -> bool:
        """Whether the calls are those of one rank of several."""
        return self._memory.group is not None

    def dependencies(self, plan: PhasePlan) -> Sequence[tuple[Any, ...]]:
        """For each call, the keys of what it depends on in the symbols that it is bound with."""
        dependence = Dependence(plan)
        return [dependence.symbols(call) for call in plan.calls]

    def bind(self, first: int, last: int, symbols: Symbols) -> tuple[Thunk, ...]:
        """Thunks of the calls ``first`` to ``last`` (inclusive); raises :class:`PlanError`."""
        return tuple(self._thunk(position, symbols) for position in range(first, last + 1))

    def output(self, symbols: Symbols) -> torch.Tensor:
        """The real rows of the plan's output, such as the logits, in the arena."""
        return self._real_rows(self.plan.output, symbols)

    def greedy(self, symbols: Symbols) -> torch.Tensor | None:
        """The greedy tokens of the real sequences, [real_sequences], where the plan has them."""
        return None if self.plan.greedy is None else self._real_rows(self.plan.greedy, symbols)

    def hidden(self, symbols: Symbols) -> torch.Tensor | None:
        """The last hidden states of the real tokens, [real tokens, hidden size], where the plan
        says where they are."""
        head = self.plan.head
        if head is None:
            return None
        with torch.inference_mode(False):
            rows: torch.Tensor = self.value(BufferArgument(head.hidden), symbols)
            return rows[: symbols.real["tokens"]]

    def _real_rows(self, buffer: int, symbols: Symbols) -> torch.Tensor:
        with torch.inference_mode(False):  # the caller may change its logits in place
            rows: torch.Tensor = self.value(BufferArgument(buffer), symbols)
            return rows[: symbols.real[self.plan.phase.output[0]]]

    def call_of(self, thunk: Thunk | None) -> Call | None:
        """The call that a thunk was bound for; None for a device graph."""
        for call, thunks in zip(self.plan.calls, self._thunks, strict=True):
            if any(bound is thunk for bound in thunks.values()):
                return call
        return None

    def _thunk(self, position: int, symbols: Symbols) -> Thunk:
        key = tuple(symbols[index] for index in self._symbols[position])
        thunks = self._thunks[position]
        thunk = thunks.get(key)
        if thunk is None:
            thunk = self._bind_call(position, symbols)
            if self.ranges:
                thunk = in_range(call_range(self.plan.calls[position]), thunk)
            thunks[key] = thunk
            self.bound += 1
            if self._keep is not None and len(thunks) > self._keep:
                thunks.popitem(last=False)
        else:
            thunks.move_to_end(key)
        return thunk

    def arguments(self, position: int, symbols: Symbols) -> dict[str, Any]:
        """The tensors and constants that a call is bound to."""
        arguments = self.plan.calls[position].arguments
        return {name: self.value(item, symbols) for name, item in arguments.items()}

    def find(self, function: str) -> Binder:
        """The binder of a kernel that is not the vendor's."""
        return find_binder(function)

    def _bind_call(self, position: int, symbols: Symbols) -> Thunk:
        call = self.plan.calls[position]
        try:
            values = self.arguments(position, symbols)
            if not is_vendor(call.function):
                with owned_by(self._memory.arena), in_group(self._memory.group):
                    return self.find(call.function)(values)
            if self._memory.vendor is None:
                raise PlanError("a plan calls the vendor, but no vendor library was looked for")
            return self._memory.vendor.bind(call.function, values)
        except GlmcError:
            raise
        except Exception as error:  # code of others may raise whatever it likes
            raise PlanError(
                f"'{call.function}' can't be bound: {error!r}",
                place=place_of(call),
                found=", ".join(sorted(call.arguments)),
                remedy="compile again with the glmc of this runtime's version",
            ) from error

    def value(self, argument: Argument, symbols: Symbols) -> Any:
        """The tensor or constant that an argument stands for."""
        if isinstance(argument, ValueArgument):
            return argument.value
        if isinstance(argument, WeightArgument):
            weight = self._memory.weights[argument.weight]
            return weight if argument.rows is None else weight[slice(*argument.rows)]
        if isinstance(argument, CacheArgument):
            return self._memory.cache.tensor(argument.cache, argument.layer)
        if isinstance(argument, (ViewArgument, ListArgument)):
            raise PlanError(f"a {type(argument).__name__} is in no artifact")
        counts = symbols.real if argument.real else symbols.bucket
        if isinstance(argument, ExtentArgument):
            return argument.extent.evaluate(counts)
        if isinstance(argument, InputArgument):
            shape = None if argument.shape is None else evaluate(argument.shape, counts)
            return self._memory.inputs.view(argument.input, shape, counts)
        buffer = self._buffers[argument.buffer]
        shape = evaluate(buffer.shape if argument.shape is None else argument.shape, counts)
        if prod(shape) > prod(evaluate(buffer.shape, symbols.bucket)):
            raise PlanError(f"a view of buffer '{buffer.name}' is too large", found=str(shape))
        offset = buffer.offset.evaluate(symbols.bucket)
        return self._memory.arena.view(offset, dtype_of(buffer.dtype), shape)


def evaluate(shape: Shape, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """A shape where the symbols have these values."""
    return tuple(extent.evaluate(sizes) for extent in shape)
