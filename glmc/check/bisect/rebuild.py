"""A program written down as calls of :class:`Builder`, for a reproduction that runs a pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, Node

from glmc.ir.fake import FakeKernels
from glmc.ir.program import ModelShape, Program, graph_module
from glmc.ir.recipe import Source, Weight
from glmc.observe.dump.blocks import node_id
from glmc.observe.dump.parts import names_of
from glmc.observe.dump.script import target_text
from glmc.observe.dump.values import Values, argument, constant

_KEPT = ("id", "module", "layer", "source", "origins", "passes")


class Builder:
    """Nodes one by one, with fixed sizes; :meth:`program` ends it."""

    def __init__(self, model: ModelShape, dtype: torch.dtype) -> None:
        self._graph = Graph()
        self._fakes = FakeKernels(FakeTensorMode(allow_non_fake_inputs=True))
        self._weights: dict[str, Weight] = {}
        self._model, self._dtype = model, dtype

    def input(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, **meta: Any) -> Node:
        """A step input, or a value that is computed elsewhere."""
        return self._placeholder(name, shape, dtype, {**meta, "input": name})

    def weight(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, **meta: Any) -> Node:
        """A weight that is one parameter."""
        self._weights[name] = Weight(name, shape, dtype, Source(name, shape))
        return self._placeholder(name, shape, dtype, {**meta, "weight": name})

    def call(self, target: Callable[..., Any], *arguments: Any, **details: Any) -> Node:
        """A call; ``details`` are its keywords (``keywords=``) and what is known of the node."""
        keywords = details.pop("keywords", {})
        node = self._graph.call_function(target, arguments, keywords)
        node.meta.update(details, val=self._fakes.call(target, arguments, keywords))
        return node

    def program(self, *outputs: Node) -> Program:
        """The program that returns ``outputs``."""
        node = self._graph.output(tuple(outputs))
        node.meta.update(id="output", module="", layer=None, source=None)
        return Program(graph_module(self._graph), self._weights, self._model, self._dtype)

    def _placeholder(
        self, name: str, shape: tuple[int, ...], dtype: torch.dtype, meta: dict[str, Any]
    ) -> Node:
        node = self._graph.placeholder("".join(c if c.isalnum() else "_" for c in name))
        node.meta.update(meta, id=name, val=self._fakes.weight(shape, dtype))
        return node


def builder_text(program: Program) -> str:
    """Python that builds ``program`` with small fixed sizes as the variable ``program``.

    Needs ``torch``, ``operator``, ``Builder`` and ``ModelShape`` by these names.
    """
    values = Values(program)
    nodes: Sequence[Node] = [node for node in program.graph.nodes if node.op != "output"]
    names = names_of(nodes, None)
    lines = [f"model = {program.model!r}", f"build = Builder(model, {program.dtype})"]
    for node in nodes:
        details = ", ".join(
            f"{key}={node.meta[key]!r}"
            for key in _KEPT
            if key in node.meta and not (key == "id" and node.op == "placeholder")
        )
        if node.op == "placeholder":
            kind = "weight" if "weight" in node.meta else "input"
            value = node.meta["val"]
            shape = values.shape(value)
            made = f"build.{kind}({node_id(node)!r}, {shape}, {value.dtype}, {details})"
        else:
            arguments = [argument(item, names.__getitem__, constant) for item in node.args]
            made = f"build.call({', '.join((target_text(node), *arguments))}"
            if node.kwargs:
                named = (
                    f"{key!r}: {argument(item, names.__getitem__, constant)}"
                    for key, item in node.kwargs.items()
                )
                made += f", keywords={{{', '.join(named)}}}"
            made += f", {details})"
        lines.append(f"{names[node]} = {made}")
    output = next(node for node in reversed(program.graph.nodes) if node.op == "output")
    ends = ", ".join(names[node] for node in output.all_input_nodes)
    return "\n".join((*lines, f"program = build.program({ends})")) + "\n"


def rebuilt(program: Program) -> Program:
    """What the text builds. Raises whatever the calls raise on fixed sizes."""
    import operator

    scope: dict[str, Any] = {
        "torch": torch,
        "operator": operator,
        "Builder": Builder,
        "ModelShape": ModelShape,
    }
    exec(builder_text(program), scope)
    found: Program = scope["program"]
    return found
