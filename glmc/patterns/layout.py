"""Moving between [batch, heads, tokens, head_dim], as models compute, and token-major layout.

The ops of the IR are token-major ([batch, tokens, heads, head_dim]): that is how a projection
leaves its values, so after the passes no permute is left.
"""

from __future__ import annotations

import torch
from torch.fx import Node

from glmc.ir import match as m
from glmc.ir.rewrite import Rewriter

SWAP = [0, 2, 1, 3]


def is_swap(node: object) -> bool:
    """A permute that exchanges heads and tokens."""
    return m.is_op(node, "aten.permute") and _order(node) == SWAP


def _order(permute: object) -> list[int]:
    order = m.argument(permute, 1)  # type: ignore[arg-type]
    return list(order)  # type: ignore[call-overload, no-any-return]


def token_major(rewriter: Rewriter, node: Node) -> Node:
    """The heads-first value ``node`` in token-major layout; undoes a permute where there is one."""
    if is_swap(node):
        return m.operand(node, 0)
    new = rewriter.call(torch.ops.aten.permute.default, (node, SWAP), replaces=(node,))
    new.meta["id"] = f"{node.meta['id']}:token_major"
    return new


def to_heads_first(rewriter: Rewriter, node: Node, replaced: Node) -> Node:
    """The token-major value ``node`` in heads-first layout, in place of ``replaced``."""
    return rewriter.call(torch.ops.aten.permute.default, (node, SWAP), replaces=(replaced,))
