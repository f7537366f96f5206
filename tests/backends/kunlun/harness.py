"""A small emitter and executor: one rule at a time, run on the emulated vendor library.

Buffers start poisoned (NaN, or a number that no index may have), the size of the bucket; arguments
marked real are cut to the real counts. Nothing is planned: each buffer has memory of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from glmc.backends.kunlun import TARGET
from glmc.errors import LoweringError
from glmc.ir.ops import OPS
from glmc.ir.ops.rotary import rope_table
from glmc.ir.recipe import Constant, RopeTable, Source, Weight
from glmc.lowering.target import LoweringOptions, Op, Value, fixed
from glmc_kunlun_emulator import load
from glmc_runtime.format.dtypes import dtype_of
from glmc_runtime.format.extent import Extent, Shape
from glmc_runtime.format.plan import (
    Argument,
    BufferArgument,
    CacheArgument,
    ExtentArgument,
    InputArgument,
    ValueArgument,
    WeightArgument,
    storage_of,
)
from glmc_runtime.format.step_inputs import step_input
from glmc_runtime.kernels import find_binder, is_vendor
from glmc_runtime.kernels.vendor import Vendor

PROFILES = ("P-A", "P-B", "P-C")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
POISON = -(2**30)


@dataclass(frozen=True)
class Counts:
    tokens: int = 0
    sequences: int = 0


@dataclass(frozen=True)
class Recorded:
    function: str
    arguments: dict[str, Any]
    writes: tuple[str, ...]
    host: bool


def options(profile: str | None = "P-A", dtype: torch.dtype = torch.float32) -> LoweringOptions:
    return LoweringOptions(
        dtype=dtype,
        max_context=96,
        block_size=16,
        max_sequences=8,
        max_tokens=32,
        abi_profile=profile,
    )


@dataclass
class Bench:
    """Implements the Emitter protocol for one target profile and one step."""

    options: LoweringOptions
    bucket: Counts
    real: Counts
    live: set[str] = field(default_factory=set)
    notes: dict[str, Value] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    calls: list[Recorded] = field(default_factory=list)
    memory: dict[int, Tensor] = field(default_factory=dict)
    buffers: dict[int, tuple[Shape, torch.dtype]] = field(default_factory=dict)
    weights: dict[str, tuple[Weight, Tensor]] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)
    caches: dict[str, Tensor] = field(default_factory=dict)
    copies: int = 0
    _results: list[tuple[Shape, torch.dtype]] = field(default_factory=list)
    _outputs: dict[int, Value] = field(default_factory=dict)
    _granted: set[str] = field(default_factory=set)

    # What a test gives.

    def tensor(self, name: str, data: Tensor, shape: Shape) -> Value:
        value = self.temporary(name, shape, data.dtype)
        self.memory[value.argument.buffer] = data.clone()
        return value

    def packed(self, name: str, data: Tensor) -> Value:
        weight = Weight(name, tuple(data.shape), data.dtype, Source(name, tuple(data.shape)))
        self.weights[name] = (weight, data)
        return self._weight_value(weight)

    def constant(self, name: str, data: Tensor) -> Value:
        weight = Weight(name, tuple(data.shape), data.dtype, Constant(tuple(data.tolist())))
        self.weights[name] = (weight, data)
        return self._weight_value(weight)

    def step(self, name: str, data: Tensor, shape: Shape) -> Value:
        self.inputs[name] = data
        return Value(name, shape, data.dtype, InputArgument(name))

    def cache(self, name: str, data: Tensor) -> Value:
        self.caches[name] = data
        shape = tuple(fixed(size) for size in data.shape)
        return Value(f"{name}_cache", shape, data.dtype, CacheArgument(name, 0))

    def lower(
        self,
        name: str,
        arguments: Mapping[str, Any],
        results: list[tuple[Shape, torch.dtype]],
        module: str = "model.layers.0.block",
        phase: str = "decode",
    ) -> list[Value]:
        self._results, self._outputs = results, {}
        self._granted = set()
        op = Op(name, f"{name}_0", module, 0, arguments, phase)
        assert tuple(arguments) == OPS[name].argument_names
        TARGET.rules[name](op, self)
        return [self._outputs[index] for index in range(len(results))]

    # The Emitter protocol.

    def stamp(self, value: Value) -> str:
        return f"{value.argument} written by {len(self._writers(value))}"

    def _writers(self, value: Value) -> list[Recorded]:
        storage = storage_of(value.argument)
        return [
            call
            for call in self.calls
            if any(storage == storage_of(call.arguments[name]) for name in call.writes)
        ]

    def remark(self, text: str) -> None:
        self.remarks.append(text)

    def temporary(self, name: str, shape: Shape, dtype: torch.dtype) -> Value:
        number = len(self.buffers)
        self.buffers[number] = (shape, dtype)
        return Value(name, shape, dtype, BufferArgument(number))

    def result(self, index: int = 0) -> Value:
        if index not in self._outputs:
            self._outputs[index] = self.temporary(f"result{index}", *self._results[index])
        return self._outputs[index]

    def bind(self, index: int, value: Value) -> None:
        self._outputs[index] = value

    def mutable(self, value: Value) -> Value:
        if value.name not in self.live and value.name not in self._granted:
            self._granted.add(value.name)
            return value
        self.copies += 1
        copy = self.temporary("copy", value.shape, value.dtype)
        self.call("aten.copy", writes=("out",), source=value, out=copy)
        return copy

    def weight(self, weight: Weight) -> Value:
        if weight.name not in self.weights:
            self.weights[weight.name] = (weight, self._materialise(weight))
        assert self.weights[weight.name][0] == weight
        return self._weight_value(weight)

    def recipe(self, value: Value) -> Weight:
        if not isinstance(value.argument, WeightArgument):
            raise LoweringError(f"{value.name} is no weight")
        return self.weights[value.argument.weight][0]

    def input(self, name: str) -> Value:
        row = step_input(name)
        shape = row.shape_of(self.options.blocks_per_sequence)
        return Value(name, shape, dtype_of(row.dtype), InputArgument(name))

    def call(
        self, function: str, *, writes: tuple[str, ...], host: bool = False, **given: Any
    ) -> None:
        assert set(writes) <= set(given), "a call writes an argument that it does not have"
        arguments = {name: self._storage(value) for name, value in given.items()}
        self.calls.append(Recorded(function, arguments, writes, host))

    # Running.

    def run(self) -> Counter[str]:
        """Run all calls on the emulator in guard mode; returns the number of calls by function."""
        emulator = load(self.options.abi_profile or "")
        vendor = Vendor({"kunlun_ops": emulator.kunlun_ops}, True, emulator.calls, "emulator")
        for number, (shape, dtype) in self.buffers.items():
            if number not in self.memory:
                self.memory[number] = _poisoned(self._sizes(shape, self.bucket), dtype)
        for call in self.calls:
            values = {name: self._resolve(item) for name, item in call.arguments.items()}
            before = {name: item.clone() for name, item in values.items() if _tensor(item)}
            if is_vendor(call.function):
                vendor.bind(call.function, values)()
            else:
                find_binder(call.function)(values)()
            for name, tensor in before.items():
                unmarked = name not in call.writes and not self._aliased(call, name)
                assert not unmarked or torch.equal(
                    tensor.nan_to_num(), values[name].nan_to_num()
                ), f"{call.function} wrote '{name}' without a mark"
        return Counter(call.function for call in self.calls)

    def read(self, value: Value, real: bool = False) -> Tensor:
        data = self._resolve(self._storage(value))
        return data[: self.real.tokens] if real else data

    # Inner parts.

    def _aliased(self, call: Recorded, name: str) -> bool:
        argument = call.arguments[name]
        buffer = getattr(argument, "buffer", None)
        return buffer is not None and any(
            getattr(call.arguments[other], "buffer", None) == buffer for other in call.writes
        )

    def _weight_value(self, weight: Weight) -> Value:
        shape = tuple(fixed(size) for size in weight.shape)
        return Value(weight.name, shape, weight.dtype, WeightArgument(weight.name))

    def _materialise(self, weight: Weight) -> Tensor:
        recipe = weight.recipe
        if isinstance(recipe, Source):
            return self.weights[recipe.name][1].to(weight.dtype)
        if isinstance(recipe, Constant):
            return torch.tensor(recipe.values).to(weight.dtype)
        assert isinstance(recipe, RopeTable)
        frequencies = torch.tensor(recipe.inverse_frequencies)
        parts = rope_table(torch.arange(recipe.rows), frequencies, recipe.scaling, weight.dtype)
        return torch.cat(parts, -1)

    def _storage(self, value: Any) -> Any:
        if not isinstance(value, Value):
            return value
        if isinstance(value.argument, (BufferArgument, InputArgument)):
            return replace(value.argument, shape=value.shape)
        return value.argument

    def _sizes(self, shape: Shape, counts: Counts) -> tuple[int, ...]:
        return tuple(extent.evaluate(vars(counts)) for extent in shape)

    def _resolve(self, item: Argument | Any) -> Any:
        if isinstance(item, ValueArgument):
            return item.value
        if isinstance(item, WeightArgument):
            data = self.weights[item.weight][1]
            return data if item.rows is None else data[slice(*item.rows)]
        if isinstance(item, CacheArgument):
            return self.caches[item.cache]
        if not isinstance(item, (ExtentArgument, BufferArgument, InputArgument)):
            return item
        counts = self.real if item.real else self.bucket
        if isinstance(item, ExtentArgument):
            return item.extent.evaluate(vars(counts))
        data = self.memory[item.buffer] if isinstance(item, BufferArgument) else self._input(item)
        sizes = self._sizes(item.shape, counts)
        return data.reshape(-1)[: torch.Size(sizes).numel()].view(sizes)

    def _input(self, item: InputArgument) -> Tensor:
        return self.inputs[item.input.removesuffix("_host")]


def _tensor(item: Any) -> bool:
    return isinstance(item, Tensor)


def _poisoned(sizes: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.full(sizes, float("nan") if dtype.is_floating_point else POISON, dtype=dtype)


def reference(name: str, **arguments: Any) -> Any:
    """The semantic op's own reference on copies of the tensors."""
    copies = {key: item.clone() if _tensor(item) else item for key, item in arguments.items()}
    return OPS[name].reference(**copies)


def close(found: Tensor, expected: Tensor) -> None:
    """Within 1e-5 in float32; within a few roundings of the dtype otherwise."""
    tolerance = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}[found.dtype]
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator).to(dtype)


def tokens_by(width: int) -> Shape:
    return (Extent.of(tokens=1), fixed(width))
