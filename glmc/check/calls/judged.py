"""How what a call leaves is held against what its node computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.fx import Node

from glmc.ir import match as m
from glmc.ir.ops import Numerics
from glmc.ir.tolerance import Tolerance, condition_of, reduction_terms, stored_values

# A kernel may round between the parts of what is one node; in float32 that costs next to nothing.
_ROUNDINGS = 16
_TERMS = 1024
UNTOUCHED = Tolerance(Numerics.BITWISE)
"""Of a value that a call has no business with."""


def in_order_of_experts(
    whole: Mapping[Node, Tensor], values: Mapping[Node, Any]
) -> dict[Node, tuple[Tensor, Tensor]]:
    """What is expected and what is found. A router may name its experts in any order: they and
    their weights are compared in that of the experts."""
    pairs = {node: (values[node], actual) for node, actual in whole.items()}
    routed = [node for node in whole if m.is_op(node.args[0], "glmc.moe_gate")]
    if len(routed) == 2:
        (ids,) = (node for node in routed if node.args[1] == 1)
        orders = [side.argsort(-1) for side in pairs[ids]]
        for node in routed:
            expected, actual = pairs[node]
            pairs[node] = expected.gather(-1, orders[0]), actual.gather(-1, orders[1])
    return pairs


def tolerance_of_calls(
    node: Node, values: Mapping[Node, Any], *, by_element: bool = False
) -> Tolerance:
    """Of the calls for a node, as for a rewrite of it; an output of several is judged as what
    computes it. ``values`` are those of its operands. ``by_element``: at the magnitude of the
    element where that is larger than its row's, as rounded products may be."""
    if m.is_op(node, "getitem"):
        node = m.operand(node, 0)
    return Tolerance(
        Numerics.REORDERED,
        max(_TERMS, reduction_terms([node])),
        _ROUNDINGS + stored_values([node]),
        condition=condition_of(node, values),
        own=by_element,
    )
