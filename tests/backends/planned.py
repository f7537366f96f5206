"""Small phases built by hand, and a plan run over one arena whose memory really is reused."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from glmc.ir.fake import FakeKernels
from glmc.ir.ops.norms import rms_norm
from glmc.ir.program import Cache, ModelShape, Program, graph_module
from glmc.ir.recipe import Source, Weight
from glmc.ir.symbols import Symbols
from glmc.lowering.lower import Lowered, lower
from glmc.lowering.target import LoweringOptions, Target
from glmc_runtime.format.cache import CacheKey
from glmc_runtime.format.plan import (
    BufferArgument,
    CacheArgument,
    InputArgument,
    PhasePlan,
    ValueArgument,
    WeightArgument,
)
from glmc_runtime.kernels.traced import find_traced_binder

OPTIONS = LoweringOptions(torch.float32, 96, 16, 8, 32, "P-A")
TOKENS, WIDTH = 5, 8
_SHAPE = ModelShape("toy", "toy", 1, 1, WIDTH, 1, 1, 8, 96, (), 0, False)


class Built:
    """A phase in the making: inputs, weights and calls in the order they are asked for."""

    def __init__(self) -> None:
        self.symbols = Symbols()
        self.graph = Graph()
        self.fakes = FakeKernels(self.symbols.fake_mode)
        self.weights: dict[str, Weight] = {}
        self.count = 0

    def _placeholder(self, name: str, value: Tensor, **meta: str) -> Node:
        node = self.graph.placeholder(name.replace(".", "_"))
        node.meta.update(id=name, module="", layer=None, source=None, val=value, **meta)
        return node

    def input(self, name: str, *dims: int | str, dtype: torch.dtype = torch.float32) -> Node:
        return self._placeholder(name, self.symbols.fake(name, dims, dtype), input=name)

    def cache(self, name: str, heads: int, block_size: int, head_dim: int, blocks: Any) -> Node:
        cache = Cache(CacheKey(name, 0), (heads, head_dim))
        node = self.input(cache.name, blocks, *cache.block_shape(block_size))
        node.meta["cache"] = cache
        return node

    def weight(self, name: str, *shape: int) -> Node:
        self.weights[name] = Weight(name, shape, torch.float32, Source(name, shape))
        with self.symbols.fake_mode:
            value = torch.empty(shape, device="meta")  # as the inputs are
        return self._placeholder(name, value, weight=name)

    def call(self, target: Callable[..., Any], *arguments: Any, **keywords: Any) -> Node:
        node = self.graph.call_function(target, arguments, keywords)
        self.count += 1
        node.meta.update(id=f"node{self.count}", module="", layer=None, source=None)
        node.meta["val"] = self.fakes.call(target, arguments, keywords)
        return node

    def item(self, node: Node, index: int) -> Node:
        picked = self.graph.call_function(operator.getitem, (node, index))
        picked.meta = {**node.meta, "val": node.meta["val"][index]}
        return picked

    def program(self, *outputs: Node, phase: str = "decode") -> Program:
        node = self.graph.output(tuple(outputs))
        node.meta.update(id="output", module="", layer=None, source=None)
        self.graph.lint()
        return Program(
            graph_module(self.graph),
            self.weights,
            _SHAPE,
            torch.float32,
            phase,
            symbols=self.symbols,
        )


def lowered(target: Target, program: Program) -> Lowered:
    return lower(program, target, OPTIONS)


def add_rmsnorm(a: dict[str, Any]) -> None:
    total = a["y"] + a["x"]
    a["output"].copy_(rms_norm(total, a["weight"], a["eps"]))
    a["residual_output"].copy_(total)


def negate(a: dict[str, Any]) -> None:
    a["x"].neg_()


KERNELS: dict[str, Callable[[dict[str, Any]], None]] = {
    "kunlun_ops.add_rmsnorm": add_rmsnorm,
    "toy.negate": negate,
    "toy.silu": lambda a: a["out"].copy_(torch.nn.functional.silu(a["x"])),
    "toy.add_to": lambda a: a["x"].add_(a["y"]),
}


def run(
    plan: PhasePlan, inputs: dict[str, Tensor], weights: dict[str, Tensor], tokens: int = TOKENS
) -> Tensor:
    """The output of the plan; the arena starts as NaN, and so does nothing outside the plan."""
    counts = {"tokens": tokens, "sequences": tokens}
    arena = torch.full((plan.arena.evaluate(counts) // 4 + 1,), torch.nan)
    buffers = {buffer.id: buffer for buffer in plan.buffers}

    def shaped(extents: Sequence[Any]) -> list[int]:
        return [extent.evaluate(counts) for extent in extents]

    def value(argument: Any) -> Any:
        if isinstance(argument, BufferArgument):
            buffer = buffers[argument.buffer]
            shape = shaped(buffer.shape if argument.shape is None else argument.shape)
            start = buffer.offset.evaluate(counts) // 4
            return arena[start : start + torch.Size(shape).numel()].view(shape)
        if isinstance(argument, InputArgument):
            tensor = inputs[argument.input]
            return tensor if argument.shape is None else tensor.view(shaped(argument.shape))
        if isinstance(argument, WeightArgument):
            return weights[argument.weight]
        if isinstance(argument, CacheArgument):
            return inputs[f"{argument.cache}_cache.{argument.layer}"]
        if isinstance(argument, ValueArgument):
            return argument.value
        raise TypeError(argument)

    for call in plan.calls:
        arguments = {name: value(argument) for name, argument in call.arguments.items()}
        if call.function in KERNELS:
            KERNELS[call.function](arguments)
        else:
            find_traced_binder(call.function)(arguments)()
    return value(BufferArgument(plan.output)).clone()  # type: ignore[no-any-return]
