"""Values and arguments in words: shapes with named sizes, constants as Python spells them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import sympy
import torch
from torch import SymInt
from torch.fx import Node

from glmc.ir.program import Program
from glmc.ir.signature import value_key
from glmc_runtime.format.phases import PHASES

# Small sizes that scripts and pictures use in place of the symbols.
SIZES = {"batch": 2, "length": 4, "blocks": 3, "table": 1}
PACKED = {"tokens": 4, "sequences": 2, "sequences+1": 3}
ONE_TOKEN = {"tokens": 2, "sequences": 2, "sequences+1": 3}


class Values:
    """Describes the values of one program; sizes are called what the program calls them."""

    def __init__(self, program: Program) -> None:
        self.names: dict[sympy.Symbol, str] = {}
        if program.symbols is not None:
            self.names.update(program.symbols.names)
        self._name_inputs(program)
        phase = PHASES.get(program.phase)
        one_token = phase is not None and phase.equates("tokens", "sequences")
        self.sizes = {**SIZES, **(ONE_TOKEN if one_token else PACKED)}
        self._texts: dict[Hashable, str] = {}

    def _name_inputs(self, program: Program) -> None:
        """As captured, the inputs are [batch, length]."""
        words = ("batch", "length")
        for node in program.inputs():
            value = node.meta.get("val")
            if isinstance(value, torch.Tensor):
                for size, word in zip(value.shape, words, strict=False):
                    if isinstance(size, SymInt) and isinstance(size.node.expr, sympy.Symbol):
                        self.names.setdefault(size.node.expr, word)

    def text(self, value: object) -> str:
        """``[tokens, 5120] bfloat16``; several values are joined by commas."""
        if isinstance(value, torch.Tensor):
            key = value_key(value)
            if key not in self._texts:
                sizes = ", ".join(self.size(size) for size in value.shape)
                self._texts[key] = f"[{sizes}] {dtype_name(value.dtype)}"
            return self._texts[key]
        if isinstance(value, (tuple, list)):
            return ", ".join(self.text(item) for item in value)
        return self.size(value) if isinstance(value, SymInt) else constant(value)

    def size(self, size: Any) -> str:
        """``8*tokens`` or ``5120``."""
        if not isinstance(size, SymInt):
            return str(size)
        expression = size.node.expr
        return str(expression.xreplace({k: sympy.Symbol(v) for k, v in self.names.items()}))

    def example(self, size: Any) -> int:
        """A small number for a size; equal symbols are equal numbers."""
        if not isinstance(size, SymInt):
            return int(size)
        expression = size.node.expr
        small = {
            symbol: self.sizes.get(self.names.get(symbol, ""), 1)
            for symbol in expression.free_symbols
        }
        return int(expression.xreplace(small))

    def shape(self, value: torch.Tensor) -> tuple[int, ...]:
        """The small shape of a value."""
        return tuple(self.example(size) for size in value.shape)


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def constant(value: object) -> str:
    """A constant as an expression over ``torch`` and builtins."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return f'float("{value}")'
    if isinstance(value, torch.device):
        return f'torch.device("{value}")'
    return repr(value)


def argument(value: object, name: Callable[[Node], str], constants: Callable[[object], str]) -> str:
    """An argument of a node as Python, nodes by ``name`` and the rest by ``constants``."""
    if isinstance(value, Node):
        return name(value)
    if isinstance(value, (list, tuple)):
        inner = ", ".join(argument(item, name, constants) for item in value)
        if isinstance(value, list):
            return f"[{inner}]"
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, slice):
        parts = (value.start, value.stop, value.step)
        return "slice(" + ", ".join(argument(part, name, constants) for part in parts) + ")"
    return constants(value)


def arguments(
    node: Node,
    name: Callable[[Node], str],
    constants: Callable[[object], str] = constant,
) -> str:
    """All arguments of a node, comma separated."""
    parts = [argument(item, name, constants) for item in node.args]
    parts += [f"{key}={argument(item, name, constants)}" for key, item in node.kwargs.items()]
    return ", ".join(parts)
