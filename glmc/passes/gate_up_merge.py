"""gate_up_merge: the gate and up projections become one linear, their activation one ``swiglu``.

Before: ``silu(linear(x, gate)) * linear(x, up)`` in either order, or the halves of one linear
that the model merged itself. After: ``glmc.swiglu(glmc.linear(x, gate_up))``, rows of gate first.
x is read once and one product is launched instead of two. Anchor: ``silu``. One match per MLP.

Reordered when two linears are merged (a wider product may be split otherwise by the library);
bitwise for a linear that was merged already. Refuses when only one of the two has a bias, when they
read different values or differ in width, when the activated projection is read elsewhere, and when
silu is on the second half.

Safe where both products read one value and nobody else reads the activated one; a bias on one side
only, or another reader of a half, would make it unsafe. Pays with few tokens, where launches and
reads of x count; with many it costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import Node

from glmc.ir import match as m
from glmc.ir.ops import Numerics
from glmc.ir.ops.linear import LINEAR, SWIGLU
from glmc.ir.program import Program
from glmc.ir.recipe import Concatenate, Weight
from glmc.ir.rewrite import Rewriter
from glmc.passes.base import AnchorPass
from glmc.patterns.expert_parts import halves

_LINEAR = "glmc.linear"


@dataclass(frozen=True)
class Pair:
    """``gate`` and ``up`` are two linears of one value, or the same linear twice when merged."""

    gate: Node
    up: Node
    silu: Node
    result: Node

    @property
    def merged(self) -> bool:
        return self.gate is self.up


def match(anchor: Node, program: Program) -> Pair:
    gate = m.operand(anchor, 0)
    if m.is_op(gate, "aten.slice"):
        return _merged(anchor, gate)
    if not m.is_op(gate, _LINEAR):
        m.unrelated(anchor)
    result = m.sole_user(anchor, "aten.mul")
    up = m.expect_op(m.other_operand(result, anchor), result, _LINEAR)
    m.require(m.argument(up, 0) is m.argument(gate, 0), up, "gate and up must read the same value")
    m.require(len(gate.users) == 1, gate, "the gate projection must be read by silu only")
    m.require(len(up.users) == 1, up, "the up projection must be read by the product only")
    _require_alike(gate, up, program)
    return Pair(gate, up, anchor, result)


def _merged(anchor: Node, gate: Node) -> Pair:
    linear = m.operand(gate, 0)
    if not m.is_op(linear, _LINEAR):
        m.unrelated(anchor)
    result = m.sole_user(anchor, "aten.mul")
    halves(result)
    return Pair(linear, linear, anchor, result)


def _require_alike(gate: Node, up: Node, program: Program) -> None:
    for index, what in ((1, "weight"), (2, "bias")):
        first, second = m.argument(gate, index), m.argument(up, index)
        if first is None and second is None:
            continue
        m.require(
            first is not None and second is not None,
            up,
            "gate and up must both have a bias or both none",
        )
        weights = (program.weight_of(first), program.weight_of(second))
        if weights[0] is None or weights[1] is None:
            m.refuse(up, f"the {what} must be a model weight")
        m.require(
            (weights[0].shape, weights[0].dtype) == (weights[1].shape, weights[1].dtype),
            up,
            f"gate and up must have a {what} of the same shape and dtype",
        )


def rewrite(rewriter: Rewriter, pair: Pair) -> None:
    linear = pair.gate
    if not pair.merged:
        weight, bias = (_stacked(rewriter, pair, index) for index in (1, 2))
        linear = rewriter.call(
            LINEAR.overload, (m.argument(pair.gate, 0), weight, bias), replaces=(pair.gate, pair.up)
        )
        width = int(m.shape(pair.gate)[-1])
        rewriter.columns(pair.gate, linear, 0, width)
        rewriter.columns(pair.up, linear, width, 2 * width)
    new = rewriter.call(SWIGLU.overload, (linear,), replaces=(pair.result, pair.silu))
    rewriter.replace(pair.result, new)


def _stacked(rewriter: Rewriter, pair: Pair, index: int) -> Node | None:
    """The placeholder of both weights (index 1) or biases (index 2), gate rows first."""
    gate = rewriter.program.weight_of(m.argument(pair.gate, index))
    up = rewriter.program.weight_of(m.argument(pair.up, index))
    if gate is None or up is None:
        return None
    return rewriter.weight(
        Weight(
            merged_name(gate.name),
            (2 * gate.shape[0], *gate.shape[1:]),
            gate.dtype,
            Concatenate((gate.recipe, up.recipe)),
        )
    )


def merged_name(name: str) -> str:
    """``a.mlp.gate_up_proj.weight`` for ``a.mlp.gate_proj.weight``."""
    module, _, leaf = name.rpartition(".")
    return f"{module.rpartition('.')[0]}.gate_up_proj.{leaf}".removeprefix(".")


PASS = AnchorPass("gate_up_merge", Numerics.REORDERED, ("aten.silu",), match, rewrite)
