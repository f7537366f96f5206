"""Mutation operators: each makes small changes to one node of a program, one at a time.

The operators are those of mutation testing (constants, operators, operands, deleted statements)
and those that tensor programs add: keywords of a schema that nobody gave, axes, dtypes, layouts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations, takewhile
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from glmc.ir import match as m
from glmc.ir.probe import example_size
from tests.mutation.arguments import changed, keyword_values, literals, set_argument
from tests.mutation.edits import (
    Edit,
    Nodes,
    after,
    before,
    casting,
    insert_after,
    insert_before,
    retarget,
    retarget_arguments,
    setting,
    setting_many,
    shaped,
    with_keyword,
)

aten = torch.ops.aten


@dataclass(frozen=True)
class Mutation:
    """``edit`` changes a copy of the program, whose nodes it gets by name."""

    kind: str
    node: str
    detail: str
    edit: Edit

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.node}:{self.detail}"


Operator = Callable[[Node], Iterator[tuple[str, Edit]]]


def literal(node: Node) -> Iterator[tuple[str, Edit]]:
    """Each number, flag and dtype among the arguments."""
    if m.is_op(node, *_SIZED):
        return
    for path, value in literals(node):
        for new in changed(value):
            yield f"{path}={new}", setting(node, path, new)


def keyword(node: Node) -> Iterator[tuple[str, Edit]]:
    """Each argument of the schema that was left at its default."""
    for name, value in keyword_values(node):
        yield f"{name}={value}", with_keyword(node, name, value)


def overload(node: Node) -> Iterator[tuple[str, Edit]]:
    """The same op with another meaning, which only its overload tells."""
    if m.is_op(node, "aten.div") and isinstance(node.meta["val"], Tensor):
        for mode in ("floor", "trunc"):
            yield f"rounding_mode={mode}", retarget(node, _rounded(node), rounding_mode=mode)
    if m.is_op(node, "aten.add", "aten.sub") and all(isinstance(v, Node) for v in node.args[:2]):
        yield "alpha=-1", with_keyword(node, "alpha", -1)
    if m.is_op(node, "aten.softmax"):
        yield "safe", retarget(node, aten._safe_softmax.default)


def order(node: Node) -> Iterator[tuple[str, Edit]]:
    """Of a permutation every other one of few axes, the identity among them."""
    rank = len(node.meta["val"].shape) if isinstance(node.meta["val"], Tensor) else 0
    if m.is_op(node, "aten.permute"):
        given = [int(axis) % rank for axis in node.args[1]]  # type: ignore[union-attr, arg-type]
        for axes in permutations(range(rank)):
            near = sum(a != b for a, b in zip(axes, given, strict=True)) == 2
            if list(axes) != given and (near or list(axes) == sorted(axes)):
                yield f"{list(axes)}", setting(node, (1,), list(axes))
    if m.is_op(node, "aten.transpose"):
        for one in range(rank):
            for other in range(one, rank):
                if (one, other) in ((0, 0), (rank - 1, rank - 1)) or one < other:
                    yield f"{one},{other}", setting_many(node, {(1,): one, (2,): other})
    if m.is_op(node, "aten.t"):
        yield "0,1", retarget_arguments(node, aten.permute.default, lambda x: (x, [0, 1]))


def cast(node: Node) -> Iterator[tuple[str, Edit]]:
    """An operand in another dtype."""
    for index, operand in _operands(node):
        for dtype in _DTYPES.get(m.dtype(operand), ()):
            yield f"{index} to {dtype}", before(node, index, *casting(dtype))


def rounded(node: Node) -> Iterator[tuple[str, Edit]]:
    """A value rounded to a narrower dtype and back."""
    if _floating(node) and m.dtype(node) == torch.float32:
        for narrow in (torch.bfloat16, torch.float16):
            yield f"{narrow}", after(node, *casting(narrow), *casting(torch.float32))


def swapped(node: Node) -> Iterator[tuple[str, Edit]]:
    """Two operands, or two parts of a list, in the other order."""
    if len(node.args) > 1 and isinstance(node.args[0], Node) and isinstance(node.args[1], Node):
        yield "0,1", setting_many(node, {(0,): ("node", 1), (1,): ("node", 0)})
    if len(node.args) > 2 and all(isinstance(each, Node) for each in node.args[1:3]):
        yield "1,2", setting_many(node, {(1,): ("node", 2), (2,): ("node", 1)})
    if node.args and isinstance(node.args[0], (list, tuple)) and len(node.args[0]) > 1:

        def reverse(nodes: Nodes) -> None:
            copy = nodes[node.name]
            copy.args = (list(reversed(copy.args[0])), *copy.args[1:])  # type: ignore[call-overload, arg-type]

        yield "list", reverse


def reader(node: Node) -> Iterator[tuple[str, Edit]]:
    """The value leaves the program as well."""
    if isinstance(node.meta["val"], Tensor):

        def read(nodes: Nodes) -> None:
            (output,) = [each for each in nodes.values() if each.op == "output"]
            output.args = ((*output.args[0], nodes[node.name]),)  # type: ignore[misc]

        yield "returned", read


def view(node: Node) -> Iterator[tuple[str, Edit]]:
    """The op sees its operand in another shape, and its result is shaped back."""
    for index, operand in _operands(node):
        sizes = [example_size(size) for size in m.shape(operand)]
        last = sizes[-1] if sizes else 0
        rank = len(sizes)
        if last > 2 and last % 2 == 0:
            yield f"{index} halves", shaped(node, index, [-1, last // 2])
            yield f"{index} halves kept", shaped(node, index, [*sizes[:-1], 2, last // 2])
        if rank > 2:
            yield f"{index} rows", shaped(node, index, [-1, last])
            yield f"{index} last two", shaped(node, index, [*sizes[:-2], sizes[-2] * last])
        if rank > 1:
            other = [*sizes[:-2], last, sizes[-2]]
            yield f"{index} other sizes", shaped(node, index, other)


def groups(node: Node) -> Iterator[tuple[str, Edit]]:
    """Top-k within halves: what it reads and what is gathered by it are split alike."""
    if not m.is_op(node, "aten.topk", "aten.sort"):
        return
    sizes = m.shape(node.args[0])
    if not sizes or not isinstance(sizes[-1], int) or sizes[-1] % 2:
        return
    half = sizes[-1] // 2

    def split(nodes: Nodes, wanted: int | None) -> list[Node]:
        chosen = nodes[node.name]
        picked = [user for user in chosen.users if m.is_op(user, "getitem")]
        insert_before(chosen, 0, aten.reshape.default, ([-1, half],))
        if wanted is not None:
            set_argument(chosen, (1,), wanted)
        for item in picked:
            for user in list(item.users):
                if m.is_op(user, "aten.gather") and user.args[2] is item:
                    insert_before(user, 0, aten.reshape.default, ([-1, half],))
        return picked

    def within(nodes: Nodes) -> None:
        split(nodes, None)

    yield "as they are", within
    count = m.argument(node, 1, "k")
    if isinstance(count, int) and count % 2 == 0:

        def restored(nodes: Nodes) -> None:
            for item in split(nodes, count // 2):
                insert_after(item, aten.reshape.default, ([-1, count],), skip=("aten.gather",))
                for user in list(item.users):
                    if m.is_op(user, "aten.gather"):
                        insert_after(user, aten.reshape.default, ([-1, count],))

        yield "half as many each", restored


def scaled(node: Node) -> Iterator[tuple[str, Edit]]:
    """The value is a little larger, twice as large, or moved."""
    if _floating(node):
        yield "*1.001", after(node, aten.mul.Tensor, (1.001,))
        yield "*2", after(node, aten.mul.Tensor, (2,))
        yield "+0.01", after(node, aten.add.Tensor, (0.01,))


def negated(node: Node) -> Iterator[tuple[str, Edit]]:
    value = node.meta["val"]
    if _floating(node):
        yield "neg", after(node, aten.neg.default, ())
    elif isinstance(value, Tensor) and value.dtype == torch.bool:
        yield "not", after(node, aten.bitwise_not.default, ())


def dropped(node: Node) -> Iterator[tuple[str, Edit]]:
    """The node is left out: its readers read one of its operands."""
    for index, _ in _operands(node):

        def drop(nodes: Nodes, index: int = index) -> None:
            copy = nodes[node.name]
            copy.replace_all_uses_with(copy.args[index])  # type: ignore[arg-type]
            copy.graph.erase_node(copy)

        yield f"for {index}", drop


def transposed(node: Node) -> Iterator[tuple[str, Edit]]:
    """An operand whose last two axes are as long as each other, the other way round."""
    for index, operand in _operands(node):
        sizes = m.shape(operand)
        if len(sizes) > 1 and m.same_size(sizes[-1], sizes[-2]) and sizes[-1] != 1:
            rank = len(sizes)
            yield f"{index}", before(node, index, aten.transpose.int, (rank - 2, rank - 1))
            if rank == 2:
                yield f"{index} not", before(node, index, aten.permute.default, ([0, 1],))
        if len(sizes) > 2 and m.same_size(sizes[0], sizes[1]):
            yield f"{index} first", before(node, index, aten.transpose.int, (0, 1))


def sibling(node: Node) -> Iterator[tuple[str, Edit]]:
    """Another op of the same kind."""
    for name in _SIBLINGS.get(m.op_name(node), ()):
        packet = getattr(aten, name)
        for found in packet.overloads():
            target = getattr(packet, found)
            if found == getattr(node.target, "_overloadname", "default"):
                yield name, retarget(node, target)


def operand(node: Node) -> Iterator[tuple[str, Edit]]:
    """Another value of the same shape and dtype in the place of an operand."""
    earlier = list(takewhile(lambda each: each is not node, node.graph.nodes))
    for index, old in _operands(node):
        fitting = [
            each
            for each in reversed(earlier)
            if each is not old
            and isinstance(each.meta["val"], Tensor)
            and m.dtype(each) == m.dtype(old)
            and [str(size) for size in m.shape(each)] == [str(size) for size in m.shape(old)]
        ]
        for each in fitting[:3]:

            def read(nodes: Nodes, index: int = index, name: str = each.name) -> None:
                set_argument(nodes[node.name], (index,), nodes[name])

            yield f"{index}={each.name}", read


def in_place(node: Node) -> Iterator[tuple[str, Edit]]:
    """The op writes its result into its first operand. No program that passes see has such ops,
    but what is handed to ``torch.compile`` may."""
    name = m.op_name(node).removeprefix("aten.")
    packet = getattr(aten, f"{name}_", None) if name else None
    first = node.args[0] if node.args else None
    if packet is None or not isinstance(first, Node) or first.op == "placeholder":
        return
    found = getattr(node.target, "_overloadname", "")
    value = node.meta["val"]
    kept = isinstance(value, Tensor) and value.dtype == m.dtype(first)
    if found in packet.overloads() and kept and m.same_shape(node, first):
        yield name, retarget(node, getattr(packet, found))


OPERATORS: dict[str, Operator] = {
    "literal": literal,
    "keyword": keyword,
    "overload": overload,
    "order": order,
    "cast": cast,
    "rounded": rounded,
    "swapped": swapped,
    "reader": reader,
    "view": view,
    "groups": groups,
    "scaled": scaled,
    "negated": negated,
    "dropped": dropped,
    "transposed": transposed,
    "sibling": sibling,
    "operand": operand,
}


def mutations(
    graph: Graph, names: tuple[str, ...], operators: Mapping[str, Operator] = OPERATORS
) -> Iterator[Mutation]:
    """Every mutation of the nodes of these names, in graph order."""
    wanted = set(names)
    for node in graph.nodes:
        if node.name in wanted:
            for kind, operator_of in operators.items():
                for detail, edit in operator_of(node):
                    yield Mutation(kind, node.name, detail.replace(" ", "_"), edit)


_SIZED = (
    *("aten.view", "aten.reshape", "aten.expand", "aten._unsafe_view", "aten.zeros", "aten.ones"),
    "aten.empty",
)
_DTYPES: dict[torch.dtype, tuple[torch.dtype, ...]] = {
    torch.float32: (torch.float64, torch.bfloat16, torch.int64, torch.bool),
    torch.bool: (torch.int64, torch.float32),
    torch.int64: (torch.int32, torch.float32),
}
_SIBLINGS: dict[str, tuple[str, ...]] = {
    "aten.add": ("sub", "mul"),
    "aten.sub": ("add",),
    "aten.mul": ("div", "add"),
    "aten.div": ("mul", "floor_divide"),
    "aten.le": ("lt", "ge", "eq"),
    "aten.lt": ("le", "gt"),
    "aten.ge": ("gt", "lt"),
    "aten.cos": ("sin", "cosh"),
    "aten.sin": ("cos",),
    "aten.rsqrt": ("sqrt", "reciprocal"),
    "aten.silu": ("gelu", "sigmoid", "relu"),
    "aten.sigmoid": ("tanh", "relu", "exp"),
    "aten.softmax": ("log_softmax",),
    "aten.mean": ("sum",),
    "aten.sum": ("mean", "amax"),
    "aten.tril": ("triu",),
    "aten.triu": ("tril",),
    "aten.bitwise_and": ("bitwise_or", "bitwise_xor"),
    "aten.zeros_like": ("ones_like",),
    "aten.ones_like": ("zeros_like",),
    "aten.argsort": ("sort",),
    "aten.pow": ("mul",),
}


def _operands(node: Node) -> Iterator[tuple[int, Node]]:
    for index, value in enumerate(node.args):
        if isinstance(value, Node) and isinstance(value.meta["val"], Tensor):
            yield index, value


def _floating(node: Node) -> bool:
    value = node.meta["val"]
    return isinstance(value, Tensor) and value.dtype.is_floating_point


def _rounded(node: Node) -> Any:
    return aten.div.Tensor_mode if isinstance(node.args[1], Node) else aten.div.Scalar_mode
