"""Range of the activations: the fused graph is run on a prompt, a node at a time.

It is run in bfloat16, which has the range of float32: what overflows float16 is seen with its
magnitude, and whatever is bfloat16 here is float16 in the other compile, so that sums and norms
that are float32 in either are left out. Of an op with several kernels, such as the experts, what
lies between them counts too: its reference is run under a watch of each tensor. An attention keeps
its scores to itself. The weights of a node are made when it is run and dropped after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.utils._python_dispatch import TorchDispatchMode

from glmc.dtype_choice import Magnitude
from glmc.errors import LoweringError
from glmc.ir.match import op_name
from glmc.ir.ops.registry import semantic_op
from glmc.ir.program import Program
from glmc.ir.recipe import Weight
from glmc.range_check.magnitude import magnitude_of, outdoes, text_of
from glmc.weights.source import WeightSource
from glmc.weights.stream import stream_weight
from glmc_runtime.command.out_of_memory import shortage_behind

_ERRORS = (RuntimeError, LookupError, TypeError, ValueError, NotImplementedError)


@dataclass(frozen=True)
class ActivationRange:
    """``ops`` holds the largest magnitude of each op, largest first; ``outside`` the first value
    in the order of the graph that is beyond the limit."""

    ops: tuple[Magnitude, ...]
    outside: Magnitude | None


def activation_range(
    program: Program, source: WeightSource, token_ids: Tensor, limit: float
) -> ActivationRange:
    """Run a stateless program on ``token_ids`` [batch, tokens]; values above ``limit`` are outside.

    Raises LoweringError for a node that can't be run, and what a weight source raises.
    """
    batch, tokens = token_ids.shape
    inputs = {
        "token_ids": token_ids,
        "positions": torch.arange(tokens).expand(batch, tokens).contiguous(),
    }
    watch = _Watch(program.dtype)
    largest: dict[str, tuple[float, Node]] = {}
    outside: Magnitude | None = None
    values: dict[Node, Any] = {}
    left = {node: len(node.users) for node in program.graph.nodes}
    for node in program.graph.nodes:
        if node.op == "placeholder" and "input" in node.meta:
            values[node] = inputs[node.meta["input"]]
        if node.op != "call_function":
            continue
        watch.largest = 0.0
        values[node] = _call(node, _operands(node, values, program, source), watch)
        name = op_name(node)
        if name not in largest or outdoes(watch.largest, largest[name][0]):
            largest[name] = (watch.largest, node)
        if outside is None and not watch.largest <= limit:
            outside = _magnitude(name, watch.largest, node)
        for operand in node.all_input_nodes:
            left[operand] -= 1
            if not left[operand]:
                values.pop(operand, None)
    found = {name: item for name, item in largest.items() if item[0] != 0.0}
    ordered = sorted(found, key=lambda name: (found[name][0] == found[name][0], -found[name][0]))
    return ActivationRange(tuple(_magnitude(name, *found[name]) for name in ordered), outside)


def _magnitude(name: str, largest: float, node: Node) -> Magnitude:
    return Magnitude(name, text_of(largest), node.meta["id"], node.meta.get("layer"))


def _operands(
    node: Node, values: Mapping[Node, Any], program: Program, source: WeightSource
) -> dict[Node, Any]:
    return {
        operand: values[operand] if operand in values else _made(operand, program, source)
        for operand in node.all_input_nodes
    }


def _made(node: Node, program: Program, source: WeightSource) -> Tensor:
    """A weight, in as much memory as it takes and that of a piece."""
    weight: Weight = program.weights[node.meta["weight"]]
    result = torch.empty(weight.shape, dtype=weight.dtype)
    flat, begin = result.flatten(), 0  # a view: the result is contiguous
    for piece in stream_weight(weight, source):
        flat[begin : begin + piece.numel()] = piece
        begin += piece.numel()
    return result


def _call(node: Node, operands: Mapping[Node, Any], watch: _Watch) -> Any:
    op = semantic_op(node.target)
    whole = op is None or op.facts.scores is not None
    function: Callable[..., Any] = node.target if whole else op.reference  # type: ignore
    mapped: Any = torch.fx.node.map_arg((node.args, dict(node.kwargs)), operands.__getitem__)
    arguments, keywords = mapped
    try:
        with torch.no_grad():
            if whole:
                result = function(*arguments, **keywords)
            else:
                with watch:
                    result = function(*arguments, **keywords)
    except _ERRORS as error:
        if shortage_behind(error) is not None:
            raise
        raise LoweringError(
            "a node can't be run on the calibration prompt",
            place=node.meta["id"],
            found=str(error).strip().partition("\n")[0],
            remedy="name a dtype: --dtype float16 or --dtype bfloat16",
        ) from error
    if not _is_view(node.target):
        watch.see(result)
    return result


class _Watch(TorchDispatchMode):
    """Keeps the largest magnitude among new tensors of one dtype; views are of old ones."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._dtype = dtype
        self.largest = 0.0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not _is_view(func):
            self.see(result)
        return result

    def see(self, result: Any) -> None:
        """Take note of a tensor, or of each of several."""
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor) and value.dtype == self._dtype:
                here = magnitude_of(value)
                self.largest = here if outdoes(here, self.largest) else self.largest


def _is_view(target: Any) -> bool:
    """Whether an ATen op gives its operand's own memory, such as a slice of a weight."""
    if not isinstance(target, torch._ops.OpOverload):
        return True  # an item of several results, which were seen
    return any(each.alias_info is not None for each in target._schema.returns)
