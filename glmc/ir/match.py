"""Anchor and walk: small predicates on nodes, and misses that carry their reason.

A matcher starts at the one node that can't be spelled otherwise and walks to producers and users.
Each condition goes through :func:`require`, so that a graph which nearly matches says which node
and which condition failed. Arguments are read through the accessors below (:func:`operand`,
:func:`argument`, :func:`literal`, ...), which note what was read: see accounting.py.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import SymInt
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from glmc.ir.accounting import given, names_of, note

Number = int | float


@dataclass(frozen=True)
class NearMiss:
    """What a pass almost matched. ``node`` is the node's id, ``source`` a line of the model."""

    pass_name: str
    anchor: str
    node: str
    module: str
    layer: int | None
    condition: str
    source: str
    held: int = 0  # conditions of the pass that held before this one: the more, the nearer


# Conditions that have held since the matcher began with its anchor.
HELD: ContextVar[int] = ContextVar("held", default=0)


class NoMatchError(Exception):
    """Raised inside a matcher. ``near`` is False when the anchor was no candidate at all."""

    def __init__(self, node: Node, condition: str, *, near: bool = True) -> None:
        super().__init__(condition)
        self.node = node
        self.condition = condition
        self.near = near


def refuse(node: Node, condition: str) -> NoReturn:
    """A near miss: the block looks right but ``condition`` does not hold at ``node``."""
    raise NoMatchError(node, condition)


def unrelated(node: Node) -> NoReturn:
    """The anchor belongs to something else; nothing worth telling."""
    raise NoMatchError(node, "", near=False)


def require(holds: object, node: Node, condition: str) -> None:
    """``condition`` is the text of what should have held, as the user will read it."""
    if not holds:
        refuse(node, condition)
    HELD.set(HELD.get() + 1)


def op_name(node: object) -> str:
    """``aten.mul``, ``glmc.linear``, ``getitem``; the overload does not matter, but for
    ``aten.view.dtype``, which is no other shape but other numbers. '' for no call."""
    if not isinstance(node, Node) or node.op != "call_function":
        return ""
    target = node.target
    if target is torch.ops.aten.view.dtype:
        return "aten.view.dtype"
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.replace("::", ".")
    return "getitem" if target is operator.getitem else getattr(target, "__name__", str(target))


def is_op(node: object, *names: str) -> bool:
    return op_name(node) in names


def expect_op(node: object, at: Node, *names: str) -> Node:
    """``node`` as a Node of one of ``names``; refuses at ``at`` otherwise."""
    if not isinstance(node, Node) or not is_op(node, *names):
        name = op_name(node) or (node.op if isinstance(node, Node) else repr(node))
        refuse(at, f"expected {' or '.join(names)} but found {name}")
    return node


def tensor(node: object) -> torch.Tensor:
    """The fake tensor of a node."""
    value = node.meta["val"] if isinstance(node, Node) else None
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{node} has no tensor value")
    return value


def shape(node: object) -> tuple[int | SymInt, ...]:
    return tuple(tensor(node).shape)


def dtype(node: object) -> torch.dtype:
    """The dtype of a node's value, which says what a ``dtype`` argument of it asks for."""
    dtype = tensor(node).dtype
    if isinstance(node, Node):
        note(node, "dtype")
    return dtype


def is_static(size: int | SymInt) -> bool:
    return isinstance(size, int)


def number(value: object) -> Number | None:
    """A literal number, or None (bool is no number)."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    return None


def argument(node: Node, index: int, name: str = "", default: object = None) -> object:
    """An argument of a call, passed by place or by keyword. Where the schema is known, ``name``
    decides: overloads have it at other places, or not at all."""
    names = names_of(node.target)
    if not names:
        note(node, name or str(index), str(index))
        return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)
    name = name or (names[index] if index < len(names) else str(index))
    note(node, name)
    if name in node.kwargs:
        return node.kwargs[name]
    place = names.index(name) if name in names else int(name) if name.isdecimal() else sys.maxsize
    return node.args[place] if place < len(node.args) else default


def arguments(node: Node) -> tuple[object, ...]:
    """All positional arguments of a call."""
    return tuple(argument(node, index) for index in range(len(node.args)))


def literal(node: Node) -> Number | None:
    """The number among the operands of an addition, a product or a quotient, or None."""
    return next((value for value in map(number, arguments(node)[:2]) if value is not None), None)


def users(node: Node, *names: str) -> list[Node]:
    """The node's users, or those of the given ops."""
    nodes = list(node.users)
    if names:
        nodes = [user for user in nodes if is_op(user, *names)]
        for user in nodes:
            note_reader(user, node)
    return nodes


def sole_user(node: Node, *names: str) -> Node:
    """The only user, which must be one of ``names`` when there are any."""
    nodes = list(node.users)
    if len(nodes) != 1:
        refuse(node, f"expected one user but found {len(nodes)}")
    if names:
        expect_op(nodes[0], node, *names)
    note_reader(nodes[0], node)
    return nodes[0]


def note_reader(user: Node, node: Node) -> None:
    """``user`` was found by the one argument through which it reads ``node``."""
    names = [name for name, value in given(user).items() if value is node]
    if len(names) == 1:
        note(user, *names)


def other_operand(node: Node, known: Node) -> Node:
    """The operand of a two-operand node that is not ``one``; must be a node."""
    return operand(node, 1 if operand(node, 0) is known else 0)


CASTS = ("aten._to_copy", "aten.to", "aten.type_as")
SHAPES = ("aten.reshape", "aten.view", "aten._unsafe_view", "aten.unsqueeze", "aten.squeeze")


def operand(node: Node, index: int) -> Node:
    """Positional operand ``index``, which must be a node."""
    value = argument(node, index)
    if not isinstance(value, Node):
        refuse(node, f"operand {index} must be a tensor")
    return value


def skip(node: Node, names: Iterable[str]) -> Node:
    """Walk up through single-input nodes of the given ops.

    What a reshape does is left to the evaluation of the region, and a cast that only widens does
    nothing; any other argument of what was walked over is not read by this.
    """
    allowed = tuple(names)
    while is_op(node, *allowed):
        source = operand(node, 0)
        if is_op(node, *CASTS) and holds(tensor(node).dtype, tensor(source).dtype):
            note(node, "dtype", "other")
        node = source
    return node


def holds(wide: torch.dtype, narrow: torch.dtype) -> bool:
    """Whether each number of the dtype ``narrow`` is one of ``wide``, floats among floats."""
    same_kind = wide.is_floating_point == narrow.is_floating_point
    return same_kind and torch.promote_types(wide, narrow) == wide


def skip_casts(node: Node) -> Node:
    return skip(node, CASTS)


def skip_down(node: Node, names: Iterable[str]) -> Node:
    """Walk down through sole users of the given ops. The last of several casts may round, as the
    caller reads its dtype; what one before it rounds would be lost."""
    allowed, first = tuple(names), node
    while len(node.users) == 1 and is_op(user := next(iter(node.users)), *allowed):
        note_reader(user, node)
        if is_op(user, *CASTS):
            note(user, "other")
            if holds(tensor(user).dtype, tensor(first).dtype):
                note(user, "dtype")
        node = user
    return node


def commutative(node: Node, *names: str) -> tuple[Node, object]:
    """(operand that is one of ``names``, the other operand) of an add or mul, in either order."""
    first, second = argument(node, 0), argument(node, 1)
    if isinstance(first, Node) and is_op(first, *names):
        return first, second
    if isinstance(second, Node) and is_op(second, *names):
        return second, first
    refuse(node, f"expected an operand that is {' or '.join(names)}")


def find_user(start: Node, name: str) -> Node | None:
    """The first direct user of the given op."""
    return next((user for user in start.users if is_op(user, name)), None)


def same_size(first: int | SymInt, second: int | SymInt) -> bool:
    """Whether two sizes are known to agree; never adds a guard on a symbolic one."""
    return bool(statically_known_true(first == second))  # type: ignore[no-untyped-call, unused-ignore]


def same_shape(first: object, second: object) -> bool:
    """Whether two shapes are known to agree, as :func:`same_size`."""
    sizes, others = shape(first), shape(second)
    return len(sizes) == len(others) and all(map(same_size, sizes, others))


def agreed_shape(first: object, second: object) -> bool:
    """Like :func:`same_shape`, for values that make sense together only when they agree: sizes of
    a traced program that agree now are guarded to agree, and become one symbol."""
    left, other = shape(first), shape(second)
    return len(left) == len(other) and all(bool(a == b) for a, b in zip(left, other, strict=True))


def counts_up(node: object) -> bool:
    """0, 1, 2, ..."""
    if not isinstance(node, Node) or not is_op(node, "aten.arange"):
        return False
    note(node, "end", "dtype")  # as the shape and the dtype of the value say
    return number(argument(node, 0, "start", 0)) == 0 and number(argument(node, 2, "step", 1)) == 1


def is_scaling(node: object) -> bool:
    """A product with, or a quotient by, a literal number."""
    return (
        isinstance(node, Node)
        and is_op(node, "aten.mul", "aten.div")
        and any(number(value) is not None for value in node.args)
    )


def last_axis(node: Node, axis: object) -> bool:
    """Whether ``axis`` (an int or a list of one) is the last dimension of ``node``'s value."""
    rank = len(shape(node))
    axes = list(axis) if isinstance(axis, (list, tuple)) else [axis]
    return len(axes) == 1 and isinstance(axes[0], int) and axes[0] % rank == rank - 1
