"""canonical: many spellings of one thing become one.

| spelled as | becomes |
|---|---|
| view, _unsafe_view, reshape, flatten; a chain of them | one ``aten.reshape`` of the first value |
| transpose, t, permute | ``aten.permute`` with all dimensions, counted from 0 |
| split, split_with_sizes, chunk, unbind-free getitem of them | ``aten.slice`` with plain bounds |
| slice with negative or open bounds on a static dimension | ``aten.slice`` with plain bounds |
| to, type_as | ``aten._to_copy`` with the dtype only |
| linear; mm, addmm or matmul with a transposed matrix: of a weight | ``glmc.linear`` |
| embedding | ``glmc.embedding`` |
| einsum of two operands | ``glmc.linear`` or ``aten.matmul``: see einsums.py |
| take_along_dim; ``x[arange(rows)[:, None], ids]``: of what top-k found | ``aten.gather`` |

Bitwise: no arithmetic changes. Symbolic sizes stay as they are.

Safe because each row of the table is an identity of ATen for the arguments that it takes; it would
be unsafe for views of memory that is written afterwards, which a functional graph does not have.
Pays by what it saves the matchers: one spelling each.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch.fx import Node

from glmc.ir import match as m
from glmc.ir.accounting import note
from glmc.ir.ops import Numerics
from glmc.ir.ops.linear import EMBEDDING, LINEAR
from glmc.ir.program import Program
from glmc.ir.rewrite import Rewriter
from glmc.passes.base import PassResult, attempt
from glmc.patterns import einsum as einsums

aten = torch.ops.aten
NAME = "canonical"
_SPLITS = ("aten.split", "aten.split_with_sizes", "aten.chunk")
_RESHAPES = ("aten.view", "aten._unsafe_view", "aten.reshape", "aten.flatten")


def _reshape(rewriter: Rewriter, node: Node) -> Node | None:
    source = m.skip(node, _RESHAPES)
    if m.is_op(node, "aten.reshape") and source is m.operand(node, 0):
        return None
    if m.is_op(node, "aten.flatten"):
        return (
            None
            if any(not m.is_static(size) for size in m.shape(node))
            else _to(rewriter, node, source, list(m.shape(node)))
        )
    return _to(rewriter, node, source, m.argument(node, 1))


def _to(rewriter: Rewriter, node: Node, source: Node, sizes: object) -> Node:
    return rewriter.call(
        aten.reshape.default, (source, sizes), replaces=(node,), before=node, value=node.meta["val"]
    )


def _permute(rewriter: Rewriter, node: Node) -> Node | None:
    source = m.operand(node, 0)
    rank = len(m.shape(source))
    order = list(range(rank))
    if m.is_op(node, "aten.transpose"):
        first, second = (int(axis) % rank for axis in m.arguments(node)[1:3])  # type: ignore[call-overload]
        order[first], order[second] = order[second], order[first]
    elif m.is_op(node, "aten.t"):
        order.reverse()
    else:
        axes = m.argument(node, 1)
        order = [axis % rank for axis in axes]  # type: ignore[attr-defined]
        if order == list(axes):  # type: ignore[call-overload]
            return None
    arguments = (source, order)
    return rewriter.call(
        aten.permute.default, arguments, replaces=(node,), before=node, value=node.meta["val"]
    )


def _split_item(rewriter: Rewriter, node: Node) -> Node | None:
    split, index = m.operand(node, 0), m.argument(node, 1)
    if not m.is_op(split, *_SPLITS) or not isinstance(index, int):
        return None
    source = m.operand(split, 0)
    rank = len(m.shape(source))
    axis = int(m.argument(split, 2, "dim", 0)) % rank  # type: ignore[call-overload]
    widths = [part.shape[axis] for part in split.meta["val"]]
    if not all(m.is_static(width) for width in widths):
        return None
    m.argument(split, 1)  # as the widths of the parts say
    start = sum(widths[:index])
    arguments = (source, axis, start, start + widths[index])
    return rewriter.call(
        aten.slice.Tensor, arguments, replaces=(node, split), before=node, value=node.meta["val"]
    )


def _slice(rewriter: Rewriter, node: Node) -> Node | None:
    source = m.operand(node, 0)
    rank = len(m.shape(source))
    axis = int(m.argument(node, 1, "dim", 0)) % rank  # type: ignore[call-overload]
    size = m.shape(source)[axis]
    start = m.argument(node, 2, "start", 0) or 0
    stop = m.argument(node, 3, "end")
    if not m.is_static(size) or not isinstance(start, int):
        return None
    if stop is not None and not isinstance(stop, int):
        return None
    first, last, step = slice(start, sys.maxsize if stop is None else stop).indices(int(size))
    plain: tuple[object, ...] = (source, axis, first, last)
    given_step = m.argument(node, 4, "step", 1)
    if given_step != step:
        plain = (*plain, given_step)
    if tuple(node.args) == plain and not node.kwargs:
        return None
    return rewriter.call(
        aten.slice.Tensor, plain, replaces=(node,), before=node, value=node.meta["val"]
    )


def _cast(rewriter: Rewriter, node: Node) -> Node | None:
    if m.is_op(node, "aten._to_copy") and set(node.kwargs) == {"dtype"}:
        return None
    source = m.operand(node, 0)
    if not m.is_op(node, "aten._to_copy"):
        m.argument(node, 1, "other")  # a value whose dtype is meant
    return rewriter.call(
        aten._to_copy.default,
        (source,),
        keywords={"dtype": m.dtype(node)},
        replaces=(node,),
        before=node,
        value=node.meta["val"],
    )


# A weight seen through these is still one: no step input can have come in.
_OF_A_WEIGHT = (
    *(*m.CASTS, *m.SHAPES, *_RESHAPES, *_SPLITS, "getitem"),
    *("aten.permute", "aten.transpose", "aten.t", "aten.slice", "aten.select", "aten.unbind"),
    *("aten.clone", "aten.contiguous", "aten.detach", "aten.alias", "aten.chunk"),
    *("aten.mul", "aten.div", "aten.add"),
)


def _is_weight(node: Node, program: Program) -> bool:
    """Whether a value is computed from weights and numbers alone."""
    stack, seen = [node], set[Node]()
    while stack:
        current = stack.pop()
        if current not in seen and program.weight_of(current) is None:
            if not m.is_op(current, *_OF_A_WEIGHT):
                return False
            stack.extend(current.all_input_nodes)
        seen.add(current)
    return True


def _linear(rewriter: Rewriter, node: Node) -> Node | None:
    if m.is_op(node, "aten.linear"):
        if not _is_weight(m.operand(node, 1), rewriter.program):
            return None
        x, weight, bias = (m.argument(node, index) for index in range(3))
        if len(m.shape(weight)) != 2:
            return None
        arguments: tuple[object, ...] = (x, weight, bias)
        return rewriter.call(
            LINEAR.overload, arguments, replaces=(node,), before=node, value=node.meta["val"]
        )
    if m.is_op(node, "aten.addmm"):
        bias, x, transposed = m.arguments(node)[:3]
        if len(m.shape(bias)) != 1:
            return None
    else:
        bias, (x, transposed) = None, m.arguments(node)[:2]
    if not isinstance(transposed, Node) or not m.is_op(transposed, "aten.permute"):
        return None
    weight = m.operand(transposed, 0)
    if m.argument(transposed, 1) != [1, 0] or not _is_weight(weight, rewriter.program):
        return None
    return rewriter.call(
        LINEAR.overload, (x, weight, bias), replaces=(node,), before=node, value=node.meta["val"]
    )


def _embedding(rewriter: Rewriter, node: Node) -> Node | None:
    weight, token_ids = m.arguments(node)[:2]
    # These three concern gradients only.
    note(node, "padding_idx", "scale_grad_by_freq", "sparse")
    return rewriter.call(
        EMBEDDING.overload,
        (token_ids, weight),
        replaces=(node,),
        before=node,
        value=node.meta["val"],
    )


def _einsum(rewriter: Rewriter, node: Node) -> Node | None:
    return einsums.product(rewriter, node, lambda weight: _is_weight(weight, rewriter.program))


def _take_along(rewriter: Rewriter, node: Node) -> Node | None:
    """gather broadcasts nothing, so all dimensions but the picked one must agree."""
    x, ids, axis = m.operand(node, 0), m.operand(node, 1), m.argument(node, 2, "dim")
    if not isinstance(axis, int) or len(m.shape(x)) != len(m.shape(ids)):
        return None
    if not _counts_from_zero(ids):
        return None
    axis %= len(m.shape(x))
    sizes = zip(m.shape(x), m.shape(ids), strict=True)
    if not all(m.same_size(*pair) for at, pair in enumerate(sizes) if at != axis):
        return None
    return _gather(rewriter, node, x, axis, ids)


def _index(rewriter: Rewriter, node: Node) -> Node | None:
    """Of each row the columns that ``ids`` names for it."""
    x, indices = m.operand(node, 0), m.argument(node, 1)
    if not isinstance(indices, (list, tuple)) or len(indices) != 2:
        return None
    rows, ids = indices
    if not isinstance(rows, Node) or not isinstance(ids, Node) or not _counts_from_zero(ids):
        return None
    if not len(m.shape(x)) == len(m.shape(rows)) == len(m.shape(ids)) == 2:
        return None
    count, column = m.shape(rows)
    counter = rows
    while m.is_op(counter, *m.SHAPES, "aten.slice"):
        if m.is_op(counter, "aten.slice"):
            note(counter, "dim", "start", "end", "step")  # as the lengths below say
        counter = m.operand(counter, 0)
    if not m.counts_up(counter) or not (m.is_static(column) and column == 1):
        return None
    # As long as the counter itself, so no slice left anything out.
    lengths = [m.shape(each)[0] for each in (counter, x, ids)]
    if not all(m.same_size(count, length) for length in lengths):
        return None
    return _gather(rewriter, node, x, 1, ids)


def _counts_from_zero(ids: Node) -> bool:
    """Places that an op has found. Of any others some may be counted from the end, by numbers below
    0, which gather does not take."""
    while m.is_op(ids, *m.SHAPES, *m.CASTS, "aten.slice", "aten.expand", "aten.permute"):
        ids = m.operand(ids, 0)
    if m.is_op(ids, "getitem"):
        several = m.operand(ids, 0)
        return m.argument(ids, 1) == 1 and m.is_op(several, "aten.topk", "aten.sort")
    return m.is_op(ids, "aten.argsort", "aten.argmax", "aten.argmin")


def _gather(rewriter: Rewriter, node: Node, x: Node, axis: int, ids: Node) -> Node:
    arguments = (x, axis, ids)
    return rewriter.call(
        aten.gather.default, arguments, replaces=(node,), before=node, value=node.meta["val"]
    )


_HANDLERS: dict[str, Callable[[Rewriter, Node], Node | None]] = {
    **dict.fromkeys(_RESHAPES, _reshape),
    **dict.fromkeys(("aten.transpose", "aten.t", "aten.permute"), _permute),
    **dict.fromkeys(m.CASTS, _cast),
    **dict.fromkeys(("aten.linear", "aten.addmm", "aten.mm", "aten.matmul"), _linear),
    "getitem": _split_item,
    "aten.slice": _slice,
    "aten.embedding": _embedding,
    "aten.einsum": _einsum,
    "aten.take_along_dim": _take_along,
    "aten.index": _index,
}


class Canonical:
    """See the module's text."""

    name = NAME
    numerics = Numerics.BITWISE

    def run(self, program: Program) -> PassResult:
        result = PassResult()
        rewriter = Rewriter(program, NAME)
        for node in list(program.graph.nodes):
            if m.op_name(node) in _HANDLERS and node.users:
                attempt(self, rewriter, node, result, lambda at: _rewritten(rewriter, at))
        rewriter.finish()
        return result


def _rewritten(rewriter: Rewriter, node: Node) -> bool:
    new = _HANDLERS[m.op_name(node)](rewriter, node)
    if new is not None:
        rewriter.replace(node, new)
    return new is not None


PASS = Canonical()
