"""Instances: concrete sizes for a region, and values of its operands that are made to go wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sympy
import torch
from torch import SymInt, Tensor
from torch.fx import Node

from glmc.ir.accounting import given, parameters
from glmc.ir.match import CASTS, SHAPES, is_op
from glmc.ir.program import Program
from glmc.ir.recipe import Constant
from glmc_runtime.format.phases import VOCABULARY
from glmc_runtime.format.step_inputs import STEP_INPUTS
from glmc_runtime.replay.step import ScheduledTokens, Step

FULL, SMALL = "full", "small"
# Step sizes of a phase's own graph: every slot of a sequence is in one of its blocks.
_STEP = {"tokens": 3, "sequences": 3, "sequences+1": 4, "blocks": 8, "table": 2}
_OTHERS = ((2, 5, 3, 7), (1, 1, 1, 1), (3, 17, 2, 5))
_BLOCK = 65521  # random numbers of a large value; a prime, so that no two rows are equal
_SMALL_WEIGHT = 2**16
_DIVISORS = (128, 64, 32, 16, 8, 4, 2)
_LARGE_SIZES = (1024, 256, 64)


@dataclass(frozen=True)
class Values:
    """``name`` says what kind of values ``nodes`` hold."""

    name: str
    nodes: dict[Node, Any]


@dataclass(frozen=True)
class Instance:
    """Sizes by symbol; sizes from ``large`` on are divided by ``divisor`` where that goes."""

    symbols: dict[sympy.Symbol, int] = field(default_factory=dict)
    large: int = 0
    divisor: int = 1
    hostile: bool = True
    known: dict[sympy.Expr, int] = field(default_factory=dict, compare=False)

    @property
    def name(self) -> str:
        return FULL if self.divisor == 1 else SMALL

    def divided(self, large: int, divisor: int) -> Instance:
        return replace(self, large=large, divisor=divisor, known={})

    def mapped(self, size: int) -> int:
        if self.divisor == 1 or size < self.large or size % self.divisor or size >= 2**40:
            return size
        return size // self.divisor

    def size(self, size: int | SymInt) -> int:
        if isinstance(size, SymInt):
            expression = size.node.expr
            if expression not in self.known:
                value = self.symbols.get(expression)
                number = value if value is not None else expression.subs(self._of(size))
                self.known[expression] = self.mapped(int(number))
            return self.known[expression]
        return self.mapped(size)

    def _of(self, size: SymInt) -> dict[sympy.Symbol, int]:
        """Every symbol of a size; one that no value of the region has is as it was traced."""
        symbols = sorted(sympy.sympify(size.node.expr).free_symbols, key=str)
        return {each: self.symbols.get(each, _hint(size, each)) for each in symbols}

    def shape(self, fake: Tensor) -> tuple[int, ...]:
        return tuple(map(self.size, fake.shape))

    def bytes(self, node: Node) -> int:
        fake = node.meta.get("val")
        if not isinstance(fake, Tensor):
            return 0
        return math.prod(self.shape(fake)) * fake.dtype.itemsize

    def constants(self, node: Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call with its sizes as they are here; other numbers stay."""
        if self.divisor == 1:
            return node.args, dict(node.kwargs)
        types = {each.name: each.whole for each in parameters(node.target)}
        names = list(types)
        args = tuple(
            self._sized(value) if index < len(names) and types[names[index]] else value
            for index, value in enumerate(node.args)
        )
        keywords = {
            name: self._sized(value) if types.get(name) else value
            for name, value in node.kwargs.items()
        }
        return args, keywords

    def _sized(self, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(map(self._sized, value))
        whole = isinstance(value, int) and not isinstance(value, bool)
        return self.mapped(value) if whole else value

    def all_values(self, program: Program, leaves: Sequence[Node]) -> Iterator[Values]:
        """Kinds of values, the ordinary one first."""
        generator = torch.Generator().manual_seed(0)
        by_node: dict[Node, Any] = {}
        masked = any(map(_is_mask, leaves))
        for name in _KINDS if self.hostile else _KINDS[:1]:
            if name == _HIDDEN and not masked:
                continue
            made = _Made(self, program, generator, name, by_node)
            yield Values(name, {leaf: made.value(leaf) for leaf in leaves})


# Of masks alone: -inf hides, and of one query every key.
_HIDDEN = "hidden"
_KINDS = ("random", "equal", "small", "large", "negative", "tied", "opposed", _HIDDEN)


def _hint(size: SymInt, symbol: sympy.Symbol) -> int:
    """The value that a symbol of ``size`` was traced with."""
    return int(size.node.shape_env.backed_var_to_val.get(symbol, 2))


def sizes_of(program: Program, nodes: Sequence[Node]) -> tuple[Instance, ...]:
    """The sizes to try: of a traced program those that it was traced with, and others."""
    by_symbol: dict[sympy.Symbol, int] = {}
    for node in nodes:
        value = node.meta.get("val")
        sizes = value.shape if isinstance(value, Tensor) else (value,)
        for size in sizes:
            if isinstance(size, SymInt):
                for symbol in sorted(sympy.sympify(size.node.expr).free_symbols, key=str):
                    by_symbol.setdefault(symbol, _hint(size, symbol))
    if not by_symbol:
        return (Instance(),)
    if program.symbols is not None:
        names = program.symbols.names
        return (Instance({each: _STEP.get(names.get(each, ""), 3) for each in by_symbol}),)
    order = sorted(by_symbol, key=str)
    others = [
        Instance({symbol: sizes[at % 4] for at, symbol in enumerate(order)}, hostile=number == 0)
        for number, sizes in enumerate(_OTHERS)
    ]
    if program.assumes.any_size:
        return tuple(others)
    return (Instance(by_symbol), *(replace(each, hostile=False) for each in others))


def smaller(
    every: tuple[Instance, ...], leaves: Sequence[Node], limit: int
) -> Iterator[tuple[Instance, ...]]:
    """Instances with no operand above ``limit`` bytes, those divided most first."""
    for large in _LARGE_SIZES:
        for divisor in _DIVISORS:
            small = tuple(each.divided(large, divisor) for each in every)
            if max(map(small[0].bytes, leaves)) <= limit:
                yield small


@dataclass(frozen=True)
class _Made:
    """Values of one kind; weights of many numbers are made once, in ``held``."""

    instance: Instance
    program: Program
    generator: torch.Generator
    kind: str
    held: dict[Node, Any]

    def value(self, node: Node) -> Any:
        if node in self.held:
            return self.held[node]
        fake = node.meta.get("val")
        if isinstance(fake, SymInt):
            return self.instance.size(fake)
        if not isinstance(fake, Tensor):
            return self._value_from_ancestors(node)
        weight, shape = self.program.weight_of(node), self.instance.shape(fake)
        if weight is not None and isinstance(weight.recipe, Constant):
            values = torch.tensor(weight.recipe.values, dtype=torch.float64).to(fake.dtype)
            if values.numel() == math.prod(shape):
                self.held[node] = values.reshape(shape)
                return self.held[node]
        if not fake.dtype.is_floating_point:
            return self._integers(node, fake, shape)
        large = weight is not None and math.prod(shape) > _SMALL_WEIGHT
        if large:  # in its own dtype from the first: these are many
            self.held[node] = self._random(shape, fake.dtype)
            return self.held[node]
        made = self._floats(shape, self.kind, weight is not None)
        if _is_mask(node):
            low = -torch.inf if self.kind == _HIDDEN else torch.finfo(fake.dtype).min
            made = made.masked_fill(self._hidden_by(node, shape), low)
        return made.to(fake.dtype)

    def _floats(self, shape: tuple[int, ...], kind: str, weight: bool) -> Tensor:
        value = self._random(shape, torch.float32)
        if kind == "equal":
            return torch.full(shape, 0.5)
        if kind == "small":
            return value if weight else value * 2.0**-12
        if kind == "large":
            return value if weight else value * 64.0
        if kind == "negative":
            return -value.abs() - (64.0 if weight and len(shape) < 2 else 0.0)
        if kind == "opposed":  # every product far below zero, where each sigmoid underflows
            return -value.abs() if weight and len(shape) > 1 else value.abs() * 64.0
        if kind == "tied":
            return (value * 2).round() / 2
        return value

    def _random(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        count = math.prod(shape)
        block = torch.randn(min(count, _BLOCK), generator=self.generator).to(dtype)
        return block.repeat(-(-count // max(len(block), 1)))[:count].reshape(shape)

    def _hidden(self, shape: tuple[int, ...]) -> Tensor:
        """Some entries of each row, never the first."""
        hidden = torch.rand(shape, generator=self.generator) > 0.6
        if shape and shape[-1]:
            hidden[..., 0] = False
        return hidden

    def _hidden_by(self, node: Node, shape: tuple[int, ...]) -> Tensor:
        """As above; of the kind that is for masks, the whole of a mask's last row as well."""
        hidden = self._hidden(shape)
        if self.kind == _HIDDEN and shape and _is_mask(node):
            hidden.view(-1, shape[-1])[-1:] = True
        return hidden

    def _integers(self, node: Node, fake: Tensor, shape: tuple[int, ...]) -> Any:
        if fake.dtype == torch.bool:
            return ~self._hidden_by(node, shape)
        if node.op == "call_function":
            return self._value_from_ancestors(node)
        name = node.meta.get("input", "")
        if self.program.assumes.step_inputs:
            known = self._step_input(name, fake.dtype, shape)
            if known is not None:
                return known
        limit, distinct = _range(node, self.instance)
        if distinct:
            count = torch.arange(math.prod(shape)).reshape(shape) % limit
            return count.to(fake.dtype)
        return torch.randint(0, limit, shape, generator=self.generator).to(fake.dtype)

    def _step_input(self, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor | None:
        """What the runtime would hand over: three sequences, the last slots of each are new."""
        if name == "positions" and len(shape) == 2:
            return torch.arange(shape[1]).expand(shape).to(dtype).contiguous()
        if self.program.symbols is None:
            return None
        block = next(
            (m.shape[2] for m in self._fakes() if len(m.shape) == 4),
            16,
        )
        row = STEP_INPUTS.get(name)
        if row is None or row.below == VOCABULARY:
            return None  # token ids are drawn
        contexts = ((block + 1, [3, 0]), (2, [5, 1]), (block, [2, 7]))
        chunks = [ScheduledTokens((0,), length - 1, blocks) for length, blocks in contexts]
        step = Step(chunks, len(chunks), len(chunks), block)
        value = torch.tensor(row.values(step, 2), dtype=dtype) if row.fits(step) else None
        return value if value is not None and tuple(value.shape) == shape else None

    def _fakes(self) -> Iterator[Tensor]:
        return (
            node.meta["val"]
            for node in self.program.inputs()
            if isinstance(node.meta.get("val"), Tensor)
        )

    def _value_from_ancestors(self, node: Node) -> Any:
        """A value of whole numbers, or several values, computed from what they were made of."""
        if node.op != "call_function":
            raise ValueError(f"{node.name} holds a value of no known kind")
        known: dict[Node, Any] = {}
        stack = [node]
        while stack:
            current = stack[-1]
            fake = current.meta.get("val")
            if current in known:
                stack.pop()
            elif current is not node and (
                current.op != "call_function"
                or (isinstance(fake, Tensor) and fake.is_floating_point())
                or isinstance(fake, SymInt)
            ):
                known[current] = self.value(current)
                stack.pop()
            elif missing := [each for each in current.all_input_nodes if each not in known]:
                stack.extend(missing)
            else:
                args, keywords = self.instance.constants(current)
                args, keywords = torch.fx.node.map_arg((args, keywords), lambda each: known[each])
                with torch.no_grad():
                    known[current] = current.target(*args, **keywords)  # type: ignore[operator]
                stack.pop()
        return known[node]


def _is_mask(node: Node) -> bool:
    """Whether an op or an attention of torch adds the value to scores."""
    return any(
        given(user).get(name) is node for user in node.users for name in ("mask", "attn_mask")
    )


def _range(node: Node, instance: Instance) -> tuple[int, bool]:
    """(how many whole numbers a value may hold, whether each only once), by its readers."""
    stack, seen = [node], {node}
    while stack:
        for user in stack.pop().users:
            passed = given(user)
            if is_op(user, "aten.embedding", "glmc.embedding"):
                return instance.size(passed["weight"].meta["val"].shape[0]), False
            if "ids" in passed and "gate_up" in passed:
                return instance.size(passed["gate_up"].meta["val"].shape[0]), False
            if is_op(user, "aten.index_copy", "aten.index_select", "aten.gather"):
                size = passed["self"].meta["val"].shape[passed["dim"]]
                return instance.size(size), is_op(user, "aten.index_copy")
            passes = is_op(user, *CASTS, *SHAPES, "aten.expand", "aten.slice", "aten.clone")
            if passes and user not in seen:
                seen.add(user)
                stack.append(user)
    return 1000, False
