"""An emitter over real memory, which runs each call as soon as it is emitted."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from glmc.backends.cpu import TARGET
from glmc.ir.ops.rotary import rope_table
from glmc.ir.recipe import RopeTable, Weight
from glmc.lowering.target import LoweringOptions, Op, Value, fixed
from glmc_runtime.format.dtypes import dtype_of
from glmc_runtime.format.extent import Shape
from glmc_runtime.format.plan import BufferArgument, WeightArgument
from glmc_runtime.format.step_inputs import step_input
from glmc_runtime.kernels.traced import find_traced_binder

BLOCK, BLOCKS_PER_SEQUENCE = 4, 3


@dataclass
class Runner:
    """The Emitter protocol over real memory; every call is bound and run as it is emitted."""

    step: int
    dtype: torch.dtype
    memory: list[torch.Tensor] = field(default_factory=list)
    outputs: dict[int, Value] = field(default_factory=dict)
    calls: list[tuple[str, bool]] = field(default_factory=list)
    notes: dict[str, Value] = field(default_factory=dict)
    made: dict[str, Weight] = field(default_factory=dict)
    inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    results: list[tuple[Shape, torch.dtype]] = field(default_factory=list)

    @property
    def options(self) -> LoweringOptions:
        return LoweringOptions(self.dtype, BLOCK * BLOCKS_PER_SEQUENCE, BLOCK, 8, 32)

    def value(self, tensor: torch.Tensor, shape: Shape | None = None) -> Value:
        """A value over ``tensor``, of its own sizes unless ``shape`` follows the step."""
        self.memory.append(tensor)
        argument = BufferArgument(len(self.memory) - 1)
        return Value("given", shape or tuple(map(fixed, tensor.shape)), tensor.dtype, argument)

    def _step_sizes(self) -> dict[str, int]:
        return {"tokens": self.step, "sequences": self.step}

    def temporary(self, name: str, shape: Shape, dtype: torch.dtype) -> Value:
        sizes = [extent.evaluate(self._step_sizes()) for extent in shape]
        poison = torch.nan if dtype.is_floating_point else 1
        return replace(self.value(torch.full(sizes, poison, dtype=dtype), shape), name=name)

    def result(self, index: int = 0) -> Value:
        self.outputs[index] = self.temporary(f"result {index}", *self.results[index])
        return self.outputs[index]

    def bind(self, index: int, value: Value) -> None:
        self.outputs[index] = value

    def mutable(self, value: Value) -> Value:
        return value

    def stamp(self, value: Value) -> str:
        return f"{value.argument}"  # one op is lowered at a time

    def remark(self, text: str) -> None:
        raise AssertionError(text)

    def recipe(self, value: Value) -> Weight:
        assert isinstance(value.argument, WeightArgument)
        return self.made[value.argument.weight]

    def weight(self, weight: Weight) -> Value:
        self.made[weight.name] = weight
        sizes = tuple(map(fixed, weight.shape))
        return Value(weight.name, sizes, weight.dtype, WeightArgument(weight.name))

    def input(self, name: str) -> Value:
        row = step_input(name)
        assert self.inputs[name].dtype == dtype_of(row.dtype)
        return self.value(self.inputs[name], row.shape_of(self.options.blocks_per_sequence))

    def call(
        self, function: str, *, writes: tuple[str, ...], host: bool = False, **arguments: Any
    ) -> None:
        bound = {name: self._tensor(value) for name, value in arguments.items()}
        assert all(isinstance(bound[name], torch.Tensor) for name in writes)
        before = {
            name: value.clone()
            for name, value in bound.items()
            if isinstance(value, torch.Tensor) and name not in writes
        }
        find_traced_binder(function)(bound)()
        for name, value in before.items():
            assert torch.equal(bound[name].nan_to_num(), value.nan_to_num()), f"{name} was written"
        self.calls.append((function, host))

    def _tensor(self, value: Any) -> Any:
        if not isinstance(value, Value):
            return value
        if isinstance(value.argument, WeightArgument):
            return self._table(self.made[value.argument.weight])
        assert isinstance(value.argument, BufferArgument)
        sizes = [
            extent.evaluate({"tokens": self.step, "sequences": self.step}) for extent in value.shape
        ]
        return self.memory[value.argument.buffer].view(sizes)

    @staticmethod
    def _table(weight: Weight) -> torch.Tensor:
        recipe = weight.recipe
        assert isinstance(recipe, RopeTable)
        frequencies = torch.tensor(recipe.inverse_frequencies)
        positions = torch.arange(recipe.rows)
        return torch.cat(rope_table(positions, frequencies, recipe.scaling, weight.dtype), -1)


def lower(
    name: str, runner: Runner, arguments: dict[str, Any], results: list[tuple[Shape, torch.dtype]]
) -> list[torch.Tensor]:
    """Run the rule of ``name`` and return its outputs in memory."""
    runner.results = results
    values = {
        key: runner.value(item) if isinstance(item, torch.Tensor) else item
        for key, item in arguments.items()
    }
    TARGET.rules[name](Op(name, "node", "module", 0, values, "decode"), runner)
    return [runner._tensor(runner.outputs[index]) for index in sorted(runner.outputs)]
