"""A small module traced into a program, so that one spelling can be tested alone in a second."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.export.graph_signature import InputKind
from torch.fx import Graph, Node

from glmc.ir import match as m
from glmc.ir.program import ModelShape, Program, graph_module
from glmc.ir.recipe import Source, Weight
from glmc.passes import canonical, clean
from glmc.passes.base import Pass, PassResult
from glmc.weights.evaluate import evaluate
from tests.support.quick_export import without_stack_traces


@dataclass
class Traced:
    """A program and the module whose parameters it runs with."""

    program: Program
    module: nn.Module

    def apply(self, *passes: Pass) -> PassResult:
        """Run passes in place; the result of the last one."""
        results = [each.run(self.program) for each in passes]
        return results[-1]

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The program's outputs, with packed weights made from the module's parameters."""
        held = {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}
        weights = {
            name: evaluate(weight, lambda key: held[key].detach())
            for name, weight in self.program.weights.items()
        }
        names = [node.meta["input"] for node in self.program.inputs()]
        return self.program.run(dict(zip(names, inputs, strict=True)), weights)

    def eager(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            result = self.module(*inputs)
        return result if isinstance(result, tuple) else (result,)

    def nodes(self, *names: str) -> list[Node]:
        return [node for node in self.program.graph.nodes if m.is_op(node, *names)]

    def text(self) -> str:
        return str(self.program.graph)


def trace(
    module: nn.Module, *inputs: Tensor, first: Sequence[Pass] = (canonical.PASS, clean.PASS)
) -> Traced:
    """Export with symbolic leading dimensions (batch and tokens of 3-D inputs), then ``first``."""
    module.eval()
    module.requires_grad_(False)
    sizes = tuple(dict.fromkeys(range(max(1, each.dim() - 1)), Dim.AUTO) for each in inputs)
    with torch.no_grad(), without_stack_traces(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(module, inputs, strict=False, dynamic_shapes=sizes)
        exported = exported.run_decompositions({})
    specs = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}
    graph, copies, weights = Graph(), {}, {}
    for node in exported.graph_module.graph.nodes:
        if "assert" in str(node.target):
            continue
        copy = graph.node_copy(node, lambda old: copies[old])
        copies[node] = copy
        copy.meta = {"val": node.meta.get("val"), "id": node.name, "module": "", "layer": None}
        copy.meta["source"] = None
        if node.op != "placeholder":
            continue
        spec = specs[node.name]
        if spec.kind == InputKind.USER_INPUT:
            copy.meta["input"] = node.name
            continue
        name, value = str(spec.target), node.meta["val"]
        copy.meta.update(weight=name, id=name)
        weights[name] = Weight(
            name, tuple(value.shape), value.dtype, Source(name, tuple(value.shape))
        )
    program = Program(graph_module(graph), weights, _shape(inputs[0]), inputs[0].dtype)
    traced = Traced(program, module)
    for each in first:
        each.run(program)
    return traced


def _shape(x: Tensor) -> ModelShape:
    return ModelShape("zoo", "zoo", 1, 1, int(x.shape[-1]), 1, 1, 1, 1, (), 0, False)


def conditions(result: PassResult) -> list[str]:
    return [miss.condition for miss in result.near_misses]
