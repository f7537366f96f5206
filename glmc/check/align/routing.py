"""The routers of a program: what they read, and whether a choice of theirs could have been another.

On the very same operands two right computations of a router's scores differ by next to nothing.
They choose other experts for a token only where the nearest other choice is as near as that, which
is its margin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from glmc.ir import match as m
from glmc.ir.accounting import given
from glmc.ir.ops.moe import gate_scores, scores_of_groups
from glmc.ir.tolerance import Tolerance

GATE = "glmc.moe_gate"
IDS = 1
"""Of the results of a router, the one that is not the weights."""


def gate_of(node: Node) -> Node | None:
    """The router of which a node is the weights or the ids."""
    if not m.is_op(node, "getitem") or not m.is_op(node.args[0], GATE):
        return None
    return m.operand(node, 0)


@dataclass(frozen=True)
class Routed:
    """A router on its operands: ``scores`` [tokens, experts] by which it chooses, ``hidden`` what
    it read, and how far the nearest other choice is, by token."""

    scores: Tensor
    hidden: Tensor
    margins: Tensor

    def undecided(self, tolerance: Tolerance) -> Tensor:
        """By token, whether errors that are allowed of scores may decide."""
        return self.margins <= 2 * tolerance.relative(torch.float32)


def routed(gate: Node, values: Mapping[Node, Any]) -> Routed:
    """The router on these values of its operands."""
    arguments = {
        name: values[item] if isinstance(item, Node) else item for name, item in given(gate).items()
    }
    scores = gate_scores(arguments["x"], arguments["weight"]) + arguments["bias"]
    choice, among_groups = scores, torch.full_like(scores[:, 0], torch.inf)
    groups, best = arguments["groups"], arguments["top_groups"]
    if groups != best:
        of_groups = scores_of_groups(scores, groups)
        among_groups = _step(of_groups, best)
        chosen = of_groups.topk(best, -1)[1]
        kept = torch.zeros_like(of_groups).scatter_(1, chosen, 1.0).bool().unsqueeze(-1)
        by_group = scores.unflatten(-1, (groups, -1))
        choice = by_group.masked_fill(~kept, arguments["group_fill"]).flatten(1)
    margins = torch.minimum(_step(choice, arguments["top_k"]), among_groups)
    return Routed(scores, arguments["x"], margins)


def errors_of_rows(expected: Tensor, actual: Tensor) -> Tensor:
    """By row, the error as a share of the row's magnitude."""
    was, now = expected.double(), actual.double()
    errors, sizes = (each.square().sum(-1).sqrt() for each in (now - was, was))
    return errors / sizes.clamp(min=torch.finfo(torch.double).tiny)


def spread_by_expert(weights: Tensor, ids: Tensor, gate: Node) -> Tensor:
    """Weights [tokens, experts]: zero of those that were not chosen."""
    experts = int(m.shape(given(gate)["weight"])[0])
    return weights.new_zeros(len(ids), experts).scatter_(1, ids.long(), weights)


def _step(scores: Tensor, count: int) -> Tensor:
    """From the last of the ``count`` best to the next."""
    if count >= scores.shape[-1]:
        return torch.full_like(scores[:, 0], torch.inf)
    best = scores.topk(count + 1, -1)[0]
    return best[:, count - 1] - best[:, count]
