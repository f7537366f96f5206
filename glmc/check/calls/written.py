"""The values of a program as the calls of a plan leave them, while it is replayed.

Buffers are reused, so a value is there from the last call for its node on until its buffer has been
read for the last time. What is handed out are views of the replay's own memory: what is copied into
one is what the next call reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.fx import Node

from glmc.lowering.lower import Lowered
from glmc_runtime.format.cache import CacheKey
from glmc_runtime.format.plan import BufferArgument, CacheArgument, Call
from glmc_runtime.replay.cache import Cache


class WrittenValues:
    """One replay of a phase, on one rank; ``nodes`` are those of the program by name."""

    def __init__(
        self, lowered: Lowered, nodes: Mapping[str, Node], cache: Cache, cache_layout: str
    ) -> None:
        self._lowered, self._nodes = lowered, nodes
        self._cache, self._cache_layout = cache, cache_layout
        self._last = {buffer.id: buffer.last for buffer in lowered.plan.buffers}
        self._alive: dict[int, tuple[Tensor, Node]] = {}
        self._views: dict[int, Tensor] = {}

    def nodes_after(self, position: int) -> tuple[Node, ...]:
        """The nodes whose values are whole once the call at ``position`` has run."""
        outputs = self._lowered.outputs.get(position, ())
        places = (BufferArgument, CacheArgument)  # an input is one of a traced program only
        return tuple(self._nodes[name] for name, place in outputs if isinstance(place, places))

    def caches_after(self, position: int) -> dict[CacheKey, Node]:
        """The nodes among the values after a call that are a cache with its new slots."""
        outputs = self._lowered.outputs.get(position, ())
        return {
            CacheKey(storage.cache, storage.layer): self._nodes[name]
            for name, storage in outputs
            if isinstance(storage, CacheArgument)
        }

    def after(
        self, position: int, call: Call, arguments: Mapping[str, Any], values: Mapping[Node, Any]
    ) -> dict[Node, Tensor]:
        """The values that a call completes, each of the shape that it has in ``values``: what fills
        up a bucket comes after its rows."""
        for each, view in _views(call, arguments):
            self._views[each] = max(self._views.get(each, view), view, key=Tensor.numel)
        for each in _buffers_written(call):
            self._alive.pop(each, None)
        whole: dict[Node, Tensor] = {}
        for name, storage in self._lowered.outputs.get(position, ()):
            node = self._nodes[name]
            if isinstance(storage, CacheArgument):
                whole[node] = self.paged(storage.cache, storage.layer)
            elif isinstance(storage, BufferArgument):
                shape = values[node].shape
                flat = self._views[storage.buffer].flatten()
                whole[node] = flat[: shape.numel()].view(shape)
                self._alive[storage.buffer] = whole[node], node
        return whole

    def still_needed(self, position: int) -> tuple[tuple[Tensor, Node], ...]:
        """Values that calls after ``position`` read. One that is written over shows here."""
        alive = self._alive.items()
        self._alive = {each: kept for each, kept in alive if self._last[each] > position}
        return tuple(self._alive.values())

    def paged(self, name: str, layer: int) -> Tensor:
        """A cache [blocks, heads, tokens, head_dim], as programs have it."""
        cache = self._cache.tensor(name, layer)
        return cache.transpose(1, 2) if self._cache_layout == "blocks_tokens_heads" else cache


def calls_for(lowered: Lowered, position: int) -> tuple[Call, ...]:
    """The calls for a node, up to the one at ``position``: what passes between them is the kernels'
    own."""
    calls = lowered.plan.calls
    last = calls[position]
    before = calls[: position + 1]
    return tuple(each for each in before if (each.node, each.origin) == (last.node, last.origin))


def _buffers_written(call: Call) -> Iterator[int]:
    for name in call.writes:
        argument = call.arguments[name]
        if isinstance(argument, BufferArgument):
            yield argument.buffer


def _views(call: Call, arguments: Mapping[str, Any]) -> Iterator[tuple[int, Tensor]]:
    """By buffer, what a call is bound to; views begin where their buffers do."""
    for name, argument in call.arguments.items():
        if isinstance(argument, BufferArgument):
            yield argument.buffer, arguments[name]
