"""Rebuilding a graph node by node with other inputs: how a phase gets its own shapes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.fx import Graph, Node

from glmc.ir.fake import FakeKernels
from glmc.ir.identity import hand_down, hand_up, without_identity
from glmc.ir.program import Cache, Program, graph_module
from glmc.ir.recipe import Weight
from glmc.ir.symbols import Dimension, Symbols
from glmc_runtime.format.dtypes import dtype_of
from glmc_runtime.format.step_inputs import step_input


class Rebuilder:
    """A new graph beside an old program. ``values`` maps old nodes to new ones."""

    def __init__(self, program: Program, pass_name: str) -> None:
        self.program = program
        self.pass_name = pass_name
        self.graph = Graph()
        self.symbols = Symbols()
        self.fakes = FakeKernels(self.symbols.fake_mode)
        self.values: dict[Node, Node] = {}

    def input(self, name: str, dims: tuple[Dimension, ...], dtype: torch.dtype) -> Node:
        """A step input; ``dims`` as in :meth:`Symbols.fake`."""
        node = self.graph.placeholder(name.replace(".", "_"))
        node.meta.update(input=name, id=name, module="", layer=None, source=None)
        node.meta["val"] = self.symbols.fake(name, dims, dtype)
        return node

    def step_input(self, name: str, equal: Mapping[str, str]) -> Node:
        """A row of the table of step inputs. ``equal`` symbols of the phase have one name."""
        row = step_input(name)
        sizes = tuple(equal.get(size, size) for size in row.shape)
        return self.input(name, sizes, dtype_of(row.dtype))

    def cache(self, cache: Cache, block_size: int, dtype: torch.dtype) -> Node:
        """A tensor of the paged cache."""
        node = self.input(cache.name, ("blocks", *cache.block_shape(block_size)), dtype)
        node.meta["cache"] = cache
        return node

    def cache_like(self, old: Node) -> Node:
        """A cache of the old program in this one."""
        cache: Cache = old.meta["cache"]
        fake = old.meta["val"]
        return self.cache(cache, int(fake.shape[1 + cache.block_dimension]), fake.dtype)

    def weights(self) -> None:
        """Placeholders for all weights of the old program."""
        for old in self.program.placeholders():
            if "weight" not in old.meta:
                continue
            new = self.graph.placeholder(old.name)
            new.meta = dict(old.meta)
            weight = self.program.weights[old.meta["weight"]]
            new.meta["val"] = self.fakes.weight(weight.shape, weight.dtype)
            self.values[old] = new

    def weight(self, weight: Weight) -> Node:
        """A placeholder for a weight that the old program does not have."""
        node = self.graph.placeholder(weight.name.replace(".", "_"))
        node.meta.update(weight=weight.name, id=weight.name, module="", layer=None, source=None)
        node.meta["val"] = self.fakes.weight(weight.shape, weight.dtype)
        self.program.weights[weight.name] = weight
        return node

    def new(self, old: Any) -> Any:
        """The new graph's value of an old argument: nodes are mapped, constants stay."""
        return torch.fx.node.map_arg(old, lambda node: self.values[node])

    def call(
        self,
        target: Callable[..., Any],
        arguments: Sequence[Any],
        like: Node,
        *,
        keywords: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> Node:
        """Append a call that stands for ``like`` and keeps its id and provenance.

        ``keywords`` are constants, such as the dtype of a cast."""
        node = self.graph.call_function(target, tuple(arguments), dict(keywords or {}))
        node.meta = without_identity(like.meta)
        node.meta.update(changes)
        node.meta["val"] = self.fakes.call(target, arguments, keywords)
        return node

    def item(self, node: Node, index: int) -> Node:
        picked = self.graph.call_function(operator.getitem, (node, index))
        picked.meta = without_identity(node.meta)
        picked.meta["id"] = f"{node.meta['id']}[{index}]"
        picked.meta["val"] = node.meta["val"][index]
        return picked

    def output(self, values: Sequence[Node]) -> None:
        node = self.graph.output(tuple(values))
        node.meta.update(id="output", module="", layer=None, source=None)

    def program_of(self, phase: str) -> Program:
        """The rebuilt program; unused weights are gone, unused inputs stay."""
        self._hand_down()
        for node in reversed(list(self.graph.nodes)):
            if not node.users and node.op != "output" and "input" not in node.meta:
                self.graph.erase_node(node)
        used = {node.meta["weight"] for node in self.graph.nodes if "weight" in node.meta}
        weights = {name: item for name, item in self.program.weights.items() if name in used}
        self.graph.lint()
        return Program(
            graph_module(self.graph),
            weights,
            self.program.model,
            self.program.dtype,
            phase,
            {},
            self.symbols,
            ranks=self.program.ranks,
        )

    def _hand_down(self) -> None:
        """What the old nodes were the new ones are; views that are gone were of their operands."""
        for old in reversed(self.program.graph.nodes):
            if old.op == "call_function" and old not in self.values:
                hand_up(old)
        for old, new in self.values.items():
            hand_down(old, new)
