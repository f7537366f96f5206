"""clean: take out nodes that compute nothing.

Copies (``clone``, ``alias``, ``detach``), casts to the dtype that the value has, products with 1,
differences with 0, whole-number sums with 0 (a float's -0.0 would lose its sign), and slices that
keep everything. Bitwise. ``canonical`` must have run: it turns views
into ``aten.reshape``, so a dropped ``clone`` never leaves a view of memory that it can't describe.

Safe because a removed node gives its operand, bit for bit; an operand that is later written in
place would make it unsafe, which a functional graph does not have. Pays always: a copy or a cast is
a pass over memory.
"""

from __future__ import annotations

import sys

import torch
from torch.fx import Node

from glmc.ir import match as m
from glmc.ir.accounting import note
from glmc.ir.ops import Numerics
from glmc.ir.program import Program
from glmc.ir.rewrite import Rewriter
from glmc.passes.base import PassResult, attempt

_COPIES = ("aten.clone", "aten.alias", "aten.detach", "aten.lift_fresh_copy", "aten.contiguous")
NAME = "clean"


def kept_value(node: Node) -> Node | None:
    """The operand that the node only hands through, or None."""
    if node.op != "call_function" or not isinstance(node.meta.get("val"), torch.Tensor):
        return None
    source = m.argument(node, 0) if node.args else None
    if not isinstance(source, Node) or not isinstance(source.meta.get("val"), torch.Tensor):
        return None
    if m.is_op(node, *_COPIES):
        return source
    if m.is_op(node, *m.CASTS):
        return source if m.dtype(node) == m.dtype(source) else None
    if m.is_op(node, "aten.mul", "aten.div"):
        return source if m.number(m.argument(node, 1)) == 1 and _same(node, source) else None
    if m.is_op(node, "aten.sub") or (m.is_op(node, "aten.add") and not _is_float(node)):
        note(node, "alpha")  # of nothing
        return source if m.number(m.argument(node, 1)) == 0 and _same(node, source) else None
    if m.is_op(node, "aten.slice"):
        return source if _keeps_all(node) else None
    return None


def _is_float(node: Node) -> bool:
    return m.dtype(node).is_floating_point


def _same(node: Node, source: Node) -> bool:
    return m.dtype(node) == m.dtype(source) and len(m.shape(node)) == len(m.shape(source))


def _keeps_all(node: Node) -> bool:
    m.argument(node, 1)  # any dimension
    start, stop, step = (m.argument(node, index, "", "") for index in (2, 3, 4))
    whole = stop in (None, "", sys.maxsize)
    return start in (None, "", 0) and whole and step in (None, "", 1)


class Clean:
    """See the module's text."""

    name = NAME
    numerics = Numerics.BITWISE

    def run(self, program: Program) -> PassResult:
        result = PassResult()
        rewriter = Rewriter(program, NAME)
        for node in list(program.graph.nodes):
            if node.users:
                attempt(self, rewriter, node, result, lambda at: _rewritten(rewriter, at))
        rewriter.finish()
        return result


def _rewritten(rewriter: Rewriter, node: Node) -> bool:
    value = kept_value(node)
    if value is not None:
        rewriter.replace(node, value)
    return value is not None


PASS = Clean()
