"""What a traced program leaves: the new values of the inputs that it changes, and its outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import SymBool, SymFloat, SymInt
from torch.fx import Node

from glmc.dynamo.compile.aten import AtenCalls
from glmc.dynamo.compile.normal_form import Result, Traced
from glmc.dynamo.compile.sizes import TracedSizes
from glmc.dynamo.compile.views import Views
from glmc.dynamo.run.outputs import OutputAlias, output_aliases
from glmc.errors import InternalError
from glmc.lowering.emitter import CallEmitter
from glmc.lowering.node_values import NodeValues
from glmc.lowering.target import Value
from glmc_runtime.format.plan import BufferArgument, InputArgument, storage_of


class Results:
    """Lowers the end of a traced program."""

    def __init__(
        self,
        traced: Traced,
        emitter: CallEmitter,
        values: NodeValues,
        views: Views,
        aten: AtenCalls,
        sizes: TracedSizes,
    ) -> None:
        self._traced, self._sizes = traced, sizes
        self._emitter, self._values, self._views, self._aten = emitter, values, views, aten
        self._copied: dict[Node, Value] = {}

    def lower(self, output: Node) -> tuple[Any, ...]:
        """Store the new values of inputs; what the function returns, in order."""
        self._emitter.enter(output, "output")
        fakes = [getattr(item, "fake", None) for item in self._traced.outputs]
        aliases = output_aliases(self._traced.given, fakes, self._sizes)
        self._copy_aliased_outputs(aliases)
        for name, value in self._new_values().items():
            target = InputArgument(name)
            if value.argument != target:
                self._aten.store(value, target)
        return tuple(map(self._returned, self._traced.outputs, aliases))

    def _new_values(self) -> dict[str, Value]:
        """What each input that the program changes holds afterwards."""
        mutated = self._traced.mutated.items()
        return {name: self._values.of(self._traced.node(result)) for name, result in mutated}

    def _copy_aliased_outputs(self, aliases: Sequence[OutputAlias | None]) -> None:
        """Copies, before any input takes its new value: of outputs with memory of their own whose
        value is in an input that will be written, and of such new values of other inputs."""
        for item, alias in zip(self._traced.outputs, aliases, strict=True):
            if alias is None or alias.position is not None:
                continue
            node = self._traced.node(item)
            value = self._values.of(node)
            storage = storage_of(value.argument)
            if isinstance(storage, InputArgument) and storage.input in self._traced.mutated:
                self._copied[node] = self._views.contiguous(value)
        for name, value in self._new_values().items():
            storage = storage_of(value.argument)
            if not isinstance(storage, InputArgument) or value.argument == InputArgument(name):
                continue
            if storage.input in self._traced.mutated:
                node = self._traced.node(self._traced.mutated[name])
                self._values.put(node, self._views.contiguous(value))

    def _returned(self, item: Any, alias: OutputAlias | None) -> Any:
        if not isinstance(item, Result):
            return item
        node = self._traced.node(item)
        size = node.meta["val"]
        if isinstance(size, (int, SymInt)):
            return self._sizes.extent(size)
        if isinstance(size, SymFloat):
            return self._sizes.number(size)
        if isinstance(size, SymBool):
            return bool(size)  # asking guards it
        if alias is None:
            raise InternalError("an output has no layout", place=node.meta["id"])
        if alias.position is not None:
            return alias
        value = self._copied.get(node) or self._values.of(node)
        argument = value.argument
        if isinstance(argument, (BufferArgument, InputArgument)):
            argument = replace(argument, shape=value.shape)
        self._emitter.use(argument)
        return replace(alias, argument=argument)
