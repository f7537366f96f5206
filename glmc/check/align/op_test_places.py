"""Where a test of one op has its tensors: by which name in its memory, and how each is read there.

See op_test.py. What calls read before one of them has written it must be brought along; so must
what the reference alone reads.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from glmc.check.align.rebuilt import Rebuilt
from glmc.check.align.taken import Buffer, Place, TakenCalls, Weight, place_of_argument
from glmc.ir import match as m
from glmc_runtime.format.cache import CacheKey
from glmc_runtime.format.plan import BufferArgument, CacheArgument, Call
from glmc_runtime.kernels import is_vendor, schema_of
from glmc_runtime.kernels.schema import KernelSchema
from glmc_runtime.kernels.vendor_functions import vendor_function


class OpTestPlaces:
    """``brought`` are the places that calls read before one of them has written there; ``widened``
    of them what the reference reads in a narrower dtype, as it does."""

    def __init__(self, rebuilt: Rebuilt, taken: TakenCalls) -> None:
        self._taken = taken
        self._profile = rebuilt.artifact.manifest.abi_profile
        self._tokens_first = rebuilt.compiled.job.target.cache_layout == "blocks_tokens_heads"
        self._buffers = {buffer.id: buffer for buffer in taken.step.lowered.plan.buffers}
        nodes = {node.name: node for node in taken.step.program.graph.nodes}
        outputs = taken.step.lowered.outputs.values()
        self._stored = {nodes[name]: place for some in outputs for name, place in some}
        self.brought = self._read_first()
        self.widened: dict[Place, Tensor] = {}
        self._shared: set[Place] = set()
        self._operands: dict[str, Any] = {}

    def values(self) -> dict[str, Any]:
        """Tensors by name: those of ``brought``, and operands that no call reads as they are."""
        memory = {**self._taken.memory, **self.widened}
        return {self.name(place): memory[place] for place in self.brought} | self._operands

    def shared(self) -> set[str]:
        """Names of what calls and reference read alike, so that other numbers may be there. What
        one side alone reads goes with something that the other one reads in another form."""
        return {self.name(place) for place in self._shared}

    def storage(self, node: Node, value: Tensor) -> str:
        place = self._stored[node]
        if isinstance(place, CacheArgument):
            return self._cache(CacheKey(place.cache, place.layer))
        assert isinstance(place, BufferArgument)
        text = f'memory["{self.name(Buffer(place.buffer))}"]'
        return f"view({', '.join((text, *map(str, value.shape)))})"

    def _cache(self, key: CacheKey) -> str:
        """As programs have it."""
        text = f'memory["{self.name(key)}"]'
        return f"{text}.transpose(1, 2)" if self._tokens_first else text

    def operand(self, node: Node) -> str:
        """Where the reference reads an operand."""
        value, memory = self._taken.operands[node], self._taken.memory
        place = self._place(node)
        if place not in self.brought or place not in memory:
            return self._alone(node, value)
        text = f'memory["{self.name(place)}"]'
        if isinstance(place, CacheKey):
            self._shared.add(place)
            return self._cache(place)
        held = memory[place]
        if isinstance(place, Buffer):
            held = held.flatten()[: value.numel()].view(value.shape)
            text = f"view({', '.join((text, *map(str, value.shape)))})"
        if held.shape != value.shape or not _equal(held, value.to(held.dtype)):
            return self._alone(node, value)
        if held.dtype != value.dtype:
            text = f"{text}.to({value.dtype})"
            if value.is_floating_point():
                self.widened[place] = value
        self._shared.add(place)
        return text

    def _place(self, node: Node) -> Place | None:
        """Where a value may be, or what it is a view of."""
        if node.op == "placeholder":
            weight = node.meta.get("weight")
            if "cache" in node.meta:
                key: CacheKey = node.meta["cache"].key
                return key
            return None if weight is None else self._packed(str(weight), node)
        base = node
        while base not in self._stored and base.op == "call_function":
            base = m.operand(base, 0)
        storage = self._stored.get(base)
        if isinstance(storage, CacheArgument):
            return CacheKey(storage.cache, storage.layer)
        return Buffer(storage.buffer) if isinstance(storage, BufferArgument) else None

    def _packed(self, weight: str, node: Node) -> Place | None:
        """The packed weight that is one of the program, maybe under another name."""
        value, memory = self._taken.operands[node], self._taken.memory
        found = (
            place
            for place in self.brought
            if isinstance(place, Weight) and memory[place].shape == value.shape
            if place.name == weight or _equal(memory[place], value.to(memory[place].dtype))
        )
        return next(found, None)

    def _alone(self, node: Node, value: Any) -> str:
        """An operand that no call reads as it is."""
        name = str(node.meta.get("input") or node.meta.get("weight") or node.name)
        own = f"reference_{_identifier(name)}"
        self._operands[own] = value
        return f'memory["{own}"]'

    def _read_first(self) -> list[Place]:
        """The places that calls read before one of them has written there."""
        written: set[Place] = set()
        found: dict[Place, None] = {}
        for call, _ in self._taken.calls:
            places = {name: place_of_argument(item) for name, item in call.arguments.items()}
            schema = self._schema(call)
            for name, place in places.items():
                if place is None or place in written:
                    continue
                if not isinstance(place, Buffer) or self._reads(call, name, schema):
                    found[place] = None
            written |= {place for name in call.writes if (place := places[name]) is not None}
        return list(found)

    def _reads(self, call: Call, name: str, schema: KernelSchema | None) -> bool:
        known = None if schema is None else schema.argument(name)
        return name not in call.writes or known is None or known.reads

    def _schema(self, call: Call) -> KernelSchema | None:
        if not is_vendor(call.function):
            return schema_of(call.function)
        row = vendor_function(call.function)
        return None if row is None else row.variants[str(self._profile)].schema

    def name(self, place: Place) -> str:
        if isinstance(place, Buffer):
            return f"{_identifier(self._buffers[place.id].name)}_{place.id}"
        if isinstance(place, CacheKey):
            return f"{_identifier(place.name)}_cache"
        return _identifier(place.name)


def _equal(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.nan_to_num(), other.nan_to_num())


def _identifier(name: str) -> str:
    return re.sub(r"\W+", "_", name.removeprefix("model.")).strip("_")
