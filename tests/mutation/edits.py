"""Edits of a copied graph, as functions that are applied later."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from glmc.ir import match as m
from glmc.ir.probe import example_size
from tests.mutation.arguments import set_argument

aten = torch.ops.aten
Nodes = Mapping[str, Node]
"""The nodes of the copy by name."""
Edit = Callable[[Nodes], None]


def casting(dtype: torch.dtype) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    return aten._to_copy.default, (), {"dtype": dtype}


def setting(node: Node, path: tuple[Any, ...], value: Any) -> Edit:
    return lambda nodes: set_argument(nodes[node.name], path, value)


def setting_many(node: Node, values: Mapping[tuple[int, ...], Any]) -> Edit:
    """``("node", i)`` stands for positional operand i as it was."""

    def edit(nodes: Nodes) -> None:
        copy = nodes[node.name]
        old = copy.args
        for path, value in values.items():
            is_operand = isinstance(value, tuple)
            set_argument(copy, path, old[value[1]] if is_operand else value)

    return edit


def with_keyword(node: Node, name: str, value: Any) -> Edit:
    def edit(nodes: Nodes) -> None:
        copy = nodes[node.name]
        schema = [each.name for each in copy.target._schema.arguments]  # type: ignore[union-attr]
        place = schema.index(name)
        if place < len(copy.args):
            set_argument(copy, (place,), value)
        else:
            copy.kwargs = {**copy.kwargs, name: value}

    return edit


def retarget(node: Node, target: Any, **more: Any) -> Edit:
    def edit(nodes: Nodes) -> None:
        copy = nodes[node.name]
        copy.target = target
        copy.kwargs = {**copy.kwargs, **more}

    return edit


def retarget_arguments(
    node: Node, target: Any, arguments: Callable[[Any], tuple[Any, ...]]
) -> Edit:
    def edit(nodes: Nodes) -> None:
        copy = nodes[node.name]
        copy.target = target
        copy.args = arguments(copy.args[0])

    return edit


def before(node: Node, index: int, target: Any, *more: Any) -> Edit:
    rest, keywords = _call_of(more)
    return lambda nodes: insert_before(nodes[node.name], index, target, rest, keywords)


def after(node: Node, *calls: Any) -> Edit:
    """``calls``: target, arguments after the value, and keywords, once or more."""
    parsed: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []
    rest = list(calls)
    while rest:
        target, arguments = rest.pop(0), rest.pop(0)
        keywords = rest.pop(0) if rest and isinstance(rest[0], dict) else {}
        parsed.append((target, arguments, keywords))

    def edit(nodes: Nodes) -> None:
        copy = nodes[node.name]
        for target, arguments, keywords in parsed:
            copy = insert_after(copy, target, arguments, keywords)

    return edit


def _call_of(more: tuple[Any, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if not more:
        return (), {}
    return more[0], (more[1] if len(more) > 1 else {})


def insert_before(
    node: Node,
    index: int,
    target: Any,
    rest: tuple[Any, ...],
    keywords: Mapping[str, Any] | None = None,
) -> None:
    with node.graph.inserting_before(node):
        new = node.graph.call_function(target, (node.args[index], *rest), dict(keywords or {}))
    set_argument(node, (index,), new)


def insert_after(
    node: Node,
    target: Any,
    rest: tuple[Any, ...],
    keywords: Mapping[str, Any] | None = None,
    skip: tuple[str, ...] = (),
) -> Node:
    """Every reader but those of the ops ``skip`` reads the new value."""
    readers = [user for user in node.users if not m.is_op(user, *skip)]
    with node.graph.inserting_after(node):
        new = node.graph.call_function(target, (node, *rest), dict(keywords or {}))
    for user in readers:
        user.args = map_arg(user.args, lambda read: new if read is node else read)
        user.kwargs = map_arg(user.kwargs, lambda read: new if read is node else read)
    return new


def shaped(node: Node, index: int, sizes: list[int]) -> Edit:
    """An operand in another shape; a result of as many numbers as before in its old one."""
    value = node.meta["val"]

    def edit(nodes: Nodes) -> None:
        copy = nodes[node.name]
        if isinstance(value, Tensor):
            old = [example_size(size) for size in value.shape]
            insert_after(copy, aten.reshape.default, (old,))
            insert_before(copy, index, aten.reshape.default, (sizes,))
            return
        insert_before(copy, index, aten.reshape.default, (sizes,))
        items = [user for user in copy.users if user.target is operator.getitem]
        for item in items:
            part = value[item.args[1]]
            old = [example_size(size) for size in part.shape]
            insert_after(item, aten.reshape.default, (old,))

    return edit
