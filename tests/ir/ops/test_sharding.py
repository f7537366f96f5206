"""Shards of an op, computed apart and joined as its facts say, are the whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from glmc.ir.layout import Layout, even
from glmc.ir.ops import OPS, SemanticOp
from glmc.ir.ops.facts import Cut, Sharding, by_name
from tests.ir.ops.operands import OURS, arguments, results

# Two ranks divide all operands; of four, two share a KV head; three divide next to nothing.
RANKS = (2, 3, 4)
CASES = [(name, each) for name in OURS for each in OPS[name].facts.shardings]
REPLICATED = {
    *("add_rms_norm", "norm_add_rms_norm", "moe_gate", "marked_experts"),
    *("local_embedding", "local_moe_ffn"),
}


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize(
    ("name", "sharding"), CASES, ids=[f"{name}-{each.name}" for name, each in CASES]
)
def test_shards_are_the_whole(name: str, sharding: Sharding, ranks: int) -> None:
    op, named = OPS[name], arguments(name)
    whole = results(op, named)
    shared = shared_layout(sharding, named, ranks)
    shards = [shard(sharding, named, shared, rank) for rank in range(ranks)]
    for key in sharding.operands:
        broadcast = name == "masked_attention" and key == "mask"
        same = shards[1][key].shape == named[key].shape and torch.equal(shards[1][key], named[key])
        assert same == broadcast
    parts = [
        results(*computed(op, sharding, each, shared, rank)) for rank, each in enumerate(shards)
    ]
    for index, (before, join) in enumerate(zip(whole, sharding.results, strict=True)):
        joined = joined_results([part[index] for part in parts], join, named, shared, before)
        torch.testing.assert_close(joined, before)


def test_every_op_is_cut_or_replicated_on_purpose() -> None:
    assert {name for name in OURS if not OPS[name].facts.shardings} == REPLICATED


def shared_layout(sharding: Sharding, named: dict[str, Any], ranks: int) -> Layout:
    """That of the cuts by number, from the first operand that has one."""
    for key, how in sharding.operands.items():
        if isinstance(how, Cut) and not callable(how.sections):
            return even(named[key].shape[how.axis] // how.sections, ranks)
    return even(1, ranks)


def shard(sharding: Sharding, named: dict[str, Any], shared: Layout, rank: int) -> dict[str, Any]:
    """The arguments of one rank."""
    mine = dict(named)
    for key, how in sharding.operands.items():
        if isinstance(how, Cut):
            mine[key] = cut(named[key], how.axis, how.layout(named, shared), rank)
        elif rank:
            mine[key] = torch.zeros_like(named[key])
    for key, sections in sharding.divided.items():
        mine[key] = Layout(tuple(by_name(sections, named)), shared.ranks).local
    return mine


def computed(
    op: SemanticOp, sharding: Sharding, mine: dict[str, Any], shared: Layout, rank: int
) -> tuple[SemanticOp, dict[str, Any]]:
    """What a rank runs."""
    if sharding.op is None:
        return op, mine
    return OPS[sharding.op], {**mine, "first": torch.tensor([rank * shared.local])}


def cut(tensor: Tensor, axis: int, layout: Layout, rank: int) -> Tensor:
    if tensor.shape[axis] == 1 and layout.entries != 1:
        return tensor
    assert tensor.shape[axis] == layout.entries
    zeros = list(tensor.shape)
    parts = []
    for start, length in layout.runs(rank):
        zeros[axis] = length
        parts.append(
            tensor.new_zeros(zeros) if start is None else tensor.narrow(axis, start, length)
        )
    return torch.cat(parts, axis)


def joined_results(
    parts: list[Tensor],
    how: Cut | str,
    named: dict[str, Any],
    shared: Layout,
    whole: Tensor,
) -> Tensor:
    """The sum, or each entry from a rank that has it; those that several have must be equal."""
    if not isinstance(how, Cut):
        return torch.stack(parts).sum(0)
    layout = how.layout(named, shared)
    joined = torch.full_like(whole, torch.nan)
    for rank, part in enumerate(parts):
        at = 0
        for start, length in layout.runs(rank):
            if start is not None:
                place = joined.narrow(how.axis, start, length)
                mine = part.narrow(how.axis, at, length)
                assert place.isnan().all() or torch.equal(place, mine)
                place.copy_(mine)
            at += length
    return joined
