"""A part of ``canonical``: an einsum of two operands becomes the product that it computes.

``...h,eh->...e`` with a weight is a ``glmc.linear``. An einsum whose operands share leading labels
with the result becomes one ``aten.matmul``, with permutes where the labels are in another order.
Any other einsum stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.fx import Node

from glmc.ir import match as m
from glmc.ir.ops.linear import LINEAR
from glmc.ir.rewrite import Rewriter

aten = torch.ops.aten


@dataclass(frozen=True)
class _Labels:
    """An equation by the role of its letters: ``rows`` are the left operand's own, ``columns``
    the right one's, ``summed`` is what both have and the result has not."""

    left: str
    right: str
    batch: str
    rows: str
    columns: str
    summed: str


def product(rewriter: Rewriter, node: Node, is_weight: Callable[[Node], bool]) -> Node | None:
    """What stands for the einsum ``node``, or None when it is no plain product."""
    operands = m.argument(node, 1)
    if not isinstance(operands, (list, tuple)) or len(operands) != 2:
        return None
    labels = _labels(str(m.argument(node, 0)))
    if labels is None or not all(isinstance(operand, Node) for operand in operands):
        return None
    left, right = operands
    if not _fits(labels, left, right):
        return None
    if not labels.batch and labels.right == labels.columns + labels.summed:
        if labels.left != labels.rows + labels.summed or not is_weight(right):
            return None
        return rewriter.call(
            LINEAR.overload, (left, right, None), replaces=(node,), value=node.meta["val"]
        )
    if not labels.batch or len(labels.rows) > 1 or len(labels.columns) > 1:
        return None
    left = _arranged(rewriter, node, left, labels.left, labels.batch + labels.rows + labels.summed)
    right = _arranged(
        rewriter,
        node,
        right,
        labels.right,
        labels.batch + labels.summed + labels.columns,
    )
    if not labels.rows:
        left = _helper(rewriter, node, "row", aten.unsqueeze.default, (left, len(labels.batch)))
    if not labels.columns:
        right = _helper(rewriter, node, "column", aten.unsqueeze.default, (right, -1))
    if labels.rows and labels.columns:
        return rewriter.call(aten.matmul.default, (left, right), replaces=(node,))
    inner = _helper(rewriter, node, "product", aten.matmul.default, (left, right))
    axis = -1 if labels.rows else len(labels.batch)
    return rewriter.call(aten.squeeze.dim, (inner, axis), replaces=(node,))


def _fits(labels: _Labels, left: Node, right: Node) -> bool:
    """Whether sizes of one letter agree: einsum repeats a size of 1, a product doesn't."""
    sizes = dict(zip(labels.left, m.shape(left), strict=False))
    others = dict(zip(labels.right, m.shape(right), strict=False))
    ranks = (len(labels.left), len(labels.right)) == (len(m.shape(left)), len(m.shape(right)))
    return ranks and all(m.same_size(sizes[each], others[each]) for each in sizes.keys() & others)


def _labels(equation: str) -> _Labels | None:
    """The letters of ``ab,bc->ac``; None for dots, repeated letters and other orders."""
    operands, arrow, out = equation.replace(" ", "").partition("->")
    left, _, right = operands.partition(",")
    words = (left, right, out)
    if not arrow or not all(word.isalpha() and len(set(word)) == len(word) for word in words):
        return None
    shared = [letter for letter in left if letter in right]
    batch = "".join(letter for letter in out if letter in shared)
    summed = "".join(letter for letter in shared if letter not in out)
    rows = "".join(letter for letter in left if letter not in shared)
    columns = "".join(letter for letter in right if letter not in shared)
    if len(summed) != 1 or out != batch + rows + columns:
        return None
    return _Labels(left, right, batch, rows, columns, summed)


def _arranged(rewriter: Rewriter, node: Node, value: Node, axes: str, wanted: str) -> Node:
    if axes == wanted:
        return value
    order = [axes.index(letter) for letter in wanted]
    return _helper(rewriter, node, wanted, aten.permute.default, (value, order))


def _helper(
    rewriter: Rewriter,
    node: Node,
    name: str,
    target: Callable[..., object],
    arguments: Sequence[object],
) -> Node:
    """A node beside the one that takes over the einsum's id."""
    new = rewriter.call(target, arguments, replaces=(node,))
    new.meta["id"] = f"{node.meta['id']}:{name}"
    return new
