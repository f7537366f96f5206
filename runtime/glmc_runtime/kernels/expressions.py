"""Sizes in words: the small language of schemas, read once and evaluated for each call."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Union

from glmc_runtime.errors import PlanError
from glmc_runtime.format.extent import Extent
from glmc_runtime.format.phases import Order

Value = Union[Extent, bool]
Scope = Mapping[str, Value]
"""Sizes by name; ``x.size`` and the like under these very names."""
_Evaluate = Callable[[Scope, Order], Value]

LEADING = "..."
ANY = "_"


class UnknownSizeError(Exception):
    """An expression has no value: it names a size that the call does not have."""


@dataclass(frozen=True)
class Expression:
    """A sum or product of sizes, or a comparison; equal to another of the same text."""

    text: str
    evaluate: _Evaluate = field(repr=False, compare=False)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class ShapePattern:
    """A shape in words. ``names`` has the name of each size that is one, else None; ``leading`` is
    the name of the dimensions in front, None where there are none."""

    text: str
    leading: str | None
    sizes: tuple[Expression, ...]
    names: tuple[str | None, ...]

    def __str__(self) -> str:
        return self.text


def expression(text: str) -> Expression:
    """Read an expression; raises :class:`PlanError` for what is none."""
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise PlanError(f"'{text}' is no expression of sizes") from error
    return Expression(text, _compiled(tree, text))


def pattern(text: str) -> ShapePattern:
    """Read a shape."""
    words, leading = text.split(), None
    if text.startswith(LEADING):
        leading = words.pop(0).removeprefix(LEADING)
    sizes = tuple(expression(word) for word in words)
    names = tuple(size.text if size.text.isidentifier() else None for size in sizes)
    return ShapePattern(text, leading, sizes, names)


def _compiled(tree: ast.AST, text: str) -> _Evaluate:
    if isinstance(tree, ast.Constant) and type(tree.value) is int:
        constant = Extent(constant=tree.value)
        return lambda scope, order: constant
    if isinstance(tree, ast.Name):
        return _named(tree.id)
    if isinstance(tree, ast.Attribute) and isinstance(tree.value, ast.Name):
        return _named(f"{tree.value.id}.{tree.attr}")
    if isinstance(tree, ast.BinOp):
        return _of_two(tree, text)
    if isinstance(tree, ast.BoolOp):
        parts = [_compiled(part, text) for part in tree.values]
        gather = any if isinstance(tree.op, ast.Or) else all
        return lambda scope, order: gather(part(scope, order) for part in parts)
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.Not):
        operand = _compiled(tree.operand, text)
        return lambda scope, order: not operand(scope, order)
    if isinstance(tree, ast.Compare) and len(tree.ops) == 1:
        return _compared(tree, text)
    raise PlanError(f"'{text}' is no expression of sizes")


def _named(name: str) -> _Evaluate:
    def evaluate(scope: Scope, order: Order) -> Value:
        if name not in scope:
            raise UnknownSizeError(f"there is no size '{name}'")
        return scope[name]

    return evaluate


def _of_two(tree: ast.BinOp, text: str) -> _Evaluate:
    left, right = _compiled(tree.left, text), _compiled(tree.right, text)
    if isinstance(tree.op, ast.Add):
        return lambda scope, order: _size(left(scope, order)) + _size(right(scope, order))
    if isinstance(tree.op, ast.Mult):
        return lambda scope, order: _size(left(scope, order)).times(_size(right(scope, order)))
    if isinstance(tree.op, ast.Mod):
        return lambda scope, order: _remainder(
            _size(left(scope, order)), _size(right(scope, order))
        )
    raise PlanError(f"'{text}' is no expression of sizes")


def _compared(tree: ast.Compare, text: str) -> _Evaluate:
    left, right = _compiled(tree.left, text), _compiled(tree.comparators[0], text)
    (operator,) = tree.ops
    if isinstance(operator, ast.Eq):
        return lambda scope, order: left(scope, order) == right(scope, order)
    if isinstance(operator, ast.LtE):
        return lambda scope, order: order.at_most(
            _size(left(scope, order)), _size(right(scope, order))
        )
    raise PlanError(f"'{text}' is no expression of sizes")


def _size(value: Value) -> Extent:
    if isinstance(value, bool):
        raise UnknownSizeError("a yes or no stands where a size belongs")
    return value


def _remainder(left: Extent, other: Extent) -> Extent:
    """Of sizes that follow the step: 0 where one is a multiple of the other in every step."""
    if not left.moves and not other.moves:
        if other.constant < 1:
            raise UnknownSizeError("a size is divided by nothing")
        return Extent(constant=left.constant % other.constant)
    names, factor = other.terms[0] if other.terms else ((), other.constant)
    whole = dict(left.terms).get(names, 0) if names else left.constant
    is_multiple = factor != 0 and other * (whole // factor) == left
    return Extent(constant=0 if is_multiple else 1)
