"""Common parts of the passes over experts: SwiGLU's halves, the gate after its results."""

from __future__ import annotations

from torch.fx import Node

from glmc.ir import match as m


def halves(activated: Node) -> Node:
    """The value of which ``activated`` is silu(first half) * second half, in either order."""
    m.expect_op(activated, activated, "aten.mul")
    silu, up = m.commutative(activated, "aten.silu")
    gate = m.operand(silu, 0)
    if not isinstance(up, Node):
        m.refuse(activated, "the activated half must be multiplied by the other half")
    m.expect_op(gate, silu, "aten.slice")
    m.expect_op(up, activated, "aten.slice")
    source = m.operand(gate, 0)
    m.require(m.operand(up, 0) is source, up, "gate and up must be the halves of one value")
    width = m.shape(source)[-1]
    if not isinstance(width, int) or width % 2:
        m.refuse(source, "the value must have two halves of a literal width")
    first, second = half_bounds(gate), half_bounds(up)
    if (first, second) == ((width // 2, width), (0, width // 2)):
        m.refuse(silu, "silu must be applied to the first half, not to the second")
    m.require(
        (first, second) == ((0, width // 2), (width // 2, width)),
        activated,
        "gate and up must be the first and the second half",
    )
    return source


def half_bounds(node: Node) -> tuple[object, object] | None:
    """(start, stop) of a plain slice of the last dimension."""
    axis, start, stop, step = (m.argument(node, index) for index in (1, 2, 3, 4))
    if step not in (None, 1) or not m.last_axis(node, axis):
        return None
    return start, stop


def results_of_gate(ids: Node, weights: Node, at: Node) -> Node:
    """The ``glmc.moe_gate`` whose two results these are."""
    reason = "experts and routing weights must be the two results of one moe_gate"
    for node, index in ((ids, 1), (weights, 0)):
        m.require(not m.is_op(node, *m.CASTS), node, "the results of the gate must not be cast")
        m.require(m.is_op(node, "getitem") and m.argument(node, 1) == index, at, reason)
        m.require(m.is_op(m.argument(node, 0), "glmc.moe_gate"), at, reason)
    m.require(m.argument(ids, 0) is m.argument(weights, 0), at, reason)
    return m.operand(ids, 0)


def same_value(first: Node, second: Node) -> bool:
    """The same numbers in the same shape, perhaps through two reshapes of one value."""
    return m.skip(first, m.SHAPES) is m.skip(second, m.SHAPES) and m.same_shape(first, second)
