"""Is a mask causal? Decided by evaluating its subgraph, whatever its spelling.

Causal: query i sees keys 0 to i and no others, in every sequence of the batch. Masks are evaluated
at several sizes, and around every larger number at which they may change, since a sliding window
shows only beyond its width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node

from glmc.ir import match as m
from glmc.ir.ops.attention import causal_mask
from glmc.ir.probe import evaluate, step_inputs
from glmc.ir.program import Program
from glmc.patterns.thresholds import thresholds

_SIZES = ((1, 1), (2, 3), (1, 8), (3, 17))
_OFFSETS = (0, 5)
# A mask of that many tokens squared is evaluated in well under a second.
_LARGEST_PROBE = 4096
_SHAPE_ONLY = (
    "aten.sym_size",
    "aten.ones_like",
    "aten.zeros_like",
    "aten.full_like",
    "aten.new_ones",
    "aten.new_zeros",
    "aten.new_full",
)


def require_causal(masked: Node, program: Program, scores: Node | None = None) -> None:
    """Refuses unless ``masked`` is causal.

    ``masked`` is a bool mask (True: seen), an additive mask, or, when ``scores`` is given, the
    scores [batch, heads, queries, keys] after masking.
    """
    region = _ancestors(masked, scores)
    for node in program.inputs():
        if node.meta["input"] == "token_ids":
            for user in node.users:
                m.require(
                    user not in region or m.is_op(user, *_SHAPE_ONLY),
                    user,
                    "the mask depends on the tokens: it hides padding",
                )
    for batch, tokens in _SIZES:
        for first in _OFFSETS:
            _check(masked, _evaluate(masked, program, scores, batch, tokens, first), tokens)
    for tokens in _larger_sizes(masked, program, scores):
        _check(masked, _evaluate(masked, program, scores, 1, tokens, 0), tokens)


def known_inputs(program: Program, batch: int, tokens: int, first: int = 0) -> dict[Node, Tensor]:
    """Values of the step inputs that a stateless program has."""
    values = step_inputs(batch, tokens, first)
    return {
        node: values[node.meta["input"]]
        for node in program.inputs()
        if node.meta["input"] in values
    }


def _evaluate(
    masked: Node, program: Program, scores: Node | None, batch: int, tokens: int, first: int
) -> Tensor:
    known = known_inputs(program, batch, tokens, first)
    if scores is not None:
        known[scores] = torch.zeros(batch, 1, tokens, tokens, dtype=m.dtype(scores))
    value: Tensor = evaluate(masked, known)
    return value


def _check(masked: Node, value: Tensor, tokens: int) -> None:
    seen = value if value.dtype == torch.bool else value == 0
    expected = causal_mask(tokens, tokens, value.device)
    wrong = (seen != expected).reshape(-1, tokens, tokens).any(0).nonzero()
    if len(wrong):
        query, key = wrong[0].tolist()
        verb = "hides" if expected[query, key] else "does not hide"
        m.refuse(masked, f"the mask must be causal: at {tokens} tokens, {query} {verb} {key}")
    if value.dtype != torch.bool:
        # Half of the lowest float is as good as -inf: no score reaches across, and exp() is 0.
        highest = value.masked_fill(seen, -torch.inf).max()
        m.require(
            bool(highest <= torch.finfo(value.dtype).min / 2),
            masked,
            f"the mask must add -inf or the lowest float to hidden keys, not {float(highest):g}",
        )


def _ancestors(root: Node, stop: Node | None) -> set[Node]:
    region: set[Node] = set()
    stack = [root]
    while stack:
        node = stack.pop()
        if node not in region and node is not stop:
            region.add(node)
            stack.extend(node.all_input_nodes)
    return region


def _larger_sizes(masked: Node, program: Program, scores: Node | None) -> list[int]:
    """Sizes around each threshold of the mask that the ordinary sizes don't reach."""
    probed = max(tokens for _, tokens in _SIZES)
    sizes: dict[int, None] = {}
    for value in thresholds(masked, scores):
        if not probed - 2 < value < program.model.maximum_positions:
            continue
        if value > _LARGEST_PROBE:
            m.refuse(masked, f"the mask compares with {value:g}, which is too large to probe")
        sizes[int(value) + 2] = None
    return list(sizes)
