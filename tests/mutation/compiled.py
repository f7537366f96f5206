"""Mutants on the whole road of ``torch.compile``: normal form, passes, lowering and replay."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from glmc.errors import GlmcError
from glmc.ir import match as m
from glmc.ir.program import Program
from tests.mutation import programs
from tests.mutation.judge import Outcome, difference, mutated, said, within_condition
from tests.mutation.mutations import Mutation, in_place, mutations
from tests.mutation.subjects import Subject, base


def module_of(program: Program, held: Mapping[str, Tensor]) -> GraphModule:
    """The program as a module that owns its weights; what is no parameter of floats is a buffer."""
    root, graph = nn.Module(), Graph()
    copies: dict[Node, Node] = {}
    for node in program.graph.nodes:
        if "weight" not in node.meta:
            copies[node] = graph.node_copy(node, lambda old: copies[old])
            continue
        value = held[node.meta["weight"]].clone()
        if node.meta["weight"] == "frequencies":
            root.register_buffer(node.name, value)
        else:
            root.register_parameter(node.name, nn.Parameter(value, requires_grad=False))
        copies[node] = graph.get_attr(node.name)
    return GraphModule(root, graph)


def _apart(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies, for programs that write in place."""
    return {name: value.clone() for name, value in values.items()}


def _is_unordered(node: Node) -> bool:
    """Whether torch leaves open in which order a token's experts come."""
    return m.is_op(node, "aten.topk") and m.argument(node, 4, "sorted", True) is False


def _by_id(results: tuple[Any, ...]) -> tuple[Any, ...]:
    """Weights and ids of each token in the order of the ids."""
    ids = next((each for each in results if not each.is_floating_point()), None)
    if ids is None:
        return results
    order = ids.long().argsort(-1)
    return tuple(each.gather(-1, order) if each.shape == ids.shape else each for each in results)


def in_place_mutations(subject: Subject) -> list[Mutation]:
    start = base(subject)
    return list(mutations(start.program.graph, start.inside, {"in_place": in_place}))


def judge_compiled(subject: Subject, mutation: Mutation, target: str) -> tuple[Outcome, str]:
    """As :func:`tests.mutation.judge.judge` of what a user of ``torch.compile`` gets: FUSED stands
    for equal values, REFUSED for an error with a code while compiling."""
    start = base(subject)
    for case in start.cases:
        names = [node.meta["input"] for node in start.program.inputs()]
        inputs = [case.inputs[name].clone() for name in names]
        try:
            program = mutated(start, mutation)
            expected = programs.run(program, _apart(case.inputs), _apart(case.held))
        except Exception as error:  # noqa: BLE001 (whatever torch says to odd arguments)
            return Outcome.INVALID, said(error)
        module = module_of(mutated(start, mutation), case.held)
        torch._dynamo.reset()
        call: Callable[..., Any] = torch.compile(
            module, backend="kunlun", options={"target": target}
        )
        try:
            with torch.no_grad():
                result = call(*inputs)
        except GlmcError as error:
            return Outcome.REFUSED, said(error)
        except Exception as error:  # noqa: BLE001 (a call that crashes is what is looked for)
            return Outcome.FAILED, said(error)
        found = tuple(result) if isinstance(result, (tuple, list)) else (result,)
        if any(map(_is_unordered, program.graph.nodes)):
            found, expected = _by_id(found), _by_id(expected)
        reason = difference(found, expected)
        if reason and not within_condition(mutated(start, mutation), case, found, expected):
            return Outcome.SILENT, f"{case.name}: {reason}"
    return Outcome.FUSED, ""
