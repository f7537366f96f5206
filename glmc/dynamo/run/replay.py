"""Replay of a traced program: the caller's tensors are bound in place, and the calls run.

A call of the compiled function compares the addresses of what it is given with those of the call
before. Calls over other memory, or over other sizes, are bound again; all others are kept.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from math import prod
from typing import Any

import torch
from torch import Tensor

from glmc.dynamo.compile.lower import TracedPlan
from glmc.dynamo.compile.normal_form import Placeholder
from glmc.dynamo.run.device_graph import CachedDeviceGraph
from glmc.dynamo.run.inputs import Inputs
from glmc.dynamo.run.outputs import OutputAlias, make_outputs
from glmc.dynamo.run.weights import LiveWeights
from glmc.errors import InternalError
from glmc.lowering.assemble import place, segments_of
from glmc_runtime.errors import GlmcError, PlanError
from glmc_runtime.format.extent import Extent
from glmc_runtime.format.plan import (
    Argument,
    BufferArgument,
    Call,
    ExtentArgument,
    InputArgument,
    ListArgument,
    PhasePlan,
    ViewArgument,
    parts_of,
    place_of,
)
from glmc_runtime.kernels import Binder, Thunk
from glmc_runtime.kernels.any_op import aten
from glmc_runtime.kernels.traced import find_traced_binder
from glmc_runtime.kernels.vendor import Vendor
from glmc_runtime.replay.arena import Arena
from glmc_runtime.replay.bind import Memory, PhaseBinder, evaluate
from glmc_runtime.replay.device_order import StreamOrder
from glmc_runtime.replay.phase import KERNEL_ERRORS

# Bindings kept of each call. One: older ones would keep the caller's old caches alive.
_KEPT = 1


class State(dict[str, int]):
    """What calls depend on: sizes by name, and how often an input has moved."""

    @property
    def bucket(self) -> Mapping[str, int]:
        return self

    real = bucket


class _Binder(PhaseBinder):
    """Binds calls by the sizes and inputs that each depends on."""

    def dependencies(self, plan: PhasePlan) -> list[tuple[str, ...]]:
        buffers = {buffer.id: buffer for buffer in plan.buffers}
        return [
            tuple(sorted(_dependencies(call.arguments.values(), buffers))) for call in plan.calls
        ]

    def find(self, function: str) -> Binder:
        return find_traced_binder(function)

    def value(self, argument: Argument, symbols: Any) -> Any:
        """Views and lists are of traced programs alone."""
        if isinstance(argument, ListArgument):
            return [self.value(item, symbols) for item in argument.items]
        if not isinstance(argument, ViewArgument):
            return super().value(argument, symbols)
        source = self.value(argument.source, symbols)
        parameters = [_at(parameter, symbols.bucket) for parameter in argument.parameters]
        view = aten(argument.operation)(source, *parameters)
        return view if argument.item is None else view[argument.item]


def _at(parameter: Any, sizes: Mapping[str, int]) -> Any:
    """A parameter of a view with its sizes as numbers."""
    if isinstance(parameter, Extent):
        return parameter.evaluate(sizes)
    if isinstance(parameter, (list, tuple)):
        return [_at(item, sizes) for item in parameter]
    return parameter


def _dependencies(arguments: Any, buffers: Mapping[int, Any]) -> set[str]:
    symbols: set[str] = set()
    for argument in arguments:
        symbols |= _sizes_in(argument)
        for part in parts_of(argument):
            if isinstance(part, InputArgument):
                symbols.add(f"@{part.input}")
            symbols |= _sizes_in(part)
            if isinstance(part, BufferArgument) and part.shape is None:
                symbols |= _sizes_in(buffers[part.buffer].shape)
    return symbols


def _sizes_in(item: Any) -> set[str]:
    if isinstance(item, Extent):
        return set(item.symbols)
    if isinstance(item, ExtentArgument):
        return _sizes_in(item.extent)
    if isinstance(item, (BufferArgument, InputArgument)):
        return _sizes_in(item.shape or ())
    if isinstance(item, ViewArgument):
        return _sizes_in(item.parameters) | _sizes_in(item.source)
    if isinstance(item, ListArgument):
        return _sizes_in(item.items)
    if isinstance(item, (list, tuple)):
        return set().union(*map(_sizes_in, item)) if item else set()
    return set()


class TracedReplay:
    """The compiled function: called with the arguments of Dynamo's graph, returns its outputs."""

    def __init__(
        self,
        plan: TracedPlan,
        placeholders: Sequence[Placeholder],
        mutated: frozenset[str],
        weights: LiveWeights,
        device: torch.device,
        vendor: Vendor | None,
        eager: Callable[..., Any],
        graph: CachedDeviceGraph | None = None,
        left: bool = False,
    ) -> None:
        self.plan = plan
        self._left = left  # to the program's own code
        self._device = device
        self._vendor = vendor
        self._weights = weights
        self._eager = eager
        self.graph = CachedDeviceGraph(None) if graph is None else graph
        self._lock = threading.Lock()
        self._stream_order = StreamOrder(device)
        self._inputs = Inputs(placeholders, mutated, device)
        self._state = State()
        self._key: tuple[Any, ...] | None = None
        self._sizes = [
            (index, item.node.meta["val"])
            for index, item in enumerate(placeholders)
            if item.kind == "size"
        ]
        symbols = tuple(
            str(value.node.expr) if hasattr(value, "node") else f"_{index}"
            for index, (_, value) in enumerate(self._sizes)
        )
        self._evaluate = plan.sizes.evaluator(symbols)
        self._at: tuple[int, ...] | None = None
        self._overlapping = False
        self._capacity: dict[str, int] = {}
        self._binder: _Binder | None = None
        self._bound: OrderedDict[tuple[Any, ...], tuple[Thunk, ...]] = OrderedDict()
        # A graph that the caller captures over these calls goes on reading what they hold.
        self._pinned: list[tuple[Thunk, ...]] = []
        self.calls = 0
        self.replanned = 0

    def __call__(self, *arguments: Any) -> list[Any]:
        with self._lock:
            with self._without_casts(), torch.no_grad(), self._stream_order.enter() as captured:
                outputs = self._call(arguments, captured)
            if outputs is None:
                with torch.no_grad():
                    outputs = list(self._eager(*arguments))
            return outputs

    def refused(self, arguments: Sequence[Any]) -> tuple[Call, PlanError] | None:
        """Bind all calls for the program's first call, before anything runs: the one that can't be,
        and why; None if all can."""
        with self._lock, self._without_casts(), torch.no_grad(), self._stream_order.enter():
            try:
                key = self._enter(arguments)
            except PlanError:  # the call is refused in the same words, as an error of its own
                return None
            if key is None or self._binder is None:
                return None
            state: Any = self._state
            for position, call in enumerate(self.plan.calls):
                try:
                    self._binder.bind(position, position, state)
                except PlanError as error:
                    return call, error
            self._bind(key)
            return None

    def _without_casts(self) -> AbstractContextManager[Any]:
        """Casts of autocast were traced into the graph: kernels must not cast again."""
        autocast = torch.is_autocast_enabled(self._device.type)
        return torch.autocast(self._device.type, enabled=False) if autocast else nullcontext()

    def _call(self, arguments: tuple[Any, ...], captured: bool) -> list[Any] | None:
        """The outputs, or None where the program's own code must run. ``captured``: into a graph
        of the caller's."""
        self.calls += 1
        key = self._enter(arguments)
        if key is None:
            return None
        thunks = self._bound.get(key)
        if thunks is None:
            thunks = self._bind(key)
        if captured and (not self._pinned or self._pinned[-1] is not thunks):
            self._pinned.append(thunks)
        thunk = None
        try:
            for thunk in thunks if captured else self.graph.thunks(key, thunks):
                thunk()
        except GlmcError:
            raise
        except KERNEL_ERRORS as error:
            raise self._explain(thunk, error) from error
        counts = self._state.bucket
        return make_outputs(self.plan.outputs, arguments, self._value, counts)

    def _enter(self, arguments: Sequence[Any]) -> tuple[Any, ...] | None:
        """Note what is given; a key of all that calls are bound to, or None where the program's own
        code must run."""
        if self._left:
            return None
        changed = self._weights.refresh(arguments)
        if changed:
            self._forget()
        sizes = tuple(int(arguments[index]) for index, _ in self._sizes)
        if sizes != self._at:
            self._resize(sizes)
        moved = self._inputs.take(arguments)
        if moved or changed:
            self._overlapping = self._inputs.overlap(arguments)
        for name in moved:
            self._state[f"@{name}"] = self._state.get(f"@{name}", 0) + 1
            self._key = None
        if self._overlapping:
            return None
        if self._key is None:
            self._key = tuple(self._state.items())
        return self._key

    # Sizes.

    def _resize(self, sizes: tuple[int, ...]) -> None:
        values = self._evaluate(sizes)
        self._state.update(values)
        self._at, self._key = sizes, None
        if self._binder is not None and self._fits():
            return
        self._capacity = {
            name: max(self._capacity.get(name, 0), value, _room(value))
            for name, value in values.items()
            if name not in self.plan.sizes.fractions
        }
        self._make_plan()
        if not self._fits():
            raise InternalError("the plan has no room for the sizes of this call")

    def _fits(self) -> bool:
        if self._binder is None:
            return False
        return all(prod(evaluate(shape, self._state.bucket)) <= room for shape, room in self._rooms)

    def _make_plan(self) -> None:
        largest = State(self._capacity)

        def planned(size: Extent) -> Extent:
            return Extent(constant=size.evaluate(largest))

        outputs = [
            part.buffer
            for item in self.plan.outputs
            if isinstance(item, OutputAlias) and item.argument is not None
            for part in parts_of(item.argument)
            if isinstance(part, BufferArgument)
        ]
        buffers, arena = place(list(self.plan.buffers), list(self.plan.calls), outputs, (), planned)
        self._rooms = [
            (buffer.shape, prod(evaluate(buffer.shape, largest)))
            for buffer in buffers
            if any(extent.moves for extent in buffer.shape)
        ]
        calls = self.plan.calls
        phase = PhasePlan("traced", (), buffers, calls, segments_of(list(calls)), -1, arena)
        with torch.inference_mode(False):
            memory = Memory(
                Arena(arena.constant, self._device),
                self._inputs,  # type: ignore[arg-type]
                self._weights.tensors,
                None,  # type: ignore[arg-type]
                self._vendor,
            )
        self.graph.drop()
        self._binder = _Binder(phase, memory, _KEPT)
        self._bound.clear()
        self.replanned += 1

    @property
    def emulated(self) -> bool:
        return self._vendor is not None and self._vendor.emulated

    @property
    def bindings(self) -> int:
        """How often a call was bound since memory was planned: once each while nothing moves."""
        return 0 if self._binder is None else self._binder.bound

    @property
    def arena_bytes(self) -> int:
        return 0 if self._binder is None else self._binder._memory.arena.size

    @property
    def copied_bytes(self) -> int:
        """Weights that were made beside the caller's own."""
        return self._weights.derived_bytes

    # Calls.

    def _bind(self, key: tuple[Any, ...]) -> tuple[Thunk, ...]:
        if self._binder is None:
            self._make_plan()
        if self._binder is None:
            raise InternalError("a traced program has no plan")
        state: Any = self._state
        calls = len(self.plan.calls)
        self.graph.drop()  # it holds addresses of what the older binding keeps alive
        thunks = self._binder.bind(0, calls - 1, state) if calls else ()
        self._bound[key] = thunks
        if len(self._bound) > _KEPT:
            self._bound.popitem(last=False)
        return thunks

    def _forget(self) -> None:
        """Weights are elsewhere or hold something else: nothing bound to them is right."""
        self.graph.drop()
        self._bound.clear()
        self._at = None
        self._binder = None

    def _value(self, argument: Argument) -> Tensor:
        if self._binder is None:
            raise InternalError("a traced program has no plan")
        state: Any = self._state
        value: Tensor = self._binder.value(argument, state)
        return value

    def _explain(self, thunk: Thunk | None, error: BaseException) -> GlmcError:
        call = None if self._binder is None else self._binder.call_of(thunk)
        place = "a traced program" if call is None else place_of(call)
        return PlanError(f"a kernel failed: {error}", place=place)


def _room(value: int) -> int:
    """The next power of two: a size that grows step by step is planned anew only rarely."""
    return 1 << max(value - 1, 0).bit_length()
