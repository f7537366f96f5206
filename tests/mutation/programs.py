"""Programs to mutate: copied with fresh fake values, folded to fixed sizes, and run node by node.

A size that one mutant fixes is not fixed in the next.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import SymInt, Tensor
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.fx.node import map_arg

from glmc.ir.probe import example_size
from glmc.ir.program import Program
from glmc.ir.rewrite import fake_mode_of
from glmc.weights.evaluate import evaluate

# Of each call that it refuses torch would log a traceback.
logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)
PROVENANCE: dict[str, Any] = {"module": "", "layer": None, "source": None}


class InvalidMutantError(Exception):
    """torch itself refuses the program."""


def copied(program: Program) -> tuple[Program, dict[str, Node]]:
    """A copy with the same fake values, and its nodes by name."""
    copy = program.copy()
    return copy, {node.name: node for node in copy.graph.nodes}


def propagate(program: Program) -> None:
    """Fresh fake values of every node. In a traced program all sizes are the examples: what has a
    number as its value is folded into its readers, as Dynamo leaves it."""
    fixed = program.phase == "traced"
    mode = FakeTensorMode(shape_env=None if fixed else ShapeEnv(), allow_non_fake_inputs=True)
    for node in list(program.graph.nodes):
        if node.op == "placeholder":
            node.meta["val"] = _placeholder(mode, node, fixed)
        elif node.op == "call_function":
            node.meta["val"] = _fake(mode, node)
            if fixed and isinstance(node.meta["val"], int):
                fold(node)
    for node in program.graph.nodes:
        node.meta = {**PROVENANCE, "id": node.name, **node.meta}


def update(program: Program, origin: Program) -> None:
    """As :func:`propagate`, but only what has changed since ``program`` was a copy of ``origin``,
    and what depends on that. A size that is fixed by it is fixed in ``origin`` as well, so its
    values are made afresh."""
    mode = fake_mode_of(origin.graph)
    before = guards(mode)
    old = {node.name: node for node in origin.graph.nodes}
    stale: set[Node] = set()
    try:
        for node in list(program.graph.nodes):
            if node.op != "call_function":
                continue
            was = old.get(node.name)
            same = was is not None and was.target is node.target and _call(was) == _call(node)
            if same and stale.isdisjoint(node.all_input_nodes):
                continue
            stale.add(node)
            node.meta = {**PROVENANCE, "id": node.name, **node.meta, "val": _fake(mode, node)}
            if mode.shape_env is None and isinstance(node.meta["val"], int):
                fold(node)
    finally:
        if guards(mode) != before:
            propagate(origin)


def guards(mode: FakeTensorMode) -> int:
    """How much is known of the sizes: it only grows."""
    environment = mode.shape_env
    return 0 if environment is None else len(environment.guards) + len(environment.replacements)


def _call(node: Node) -> Any:
    return map_arg((node.args, dict(node.kwargs)), lambda read: read.name)


def fold(node: Node) -> None:
    """Let every reader have the number itself."""
    number = node.meta["val"]
    for user in list(node.users):
        user.args = map_arg(user.args, lambda read: number if read is node else read)
        user.kwargs = map_arg(user.kwargs, lambda read: number if read is node else read)
    node.graph.erase_node(node)


def _placeholder(mode: FakeTensorMode, node: Node, fixed: bool) -> Tensor:
    old = node.meta["val"]
    sizes = [example_size(size) for size in old.shape]
    if fixed or "weight" in node.meta:
        with mode:
            return torch.empty(sizes, dtype=old.dtype)
    kinds = [
        DimDynamic.DUCK if isinstance(size, SymInt) else DimDynamic.STATIC for size in old.shape
    ]
    context: Any = StatelessSymbolicContext(dynamic_sizes=kinds)
    return mode.from_tensor(
        torch.empty(sizes, dtype=old.dtype),
        source=ConstantSource(node.name),
        symbolic_context=context,
    )


def _fake(mode: FakeTensorMode, node: Node) -> Any:
    arguments, keywords = map_arg((node.args, dict(node.kwargs)), lambda read: read.meta["val"])
    target: Callable[..., Any] = node.target  # type: ignore[assignment]
    try:
        with mode, torch.no_grad():
            return target(*arguments, **keywords)
    except Exception as error:
        raise InvalidMutantError(f"{node.name}: {type(error).__name__}: {error}") from error


def run(
    program: Program, inputs: Mapping[str, Tensor], held: Mapping[str, Tensor]
) -> tuple[Any, ...]:
    """The outputs on real tensors; ``held`` are the parameters by name, ``inputs`` by node."""
    values: dict[Node, Any] = {}
    with torch.no_grad():
        for node in program.graph.nodes:
            if node.op == "placeholder":
                weight = program.weight_of(node)
                if weight is None:
                    values[node] = inputs[node.meta["input"]]
                else:
                    values[node] = evaluate(weight, held.__getitem__)
                continue
            arguments, keywords = map_arg((node.args, dict(node.kwargs)), values.__getitem__)
            if node.op == "output":
                results = arguments[0]
                return tuple(results) if isinstance(results, (tuple, list)) else (results,)
            target: Callable[..., Any] = node.target  # type: ignore[assignment]
            values[node] = target(*arguments, **keywords)
    raise InvalidMutantError("the graph has no output")
