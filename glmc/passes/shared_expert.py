"""shared_expert: the shared expert and its addition to the routed ones become one node.

Before: ``routed + linear(swiglu(linear(x, gate_up)), down)`` with x the value the router saw.
After: ``glmc.shared_expert``. Anchor: the addition to the result of a ``glmc.moe_ffn``. A target
may run it beside the routed experts. Bitwise: the reference repeats the operations in their order.

Needs ``moe_ffn`` and ``gate_up_merge``. Refuses biases, a scale on either side, another x than the
router's, and projections that are read elsewhere.

Safe where the shared expert reads the router's own input and the sum has no scale; another input, a
scale or a second reader would make it unsafe. Pays where the target runs both side by side, or for
moe_ffn_shared; alone it saves the addition's launch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from glmc.ir import match as m
from glmc.ir.ops import Numerics
from glmc.ir.ops.moe import SHARED_EXPERT
from glmc.ir.program import Program
from glmc.ir.rewrite import Rewriter
from glmc.passes.base import AnchorPass

_ROUTED = "glmc.moe_ffn"
_LINEAR = "glmc.linear"


@dataclass(frozen=True)
class SharedExpert:
    """``routed`` and ``result`` have one shape; ``x`` may be another reshape of the tokens."""

    x: Node
    gate_up: Node
    down: Node
    routed: Node
    result: Node
    inner: tuple[Node, ...]


def match(anchor: Node, program: Program) -> SharedExpert:
    routed, shared = _sides(anchor)
    experts = m.skip(routed, m.SHAPES)
    scaled = next((node for node in (routed, shared) if _scaling_above(node)), None)
    if scaled is not None:
        m.refuse(scaled, "neither the routed nor the shared experts may be scaled")
    m.require(m.is_op(experts, _ROUTED), routed, "the routed experts must not be cast")
    alpha = m.argument(anchor, 2, "alpha", 1)
    m.require(alpha == 1, anchor, "the addition must be unscaled")
    down = m.skip(shared, m.SHAPES)
    activated = m.expect_op(m.skip(m.operand(down, 0), m.SHAPES), down, "glmc.swiglu")
    gate_up = m.expect_op(m.operand(activated, 0), activated, _LINEAR)
    for linear in (gate_up, down):
        m.require(m.argument(linear, 2) is None, linear, "the shared expert must have no bias")
        m.require(len(linear.users) == 1, linear, "the shared expert must be read here only")
    m.require(len(activated.users) == 1, activated, "the shared expert must be read here only")
    x = m.operand(gate_up, 0)
    m.require(
        m.skip(x, m.SHAPES) is m.skip(_router_input(experts), m.SHAPES),
        gate_up,
        "the shared expert must read the value that the router saw",
    )
    m.require(m.same_shape(anchor, routed), anchor, "the addition must not broadcast")
    m.require(m.dtype(down) == m.dtype(routed), down, "both sides must have the same dtype")
    return SharedExpert(
        x,
        m.operand(gate_up, 1),
        m.operand(down, 1),
        routed,
        anchor,
        (anchor, gate_up, activated, down),
    )


def _sides(anchor: Node) -> tuple[Node, Node]:
    """(routed, shared) operands of the addition; unrelated unless one is routed, one a linear."""
    if not all(isinstance(value, Node) for value in m.arguments(anchor)[:2]):
        m.unrelated(anchor)
    for index in (0, 1):
        routed, shared = m.operand(anchor, index), m.operand(anchor, 1 - index)
        if m.is_op(_origin(routed), _ROUTED) and m.is_op(_origin(shared), _LINEAR):
            return routed, shared
    m.unrelated(anchor)


def _origin(node: Node) -> Node:
    """The value before reshapes, casts and products with a literal."""
    while m.is_op(node, *m.SHAPES, *m.CASTS) or m.is_scaling(node):
        node = next(iter(node.all_input_nodes))
    return node


def _scaling_above(node: Node) -> bool:
    while m.is_op(node, *m.SHAPES, *m.CASTS):
        node = m.operand(node, 0)
    return m.is_scaling(node)


def _router_input(experts: Node) -> Node:
    gate = m.operand(m.operand(experts, 1), 0)
    return m.operand(m.expect_op(gate, experts, "glmc.moe_gate"), 0)


def rewrite(rewriter: Rewriter, shared: SharedExpert) -> None:
    x = _shaped_like(rewriter, shared)
    arguments = (x, shared.gate_up, shared.down, shared.routed)
    new = rewriter.call(SHARED_EXPERT.overload, arguments, replaces=shared.inner)
    rewriter.replace(shared.result, new)


def _shaped_like(rewriter: Rewriter, shared: SharedExpert) -> Node:
    """x in the shape of the routed result: itself, what it was reshaped from, or a new reshape."""
    source = m.skip(shared.x, m.SHAPES)
    for candidate in (shared.x, source):
        if m.same_shape(candidate, shared.routed):
            return candidate
    sizes: object = [-1, m.shape(source)[-1]]
    if m.is_op(shared.routed, "aten.reshape"):
        sizes = m.argument(shared.routed, 1)
    return rewriter.call(
        torch.ops.aten.reshape.default, (source, sizes), replaces=(shared.inner[1],)
    )


PASS = AnchorPass("shared_expert", Numerics.BITWISE, ("aten.add",), match, rewrite)
