"""What ``run_decompositions({})`` makes of a graph, without a second trace.

With an empty table torch traces the whole graph again, twice, though few ops change: those that
may return a view of their argument or a copy (``to``, ``reshape``, ``chunk``), and writes in place.
Here the first are run alone, on their own fake arguments, and what they call stands in their place;
a write into a tensor that nothing else sees is the op without the write. Whatever else a graph has
is left to torch. ``checked_functional.py`` holds every graph of a test run against torch's own.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._export import utils
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Graph, Node
from torch.fx.node import map_arg
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map, tree_map_only

_INPUTS = (InputKind.USER_INPUT, InputKind.PARAMETER, InputKind.BUFFER)
_METADATA = FunctionalTensor.metadata_fns
_IS_COMPOSITE = getattr(utils, "_is_cia_op", None)
_CLONE = torch.ops.aten.clone.default
_OF_TORCH = (torch.ops.aten.view.dtype, torch.ops.aten.dropout.default)


class NeedsTraceError(Exception):
    """The graph has something that only torch's own trace can answer."""


def quick_functional(patch: pytest.MonkeyPatch) -> None:
    """Every ``run_decompositions({})`` of this process from here on; nothing is replaced in a torch
    that does not say which ops are composite."""
    if _IS_COMPOSITE is None:
        return
    trace = ExportedProgram.run_decompositions

    def run_decompositions(program: ExportedProgram, table: Any = None, **options: Any) -> Any:
        if table == {} and not options:
            try:
                graph = functional_graph(program)
            except NeedsTraceError:
                return trace(program, table)
            program.graph_module.graph = graph
            return program
        return trace(program, table, **options)

    patch.setattr(ExportedProgram, "run_decompositions", run_decompositions)


def functional_graph(program: ExportedProgram) -> Graph:
    """A functional copy of the program's graph; NeedsTraceError when torch has to trace it."""
    signature = program.graph_signature
    if any(spec.kind not in _INPUTS for spec in signature.input_specs) or any(
        spec.kind is not OutputKind.USER_OUTPUT for spec in signature.output_specs
    ):
        raise NeedsTraceError("a constant, or state that changes")
    return _Copy().of(program.graph_module.graph)


class _Copy:
    """One graph being copied."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.copies: dict[Node, Any] = {}
        self.sizes: dict[Any, Node] = {}  # by expression
        self.inputs: list[Node] = []

    def of(self, graph: Graph) -> Graph:
        for node in graph.nodes:
            self.copies[node] = self._copy(node)
        self.graph.eliminate_dead_code()
        return self.graph

    def _copy(self, node: Node) -> Any:
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt) and value.node.expr.is_number:
            return int(value.node.expr)  # torch took the size for a constant
        if node.target is operator.getitem and type(self.copies[node.args[0]]) in (list, tuple):
            return self.copies[node.args[0]][node.args[1]]
        if isinstance(node.target, torch._ops.OpOverload):
            if node.target._schema.is_mutable:
                return self._without_write(node)
            if node.target is torch.ops.aten.dropout.default and node.args[2] is False:
                return self._call(node, _CLONE, (self.copies[node.args[0]],), {}, value)
            if node.target in _OF_TORCH:
                raise NeedsTraceError(node.target)
            if _IS_COMPOSITE(node.target) and _is_view(node):
                return self._calls_of(node)
        elif isinstance(node.target, torch._ops.OperatorBase):
            raise NeedsTraceError(node.target)
        if node.op not in ("placeholder", "call_function", "output"):
            raise NeedsTraceError(node.op)
        copy = self.graph.node_copy(node, lambda old: self.copies[old])
        if node.op == "placeholder":
            copy.name = node.name  # `input` stays `input`, as signatures name it
            self.inputs.append(copy)
        if isinstance(value, torch.SymInt):
            self.sizes.setdefault(value.node.expr, copy)
        return copy

    def _without_write(self, node: Node) -> Node:
        schema, written = node.target._schema, node.args[0]
        name = schema.name.removeprefix("aten::")
        packet = getattr(torch.ops.aten, name.removesuffix("_"), None)
        overload = getattr(packet, schema.overload_name or "default", None)
        alone = written.op != "placeholder" and not any(map(_is_view, (written, *written.users)))
        if overload is None or not name.endswith("_") or not alone:
            raise NeedsTraceError(node.target)
        args, kwargs = map_arg((node.args, node.kwargs), lambda old: self.copies[old])
        self.copies[written] = self._call(node, overload, args, kwargs, node.meta["val"])
        return self.copies[written]

    def _calls_of(self, node: Node) -> Any:
        """What an op calls below autograd, on the same fake tensors, in its place."""
        args, kwargs = map_arg((node.args, node.kwargs), lambda old: old.meta["val"])
        nodes = [
            (old.meta["val"], self.copies[old])
            for old in node.all_input_nodes
            if isinstance(old.meta["val"], Tensor)
        ]

        def node_of(value: Any) -> Any:
            if isinstance(value, Tensor):
                for tensor, made in nodes:
                    if tensor is value:
                        return made
                raise NeedsTraceError(node.target)
            return self._size(value.node.expr) if isinstance(value, torch.SymInt) else value

        with nodes[0][0].fake_mode, _Record() as record:
            result = node.target(*args, **kwargs)
        for op, op_args, op_kwargs, value in record.calls:
            if op in _METADATA:
                continue
            if op._schema.is_mutable:
                raise NeedsTraceError(op)
            op_args, op_kwargs = tree_map(node_of, (op_args, op_kwargs))
            call = self._call(node, op, op_args, op_kwargs, value)
            if isinstance(value, Tensor):
                nodes.append((value, call))
                continue
            for index, part in enumerate(value):
                nodes.append((part, self._call(node, operator.getitem, (call, index), {}, part)))
        return tree_map_only(Tensor, node_of, result)

    def _size(self, expression: Any) -> Any:
        """The node of a size: one that is there, an input's, or a product of such."""
        if expression.is_number:
            return int(expression)
        if expression not in self.sizes:
            self.sizes[expression] = self._new_size(expression)
        return self.sizes[expression]

    def _new_size(self, expression: Any) -> Node:
        for node in self.inputs:
            for axis, size in enumerate(getattr(node.meta["val"], "shape", ())):
                if isinstance(size, torch.SymInt) and size.node.expr == expression:
                    return self._call(node, torch.ops.aten.sym_size.int, (node, axis), {}, size)
        if not expression.is_Mul:
            raise NeedsTraceError(expression)
        number, rest = expression.as_coeff_Mul()
        if number != 1:
            factors = [self._size(rest), int(number)]
        else:
            order = [node.meta["val"].node.expr for node in self.sizes.values()]
            known = sorted((part for part in rest.args if part in order), key=order.index)
            parts = [*known, *(part for part in rest.args if part not in order)]
            factors = [self._size(part) for part in parts]
        product = factors[0]
        for factor in factors[1:]:
            value = product.meta["val"] * getattr(factor, "meta", {"val": factor})["val"]
            product = self.graph.call_function(operator.mul, (product, factor))
            product.meta = {"val": value}
        return product

    def _call(self, node: Node, op: Callable[..., Any], args: Any, kwargs: Any, value: Any) -> Node:
        name = op._opname if isinstance(op, torch._ops.OpOverload) else op.__name__
        call = self.graph.create_node("call_function", op, args, kwargs, name)
        call.meta = {**node.meta, "val": value}
        return call


class _Record(TorchDispatchMode):
    """The calls that reach the dispatcher below autograd, with what they returned."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        value = op(*args, **(kwargs or {}))
        self.calls.append((op, args, kwargs or {}, value))
        return value


def _is_view(node: Node) -> bool:
    """Whether what the node returns may be a view of what it takes; not so of a write in place."""
    if not isinstance(node.target, torch._ops.OpOverload) or node.target._schema.is_mutable:
        return False
    return any(argument.alias_info is not None for argument in node.target._schema.arguments)
